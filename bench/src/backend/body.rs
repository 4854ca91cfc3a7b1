//! The bodies of requests, field for field as SGLang's client sends them.

use serde_json::{Map, Value, json};

use super::{Backend, Protocol};
use crate::request::{Prompt, Request};

/// What all bodies of a run have in common.
#[derive(Clone, Debug)]
pub struct BodyOptions {
    /// The model's name.
    pub model: String,
    /// Answer token by token.
    pub stream: bool,
    /// Generate to the requested length, whatever the model says.
    pub ignore_eos: bool,
    /// 0 for greedy.
    pub temperature: f64,
    /// Sent when below 1.
    pub top_p: f64,
    /// Ask for the logarithms of probabilities (`/generate` only).
    pub return_logprob: bool,
    /// Merged last.
    pub extra: Map<String, Value>,
}

impl BodyOptions {
    /// The body that asks `backend` for `request`.
    ///
    /// # Panics
    /// If the prompt is one that the backend's interface has no words for; datasets and backends are matched
    /// before a run.
    pub fn body(&self, backend: Backend, request: &Request) -> Value {
        let length = request.output_len;
        let mut body = match backend.protocol() {
            Protocol::Generate => {
                let (key, prompt) = match &request.prompt {
                    Prompt::Text(text) => ("text", json!(text)),
                    Prompt::Ids(ids) => ("input_ids", json!(ids)),
                    Prompt::Messages(_) => unreachable!("/generate takes no conversations"),
                };
                let mut sampling = json!({
                    "temperature": self.temperature,
                    "max_new_tokens": length,
                    "ignore_eos": self.ignore_eos,
                });
                if self.top_p < 1.0 {
                    sampling["top_p"] = json!(self.top_p);
                }
                json!({
                    key: prompt,
                    "sampling_params": sampling,
                    "stream": self.stream,
                    "lora_path": null,
                    "return_logprob": self.return_logprob,
                    "return_routed_experts": false,
                    "logprob_start_len": -1,
                })
            }
            Protocol::Completions => {
                let prompt = match &request.prompt {
                    Prompt::Text(text) => json!(text),
                    Prompt::Ids(ids) => json!(ids),
                    Prompt::Messages(_) => unreachable!("/v1/completions takes no conversations"),
                };
                json!({
                    "model": self.model,
                    "prompt": prompt,
                    "best_of": 1,
                    "max_tokens": length,
                    "stream": self.stream,
                    "temperature": self.temperature,
                    "ignore_eos": self.ignore_eos,
                })
            }
            Protocol::Chat => json!({
                "model": self.model,
                "messages": messages(&request.prompt),
                "max_completion_tokens": length,
                "stream": self.stream,
                "temperature": self.temperature,
                "ignore_eos": self.ignore_eos,
            }),
            Protocol::Messages => json!({
                "model": self.model,
                "messages": messages(&request.prompt),
                "max_tokens": length,
                "stream": self.stream,
                "temperature": self.temperature,
            }),
        };
        let fields = body.as_object_mut().expect("every body is an object");
        if backend.protocol() != Protocol::Generate && self.top_p < 1.0 {
            fields.insert("top_p".into(), json!(self.top_p));
        }
        // llama.cpp rejects best_of, and says how many tokens it made only when asked.
        if backend.is_llama_cpp() {
            fields.shift_remove("best_of");
            fields.insert("stream_options".into(), json!({"include_usage": true}));
        }
        fields.extend(request.extra.clone());
        fields.extend(self.extra.clone());
        body
    }
}

fn messages(prompt: &Prompt) -> Value {
    match prompt {
        Prompt::Messages(messages) => json!(messages),
        Prompt::Text(text) => json!([{"role": "user", "content": text}]),
        Prompt::Ids(_) => unreachable!("conversations hold text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(backend: Backend) -> String {
        let extra = json!({"top_k": 1}).as_object().cloned().expect("an object");
        let options = BodyOptions {
            model: "m".into(),
            stream: true,
            ignore_eos: true,
            temperature: 0.0,
            top_p: 1.0,
            return_logprob: false,
            extra,
        };
        options.body(backend, &Request::new(Prompt::Text("P".into()), Some(1), 8)).to_string()
    }

    #[test]
    fn bodies_are_what_sglangs_client_sends() {
        assert_eq!(
            body(Backend::Sglang),
            r#"{"text":"P","sampling_params":{"temperature":0.0,"max_new_tokens":8,"ignore_eos":true},"stream":true,"lora_path":null,"return_logprob":false,"return_routed_experts":false,"logprob_start_len":-1,"top_k":1}"#
        );
        assert_eq!(
            body(Backend::Vllm),
            r#"{"model":"m","prompt":"P","best_of":1,"max_tokens":8,"stream":true,"temperature":0.0,"ignore_eos":true,"top_k":1}"#
        );
        assert_eq!(
            body(Backend::SglangOaiChat),
            r#"{"model":"m","messages":[{"role":"user","content":"P"}],"max_completion_tokens":8,"stream":true,"temperature":0.0,"ignore_eos":true,"top_k":1}"#
        );
    }
}
