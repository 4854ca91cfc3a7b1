//! [`Chunk`]: what one payload of a stream says, in any of the four interfaces.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::Protocol;

/// Text that has arrived.
#[derive(Debug, PartialEq)]
pub enum Piece<'a> {
    /// To be put after what was there.
    More(Cow<'a, str>),
    /// All of it again, as a JSON string, of which only the last needs to be unescaped.
    Whole(&'a str),
}

/// What one payload of a stream says.
#[derive(Debug, Default, PartialEq)]
pub struct Chunk<'a> {
    /// Non-empty text.
    pub piece: Option<Piece<'a>>,
    /// Tokens generated so far.
    pub completion_tokens: Option<usize>,
    /// Tokens of the prompt as the server counts them.
    pub prompt_tokens: Option<usize>,
    /// Tokens of the prompt that came from the cache.
    pub cached_tokens: Option<usize>,
    /// Whether this is the regular end of the answer.
    pub ends: bool,
    /// What went wrong, in the server's words.
    pub error: Option<String>,
}

impl<'a> Chunk<'a> {
    /// Read a payload.
    ///
    /// # Errors
    /// If it is not JSON of the interface's shape.
    pub fn parse(protocol: Protocol, payload: &'a [u8]) -> Result<Self, serde_json::Error> {
        if payload == b"[DONE]" {
            return Ok(Self { ends: true, ..Self::default() });
        }
        match protocol {
            Protocol::Generate => serde_json::from_slice(payload).map(from_generate),
            Protocol::Completions | Protocol::Chat => serde_json::from_slice(payload).map(from_openai),
            Protocol::Messages => serde_json::from_slice(payload).map(from_anthropic),
        }
    }
}

#[derive(Deserialize)]
struct GenerateChunk<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    meta_info: Option<MetaInfo>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct MetaInfo {
    completion_tokens: Option<usize>,
    prompt_tokens: Option<usize>,
    cached_tokens: Option<usize>,
    finish_reason: Option<GenerateFinish>,
}

#[derive(Deserialize)]
struct GenerateFinish {
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
}

fn from_generate(chunk: GenerateChunk<'_>) -> Chunk<'_> {
    let text = chunk.text.map(RawValue::get).filter(|raw| !matches!(*raw, "\"\"" | "null"));
    let meta = chunk.meta_info;
    let finish = meta.as_ref().and_then(|meta| meta.finish_reason.as_ref());
    let aborted = finish.filter(|finish| finish.kind.as_deref() == Some("abort"));
    let aborted =
        aborted.map(|finish| finish.message.clone().unwrap_or_else(|| "the server aborted the request".into()));
    Chunk {
        piece: text.map(Piece::Whole),
        completion_tokens: meta.as_ref().and_then(|meta| meta.completion_tokens),
        prompt_tokens: meta.as_ref().and_then(|meta| meta.prompt_tokens),
        cached_tokens: meta.as_ref().and_then(|meta| meta.cached_tokens),
        ends: finish.is_some(),
        error: chunk.error.map(error_text).or(aborted),
    }
}

#[derive(Deserialize)]
struct OpenaiChunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    /// Of a completion.
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    /// Of a chat, streamed.
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    /// Of a chat, whole.
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    finish_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCallDelta<'a>>>,
}

#[derive(Deserialize)]
struct ToolCallDelta<'a> {
    #[serde(borrow)]
    function: Option<FunctionDelta<'a>>,
}

#[derive(Deserialize)]
struct FunctionDelta<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<usize>,
    prompt_tokens: Option<usize>,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<usize>,
}

impl<'a> Delta<'a> {
    /// Content; or, so that a model that thinks or calls tools is not taken for silent, what it thinks or calls.
    fn text(self) -> Option<Cow<'a, str>> {
        let calls = || {
            let functions = self.tool_calls?.into_iter().filter_map(|call| call.function);
            let parts: Vec<Cow<'a, str>> =
                functions.flat_map(|function| [function.name, function.arguments]).flatten().collect();
            Some(Cow::Owned(parts.concat()))
        };
        let full = |text: &Cow<'_, str>| !text.is_empty();
        self.content.filter(full).or(self.reasoning_content.filter(full)).or_else(calls)
    }
}

