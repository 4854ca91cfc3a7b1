//! Several keys, each a tenant: what is one's own no other sees, and none takes the server for itself.

use std::{fs, io::Write, sync::Arc};

use crate::support::{Server, Setup, config, gate::StepGate, small_engine, until, with};
use quern_api::{ApiConfig, config::Secret, log_queue::LogLine};
use quern_engine::EngineConfig;
use serde_json::{Value, json};

fn keys() -> ApiConfig {
    ApiConfig { api_key: ["red", "blue"].map(Secret::new).into(), ..config() }
}

/// What `key` hears from `path`.
async fn ask(server: &Server, key: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request = server.client.request(method.parse().unwrap(), server.url(path)).bearer_auth(key);
    let answer = request.json(&body).send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A server of one place whose gate is shut.
async fn held_server(api: ApiConfig, max_queued: Option<usize>) -> (Server, StepGate) {
    held_over(Setup { api, engine: EngineConfig { max_queued, ..small_engine() } }).await
}

async fn held_over(setup: Setup) -> (Server, StepGate) {
    let gate = StepGate::default();
    let engine = EngineConfig { max_running: 1, ..setup.engine };
    (Server::with(Setup { engine, ..setup }, Some(gate.hook())).await, gate)
}

fn cached(answer: &Value) -> u64 {
    answer["meta_info"]["cached_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn a_key_finds_out_nothing_of_what_another_has_cached() {
    let body = json!({"text": "a secret that somebody guesses ".repeat(4), "sampling_params": {"max_new_tokens": 1}});
    for shared in [false, true] {
        let server = Server::with(ApiConfig { shared_prefix_cache: shared, ..keys() }, None).await;
        for (key, finds) in [("red", false), ("red", true), ("blue", shared), ("blue", true)] {
            let (status, answer) = ask(&server, key, "POST", "/generate", body.clone()).await;
            assert_eq!(status, 200, "{answer}");
            assert_eq!(cached(&answer) > 0, finds, "{key}, shared: {shared}: {answer}");
        }
        let salted = with(&body, json!({"extra_key": "x"}));
        for (key, finds) in [("red", false), ("red", true), ("blue", shared)] {
            assert_eq!(cached(&ask(&server, key, "POST", "/generate", salted.clone()).await.1) > 0, finds, "{key}");
        }
    }
}

#[tokio::test]
async fn a_stored_response_is_its_keys_own() {
    let server = Server::with(keys(), None).await;
    let body = json!({"input": "remember this", "max_output_tokens": 3});
    let (status, answer) = ask(&server, "red", "POST", "/v1/responses", body.clone()).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["id"].as_str().unwrap();
    let (path, item) = (format!("/v1/responses/{id}"), answer["output"][0]["id"].clone());
    let following = with(&body, json!({"previous_response_id": id}));
    assert_eq!(ask(&server, "blue", "GET", &path, Value::Null).await.0, 404);
    assert_eq!(ask(&server, "blue", "GET", &format!("{path}/input_items"), Value::Null).await.0, 404);
    assert_eq!(ask(&server, "blue", "DELETE", &path, Value::Null).await.0, 404);
    let (status, refused) = ask(&server, "blue", "POST", &format!("{path}/cancel"), json!({})).await;
    assert!(status == 404, "not even that it has ended: {refused}");
    assert_eq!(ask(&server, "blue", "POST", "/v1/responses", following.clone()).await.0, 400);
    let reference = json!({"input": [{"type": "item_reference", "id": item}], "max_output_tokens": 3});
    let (status, refused) = ask(&server, "blue", "POST", "/v1/responses/input_tokens", reference.clone()).await;
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 400 && message.contains("not found"), "an item of another's answer is no item: {refused}");
    let (status, counted) = ask(&server, "red", "POST", "/v1/responses/input_tokens", reference).await;
    assert!(status == 200 && counted["input_tokens"].as_u64() > Some(0), "{counted}");

    assert_eq!(ask(&server, "red", "POST", "/v1/responses", following).await.0, 200);
    assert_eq!(ask(&server, "red", "DELETE", &path, Value::Null).await.0, 200);
}

#[tokio::test]
async fn an_abort_reaches_ones_own_requests_by_their_whole_ids() {
    let (server, gate) = held_server(keys(), None).await;
    let server = Arc::new(server);
    let send = |key: &'static str, rid: &str| {
        let sampling = json!({"max_new_tokens": 20, "ignore_eos": true});
        let (server, body) = (Arc::clone(&server), json!({"text": "x", "rid": rid, "sampling_params": sampling}));
        tokio::spawn(async move { ask(&server, key, "POST", "/generate", body).await })
    };
    // The same id under two keys is two requests.
    let red = [send("red", "job"), send("red", "job-2")];
    until("both are there", || server.engine().num_alive() == 2).await;
    let blue = send("blue", "job");
    until("all are there", || server.engine().num_alive() == 3).await;
    let (status, refused) = ask(&server, "blue", "POST", "/generate", json!({"text": "x", "rid": "job"})).await;
    assert!(status == 400 && refused.to_string().contains("Duplicate"), "{refused}");
    for body in [json!({"rid": "job-2"}), json!({"rid": "jo"})] {
        assert_eq!(ask(&server, "blue", "POST", "/abort_request", body).await.0, 200);
    }
    assert_eq!(ask(&server, "red", "POST", "/abort_request", json!({"rid": "job"})).await.0, 200);
    gate.open();
    let reason = |(status, answer): (u16, Value)| {
        assert_eq!(status, 200, "{answer}");
        answer["meta_info"]["finish_reason"]["type"].clone()
    };
    let [first, second] = red;
    assert_eq!(reason(first.await.unwrap()), "abort", "its own, by its id");
    assert_eq!(reason(second.await.unwrap()), "length", "another's abort, and the beginning of its id");
    assert_eq!(reason(blue.await.unwrap()), "length", "another's of the same id");

    gate.shut();
    let (red, blue) = (send("red", "r"), send("blue", "b"));
    until("both are there", || server.engine().num_alive() == 2).await;
    assert_eq!(ask(&server, "blue", "POST", "/abort_request", json!({"abort_all": true})).await.0, 200);
    gate.open();
    assert_eq!(reason(red.await.unwrap()), "length", "all means all one's own");
    assert_eq!(reason(blue.await.unwrap()), "abort");
}

