//! `/infill` and `/v1/score` over HTTP.

use crate::support::{Server, parsing, with};
use serde_json::{Value, json};

#[tokio::test]
async fn a_gap_is_filled_in_llama_cpps_form() {
    let server = Server::saying("return 1<|fim_prefix|>def g():", parsing()).await;
    let body = json!({"input_prefix": "def f():\n", "prompt": "    ", "input_suffix": "\n\nf()", "n_predict": 40});
    let whole = server.ok("/infill", body.clone()).await;
    assert_eq!(
        (&whole["content"], &whole["stop"], &whole["stop_type"]),
        (&json!("return 1"), &json!(true), &json!("eos"))
    );
    assert_eq!(whole["tokens_evaluated"], 3 + 13 + 5);
    assert!(whole["timings"]["predicted_n"].as_u64().unwrap() > 1);
    let answer = server.client.post(server.url("/infill")).json(&with(&body, json!({"stream": true}))).send().await;
    let text = answer.unwrap().text().await.unwrap();
    let frames: Vec<Value> = text
        .split("\n\n")
        .filter_map(|frame| Some(serde_json::from_str(frame.strip_prefix("data: ")?).unwrap()))
        .collect();
    let (last, rest) = frames.split_last().unwrap();
    assert_eq!(rest.iter().map(|frame| frame["content"].as_str().unwrap()).collect::<String>(), "return 1");
    assert!(last["stop"] == true && rest.iter().all(|frame| frame["stop"] == false), "{text}");

    let extra = json!({"input_extra": [{"filename": "a.py", "text": "x = 1\n"}], "samplers": ["top_k"], "cache_prompt": true,
        "t_max_predict_ms": 500, "n_indent": 4, "id_slot": 0, "mirostat": 0, "seed": -1, "top_k": 40});
    let more = server.ok("/infill", with(&body, extra)).await;
    assert!(more["tokens_evaluated"].as_u64().unwrap() > 3 + 13 + 5 + 20);
    // Editors warm the cache so.
    let warm = server.ok("/infill", with(&body, json!({"n_predict": 0}))).await;
    assert_eq!((&warm["content"], &warm["stop_type"]), (&json!(""), &json!("limit")));
    let again = server.ok("/infill", with(&body, json!({"n_predict": -1, "stop": [" 1"]}))).await;
    assert_eq!((&again["stop_type"], &again["stopping_word"]), (&json!("word"), &json!(" 1")));
    assert!(again["timings"]["cache_n"].as_u64().unwrap() > 10);
    let (status, refused) = server.post("/infill", with(&body, json!({"grammar": "root ::= \"x\""}))).await;
    assert!(status == 400 && refused["message"].as_str().unwrap().contains("grammar"), "{refused}");
    server.is_clean().await;
}

#[tokio::test]
async fn labels_are_scored_after_each_item() {
    let server = Server::new().await;
    let body =
        json!({"query": "Is it so? ", "items": ["yes", "no", "perhaps"], "label_token_ids": [65, 66], "model": "m"});
    let plain = server.ok("/v1/score", body.clone()).await;
    assert_eq!((&plain["object"], &plain["model"]), (&json!("scoring"), &json!("m")));
    let scores = |answer: &Value| -> Vec<Vec<f64>> { serde_json::from_value(answer["scores"].clone()).unwrap() };
    let probabilities = scores(&plain);
    assert_eq!((probabilities.len(), probabilities[0].len()), (3, 2));
    assert!(probabilities.iter().flatten().all(|p| (0.0..=1.0).contains(p)), "{plain}");
    for row in scores(&server.ok("/v1/score", with(&body, json!({"apply_softmax": true, "temperature": 2.0}))).await) {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
    let ids = async |text: &str| server.ok("/tokenize", json!({"prompt": text})).await["tokens"].clone();
    let tokens =
        json!({"query": ids("Is it so? ").await, "items": [ids("yes").await, ids("no").await, ids("perhaps").await]});
    assert_eq!(scores(&server.ok("/v1/score", with(&body, tokens)).await), probabilities);
    let first = server.ok("/v1/score", with(&body, json!({"item_first": true}))).await;
    assert_eq!(first["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"]);
    for (more, part) in [
        (json!({"label_token_ids": null}), "label_token_ids"),
        (json!({"label_token_ids": [1_000_000]}), "1000000"),
        (json!({"items": []}), "items"),
        (json!({"items": [[1]]}), "both be text"),
        (json!({"query": null}), "query"),
        (json!({"temperature": 2.0}), "apply_softmax"),
    ] {
        let (status, error) = server.post("/v1/score", with(&body, more.clone())).await;
        assert!(status == 400 && error["message"].as_str().unwrap().contains(part), "{more}: {error}");
    }
    server.is_clean().await;
}
