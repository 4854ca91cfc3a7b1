//! [`Reply`]: what an answer says, in whichever form its API has for it. What has no such form is a failure.

use serde_json::Value;

use crate::{ask::Api, wire::Response};

/// How an output ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it was meant to: at a stop, or at its length.
    Finished(&'static str),
    /// It was aborted.
    Aborted,
    /// It has no end, since the answer was cut.
    None,
}

/// What an answer says.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) texts: Vec<String>,
    pub(crate) ends: Vec<End>,
    /// An error in the middle of a stream, or instead of an answer.
    pub(crate) error: Option<String>,
    pub(crate) cached_tokens: Option<u64>,
    /// The tokens, where the API tells them.
    pub(crate) ids: Option<Vec<u32>>,
    /// The id under which it can be asked for again.
    pub(crate) stored_id: Option<String>,
}

impl Reply {
    fn new(n: usize) -> Self {
        Self {
            texts: vec![String::new(); n],
            ends: vec![End::None; n],
            error: None,
            cached_tokens: None,
            ids: None,
            stored_id: None,
        }
    }

    /// Whether every output has its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.ends.iter().all(|end| *end != End::None)
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.ends.contains(&End::Aborted)
    }

    /// Read an answer to a request for `n` outputs.
    ///
    /// # Panics
    /// If it has no form that a client of `api` could read.
    pub(crate) fn read(api: Api, n: usize, response: &Response) -> Self {
        let kind = response.header("content-type").unwrap_or_default();
        let mut reply = Self::new(n);
        if kind.starts_with("text/event-stream") || kind.starts_with("application/x-ndjson") {
            assert_eq!(response.status, 200);
            reply.read_stream(api, response);
            return reply;
        }
        if !response.is_whole {
            reply.error = Some("the answer was cut".into());
            return reply;
        }
        assert!(kind.starts_with("application/json"), "{api:?}: {kind:?}, status {}", response.status);
        let text = String::from_utf8_lossy(&response.body);
        let value: Value = serde_json::from_slice(&response.body).unwrap_or_else(|cause| panic!("{cause}: {text}"));
        if response.status == 200 {
            reply.take_whole(api, &value);
        } else {
            reply.error = Some(words_of(&value).unwrap_or_else(|| panic!("{}: no words: {value}", response.status)));
        }
        reply
    }

    fn take_whole(&mut self, api: Api, value: &Value) {
        match api {
            Api::Generate => match value {
                Value::Array(all) => all.iter().enumerate().for_each(|(index, one)| self.take_generated(index, one)),
                one => self.take_generated(0, one),
            },
            Api::Completions | Api::Chat => {
                for choice in value["choices"].as_array().expect("choices") {
                    let index = choice["index"].as_u64().expect("an index") as usize;
                    let text = if api == Api::Chat { &choice["message"]["content"] } else { &choice["text"] };
                    self.texts[index] = text.as_str().unwrap_or_default().to_owned();
                    self.ends[index] = end(&choice["finish_reason"]);
                }
                self.cached_tokens = value["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
            }
            Api::Messages => {
                let blocks = value["content"].as_array().expect("content");
                self.texts[0] = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
                self.ends[0] = end(&value["stop_reason"]);
            }
            Api::Responses => self.take_response(value),
            Api::Ollama => {
                self.texts[0] = value["message"]["content"].as_str().expect("a message").to_owned();
                assert_eq!(value["done"], true);
                self.ends[0] = end(&value["done_reason"]);
            }
        }
    }

    fn take_generated(&mut self, index: usize, value: &Value) {
        self.texts[index] = value["text"].as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned();
        let meta = &value["meta_info"];
        if !meta["finish_reason"].is_null() {
            self.ends[index] = end(&meta["finish_reason"]["type"]);
        }
        self.cached_tokens = meta["cached_tokens"].as_u64();
        if index == 0 {
            let ids = value["output_ids"].as_array();
            self.ids = ids.map(|ids| ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect());
        }
    }

    fn take_response(&mut self, value: &Value) {
        let items = value["output"].as_array().into_iter().flatten();
        let parts = items.flat_map(|item| item["content"].as_array().into_iter().flatten());
        self.texts[0] = parts.filter_map(|part| part["text"].as_str()).collect();
        self.stored_id = value["id"].as_str().map(str::to_owned);
        match value["status"].as_str().expect("a status") {
            "completed" => self.ends[0] = End::Finished("stop"),
            "incomplete" => self.ends[0] = End::Finished("length"),
            "cancelled" => self.ends[0] = End::Aborted,
            "failed" => {
                self.error = Some(value["error"]["message"].as_str().expect("why it failed").to_owned());
                self.ends[0] = End::Aborted;
            }
            other => panic!("a response is {other}"),
        }
    }

    fn read_stream(&mut self, api: Api, response: &Response) {
        let text = std::str::from_utf8(&response.body);
        let text = match text {
            Ok(text) => text,
            Err(cause) if !response.is_whole && cause.error_len().is_none() => {
                std::str::from_utf8(&response.body[..cause.valid_up_to()]).expect("it is valid up to there")
            }
            Err(cause) => panic!("a stream in no UTF-8: {cause}"),
        };
        let separator = if api == Api::Ollama { "\n" } else { "\n\n" };
        let mut frames: Vec<&str> = text.split(separator).collect();
        // What follows the last separator is nothing, or a frame that was cut.
        let rest = frames.pop().expect("split gives a part");
        assert!(rest.is_empty() || !response.is_whole, "{api:?}: the last frame has no end: {rest:?}");
        let frames: Vec<&str> =
            frames.into_iter().filter(|frame| !frame.is_empty() && !frame.starts_with(':')).collect();
        let mut is_closed = false;
        for frame in &frames {
            assert!(!is_closed, "{api:?}: {frame:?} after the end");
            is_closed = self.take_frame(api, frame);
        }
        if response.is_whole {
            assert!(is_closed, "{api:?}: a stream without its last frame: {:?}", frames.last());
            assert!(self.has_ended() || self.error.is_some(), "{api:?}: an output without an end: {:?}", frames.last());
        } else if self.error.is_none() && !is_closed {
            self.error = Some("the stream was cut".into());
        }
    }

    /// Take a frame; says whether it is the last one.
    fn take_frame(&mut self, api: Api, frame: &str) -> bool {
        let data = match api {
            Api::Ollama => frame,
            Api::Messages | Api::Responses => frame.split_once("\ndata: ").expect("a named event").1,
            _ => frame.strip_prefix("data: ").unwrap_or_else(|| panic!("no frame: {frame:?}")),
        };
        if data == "[DONE]" {
            return true;
        }
        let value: Value = serde_json::from_str(data).unwrap_or_else(|cause| panic!("{cause}: {data}"));
        if let Some(words) = value.get("error").filter(|error| !error.is_null()).and_then(|_| words_of(&value)) {
            self.error = Some(words);
            return api == Api::Ollama;
        }
        match api {
            Api::Generate => self.take_generated(value["index"].as_u64().unwrap_or(0) as usize, &value),
            Api::Completions | Api::Chat => {
                for choice in value["choices"].as_array().expect("choices") {
                    let index = choice["index"].as_u64().expect("an index") as usize;
                    let text = if api == Api::Chat { &choice["delta"]["content"] } else { &choice["text"] };
                    self.texts[index] += text.as_str().unwrap_or_default();
                    if !choice["finish_reason"].is_null() {
                        assert_eq!(self.ends[index], End::None, "two ends of output {index}");
                        self.ends[index] = end(&choice["finish_reason"]);
                    }
                }
            }
            Api::Messages => match value["type"].as_str().expect("a type") {
                "content_block_delta" => self.texts[0] += value["delta"]["text"].as_str().unwrap_or_default(),
                "message_delta" => self.ends[0] = end(&value["delta"]["stop_reason"]),
                "message_stop" => return true,
                _ => {}
            },
            Api::Responses => match value["type"].as_str().expect("a type") {
                "response.output_text.delta" => self.texts[0] += value["delta"].as_str().expect("a text"),
                "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => {
                    let streamed = std::mem::take(&mut self.texts[0]);
                    self.take_response(&value["response"]);
                    assert!(self.error.is_some() || self.texts[0] == streamed, "the whole is what was streamed");
                    self.texts[0] = streamed;
                    return true;
                }
                _ => {}
            },
            Api::Ollama => {
                self.texts[0] += value["message"]["content"].as_str().unwrap_or_default();
                if value["done"] == true {
                    self.ends[0] = end(&value["done_reason"]);
                    return true;
                }
            }
        }
        false
    }
}

fn end(reason: &Value) -> End {
    match reason.as_str().unwrap_or_else(|| panic!("no reason: {reason}")) {
        "stop" | "end_turn" | "stop_sequence" => End::Finished("stop"),
        "length" | "max_tokens" => End::Finished("length"),
        "abort" | "cancelled" | "unload" | "refusal" => End::Aborted,
        other => panic!("an output ends with {other:?}"),
    }
}

/// The words of an error, in any of the forms that APIs have for it.
pub(crate) fn words_of(value: &Value) -> Option<String> {
    let words = |value: &Value| value.as_str().filter(|words| !words.is_empty()).map(str::to_owned);
    let fields = ["error", "message", "detail"];
    fields.iter().find_map(|field| words(&value[field]).or_else(|| words(&value[field]["message"])))
}
