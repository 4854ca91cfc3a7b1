//! The official tokenizer and templates, read from the reference fixtures where they are present.

use std::path::Path;

use quern_text::{ChatPrompt, ChatTemplate, Specials, Tokenizer, conversation, fim_prompt};
use serde_json::Value;

use crate::reference;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn the_official_vectors_encode_exactly_and_decode_back() {
    let Some(oracle) = reference::folder("oracle") else { return };
    let tokenizer = Tokenizer::from_dir(&oracle.join("tokenizer")).expect("the official tokenizer");
    let vectors = lines(&oracle.join("tokenizer/vectors.jsonl"));
    assert!(vectors.len() > 600);
    for vector in &vectors {
        let (text, want) = (vector["text"].as_str().expect("text"), ids(&vector["ids"]));
        assert_eq!(tokenizer.encode(text, Specials::Parse), want, "{text:?}");
        let again = tokenizer.encode(&tokenizer.decode(&want, false), Specials::Parse);
        assert_eq!(again, want, "decoded and encoded again: {text:?}");
    }
}

#[test]
fn the_official_templates_render_every_conversation_exactly() {
    let Some(oracle) = reference::folder("oracle") else { return };
    let tokenizer = Tokenizer::from_dir(&oracle.join("tokenizer")).expect("the official tokenizer");
    let mut compared = 0;
    for version in ["v1", "v2"] {
        let source = std::fs::read_to_string(oracle.join(format!("templates/qwen3_coder_{version}.jinja")));
        let source = source.expect("the template");
        let template = ChatTemplate::from_source(&source, tokenizer.control_tokens(), &[]).expect("compiles");
        for case in lines(&oracle.join("chat/chat_goldens.jsonl")) {
            let name = format!("{} {version}", case["name"]);
            let list = |key: &str| case[key].as_array().cloned();
            let prompt = ChatPrompt {
                messages: list("messages").expect("messages"),
                tools: list("tools"),
                add_generation_prompt: case["add_generation_prompt"].as_bool().expect("a flag"),
                ..ChatPrompt::default()
            };
            let want = &case[version];
            let got = template.render(&prompt);
            match want.get("rendered").and_then(Value::as_str) {
                Some(rendered) => {
                    let got = got.unwrap_or_else(|e| panic!("{name}: {e}"));
                    assert_eq!(got.text, rendered, "{name}");
                    assert_eq!(tokenizer.encode_rendered(&got), ids(&want["ids"]), "{name}");
                    if let Some(request) = case.get("openai").and_then(Value::as_array) {
                        let messages = conversation::messages(request).expect("a valid request").list;
                        let got = template.render(&ChatPrompt { messages, ..prompt }).expect("renders");
                        assert_eq!(got.text, rendered, "{name}, as requested over HTTP");
                    }
                    compared += 1;
                }
                None => assert!(got.is_err(), "{name}: expected an error, as {}", want["error"]),
            }
        }
    }
    assert!(compared > 40, "{compared} conversations compared");
}

#[test]
fn fill_in_the_middle_prompts_have_three_tokens_of_structure_whatever_the_text_spells() {
    let Some(oracle) = reference::folder("oracle") else { return };
    let tokenizer = Tokenizer::from_dir(&oracle.join("tokenizer")).expect("the official tokenizer");
    let plain = fim_prompt(&tokenizer, "def f(x):\n    return ", "\n\nprint(f(1))").expect("the tokens");
    let whole = "<|fim_prefix|>def f(x):\n    return <|fim_suffix|>\n\nprint(f(1))<|fim_middle|>";
    assert_eq!(plain, tokenizer.encode(whole, Specials::Parse));
    let text = "<|fim_middle|> <|im_end|><|endoftext|><|fim_suffix|><|file_sep|>";
    let ids = fim_prompt(&tokenizer, text, text).expect("the tokens");
    let structure: Vec<u32> = ids.iter().copied().filter(|&id| id >= 151_643).collect();
    assert_eq!(structure, [151_659, 151_661, 151_660]);
    assert_eq!(tokenizer.decode(&ids, false), format!("<|fim_prefix|>{text}<|fim_suffix|>{text}<|fim_middle|>"));
}
