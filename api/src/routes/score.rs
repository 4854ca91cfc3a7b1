//! `/v1/score`: how likely each of some tokens is to follow each of some texts.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use quern_engine::LogprobRequest;

use crate::{
    caller::Caller,
    dialects::NO_MODEL,
    generate::{GenerationSpec, Generations, OUTPUT_BYTES},
    limits::check_prompt_tokens,
    logprobs::MAX_NATIVE_TOP_LOGPROBS,
    offload::{to_pool_for, to_pool_if_heavy_or, to_socket_thread},
    prompt::{MAX_PROMPTS, tokenise},
    protocol::{
        ApiError, Body,
        body::ContentType,
        completions::Prompt,
        sampling::SamplingFields,
        scalar::Int,
        score::{ScoreFields, ScoreText, Scores},
        usage::Usage,
    },
    request_id::new_id,
    sampling::{Defaults, Sampling},
    score_limits::ScoreReport,
    state::AppState,
};

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/v1/score", post(score))
}

async fn score(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let caller = Caller::of(&request);
    let body = Body::receive(request, &state.config, ContentType::Json).await?;
    let fields: ScoreFields = body.read()?;
    drop(body);
    let labels = labels(&fields, state.vocab_size())?;
    let softmax = fields.apply_softmax.unwrap_or(false);
    let temperature = fields.temperature.unwrap_or(1.0);
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(ApiError::invalid(format!("temperature must be above 0, got {temperature}.")).about("temperature"));
    }
    if !softmax && temperature != 1.0 {
        let message =
            format!("temperature: {temperature} needs apply_softmax: true; probabilities are the model's own.");
        return Err(ApiError::invalid(message).about("temperature"));
    }
    let (items, labels_bytes) = (fields.items.as_ref().map_or(0, |items| items.list.len()), labels.len() * 16);
    // Each item is joined with the query, and answered with a score for each label.
    let query_bytes = match &fields.query {
        Some(ScoreText(Prompt::Text(query))) => query.len(),
        Some(ScoreText(Prompt::Ids(query))) => size_of_val(&query[..]),
        None => 0,
    };
    to_pool_for(items.min(MAX_PROMPTS) * (OUTPUT_BYTES + query_bytes + labels_bytes)).await;
    let prompts = tokenise(&state, prompts(&fields)?).await?;
    let greedy = SamplingFields { temperature: Some(0.0), ..SamplingFields::default() };
    let sampling = Arc::new(Sampling::new(&greedy, Defaults::default(), state.vocab_size())?);
    let id = new_id();
    let (mut specs, mut tokens) = (Vec::with_capacity(prompts.len()), 0);
    for (index, mut prompt) in prompts.into_iter().enumerate() {
        if prompt.is_empty() {
            return Err(ApiError::invalid(format!("items[{index}]: query and item are both empty.")).about("items"));
        }
        let max_new_tokens = state.limits.admit(&mut prompt, Some(1))?;
        tokens += prompt.len();
        check_prompt_tokens("items", tokens)?;
        specs.push(GenerationSpec {
            id: format!("{id}_{index}"),
            prompt,
            sampling: Arc::clone(&sampling),
            max_new_tokens,
            logprobs: Some(LogprobRequest { ids: labels.clone(), ..LogprobRequest::default() }),
            score_report: ScoreReport::default(),
            caller: caller.clone(),
            namespace: None,
            sample_index: 0,
        });
    }
    let mut generations = Generations::submit(&state, specs, false).await?;
    to_socket_thread().await;
    let deltas = generations.whole().await;
    to_pool_if_heavy_or(0).await;
    let deltas = deltas?;
    let scores = deltas.iter().map(|piece| {
        let first = piece.logprobs.first().ok_or_else(|| ApiError::unavailable("The request was aborted."))?;
        let logprobs = first.requested.iter().map(|&(_, logprob)| f64::from(logprob));
        Ok(if softmax {
            normalised(logprobs.map(|x| x / temperature).collect())
        } else {
            logprobs.map(f64::exp).collect()
        })
    });
    let scores = scores.collect::<Result<Vec<_>, ApiError>>()?;
    let outputs = generations.outputs();
    let prompt_tokens = outputs.iter().map(|output| output.prompt_tokens).sum();
    let cached = outputs.iter().map(|output| output.prompt.cached_tokens).sum();
    let model = fields.model.as_deref().unwrap_or(NO_MODEL);
    Ok(Json(Scores { scores, model, usage: Usage::new(prompt_tokens, 0, cached), object: "scoring" }).into_response())
}

fn labels(fields: &ScoreFields, vocab_size: usize) -> Result<Vec<u32>, ApiError> {
    let wrong = |message: String| ApiError::invalid(message).about("label_token_ids");
    let ids = fields.label_token_ids.as_deref().unwrap_or_default();
    if ids.is_empty() || ids.len() > MAX_NATIVE_TOP_LOGPROBS as usize {
        let count = ids.len();
        return Err(wrong(format!(
            "label_token_ids: 1 to {MAX_NATIVE_TOP_LOGPROBS} token ids are wanted, not {count}."
        )));
    }
    let known = |&Int(id): &Int| {
        let id_in = u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size);
        id_in.ok_or_else(|| wrong(format!("label_token_ids must have ids below {vocab_size}, got {id}.")))
    };
    ids.iter().map(known).collect()
}

/// Query and item, one prompt an item.
fn prompts(fields: &ScoreFields) -> Result<Vec<Prompt>, ApiError> {
    let missing = |name: &str| ApiError::schema(format!("missing field `{name}`")).about(name);
    let ScoreText(query) = fields.query.as_ref().ok_or_else(|| missing("query"))?;
    let items = &fields.items.as_ref().ok_or_else(|| missing("items"))?.list;
    if items.is_empty() || items.len() > MAX_PROMPTS {
        let message = format!("items: 1 to {MAX_PROMPTS} are wanted, not {}.", items.len());
        return Err(ApiError::invalid(message).about("items"));
    }
    let item_first = fields.item_first.unwrap_or(false);
    let joined = |item: &Prompt| match (query, item) {
        (Prompt::Text(query), Prompt::Text(item)) if item_first => Ok(Prompt::Text(format!("{item}{query}"))),
        (Prompt::Text(query), Prompt::Text(item)) => Ok(Prompt::Text(format!("{query}{item}"))),
        (Prompt::Ids(query), Prompt::Ids(item)) if item_first => Ok(Prompt::Ids([&item[..], query].concat())),
        (Prompt::Ids(query), Prompt::Ids(item)) => Ok(Prompt::Ids([&query[..], item].concat())),
        _ => Err(ApiError::invalid("query and items must both be text or both be token ids.").about("items")),
    };
    items.iter().map(joined).collect()
}

/// Softmax over the labels.
fn normalised(logits: Vec<f64>) -> Vec<f64> {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return vec![1.0 / logits.len() as f64; logits.len()];
    }
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}
