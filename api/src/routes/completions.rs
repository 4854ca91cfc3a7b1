//! `/v1/completions`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use quern_text::fim_tokens;

use crate::{
    caller::Caller,
    chat_generation::ChatGeneration,
    dialects::{OpenAiHead, completions::Completions},
    fim::FimPrompt,
    generate::{GenerationSpec, Generations, OUTPUT_BYTES, namespace},
    limits::{check_outputs, check_prompt_tokens},
    logprobs,
    offload::to_pool_for,
    prompt::{MAX_PROMPTS, off_thread, tokenise},
    protocol::{
        ApiError, Body,
        body::ContentType,
        completions::{CompletionFields, Prompt, Prompts},
        sampling::SamplingFields,
        scalar::Int,
        unsupported::UNSUPPORTED_FIELDS,
    },
    request_id::request_id,
    respond::respond,
    sampling::{Defaults, Sampling},
    score_limits::ScoreReport,
    state::AppState,
};

/// OpenAI's default.
const MAX_TOKENS: usize = 16;

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/completions", post(complete))
}

async fn complete(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let caller = Caller::of(&request);
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let fields: CompletionFields = body.read()?;
    body.refuse(UNSUPPORTED_FIELDS)?;
    let sampling_fields: SamplingFields = body.read()?;
    drop(body);
    let mut sampling = Sampling::new(&sampling_fields, Defaults::default(), state.vocab_size())?;
    if fields.suffix.is_some() {
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
    let namespace = namespace(fields.cache_salt.as_deref(), fields.extra_key.as_deref());
    let (mut specs, mut tokens) = (Vec::new(), 0);
    let outputs = prompts.len() * sampling.n;
    to_pool_for(prompts.iter().map(|prompt| (OUTPUT_BYTES + prompt.len() * size_of::<u32>()) * sampling.n).sum()).await;
    let report = ScoreReport { with_text: true, repeated_every: None };
    for prompt in &mut prompts {
        let mut max_new_tokens = state.limits.admit(prompt, wanted)?;
        if wanted.is_none() {
            max_new_tokens = max_new_tokens.min(report.open_length(outputs, prompt.len(), logprobs.as_ref()));
        }
        tokens += prompt.len() * sampling.n;
        check_prompt_tokens("prompt", tokens)?;
        let spec = GenerationSpec {
            id: id.clone(),
            prompt: prompt.clone(),
            sampling: Arc::clone(&sampling),
            max_new_tokens,
            logprobs: logprobs.clone(),
            score_report: report,
            caller: caller.clone(),
            namespace: namespace.clone(),
            sample_index: 0,
        };
        specs.extend(spec.samples(sampling.n));
    }
    if outputs > 1 {
        specs.iter_mut().enumerate().for_each(|(index, spec)| spec.id = format!("{id}_{index}"));
    }
    let streams = fields.stream.unwrap_or(false);
    let generation = ChatGeneration::of_text(Generations::submit(&state, specs, streams).await?);
    let head = OpenAiHead::new(id, fields.model, fields.stream_options, &state);
    let first_tokens = prompts.iter().map(|prompt| prompt[0]).collect();
    let dialect = Completions::new(head, first_tokens, echoes, logprobs.is_some(), &generation);
    respond(generation, dialect).await
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
            Prompt::Text(prefix) => {
                FimPrompt { prefix, suffix: suffix.clone(), ..FimPrompt::default() }.tokenise(&state.tokenizer)
            }
            Prompt::Ids(_) => {
                Err(ApiError::invalid("suffix: a prompt of token ids has none; give text.").about("suffix"))
            }
        };
        prompts.into_iter().map(one).collect()
    })
    .await
}
