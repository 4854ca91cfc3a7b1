//! `/parse_function_call`: calls of tools in a text that was generated elsewhere.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    routing::post,
};
use quern_text::tool::{ParsedMessage, ToolFormat, ToolParser, ToolSchemas};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    prompt::off_thread,
    protocol::{ApiError, Body, body::ContentType},
    state::AppState,
};

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/parse_function_call", post(parse))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ParseFields {
    text: Option<String>,
    tool_call_parser: Option<String>,
    tools: Option<Vec<Value>>,
}

async fn parse(State(state): State<Arc<AppState>>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Any).await?;
    let fields: ParseFields = body.read()?;
    let text = fields.text.ok_or_else(|| ApiError::schema("missing field `text`").about("text"))?;
    let format = match fields.tool_call_parser.as_deref() {
        None => state.config.tool_call_parser.map(|parser| parser.format()),
        Some(name) => ToolFormat::from_name(name),
    };
    let format = format.ok_or_else(|| {
        let known: Vec<_> = ToolFormat::NAMES.iter().map(|(name, _)| *name).collect();
        let given = fields.tool_call_parser.as_deref().unwrap_or("none");
        let message = format!("tool_call_parser must be one of {}, got {given:?}.", known.join(", "));
        ApiError::invalid(message).about("tool_call_parser")
    })?;
    let tools = fields.tools.unwrap_or_default();
    let parsed = off_thread(&state, move |_| {
        let mut parser = ToolParser::new(format, Arc::new(ToolSchemas::new(&tools)));
        let mut events = parser.push(&text);
        events.extend(parser.finish(false));
        let message = ParsedMessage::from_events(events);
        let position = |name: &str| {
            let named =
                |tool: &Value| tool.pointer("/function/name").or_else(|| tool.get("name")) == Some(&name.into());
            // SGLang's number for a function that was not declared.
            tools.iter().position(named).map_or(-1, |index| index as i64)
        };
        let calls: Vec<_> = message
            .calls
            .into_iter()
            .map(|call| json!({ "tool_index": position(&call.name), "name": call.name, "parameters": call.arguments }))
            .collect();
        Ok(json!({ "normal_text": message.content.unwrap_or_default(), "calls": calls }))
    });
    parsed.await.map(Json)
}
