//! Tokenizers and templates as people have them: what training left in the files changes no prompt.

use std::{fs, path::Path};

use quern_text::{ChatPrompt, ChatTemplate, Specials, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The shipped tokenizer's file.
fn shipped() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo/tokenizer.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn of(json: &Value, config: Option<&Value>) -> Result<Tokenizer, String> {
    let config = config.map(|config| config.to_string().into_bytes());
    Tokenizer::from_bytes(json.to_string().as_bytes(), config.as_deref()).map_err(|error| error.to_string())
}

/// A folder of these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn truncation_and_padding_of_training_are_never_applied() {
    let plain = of(&shipped(), None).unwrap();
    let mut trained = shipped();
    trained["truncation"] = json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
    trained["padding"] = json!({
        "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "!",
    });
    let trained = of(&trained, None).unwrap();
    for text in ["short", &"a text of many more words than eight ".repeat(9)] {
        for specials in [Specials::Parse, Specials::AsText] {
            assert_eq!(trained.encode(text, specials), plain.encode(text, specials), "{text}");
        }
    }
}

#[test]
fn tokens_that_only_the_configuration_lists_are_known() {
    let size = of(&shipped(), None).unwrap().vocab_size();
    let token = |content: &str, special: bool| {
        json!({"content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let config = json!({"added_tokens_decoder": {
        (size + 1).to_string(): token("<answer>", false), size.to_string(): token("<|answer|>", true),
    }});
    let tokenizer = of(&shipped(), Some(&config)).unwrap();
    let (control, plain) = (size as u32, size as u32 + 1);
    assert_eq!(tokenizer.encode("<|answer|><answer>", Specials::Parse), [control, plain]);
    assert!(tokenizer.is_special(control) && !tokenizer.is_special(plain));
    assert!(!tokenizer.encode("<|answer|>", Specials::AsText).contains(&control), "users cannot spell it");
    assert!(tokenizer.control_tokens().contains(&"<|answer|>".to_owned()));
    assert_eq!(tokenizer.decode(&[control, plain], true), "<answer>");

    let elsewhere = json!({"added_tokens_decoder": {(size + 7).to_string(): token("<|answer|>", true)}});
    let error = of(&shipped(), Some(&elsewhere)).err().unwrap();
    let stated = (size + 7).to_string();
    for part in ["tokenizer_config.json", "<|answer|>", stated.as_str(), "tokenizer.json"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn two_older_files_are_the_same_tokenizer() {
    let json = shipped();
    let mut vocab = json["model"]["vocab"].as_object().unwrap().clone();
    let mut added = serde_json::Map::new();
    for token in json["added_tokens"].as_array().unwrap() {
        vocab.remove(token["content"].as_str().unwrap());
        added.insert(token["content"].as_str().unwrap().into(), token["id"].clone());
    }
    let pair = |merge: &Value| match merge {
        Value::String(pair) => pair.clone(),
        two => format!("{} {}", two[0].as_str().unwrap(), two[1].as_str().unwrap()),
    };
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(pair).collect::<Vec<_>>().join("\n");
    let (vocab, added) = (json!(vocab).to_string(), json!(added).to_string());
    let config = r#"{"eos_token": "<|im_end|>", "tokenizer_class": "Qwen2Tokenizer"}"#;
    let dir = folder(&[
        ("vocab.json", &vocab),
        ("merges.txt", &format!("#version: 0.2\n{merges}\n")),
        ("added_tokens.json", &added),
        ("tokenizer_config.json", config),
    ]);
    let (older, newer) = (Tokenizer::from_dir(dir.path()).unwrap(), of(&json, None).unwrap());
    assert_eq!(older.vocab_size(), newer.vocab_size());
    assert_eq!(older.control_tokens(), newer.control_tokens());
    for text in ["fn main() {} // ½ 日本", "<|im_start|>user\nHi<|im_end|>", "<tool_call>\n\n"] {
        assert_eq!(older.encode(text, Specials::Parse), newer.encode(text, Specials::Parse), "{text}");
    }

    fs::write(dir.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "GPT2Tokenizer"}"#).unwrap();
    let error = Tokenizer::from_dir(dir.path()).err().unwrap().to_string();
    assert!(error.contains("GPT2Tokenizer") && error.contains("--tokenizer-path"), "{error}");
    let empty = Tokenizer::from_dir(folder(&[]).path()).err().unwrap().to_string();
    assert!(empty.contains("tokenizer.json") && empty.contains("--tokenizer-path"), "{empty}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_files() {
    let marked = |value: &Value| [&b"\xef\xbb\xbf"[..], value.to_string().as_bytes()].concat();
    let config = json!({"eos_token": "<|im_end|>"});
    let tokenizer = Tokenizer::from_bytes(&marked(&shipped()), Some(&marked(&config))).unwrap();
    assert!(tokenizer.eos_id().is_some());
}

fn prompt(tools: bool) -> ChatPrompt {
    let tool = json!({"type": "function", "function": {"name": "ls", "description": null, "parameters": null}});
    ChatPrompt {
        messages: vec![json!({"role": "user", "content": "Hi"})],
        tools: tools.then(|| vec![tool]),
        ..ChatPrompt::default()
    }
}

#[test]
fn conversations_with_tools_get_the_template_for_tools() {
    let (usual, with_tools, rag) = ("usual", "{% for t in tools %}{{ t.function.name }}{% endfor %}", "rag");
    let listed = json!({"chat_template": [
        {"name": "rag", "template": rag}, {"name": "default", "template": usual},
        {"name": "tool_use", "template": with_tools},
    ]})
    .to_string();
    let files = [
        ("chat_template.jinja", usual),
        ("additional_chat_templates/tool_use.jinja", with_tools),
        ("additional_chat_templates/rag.jinja", rag),
    ];
    for dir in [folder(&[("tokenizer_config.json", &listed)]), folder(&files)] {
        let config = fs::read(dir.path().join("tokenizer_config.json")).ok();
        let tokenizer = Tokenizer::from_bytes(shipped().to_string().as_bytes(), config.as_deref()).unwrap();
        let named = |name| ChatTemplate::from_dir(dir.path(), name, tokenizer.config(), &[]).unwrap().unwrap();
        let render = |name, tools| named(name).render(&prompt(tools)).unwrap().text;
        assert_eq!((render(None, false), render(None, true)), ("usual".into(), "ls".into()));
        assert_eq!((named(None).source(), named(None).tool_use_source()), (usual, Some(with_tools)));
        assert_eq!((render(Some("rag"), true), render(Some("default"), true)), ("rag".into(), "usual".into()));
        assert!(ChatTemplate::from_dir(dir.path(), Some("x"), tokenizer.config(), &[]).unwrap().is_none());
    }
    // One template is for everything; several without a default are not guessed between.
    let choose = |names: &[&str]| {
        let templates: Vec<_> = names.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
        let chosen = ChatTemplate::choose(&templates, None, &[], &[]).unwrap();
        chosen.map(|template| template.render(&prompt(false)).unwrap().text)
    };
    assert_eq!((choose(&["tool_use"]), choose(&["a", "tool_use"]), choose(&[])), (Some("tool_use".into()), None, None));
}

#[test]
fn tags_of_training_are_rendered_as_what_they_enclose() {
    for (source, text) in [
        ("{% for m in messages %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endfor %}", "[Hi]"),
        ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
        ("{% set generation = 'x' %}{{ generation }}{# {% generation %} #}", "x"),
        ("{% generation %}", ""),
    ] {
        match ChatTemplate::from_source(source, &[], &[]) {
            Ok(template) => assert_eq!(template.render(&prompt(false)).unwrap().text, text, "{source}"),
            Err(error) => assert!(source == "{% generation %}" && error.to_string().contains("malformed"), "{error}"),
        }
    }
}

#[test]
fn templates_are_told_the_date() {
    let render = |format: &str| {
        let source = format!("{{{{ strftime_now('{format}') }}}}");
        ChatTemplate::from_source(&source, &[], &[]).unwrap().render(&prompt(false)).map(|rendered| rendered.text)
    };
    let date = render("%Y-%m-%d").unwrap();
    assert!(date.len() == 10 && date.as_str() > "2025", "{date}");
    assert!(render("%Q").unwrap_err().to_string().contains("strftime_now"));
}

#[test]
fn tokenizers_that_the_library_panics_on_are_refused() {
    let with = |field: &str, value: Value| {
        let mut changed = shipped();
        changed[field] = value;
        changed
    };
    let replace = |pattern: Value| with("normalizer", json!({"type": "Replace", "pattern": pattern, "content": "x"}));
    let mut empty = shipped();
    empty["model"]["vocab"] = json!({});
    empty["model"]["merges"] = json!([]);
    for (what, file) in [
        ("no vocabulary", empty),
        ("an empty text that is replaced", replace(json!({"String": ""}))),
        ("an empty pattern that is replaced", replace(json!({"Regex": ""}))),
        ("an empty prefix", with("normalizer", json!({"type": "Prepend", "prepend": ""}))),
        ("a broken map", with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}))),
        ("pieces of no length", with("pre_tokenizer", json!({"type": "FixedLength", "length": 0}))),
        (
            "a token that is not there",
            with(
                "post_processor",
                json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "nope", "type_id": 0}}],
                       "pair": [], "special_tokens": {}}),
            ),
        ),
    ] {
        match of(&file, None) {
            Err(error) => assert!(error.starts_with("tokenizer.json: "), "{what}: {error}"),
            Ok(tokenizer) => panic!("{what}: {:?}", tokenizer.encode("a text", Specials::Parse)),
        }
    }
}
