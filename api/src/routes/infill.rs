//! `/infill` and `/completion`, llama.cpp's: the text between a prefix and a suffix, or after a prompt.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use quern_text::{fim_context, fim_prompt, fim_tokens, tool::ToolEvent};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::{
    dialogue::{Dialogue, End},
    generate::Matched,
    prompt::{off_thread, tokenise},
    protocol::{
        ApiError, Body,
        body::ContentType,
        completions::Prompts,
        infill::{Infill, InfillEnd, InfillFields, Timings},
        sampling::SamplingFields,
        scalar::Int,
    },
    request_id::new_id,
    state::AppState,
    stopwatch::{Laps, Stopwatch},
    stream::{self, Frames},
    translated::Translated,
};

/// Fields that ask for what is not built.
const UNSERVED: &[(&str, &str)] = &[
    ("grammar", "llama.cpp's grammars are not built"),
    ("n_probs", "/v1/completions reports log-probabilities"),
    ("mirostat", "this way of sampling is not built"),
    ("lora", "adapters are not built"),
];

/// Their routes.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/infill", post(infill)).route("/completion", post(complete))
}

async fn complete(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let (prompt, fields, sampling) = read(&state, request).await?;
    let prompts = prompt.ok_or_else(|| ApiError::schema("missing field `prompt`").about("prompt"))?;
    let mut prompts = Prompts::from_value(prompts).map_err(|cause| ApiError::schema(cause).about("prompt"))?;
    if prompts.is_batch && prompts.list.len() != 1 {
        let message =
            format!("prompt: {} prompts; /completion answers one, /v1/completions several.", prompts.list.len());
        return Err(ApiError::invalid(message).about("prompt"));
    }
    let prompt_ids = tokenise(&state, vec![prompts.list.swap_remove(0)]).await?.swap_remove(0);
    answer(state, fields, sampling, prompt_ids).await
}

/// What both read alike. `prompt` is read by each in its own way.
async fn read(state: &AppState, request: Request) -> Result<(Option<Value>, InfillFields, SamplingFields), ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Any).await?;
    let fields: InfillFields = body.read()?;
    let zero = |name: &str| body.get(name).and_then(|value| value.as_i64()) == Some(0);
    let asked: Vec<_> = UNSERVED.iter().copied().filter(|(name, _)| !zero(name)).collect();
    body.refuse(&asked)?;
    let mut sampling: SamplingFields = body.read()?;
    let prompt = body.get("prompt").cloned();
    drop(body);
    sampling.max_new_tokens = match fields.n_predict {
        // llama.cpp's words for "as many as there is room for".
        Some(Int(-2 | -1)) => None,
        given => given.or(sampling.max_tokens),
    };
    sampling.max_tokens = None;
    sampling.repetition_penalty = fields.repeat_penalty.or(sampling.repetition_penalty);
    sampling.seed = fields.seed.filter(|seed| seed.0 >= 0);
    Ok((prompt, fields, sampling))
}

async fn infill(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let (prompt, mut fields, mut sampling) = read(&state, request).await?;
    let prompt = match prompt {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(_) => return Err(ApiError::schema("prompt: a string is wanted.").about("prompt")),
    };
    let extra = std::mem::take(&mut fields.input_extra).unwrap_or_default();
    if let Some(index) = extra.iter().position(|file| file.text.is_none()) {
        return Err(ApiError::schema(format!("input_extra[{index}].text: a string is wanted.")).about("input_extra"));
    }
    // A model that goes on past the gap begins another one, or another file.
    let ends = fim_tokens(&state.tokenizer).map(|id| Int(i64::from(id)));
    sampling.stop_token_ids.get_or_insert_default().extend(ends);
    let (prefix, suffix) =
        (fields.input_prefix.take().unwrap_or_default(), fields.input_suffix.take().unwrap_or_default());
    let prompt_ids = off_thread(&state, move |state| {
        let unsupported =
            || ApiError::unsupported("input_prefix", "The model's tokenizer has no fill-in-the-middle tokens.");
        let files = extra
            .iter()
            .map(|file| (file.filename.as_deref().unwrap_or("tmp"), file.text.as_deref().unwrap_or_default()));
        let mut ids = match extra.is_empty() {
            true => Vec::new(),
            false => fim_context(&state.tokenizer, files).ok_or_else(unsupported)?,
        };
        // llama.cpp's clients send the beginning of the line with the gap apart.
        let prefix = prefix + &prompt;
        ids.extend(fim_prompt(&state.tokenizer, &prefix, &suffix).ok_or_else(unsupported)?);
        Ok(ids)
    })
    .await?;
    answer(state, fields, sampling, prompt_ids).await
}

async fn answer(
    state: Arc<AppState>,
    fields: InfillFields,
    sampling: SamplingFields,
    prompt_ids: Vec<u32>,
) -> Result<Response, ApiError> {
    let watch = Stopwatch::start();
    let streams = fields.stream.unwrap_or(false);
    let asked = Translated { prompt_ids: Some(prompt_ids), sampling, ..Translated::default() };
    let begun = asked.begin(&state, new_id(), streams).await;
    let named = |error: ApiError| error.renamed("max_new_tokens", "n_predict");
    let dialogue = begun.map_err(named)?;
    let model = fields.model.unwrap_or_else(|| state.config.served_model_name.clone());
    let most = fields.t_max_predict_ms.and_then(|ms| u64::try_from(ms.0).ok()).filter(|&ms| ms > 0);
    let answer = Answer {
        model,
        watch,
        dialogue,
        most: most.map(Duration::from_millis),
        has_line: false,
        wanted: fields.response_fields.unwrap_or_default(),
        state,
    };
    if streams { Ok(stream::response(|frames| answer.stream(frames))) } else { answer.whole().await }
}

