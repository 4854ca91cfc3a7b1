//! `/v1/completions`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use quern_text::{fim_prompt, fim_tokens};
use serde_json::Value;
use tokio::time::timeout;

use super::chat::{NO_MODEL, matched_stop};
use crate::{
    clock::unix_seconds,
    generate::{Finish, Generations, Job, Piece, namespace},
    limits::{check_outputs, check_prompt_tokens, open_length},
    logprobs,
    prompt::{MAX_PROMPTS, off_thread, tokenise},
    protocol::{
        ApiError, Body,
        body::ContentType,
        completions::{Completion, CompletionChoice, CompletionFields, CompletionLogprobs, Prompt, Prompts},
        sampling::SamplingFields,
        scalar::Int,
        unbuilt::UNBUILT_FIELDS,
        usage::{Usage, metadata},
    },
    request_id::request_id,
    sampling::{Defaults, Sampling},
    state::AppState,
    stream::{self, Frames},
};

/// OpenAI's default.
const MAX_TOKENS: usize = 16;

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/completions", post(complete))
}

async fn complete(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let fields: CompletionFields = body.read()?;
    body.refuse(UNBUILT_FIELDS)?;
    let sampling_fields: SamplingFields = body.read()?;
    drop(body);
    let mut sampling = Sampling::new(&sampling_fields, Defaults::default(), state.vocab_size())?;
    if fields.suffix.is_some() {
        // A model that goes on past the gap begins another one, or another file.
        sampling.stop_token_ids.extend(fim_tokens(&state.tokenizer));
    }
    let sampling = Arc::new(sampling);
    let wanted = sampling.wanted(MAX_TOKENS);
    if let Some(Int(best_of)) = fields.best_of.filter(|best_of| best_of.0 > sampling.n as i64) {
        let message = format!("best_of: {best_of} is not supported: outputs are not ranked; n gives several.");
        return Err(ApiError::unsupported("best_of", message));
    }
    let echo = fields.echo.unwrap_or(false);
    if wanted == Some(0) && !echo {
        let message = "max_tokens must be at least 1, got 0; with echo: true, 0 scores the prompt alone.";
        return Err(ApiError::invalid(message).about("max_tokens"));
    }
    let logprobs = logprobs::completion_request(fields.logprobs, echo)?;

    let prompts = fields.prompt.ok_or_else(|| ApiError::schema("missing field `prompt`").about("prompt"))?;
    check_outputs("prompt", prompts.list.len(), prompts.list.len().saturating_mul(sampling.n))?;
    let (mut prompts, echoes) = read_prompts(&state, prompts, fields.suffix.as_deref(), echo).await?;
    let id = request_id(fields.rid.as_ref())?;
    let one_job = prompts.len() * sampling.n == 1;
    let namespace = namespace(fields.cache_salt.as_deref(), fields.extra_key.as_deref());
    let (mut jobs, mut tokens) = (Vec::new(), 0);
    let outputs = prompts.len() * sampling.n;
    for prompt in &mut prompts {
        let mut max_new_tokens = state.limits.admit(prompt, wanted)?;
        if wanted.is_none() {
            max_new_tokens = max_new_tokens.min(open_length(outputs, logprobs.as_ref()));
        }
        tokens += prompt.len() * sampling.n;
        check_prompt_tokens("prompt", tokens)?;
        for sample_index in 0..sampling.n {
            jobs.push(Job {
                id: if one_job { id.clone() } else { format!("{id}_{}", jobs.len()) },
                prompt: prompt.clone(),
                sampling: Arc::clone(&sampling),
                max_new_tokens,
                logprobs: logprobs.clone(),
                namespace: namespace.clone(),
                sample_index,
            });
        }
    }
    let streams = fields.stream.unwrap_or(false);
    let generations = Generations::submit(&state, jobs, streams).await?;
    let options = fields.stream_options.unwrap_or_default();
    let answer = Answer {
        id,
        created: unix_seconds(),
        model: fields.model.unwrap_or_else(|| NO_MODEL.into()),
        first_tokens: prompts.iter().map(|prompt| prompt[0]).collect(),
        echoes,
        wants_logprobs: logprobs.is_some(),
        samples: sampling.n,
        offsets: vec![0; outputs],
        include_usage: options.include_usage.unwrap_or(state.config.stream_response_default_include_usage),
        continuous_usage: options.continuous_usage_stats.unwrap_or(false),
        generations,
        state,
    };
    if streams { Ok(stream::response(|frames| answer.stream(frames))) } else { answer.whole().await }
}

/// Tokens of each prompt, and its text where it is echoed.
async fn read_prompts(
    state: &Arc<AppState>,
    prompts: Prompts,
    suffix: Option<&str>,
    echo: bool,
) -> Result<(Vec<Vec<u32>>, Vec<String>), ApiError> {
    let empty = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.is_empty() && suffix.is_none(),
        Prompt::Ids(ids) => ids.is_empty(),
    };
    if prompts.list.is_empty() || prompts.list.iter().any(empty) {
        return Err(ApiError::invalid("Prompt cannot be empty").about("prompt"));
    }
    if prompts.list.len() > MAX_PROMPTS {
        let message = format!("prompt: {} prompts; at most {MAX_PROMPTS} are allowed.", prompts.list.len());
        return Err(ApiError::invalid(message).about("prompt"));
    }
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => Some(text.clone()),
        Prompt::Ids(_) => None,
    };
    let texts: Vec<_> = prompts.list.iter().map(text).collect();
    let ids = match suffix {
        None => tokenise(state, prompts.list).await?,
        Some(suffix) => fill_in_the_middle(state, prompts.list, suffix.to_owned()).await?,
    };
    if !echo {
        return Ok((ids, Vec::new()));
    }
    let echoes = off_thread(state, {
        let ids = ids.clone();
        move |state| {
            let pairs = texts.into_iter().zip(&ids);
            Ok(pairs.map(|(text, ids)| text.unwrap_or_else(|| state.tokenizer.decode(ids, true))).collect())
        }
    });
    Ok((ids, echoes.await?))
}