#[tokio::test]
async fn an_admin_key_aborts_for_everybody_as_before() {
    let (server, gate) = held_server(ApiConfig { admin_api_key: Some(Secret::new("boss")), ..keys() }, None).await;
    let server = Arc::new(server);
    let send = |key: &'static str, rid: &str| {
        let (server, body) = (Arc::clone(&server), json!({"text": "x", "rid": rid}));
        tokio::spawn(async move { ask(&server, key, "POST", "/generate", body).await })
    };
    let requests = [send("red", "job-1"), send("blue", "job-2")];
    until("both are there", || server.engine().num_alive() == 2).await;
    assert_eq!(ask(&server, "red", "POST", "/abort_request", json!({"rid": "job"})).await.0, 401);
    assert_eq!(ask(&server, "boss", "POST", "/abort_request", json!({"rid": "job"})).await.0, 200);
    gate.open();
    for request in requests {
        assert_eq!(request.await.unwrap().1["meta_info"]["finish_reason"]["type"], "abort");
    }
}

#[tokio::test]
async fn who_floods_the_queue_hears_429_once_others_are_there_and_they_are_served() {
    let (server, gate) = held_server(keys(), Some(2)).await;
    let server = Arc::new(server);
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}});
    let send = |key: &'static str| {
        let (server, body) = (Arc::clone(&server), body.clone());
        tokio::spawn(async move { ask(&server, key, "POST", "/generate", body).await })
    };
    let mut accepted = vec![send("red")];
    until("the first runs", || server.engine().num_alive() == 1 && server.engine().num_queued() == 0).await;
    accepted.extend([send("red"), send("red")]);
    until("two wait", || server.engine().num_queued() == 2).await;
    assert_eq!(
        ask(&server, "red", "POST", "/generate", body.clone()).await.0,
        503,
        "alone, the whole queue is its own"
    );
    accepted.push(send("blue"));
    until("another's waits", || server.engine().num_queued() == 3).await;
    for (path, body) in [("/generate", body.clone()), ("/v1/completions", json!({"prompt": "x", "stream": true}))] {
        let answer = server.client.post(server.url(path)).bearer_auth("red").json(&body).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"1".parse().unwrap()));
        assert!(answer.text().await.unwrap().contains("Too many of your requests are waiting: 2"));
    }
    gate.open();
    for answer in accepted {
        assert_eq!(answer.await.unwrap().0, 200);
    }
    server.is_clean().await;
}