/// An answer in the making.
struct Answer {
    model: String,
    watch: Stopwatch,
    dialogue: Dialogue,
    /// The longest time from its first word on, once it has a line.
    most: Option<Duration>,
    has_line: bool,
    /// What of the last piece is wanted.
    wanted: Vec<String>,
    state: Arc<AppState>,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let (mut content, mut end) = (String::new(), None);
        while let Some((_, turn)) = self.dialogue.next().await {
            self.watch.word();
            content.extend(turn.said.into_iter().filter_map(text));
            self.has_line |= content.contains('\n');
            end = turn.end;
            if end.is_none() && self.is_over() {
                end = Some(End::Length);
                break;
            }
        }
        let end = self.end(end)?;
        Ok(Json(self.last(content, end)).into_response())
    }

    async fn stream(mut self, frames: Frames) {
        let mut end = None;
        loop {
            match timeout(self.state.keep_alive(), self.dialogue.next()).await {
                Ok(Some((_, turn))) => {
                    self.watch.word();
                    for content in turn.said.into_iter().filter_map(text) {
                        self.has_line |= content.contains('\n');
                        frames.data(&self.piece(content, None)).await;
                    }
                    end = turn.end;
                    if end.is_none() && self.is_over() {
                        end = Some(End::Length);
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => frames.data(&self.piece(String::new(), None)).await,
            }
        }
        match self.end(end) {
            Ok(end) => frames.data(&self.last(String::new(), end)).await,
            Err(error) => frames.data(&error.openai_frame()).await,
        }
    }

    /// Whether its time is over. As in llama.cpp, the first line is written to its end.
    fn is_over(&self) -> bool {
        self.has_line && self.most.is_some_and(|most| self.watch.laps().answer > most)
    }

    /// The last piece: all of it, or what is wanted of it under the names that it is wanted by.
    fn last(&self, content: String, end: InfillEnd) -> Value {
        let whole = serde_json::to_value(self.piece(content, Some(end))).expect("wire types are plain data");
        if self.wanted.is_empty() {
            return whole;
        }
        let found = |path: &String| {
            let value = path.split('/').try_fold(&whole, |value, key| value.get(key))?;
            Some((path.clone(), value.clone()))
        };
        self.wanted.iter().filter_map(found).collect::<Map<_, _>>().into()
    }

    fn piece(&self, content: String, end: Option<InfillEnd>) -> Infill<'_> {
        let output = &self.dialogue.outputs()[0];
        Infill {
            content,
            stop: end.is_some(),
            id_slot: -1,
            model: &self.model,
            tokens_predicted: output.completion_tokens(),
            tokens_evaluated: output.prompt_tokens,
            end,
        }
    }

    fn end(&self, end: Option<End>) -> Result<InfillEnd, ApiError> {
        let (stop_type, stopping_word) = match end {
            Some(End::Stop(Matched::Text(word)) | End::ToolCalls(Matched::Text(word))) => ("word", word),
            Some(End::Stop(Matched::Token(_)) | End::ToolCalls(Matched::Token(_))) => ("eos", String::new()),
            Some(End::Length) => ("limit", String::new()),
            Some(End::Abort(words)) => return Err(ApiError::unavailable(words)),
            Some(End::Failed(error)) => return Err(error),
            None => return Err(ApiError::internal("the answer has no end")),
        };
        let output = &self.dialogue.outputs()[0];
        let cache_n = output.prompt.cached_tokens;
        let Laps { prompt, answer } = self.watch.laps();
        let (prompt_n, predicted_n) = (output.prompt_tokens - cache_n, output.completion_tokens());
        let each = |ms: f64, n: usize| if n == 0 { (0.0, 0.0) } else { (ms / n as f64, n as f64 * 1e3 / ms.max(1e-3)) };
        let (prompt_ms, predicted_ms) = (prompt.as_secs_f64() * 1e3, answer.as_secs_f64() * 1e3);
        let (prompt_per_token_ms, prompt_per_second) = each(prompt_ms, prompt_n);
        let (predicted_per_token_ms, predicted_per_second) = each(predicted_ms, predicted_n);
        Ok(InfillEnd {
            stop_type,
            stopping_word,
            tokens_cached: cache_n,
            truncated: false,
            timings: Timings {
                cache_n,
                prompt_n,
                prompt_ms,
                prompt_per_token_ms,
                prompt_per_second,
                predicted_n,
                predicted_ms,
                predicted_per_token_ms,
                predicted_per_second,
            },
        })
    }
}

/// Text that was said; without tools nothing else is.
fn text(said: ToolEvent) -> Option<String> {
    match said {
        ToolEvent::Content(text) => Some(text),
        _ => None,
    }
}
