//! Fields that ask for what is not supported.

/// Fields of all OpenAI endpoints that ask for what is not supported.
pub const UNSUPPORTED_FIELDS: &[(&str, &str)] = &[
    ("lora_path", "adapters are not supported"),
    ("session_params", "sessions are not supported"),
    ("custom_logit_processor", "no code of a request is ever run"),
    ("return_hidden_states", "hidden states are not reported"),
    ("return_routed_experts", "routed experts are not reported"),
    ("input_embeds", "prompts are text or token ids"),
    ("bootstrap_host", "split prefill and decode is not supported"),
    ("return_token_ids", "token ids in OpenAI answers are not supported; /generate has them"),
    ("return_prompt_token_ids", "token ids in OpenAI answers are not supported; /generate has them"),
    ("return_meta_info", "/generate has it"),
    ("chat_template", "templates in requests are not supported; the server's --chat-template sets one"),
];
