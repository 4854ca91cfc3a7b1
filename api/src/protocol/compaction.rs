//! Items of `/v1/responses` that stand for a conversation's history: what is written into `encrypted_content`, and
//! back. It is a text in base64, which only this server reads; nothing in it is secret.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Before the base64, so that what other services wrote is not taken for ours.
const MARK: &str = "quern.summary.1:";

/// How the message begins that a summary becomes.
const HEADING: &str = "Summary of the conversation so far:\n";

/// The item that stands for the history with this summary.
pub fn item(id: &str, summary: &str) -> Value {
    json!({ "id": id, "type": "compaction", "encrypted_content": format!("{MARK}{}", STANDARD.encode(summary)) })
}

/// The message that the model reads in an item's place; none where another service wrote it.
pub fn message(item: &Value) -> Option<Value> {
    let content = item.get("encrypted_content")?.as_str()?.strip_prefix(MARK)?;
    let summary = String::from_utf8(STANDARD.decode(content).ok()?).ok()?;
    Some(json!({ "role": "user", "content": format!("{HEADING}{summary}") }))
}

/// Whether a message in chat's form is such a summary.
pub fn is_summary(message: &Value) -> bool {
    message["role"] == "user" && message["content"].as_str().is_some_and(|text| text.starts_with(HEADING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_comes_back_as_it_was_and_nothing_else_does() {
        let read = message(&item("cmp_1", "Tests pass.\n😀")).expect("ours");
        assert_eq!(read, json!({"role": "user", "content": format!("{HEADING}Tests pass.\n😀")}));
        assert!(is_summary(&read) && !is_summary(&json!({"role": "user", "content": "Summary"})));
        for content in [json!("gAAAAB"), json!("quern.summary.1:*"), json!("quern.summary.1:/w=="), json!(3)] {
            assert_eq!(message(&json!({"type": "compaction", "encrypted_content": content})), None);
        }
    }
}
