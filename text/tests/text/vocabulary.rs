//! A tokenizer that went through a GGUF file's lists has the same ids.

use std::path::Path;

use quern_text::{
    Specials, Tokenizer, Vocabulary,
    vocabulary::{TokenKind, TokenLists},
};

const TEXTS: [&str; 8] = [
    "fn main() {\n    println!(\"½ 日本 naïve 🦀\");\n}\n",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<tool_call>\n<function=f>\n<parameter=x>\n12345\n</parameter>",
    "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
    "  indented\t\ttabs \r\n\r\n\n and   spaces   ",
    "It's we'll I'D don't 1234567890",
    "e\u{301}\u{327}\u{323} A\u{30a}",
    "",
];

fn through_lists(tokenizer: &Tokenizer, size: usize) -> Tokenizer {
    let lists = TokenLists::of(tokenizer, size).unwrap();
    assert_eq!(lists.tokens.len(), size);
    let eos = tokenizer.eos_id().map(u64::from);
    let vocabulary = Vocabulary {
        model: "gpt2",
        pre: "qwen2",
        tokens: lists.tokens.iter().map(|(token, _)| token.as_str()).collect(),
        kinds: lists.tokens.iter().map(|(_, kind)| *kind as u64).collect(),
        merges: lists.merges.iter().map(String::as_str).collect(),
        eos,
        padding: None,
        chat_templates: vec![("default", "{{ messages }}"), ("tool_use", "{{ tools }}")],
    };
    vocabulary.tokenizer().unwrap()
}

fn same(dir: &Path, filler: usize) {
    let original = Tokenizer::from_dir(dir).unwrap();
    let again = through_lists(&original, original.vocab_size() + filler);
    assert_eq!(again.eos_id(), original.eos_id());
    assert_eq!(again.vocab_size(), original.vocab_size(), "fillers are no tokens");
    for text in TEXTS {
        for specials in [Specials::Parse, Specials::AsText] {
            let ids = original.encode(text, specials);
            assert_eq!(again.encode(text, specials), ids, "{text:?}");
            assert_eq!(again.decode(&ids, false), original.decode(&ids, false));
            assert_eq!(again.decode(&ids, true), original.decode(&ids, true));
        }
    }
    let templates = [("default", "{{ messages }}"), ("tool_use", "{{ tools }}")].map(|(a, b)| (a.into(), b.into()));
    assert_eq!(again.config().chat_templates, templates);
}

#[test]
fn the_shipped_tokenizer_is_the_same() {
    same(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo"), 3);
}

#[test]
fn qwens_tokenizer_is_the_same() {
    let Some(dir) = crate::reference::folder("oracle/tokenizer") else { return };
    same(&dir, 200);
}

#[test]
fn lists_that_do_not_fit_are_refused_by_name() {
    let whole = Vocabulary { model: "gpt2", pre: "qwen2", tokens: vec!["a", "b"], ..Vocabulary::default() };
    for (vocabulary, words) in [
        (Vocabulary { model: "llama", ..whole.clone() }, "tokenizer.ggml.model: expected gpt2, found \"llama\""),
        (Vocabulary { pre: "deepseek-llm", ..whole.clone() }, "tokenizer.ggml.pre: expected qwen2"),
        (Vocabulary { kinds: vec![1], ..whole.clone() }, "expected 2 kinds, found 1"),
        (Vocabulary { tokens: vec!["a", "a"], ..whole.clone() }, "\"a\" occurs twice"),
        (Vocabulary { merges: vec!["a x"], ..whole.clone() }, "Token `x` out of vocabulary"),
    ] {
        let error = vocabulary.tokenizer().err().expect(words).to_string();
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(TokenKind::Unused as u64, 5);
}
