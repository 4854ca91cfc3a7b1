//! No template and no conversation make the renderer panic, hang or fill the memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quern_text::{ChatPrompt, ChatTemplate};
use serde_json::json;

fuzz_target!(|input: (&str, &str)| {
    let (source, words) = input;
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
});