#[tokio::test]
async fn a_server_is_ready_for_others_while_one_key_floods_its_queue() {
    let by_number = EngineConfig { max_queued: Some(2), ..small_engine() };
    let by_tokens = EngineConfig { max_queued_tokens: Some(20), ..small_engine() };
    let body = json!({"input_ids": vec![1; 10], "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}});
    for limits in [by_number, by_tokens] {
        for (api, others_are_served) in
            [(keys(), true), (ApiConfig { api_key: vec![Secret::new("red")], ..keys() }, false)]
        {
            let (server, gate) = held_over(Setup { api, engine: limits }).await;
            let server = Arc::new(server);
            let send = || {
                let (server, body) = (Arc::clone(&server), body.clone());
                tokio::spawn(async move { ask(&server, "red", "POST", "/generate", body).await.0 })
            };
            let mut accepted = vec![send()];
            until("the first runs", || server.engine().num_alive() == 1 && server.engine().num_queued() == 0).await;
            accepted.extend([send(), send()]);
            until("two wait", || server.engine().num_queued() == 2).await;
            assert_eq!(ask(&server, "red", "GET", "/ready", Value::Null).await.0, 503, "for who floods it");
            let probe = server.get("/ready").await;
            assert_eq!(probe.0, if others_are_served { 200 } else { 503 }, "a probe without a key: {probe:?}");
            if others_are_served {
                assert_eq!(ask(&server, "blue", "GET", "/ready", Value::Null).await.0, 200);
            }
            gate.open();
            for status in accepted {
                assert_eq!(status.await.unwrap(), 200);
            }
            server.is_clean().await;
        }
    }
}

#[tokio::test]
async fn the_log_is_shown_to_the_administrator_or_to_who_is_alone() {
    LogLine.write_all(b"10.0.0.1 - \"GET /v1/responses/resp_of_red\"\n").unwrap();
    let boss = Some(Secret::new("boss"));
    let one = ApiConfig { api_key: vec![Secret::new("red")], ..config() };
    for (api, key, shown) in [
        (config(), None, true),
        (one.clone(), Some("red"), true),
        (keys(), Some("red"), false),
        (ApiConfig { admin_api_key: boss.clone(), ..keys() }, Some("red"), false),
        (ApiConfig { admin_api_key: boss.clone(), ..keys() }, Some("boss"), true),
        (ApiConfig { admin_api_key: boss.clone(), ..one }, Some("red"), false),
        (ApiConfig { admin_api_key: boss.clone(), ..config() }, None, false),
        (ApiConfig { admin_api_key: boss, ..config() }, Some("boss"), true),
    ] {
        let server = Server::with(api, None).await;
        let mut request = server.client.get(server.url("/dashboard/events"));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let mut stream = request.send().await.unwrap();
        assert_eq!(stream.status(), 200);
        let mut text = String::new();
        // Until a sample has come: the figures are for all.
        while !(text.contains("\"pool_tokens\":") && text.ends_with("\n\n")) {
            text += std::str::from_utf8(&stream.chunk().await.unwrap().expect("a sample")).unwrap();
        }
        let events = text.trim().split("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
        let events: Vec<Value> = events.map(|event| serde_json::from_str(event).unwrap()).collect();
        let log = events.iter().flat_map(|event| event["log"].as_array().unwrap());
        let log: Vec<_> = log.map(|line| line.as_str().unwrap()).collect();
        assert_eq!(log.iter().any(|line| line.contains("resp_of_red")), shown, "{key:?}: {log:?}");
        assert_eq!(log.iter().any(|line| line.contains("--admin-api-key")), !shown, "why it is empty: {log:?}");
    }
}

#[tokio::test]
async fn keys_in_a_file_are_read_again_when_an_administrator_asks() {
    let folder = std::env::temp_dir().join(format!("quern-tenants-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("keys");
    fs::write(&file, "green\n").unwrap();
    let boss = Some(Secret::new("boss"));
    let server =
        Server::with(ApiConfig { api_key_file: Some(file.clone()), admin_api_key: boss, ..keys() }, None).await;
    let models = async |key: &str| ask(&server, key, "GET", "/v1/models", Value::Null).await.0;
    assert_eq!([models("red").await, models("green").await, models("grey").await], [200, 200, 401]);
    fs::write(&file, "grey\nwhite\n").unwrap();
    assert_eq!(ask(&server, "green", "POST", "/reload_api_keys", Value::Null).await.0, 401);
    let (status, answer) = ask(&server, "boss", "POST", "/reload_api_keys", Value::Null).await;
    assert_eq!((status, answer), (200, json!({"success": true, "keys": 4})));
    assert_eq!([models("red").await, models("green").await, models("grey").await], [200, 401, 200]);
    fs::remove_dir_all(&folder).unwrap();
    let (status, answer) = ask(&server, "boss", "POST", "/reload_api_keys", Value::Null).await;
    assert!(status == 500 && answer.to_string().contains("the keys are as before"), "{answer}");
    assert_eq!(models("white").await, 200);
}
