//! Fields that ask for what is not built.

/// Fields of all OpenAI endpoints that ask for what is not built.
pub const UNBUILT_FIELDS: &[(&str, &str)] = &[
    ("lora_path", "adapters are not built"),
    ("session_params", "sessions are not built"),
    ("custom_logit_processor", "no code of a request is ever run"),
    ("return_hidden_states", "hidden states are not reported"),
    ("return_routed_experts", "routed experts are not reported"),
    ("input_embeds", "prompts are text or token ids"),
    ("bootstrap_host", "split prefill and decode is not built"),
    ("return_token_ids", "token ids in OpenAI answers are not built; /generate has them"),
    ("return_prompt_token_ids", "token ids in OpenAI answers are not built; /generate has them"),
    ("return_meta_info", "/generate has it"),
    ("chat_template", "templates in requests are not supported; the server's --chat-template sets one"),
];