fn from_openai(chunk: OpenaiChunk<'_>) -> Chunk<'_> {
    let mut ends = false;
    let mut text = None;
    if let Some(choice) = chunk.choices.into_iter().next() {
        ends = choice.finish_reason.is_some();
        text = choice.text.or_else(|| choice.delta.or(choice.message).and_then(Delta::text));
    }
    let usage = chunk.usage.as_ref();
    Chunk {
        piece: text.filter(|text| !text.is_empty()).map(Piece::More),
        completion_tokens: usage.and_then(|usage| usage.completion_tokens),
        prompt_tokens: usage.and_then(|usage| usage.prompt_tokens),
        cached_tokens: usage
            .and_then(|usage| usage.prompt_tokens_details.as_ref())
            .and_then(|details| details.cached_tokens),
        ends,
        error: chunk.error.map(error_text),
    }
}

#[derive(Deserialize)]
struct AnthropicChunk<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    delta: Option<BlockDelta<'a>>,
    message: Option<MessageStart>,
    usage: Option<AnthropicUsage>,
    /// Of an answer that is not streamed.
    #[serde(borrow)]
    content: Option<Vec<BlockDelta<'a>>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BlockDelta<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow)]
    partial_json: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct MessageStart {
    usage: Option<AnthropicUsage>,
}

#[derive(Deserialize)]
struct AnthropicUsage {
    input_tokens: Option<usize>,
    output_tokens: Option<usize>,
    cache_read_input_tokens: Option<usize>,
}

fn from_anthropic(chunk: AnthropicChunk<'_>) -> Chunk<'_> {
    let text = match chunk.delta {
        Some(delta) => delta.text.or(delta.thinking).or(delta.partial_json),
        None => chunk
            .content
            .map(|blocks| Cow::Owned(blocks.into_iter().filter_map(|block| block.text).collect::<Vec<_>>().concat())),
    };
    let at_start = chunk.message.is_some();
    let usage = chunk.usage.or(chunk.message.and_then(|message| message.usage));
    let usage = usage.as_ref();
    // Anthropic's input_tokens leave out what came from the cache.
    let cached = usage.and_then(|usage| usage.cache_read_input_tokens);
    let prompt = usage.and_then(|usage| usage.input_tokens);
    Chunk {
        piece: text.filter(|text| !text.is_empty()).map(Piece::More),
        // A message starts with a count of output tokens that means nothing yet.
        completion_tokens: usage.and_then(|usage| usage.output_tokens).filter(|_| !at_start),
        prompt_tokens: prompt.map(|prompt| prompt + cached.unwrap_or(0)),
        cached_tokens: cached,
        ends: matches!(&*chunk.kind, "message_stop" | "message"),
        error: chunk.error.map(error_text),
    }
}

/// The message inside an error of whatever shape, or the error as it is.
fn error_text(raw: &RawValue) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Shape {
        Text(String),
        Message { message: String },
    }
    match serde_json::from_str(raw.get()) {
        Ok(Shape::Text(message) | Shape::Message { message }) => message,
        Err(_) => raw.get().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(protocol: Protocol, text: &str) -> Chunk<'_> {
        Chunk::parse(protocol, text.as_bytes()).expect("the payload is right")
    }

    #[test]
    fn generate_repeats_all_text() {
        let chunk = parse(
            Protocol::Generate,
            r#"{"text":"a\nb","output_ids":[1,2],"meta_info":{"completion_tokens":2,"prompt_tokens":5,"cached_tokens":3,"finish_reason":null}}"#,
        );
        assert_eq!(chunk.piece, Some(Piece::Whole(r#""a\nb""#)));
        assert_eq!((chunk.completion_tokens, chunk.prompt_tokens, chunk.cached_tokens), (Some(2), Some(5), Some(3)));
        assert!(!chunk.ends);
        let last =
            parse(Protocol::Generate, r#"{"text":"","meta_info":{"finish_reason":{"type":"length","length":1}}}"#);
        assert_eq!((last.piece, last.ends), (None, true));
    }

    #[test]
    fn an_aborted_generation_is_an_error() {
        let chunk = parse(
            Protocol::Generate,
            r#"{"text":"","meta_info":{"finish_reason":{"type":"abort","message":"out of memory","status_code":500}}}"#,
        );
        assert_eq!(chunk.error.as_deref(), Some("out of memory"));
    }

    #[test]
    fn completions_and_chats_bring_deltas() {
        let chunk = parse(Protocol::Completions, r#"{"choices":[{"index":0,"text":"é","finish_reason":null}]}"#);
        assert_eq!(chunk.piece, Some(Piece::More("é".into())));
        let chunk = parse(Protocol::Chat, r#"{"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}"#);
        assert_eq!(chunk.piece, None);
        let call = r#"{"choices":[{"delta":{"content":null,"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"a\""}}]}}]}"#;
        assert_eq!(parse(Protocol::Chat, call).piece, Some(Piece::More("f{\"a\"".into())));
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":8}}}"#;
        let chunk = parse(Protocol::Chat, usage);
        assert_eq!((chunk.completion_tokens, chunk.prompt_tokens, chunk.cached_tokens), (Some(4), Some(9), Some(8)));
    }

    #[test]
    fn errors_inside_a_stream_are_seen() {
        let chunk = parse(Protocol::Chat, r#"{"error":{"message":"overloaded","code":503}}"#);
        assert_eq!(chunk.error.as_deref(), Some("overloaded"));
        let chunk = parse(Protocol::Messages, r#"{"type":"error","error":{"type":"x","message":"no"}}"#);
        assert_eq!(chunk.error.as_deref(), Some("no"));
        let chunk = parse(Protocol::Generate, r#"{"error":"plain"}"#);
        assert_eq!(chunk.error.as_deref(), Some("plain"));
    }

    #[test]
    fn anthropic_counts_in_its_own_way() {
        let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":7,"cache_read_input_tokens":2,"output_tokens":1}}}"#;
        let chunk = parse(Protocol::Messages, start);
        assert_eq!((chunk.prompt_tokens, chunk.cached_tokens, chunk.completion_tokens), (Some(9), Some(2), None));
        let delta = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"hi"}}"#;
        assert_eq!(parse(Protocol::Messages, delta).piece, Some(Piece::More("hi".into())));
        let end = r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":12}}"#;
        assert_eq!(parse(Protocol::Messages, end).completion_tokens, Some(12));
        assert!(parse(Protocol::Messages, r#"{"type":"message_stop"}"#).ends);
    }
}
