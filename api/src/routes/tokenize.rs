//! `/tokenize` and `/detokenize`, with `/v1` before them or not.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    constraint::ToolUse,
    offload::to_pool_for,
    prompt::{Conversation, off_thread, tokenise_any},
    protocol::{
        ApiError, Body,
        body::ContentType,
        chat::{ChatFields, ChatTools},
        completions::{Prompt, Prompts},
    },
    state::AppState,
};

/// A token with its piece is an object of its own.
const PIECE_BYTES: usize = 128;

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/tokenize", post(tokenize))
        .route("/v1/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/v1/detokenize", post(detokenize))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizeFields {
    prompt: Option<Value>,
    messages: Option<Value>,
    add_generation_prompt: Option<bool>,
    /// llama.cpp's name of a prompt.
    content: Option<String>,
    with_pieces: Option<bool>,
}

/// The conversation that a chat request of these fields would be answered, tools and all.
pub(super) fn conversation(body: &Body) -> Result<Conversation, ApiError> {
    let mut fields: ChatFields = body.read()?;
    let ChatTools { tools, choice, .. } = fields.take_tools()?;
    Ok(Conversation {
        tools: ToolUse::new(&tools, choice.as_ref(), true)?.tools,
        ..Conversation::of_chat(&mut fields)?
    })
}

async fn tokenize(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let fields: TokenizeFields = body.read()?;
    let max_model_len = state.config.context_length;
    match (fields.prompt, fields.messages) {
        (Some(prompt), None) => {
            let wrong = || ApiError::schema("prompt: a string or a list of strings is wanted.").about("prompt");
            let prompts = Prompts::from_value(prompt).map_err(|_| wrong())?;
            if prompts.list.iter().any(|prompt| matches!(prompt, Prompt::Ids(_))) {
                return Err(wrong());
            }
            let ids = tokenise_any(&state, prompts.list).await?;
            Ok(Json(match (prompts.is_batch, ids.first()) {
                (false, Some(ids)) => json!({ "tokens": ids, "count": ids.len(), "max_model_len": max_model_len }),
                _ => {
                    let counts: Vec<_> = ids.iter().map(Vec::len).collect();
                    json!({ "tokens": ids, "count": counts, "max_model_len": max_model_len })
                }
            }))
        }
        (None, Some(_)) => {
            let mut conversation = conversation(&body)?;
            // An answer that is to go on has begun already.
            conversation.add_generation_prompt =
                conversation.continue_final_message || fields.add_generation_prompt.unwrap_or(true);
            let ids = conversation.tokenise_any(&state).await?;
            Ok(Json(json!({ "tokens": ids, "count": ids.len(), "max_model_len": max_model_len })))
        }
        (None, None) if fields.content.is_some() => {
            let content = fields.content.unwrap_or_default();
            let ids = tokenise_any(&state, vec![Prompt::Text(content)]).await?.swap_remove(0);
            if !fields.with_pieces.unwrap_or(false) {
                return Ok(Json(json!({ "tokens": ids })));
            }
            to_pool_for(ids.len() * PIECE_BYTES).await;
            // A token that ends inside a character is shown by its bytes.
            let piece = |id: &u32| {
                let bytes = state.tokenizer.token_bytes(*id).unwrap_or_default();
                let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
                json!({ "id": id, "piece": piece })
            };
            Ok(Json(json!({ "tokens": ids.iter().map(piece).collect::<Vec<_>>() })))
        }
        _ => Err(ApiError::invalid("Exactly one of prompt and messages (or llama.cpp's content) must be given.")),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DetokenizeFields {
    tokens: Option<Prompts>,
    skip_special_tokens: Option<bool>,
}

async fn detokenize(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let fields: DetokenizeFields = body.read()?;
    let wrong = || ApiError::schema("tokens: a list of token ids, or a list of such lists, is wanted.").about("tokens");
    let tokens = fields.tokens.ok_or_else(wrong)?;
    if tokens.list.iter().any(|list| matches!(list, Prompt::Text(_))) {
        return Err(wrong());
    }
    let skip_special = fields.skip_special_tokens.unwrap_or(true);
    let lists = tokenise_any(&state, tokens.list).await?;
    let texts = off_thread(&state, move |state| {
        Ok(lists.iter().map(|ids| state.tokenizer.decode(ids, skip_special)).collect::<Vec<_>>())
    });
    let mut texts = texts.await?;
    to_pool_for(texts.iter().map(String::len).sum()).await;
    // `[]` is an empty list of tokens, not an empty list of lists.
    let text = if tokens.is_batch && !texts.is_empty() { json!(texts) } else { json!(texts.pop().unwrap_or_default()) };
    // SGLang's name, vLLM's and llama.cpp's.
    Ok(Json(json!({ "text": text, "prompt": text, "content": text })))
}