/// Prompts whose answer is what stands between them and `suffix`.
async fn fill_in_the_middle(
    state: &Arc<AppState>,
    prompts: Vec<Prompt>,
    suffix: String,
) -> Result<Vec<Vec<u32>>, ApiError> {
    off_thread(state, move |state| {
        let one = |prompt| match prompt {
            Prompt::Text(prefix) => fim_prompt(&state.tokenizer, &prefix, &suffix).ok_or_else(|| {
                ApiError::unsupported("suffix", "suffix: the model's tokenizer has no fill-in-the-middle tokens.")
            }),
            Prompt::Ids(_) => {
                Err(ApiError::invalid("suffix: a prompt of token ids has none; give text.").about("suffix"))
            }
        };
        prompts.into_iter().map(one).collect()
    })
    .await
}

/// An answer in the making. Output `i` is sample `i % samples` of prompt `i / samples`.
struct Answer {
    id: String,
    created: u64,
    model: String,
    /// The first token of each prompt; it has no score.
    first_tokens: Vec<u32>,
    /// The text of each prompt, if it is to be echoed.
    echoes: Vec<String>,
    wants_logprobs: bool,
    samples: usize,
    /// Where the next token of each output begins in its text, in characters.
    offsets: Vec<usize>,
    include_usage: bool,
    continuous_usage: bool,
    generations: Generations,
    state: Arc<AppState>,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let pieces = self.generations.whole().await?;
        let choices = pieces.into_iter().enumerate().map(|(index, piece)| self.choice(index, piece, true)).collect();
        let usage = Some(self.usage());
        let metadata = Some(metadata(&self.state.config.weight_version));
        Ok(Json(Completion { choices, usage, metadata, ..self.part() }).into_response())
    }

    async fn stream(mut self, frames: Frames) {
        let mut begun = vec![false; self.generations.outputs().len()];
        loop {
            let (index, piece) = match timeout(self.state.keep_alive(), self.generations.next()).await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(_) => {
                    frames.data(&Completion { choices: vec![CompletionChoice::default()], ..self.part() }).await;
                    continue;
                }
            };
            if let Some(Finish::Failed(error)) = &piece.finish {
                frames.data(&error.openai_frame()).await;
                return frames.done().await;
            }
            let choice = self.choice(index, piece, !begun[index]);
            begun[index] = true;
            if !choice.text.is_empty() || choice.logprobs.is_some() || choice.finish_reason.is_some() {
                let usage = self.continuous_usage.then(|| self.usage());
                frames.data(&Completion { choices: vec![choice], usage, ..self.part() }).await;
            }
        }
        if self.include_usage {
            frames.data(&Completion { usage: Some(self.usage()), ..self.part() }).await;
        }
        frames.done().await;
    }

    fn part(&self) -> Completion<'_> {
        Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices: Vec::new(),
            usage: None,
            metadata: None,
        }
    }

    fn choice(&mut self, index: usize, piece: Piece, first: bool) -> CompletionChoice {
        let echo = self.echoes.get(index / self.samples).filter(|_| first).cloned();
        let logprobs = self.logprobs(index, &piece, echo.is_some());
        let (finish_reason, matched_stop) = match &piece.finish {
            None => (None, Value::Null),
            Some(Finish::Stop(matched)) => (Some("stop"), matched_stop(matched)),
            Some(Finish::Length) => (Some("length"), Value::Null),
            Some(Finish::Abort(_) | Finish::Failed(_)) => (Some("abort"), Value::Null),
        };
        CompletionChoice {
            index,
            text: echo.map_or(piece.text.clone(), |echo| format!("{echo}{}", piece.text)),
            logprobs,
            finish_reason,
            matched_stop,
        }
    }

    fn logprobs(&mut self, index: usize, piece: &Piece, echo: bool) -> Option<CompletionLogprobs> {
        if !self.wants_logprobs {
            return None;
        }
        let prompt = &self.generations.output(index).prompt.logprobs;
        let echoed = echo.then(|| (self.first_tokens[index / self.samples], prompt.as_slice()));
        let any = echoed.is_some() || !piece.logprobs.is_empty();
        let offset = &mut self.offsets[index];
        any.then(|| logprobs::completion(&self.state.tokenizer, echoed, &piece.logprobs, offset))
    }

    /// Each prompt counts once, however many outputs it has.
    fn usage(&self) -> Usage {
        let outputs = self.generations.outputs();
        let prompts = || outputs.iter().step_by(self.samples);
        Usage::new(
            prompts().map(|output| output.prompt_tokens).sum(),
            outputs.iter().map(|output| output.completion_tokens()).sum(),
            prompts().map(|output| output.prompt.cached_tokens).sum(),
        )
    }
}
