//! `/generate`, SGLang's own endpoint.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use quern_engine::LogprobRequest;
use serde_json::Value;

use crate::{
    caller::Caller,
    chat_generation::ChatGeneration,
    dialects::generate::{Native, OutputScores},
    generate::{GenerationSpec, Generations, OUTPUT_BYTES, namespace},
    limits::{check_outputs, check_prompt_tokens},
    logprobs::{MAX_NATIVE_TOP_LOGPROBS, check_top},
    offload::to_pool_for,
    prompt::{MAX_PROMPTS, off_thread, tokenise},
    protocol::{
        ApiError, Body, NativeError,
        body::ContentType,
        completions::{Prompt, Prompts},
        native::{IdsOrEach, NativeFields},
        sampling::NATIVE_KEYS,
        scalar::Int,
        unsupported::UNSUPPORTED_FIELDS,
    },
    request_id::{check_id, new_id},
    respond::respond,
    sampling::{Defaults, Sampling},
    score_limits::ScoreReport,
    state::AppState,
};

/// SGLang's default.
const MAX_NEW_TOKENS: usize = 128;

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/generate", post(generate).put(generate))
}

async fn generate(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, NativeError> {
    let caller = Caller::of(&request);
    let body = Body::receive(request, &state.config, ContentType::Any).await?;
    let mut fields: NativeFields = body.read()?;
    body.refuse(UNSUPPORTED_FIELDS)?;
    drop(body);
    let prompts = match (fields.text.take(), fields.input_ids.take()) {
        (Some(text), None) => {
            Prompts { list: text.list.into_iter().map(Prompt::Text).collect(), is_batch: text.is_batch }
        }
        (None, Some(ids)) if ids.list.iter().all(|prompt| matches!(prompt, Prompt::Ids(_))) => ids,
        (None, Some(ids)) if ids.list.is_empty() => ids,
        (None, Some(_)) => return Err(ApiError::schema("input_ids: token ids, or lists of them, are wanted.").into()),
        _ => return Err(ApiError::invalid("Either text or input_ids should be provided, and not both.").into()),
    };
    let count = prompts.list.len();
    if count == 0 || count > MAX_PROMPTS {
        return Err(ApiError::invalid(format!("A batch has 1 to {MAX_PROMPTS} prompts, not {count}.")).into());
    }
    let is_batch = prompts.is_batch;
    check_lengths(&fields, count)?;
    check_token_ids(&fields, count, is_batch)?;
    let ids = ids(&fields, count, is_batch)?;
    // A list of them is as long as the body allows.
    let (samplings, fields) = off_thread(&state, move |state| Ok((samplings(state, &fields, count)?, fields))).await?;
    let outputs = samplings.iter().map(|sampling| sampling.n).sum();
    check_outputs("text or input_ids", count, outputs)?;
    to_pool_for(outputs * OUTPUT_BYTES).await;

    let (streams, with_text) = (fields.stream.unwrap_or(false), fields.return_text_in_logprobs.unwrap_or(false));
    let repeats = streams && !state.config.incremental_streaming_output;

    let namespace = namespace(None, fields.extra_key.as_deref());
    let (mut specs, mut tokens) = (Vec::new(), 0);
    let mut scores = Vec::new();
    for (index, mut prompt) in tokenise(&state, prompts.list).await?.into_iter().enumerate() {
        let sampling = &samplings[index];
        if prompt.is_empty() {
            return Err(ApiError::invalid("The prompt is empty.").into());
        }
        let wanted = sampling.wanted(MAX_NEW_TOKENS);
        let mut max_new_tokens = state.limits.admit(&mut prompt, wanted)?;
        tokens += prompt.len() * sampling.n;
        check_prompt_tokens("text or input_ids", tokens)?;
        let logprobs = logprobs(&fields, index, prompt.len(), state.vocab_size())?;
        let interval = sampling.stream_interval.unwrap_or(state.config.stream_interval);
        let report = ScoreReport { with_text, repeated_every: repeats.then_some(interval) };
        if wanted.is_none() {
            max_new_tokens = max_new_tokens.min(report.open_length(outputs, prompt.len(), logprobs.as_ref()));
        }
        scores.extend((0..sampling.n).map(|_| OutputScores::of(logprobs.as_ref(), prompt[0])));
        let spec = GenerationSpec {
            id: ids[index].clone(),
            prompt,
            sampling: Arc::clone(sampling),
            max_new_tokens,
            logprobs,
            score_report: report,
            caller: caller.clone(),
            namespace: namespace.clone(),
            sample_index: 0,
        };
        specs.extend(spec.samples(sampling.n));
    }
    let is_list = is_batch || specs.len() > 1;
    let generation = ChatGeneration::of_text(Generations::submit(&state, specs, streams).await?);
    Ok(respond(generation, Native::new(scores, with_text, is_list)).await?)
}

/// Lists with one entry a prompt must have as many.
fn check_lengths(fields: &NativeFields, count: usize) -> Result<(), ApiError> {
    let lengths = [
        ("sampling_params", fields.sampling_params.as_ref().and_then(|each| each.each_len())),
        ("return_logprob", fields.return_logprob.as_ref().and_then(|each| each.each_len())),
        ("logprob_start_len", fields.logprob_start_len.as_ref().and_then(|each| each.each_len())),
        ("top_logprobs_num", fields.top_logprobs_num.as_ref().and_then(|each| each.each_len())),
    ];
    match lengths.into_iter().find_map(|(name, length)| Some((name, length.filter(|&length| length != count)?))) {
        None => Ok(()),
        Some((name, length)) => {
            let message = format!("{name}: {length} entries for {count} prompts; one for each is wanted.");
            Err(ApiError::invalid(message).about(name))
        }
    }
}

/// Lists of token ids for each prompt are as many as the prompts; one prompt has no list of lists.
fn check_token_ids(fields: &NativeFields, count: usize, is_batch: bool) -> Result<(), ApiError> {
    match &fields.token_ids_logprob {
        Some(IdsOrEach::Each(lists)) if !is_batch || lists.len() != count => {
            let message = format!(
                "token_ids_logprob: {} lists for {}; a list of ids, or one list for each prompt of a batch, is wanted.",
                lists.len(),
                if is_batch { format!("{count} prompts") } else { "one prompt".to_owned() }
            );
            Err(ApiError::invalid(message).about("token_ids_logprob"))
        }
        _ => Ok(()),
    }
}

/// The prompts' ids: the request's own, or numbered from it, or new ones.
fn ids(fields: &NativeFields, count: usize, is_batch: bool) -> Result<Vec<String>, ApiError> {
    // Before one is written once for each prompt.
    fields.rid.iter().flat_map(|rid| &rid.list).try_for_each(|id: &String| check_id(id))?;
    let ids = match &fields.rid {
        None => (0..count).map(|_| new_id()).collect(),
        Some(rid) if rid.is_batch && rid.list.len() == count => rid.list.clone(),
        Some(rid) if !rid.is_batch && !is_batch => rid.list.clone(),
        Some(rid) if !rid.is_batch => (0..count).map(|index| format!("{}_{index}", rid.list[0])).collect(),
        Some(rid) => {
            let message = format!("rid: {} ids for {count} prompts; one for each is wanted.", rid.list.len());
            return Err(ApiError::invalid(message).about("rid"));
        }
    };
    ids.iter().try_for_each(|id: &String| check_id(id))?;
    Ok(ids)
}

/// The sampling of each prompt; prompts share what is given once for all.
fn samplings(state: &AppState, fields: &NativeFields, count: usize) -> Result<Vec<Arc<Sampling>>, ApiError> {
    match &fields.sampling_params {
        Some(params) if params.each_len().is_some() => (0..count).map(|index| sampling(state, fields, index)).collect(),
        _ => Ok(vec![sampling(state, fields, 0)?; count]),
    }
}

fn sampling(state: &AppState, fields: &NativeFields, index: usize) -> Result<Arc<Sampling>, ApiError> {
    let mut params = state.config.preferred_sampling_params.clone().unwrap_or_default();
    params.extend(fields.sampling_params.as_ref().and_then(|params| params.of(index)).unwrap_or_default());
    if let Some(unknown) = params.keys().find(|key| !NATIVE_KEYS.contains(&key.as_str())) {
        let known: Vec<_> = NATIVE_KEYS.iter().map(|key| format!("`{key}`")).collect();
        let message = format!("sampling_params: unknown field `{unknown}`, expected one of {}", known.join(", "));
        return Err(ApiError::schema(message).about("sampling_params"));
    }
    let fields = Body::from_value(Value::Object(params))?.read()?;
    Sampling::new(&fields, Defaults::default(), state.vocab_size()).map(Arc::new)
}

fn logprobs(
    fields: &NativeFields,
    index: usize,
    prompt_tokens: usize,
    vocab_size: usize,
) -> Result<Option<LogprobRequest>, ApiError> {
    if !fields.return_logprob.as_ref().and_then(|each| each.of(index)).unwrap_or(false) {
        return Ok(None);
    }
    let start = fields.logprob_start_len.as_ref().and_then(|each| each.of(index)).map_or(-1, |start| start.0);
    let prompt_from = match start {
        -1 => None,
        from if (0..prompt_tokens as i64).contains(&from) => Some(from as usize),
        from => {
            let message =
                format!("logprob_start_len must be -1 or below the prompt's {prompt_tokens} tokens, got {from}.");
            return Err(ApiError::invalid(message).about("logprob_start_len"));
        }
    };
    let top = fields.top_logprobs_num.as_ref().and_then(|each| each.of(index)).map_or(0, |Int(top)| top);
    check_top("top_logprobs_num", top, MAX_NATIVE_TOP_LOGPROBS)?;
    let ids = match &fields.token_ids_logprob {
        None => &[][..],
        Some(IdsOrEach::One(ids)) => ids,
        Some(IdsOrEach::Each(lists)) => lists.get(index).map_or(&[][..], Vec::as_slice),
    };
    check_top("the number of token_ids_logprob", ids.len() as i64, MAX_NATIVE_TOP_LOGPROBS)?;
    let known = |&id: &i64| u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size);
    let ids = ids.iter().map(|id| {
        let message = || format!("token_ids_logprob must have ids below {vocab_size}, got {id}.");
        known(id).ok_or_else(|| ApiError::invalid(message()).about("token_ids_logprob"))
    });
    // No more can be listed than there are.
    let top = (top as usize).min(vocab_size);
    Ok(Some(LogprobRequest { prompt_from, top, ids: ids.collect::<Result<_, _>>()? }))
}
