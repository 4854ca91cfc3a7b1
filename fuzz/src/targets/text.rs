//! Templates, tokenizers, and what becomes of tokens.

use std::sync::{Arc, LazyLock};

use quern_text::{ChatPrompt, ChatTemplate, Detokenizer, Specials, StopMatcher, Stops, Tokenizer};
use serde_json::json;

/// The tokenizer of the model that the program brings.
pub(super) static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let json = include_bytes!("../../../models/quern-demo/tokenizer.json");
    let config = include_bytes!("../../../models/quern-demo/tokenizer_config.json");
    Arc::new(Tokenizer::from_bytes(json, Some(config)).expect("a tokenizer that the program ships"))
});

/// No template and no conversation make the renderer panic, hang or fill the memory: a template, and a user's words.
pub(super) fn chat_template(bytes: &[u8]) {
    let Some([source, words]) = super::parts(bytes) else { return };
    let control = ["<|im_start|>".to_owned(), "<|im_end|>".to_owned()];
    let Ok(template) = ChatTemplate::from_source(source, &control, &[("eos_token", "<|im_end|>".into())]) else {
        return;
    };
    let messages = vec![json!({"role": "system", "content": "s"}), json!({"role": "user", "content": words})];
    let tools = vec![json!({"type": "function", "function": {"name": words, "parameters": {"type": "object"}}})];
    let prompt = ChatPrompt { messages, tools: Some(tools), add_generation_prompt: true, ..ChatPrompt::default() };
    if let Ok(rendered) = template.render(&prompt) {
        // What a tokenizer would be told of lies in the text.
        assert!(
            rendered
                .controls
                .iter()
                .all(|range| rendered.text.is_char_boundary(range.start) && range.end <= rendered.text.len())
        );
    }
}

/// A tokenizer that is accepted encodes and decodes any text.
pub(super) fn tokenizer_json(bytes: &[u8]) {
    let Some([json, config]) = super::parts(bytes) else { return };
    let config = Some(config.as_bytes()).filter(|config| !config.is_empty());
    let Ok(tokenizer) = Tokenizer::from_bytes(json.as_bytes(), config) else { return };
    let text = "a \u{e9}\u{1f600}<|im_end|>\n  0x1F";
    for specials in [Specials::Parse, Specials::AsText] {
        let ids = tokenizer.encode(text, specials);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        // What it says may differ: a normaliser and a vocabulary without some byte are the model's affair.
        let _ = tokenizer.decode(&ids, false);
    }
    assert!(tokenizer.fewest_tokens(1000) <= 1000);
}

/// Any text comes back as it was, but for its composition (NFC), and has at least as many tokens as its bytes say.
pub(super) fn tokenizer_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for specials in [Specials::Parse, Specials::AsText] {
        let ids = TOKENIZER.encode(&text, specials);
        let composed = TOKENIZER.decode(&ids, false);
        assert_eq!(TOKENIZER.encode(&composed, specials), ids);
        assert!(composed == text || !text.is_ascii(), "{text:?} comes back as {composed:?}");
        assert!(ids.len() >= TOKENIZER.fewest_tokens(text.len()));
    }
    assert!(TOKENIZER.encode(&text, Specials::AsText).iter().all(|&id| !TOKENIZER.is_special(id)));
}

/// Ids one by one give the text of all of them: two bytes an id, some of them outside of the vocabulary.
pub(super) fn detokenizer(bytes: &[u8]) {
    let ids: Vec<u32> = bytes.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]]) % 4096)).collect();
    for skip_special in [false, true] {
        let mut detokenizer = Detokenizer::new(Arc::clone(&TOKENIZER), skip_special);
        let text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        assert_eq!(text + &detokenizer.finish(), TOKENIZER.decode(&ids, skip_special));
    }
}

/// What stops a text does not depend on how it is cut: stop strings, a line each, then patterns, then a text.
pub(super) fn stops(bytes: &[u8]) {
    let Some([strings, patterns, text]) = super::parts(bytes) else { return };
    let lines = |part: &str| part.lines().map(str::to_owned).collect::<Vec<_>>();
    let (strings, patterns) = (lines(strings), lines(patterns));
    let Ok(stops) = Stops::new(&strings, &patterns).map(Arc::new) else { return };
    for keep_match in [false, true] {
        let run = |pieces: &mut dyn Iterator<Item = &str>| {
            let mut matcher = StopMatcher::new(Arc::clone(&stops), keep_match);
            let mut out = String::new();
            for piece in pieces {
                let step = matcher.push(piece);
                out += &step.text;
                if step.matched.is_some() {
                    return (out, step.matched);
                }
            }
            (out + &matcher.finish(), None)
        };
        let whole = run(&mut std::iter::once(text));
        let characters = run(&mut text.split_inclusive(|_| true));
        assert_eq!(whole, characters);
        assert!(text.starts_with(&whole.0));
        if let (None, Some(missed)) = (&whole.1, strings.iter().find(|stop| text.contains(*stop))) {
            panic!("{missed:?} was not found");
        }
    }
}
