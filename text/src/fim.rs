//! Fill in the middle: a prompt from what comes before a gap and what comes after it.
//!
//! `<|fim_prefix|>` prefix `<|fim_suffix|>` suffix `<|fim_middle|>`, and the model writes what lies between.
//! Source: Qwen2.5-Coder's technical report, section 3.1; Qwen3-Coder keeps the tokens.

use crate::tokenizer::{Specials, Tokenizer};

/// Tokens that structure such prompts. Qwen's tokenizers do not count them among the control tokens, so
/// [`Specials::AsText`] alone would recognise them in a user's text.
const STRUCTURE: [&str; 6] =
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"];

/// The prompt for the text between `prefix` and `suffix`; `None` if the tokenizer has no tokens for it.
///
/// Both are text throughout: what is spelled like a token in them is encoded as its characters.
pub fn fim_prompt(tokenizer: &Tokenizer, prefix: &str, suffix: &str) -> Option<Vec<u32>> {
    let [before, after, middle, ..] = STRUCTURE;
    let mut ids = vec![tokenizer.token_id(before)?];
    encode_text(tokenizer, prefix, &mut ids);
    ids.push(tokenizer.token_id(after)?);
    encode_text(tokenizer, suffix, &mut ids);
    ids.push(tokenizer.token_id(middle)?);
    Some(ids)
}

/// What stands before a [`fim_prompt`] to tell the model of other files, as (name, text); `None` if the
/// tokenizer has no tokens for it.
///
/// `<|repo_name|>` project, then `<|file_sep|>` name, text for each, then `<|file_sep|>` and the name of the
/// file with the gap. The names of project and file are llama.cpp's, whose clients do not tell the real ones.
pub fn fim_context<'a>(tokenizer: &Tokenizer, files: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Vec<u32>> {
    let [.., repository, file] = STRUCTURE;
    let (repository, file) = (tokenizer.token_id(repository)?, tokenizer.token_id(file)?);
    let mut ids = vec![repository];
    encode_text(tokenizer, "myproject\n", &mut ids);
    for (name, text) in files {
        ids.push(file);
        encode_text(tokenizer, name, &mut ids);
        encode_text(tokenizer, "\n", &mut ids);
        encode_text(tokenizer, text, &mut ids);
    }
    ids.push(file);
    encode_text(tokenizer, "filename\n", &mut ids);
    Some(ids)
}

/// The ids of the tokens that structure such prompts. In an answer they end what was asked for.
pub fn fim_tokens(tokenizer: &Tokenizer) -> impl Iterator<Item = u32> {
    STRUCTURE.iter().filter_map(|token| tokenizer.token_id(token))
}

fn encode_text(tokenizer: &Tokenizer, text: &str, ids: &mut Vec<u32>) {
    let mut start = 0;
    for (i, _) in text.match_indices("<|") {
        if STRUCTURE.iter().any(|token| text[i..].starts_with(token)) {
            // Cut after its `<`, no piece spells the token.
            ids.extend(tokenizer.encode(&text[start..=i], Specials::AsText));
            start = i + 1;
        }
    }
    ids.extend(tokenizer.encode(&text[start..], Specials::AsText));
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    /// Bytes from `!` to `~` as tokens, and `added` as (token, special) behind them.
    fn tokenizer(added: &[(&str, bool)]) -> Tokenizer {
        let vocab: Map<String, Value> = ('!'..='~').enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
        let token = |(i, (content, special)): (usize, &(&str, bool))| {
            json!({
                "id": vocab.len() + i, "content": content, "special": special,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let file = json!({
            "version": "1.0",
            "added_tokens": added.iter().enumerate().map(token).collect::<Vec<_>>(),
            "pre_tokenizer": byte_level,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        Tokenizer::from_bytes(file.to_string().as_bytes(), None).expect("a tokenizer")
    }

    #[test]
    fn prefix_and_suffix_stand_between_the_tokens() {
        for special in [false, true] {
            let added = [("<|fim_prefix|>", special), ("<|fim_middle|>", special), ("<|fim_suffix|>", special)];
            let tokenizer = tokenizer(&added);
            let ids = fim_prompt(&tokenizer, "a(", ")").expect("tokens");
            assert_eq!(tokenizer.decode(&ids, false), "<|fim_prefix|>a(<|fim_suffix|>)<|fim_middle|>");
            assert_eq!(ids.len(), 6);
        }
    }

    #[test]
    fn what_users_spell_like_a_token_is_text() {
        let added =
            [("<|im_end|>", true), ("<|fim_prefix|>", false), ("<|fim_middle|>", false), ("<|fim_suffix|>", false)];
        let tokenizer = tokenizer(&added);
        let text = "<|fim_middle|><<|fim_suffix|><|im_end|><|fim_prefix|>";
        let ids = fim_prompt(&tokenizer, text, text).expect("tokens");
        let whole = format!("<|fim_prefix|>{text}<|fim_suffix|>{text}<|fim_middle|>");
        assert_eq!(tokenizer.decode(&ids, false), whole);
        let structure: Vec<u32> = ids.iter().copied().filter(|id| *id >= 94).collect();
        let named =
            ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"].map(|t| tokenizer.token_id(t).expect("a token"));
        assert_eq!(structure, named);
    }

    #[test]
    fn a_tokenizer_without_the_tokens_has_no_such_prompts() {
        assert_eq!(fim_prompt(&tokenizer(&[("<|fim_prefix|>", false)]), "a", "b"), None);
    }
}
