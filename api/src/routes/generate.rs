//! `/generate`, SGLang's own endpoint.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Router,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
    routing::post,
};
use quern_engine::{LogprobRequest, TokenLogprobs};
use quern_text::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::{
    clock::since_1970,
    generate::{Finish, Generations, Job, Matched, Output, namespace},
    limits::{check_outputs, check_prompt_tokens, open_length},
    logprobs::{MAX_NATIVE_TOP_LOGPROBS, NativeScores, check_top},
    prompt::{MAX_PROMPTS, off_thread, tokenise},
    protocol::{
        ApiError, Body, NativeError,
        body::ContentType,
        completions::{Prompt, Prompts},
        native::{IdsOrEach, NativeFields},
        sampling::NATIVE_KEYS,
        scalar::Int,
        unbuilt::UNBUILT_FIELDS,
    },
    request_id::{check_id, new_id},
    sampling::{Defaults, Sampling},
    state::AppState,
    stream::{self, Frames},
};

/// SGLang's default.
const MAX_NEW_TOKENS: usize = 128;

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/generate", post(generate).put(generate))
}

async fn generate(State(state): State<Arc<AppState>>, request: Request) -> Result<Response, NativeError> {
    let body = Body::receive(request, &state.config, ContentType::Any).await?;
    let mut fields: NativeFields = body.read()?;
    body.refuse(UNBUILT_FIELDS)?;
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

    let (mut jobs, mut tokens) = (Vec::new(), 0);
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
        if wanted.is_none() {
            max_new_tokens = max_new_tokens.min(open_length(outputs, logprobs.as_ref()));
        }
        for sample_index in 0..sampling.n {
            scores.push(Scores::of(logprobs.as_ref(), prompt[0]));
            jobs.push(Job {
                id: if sampling.n == 1 { ids[index].clone() } else { format!("{}_{sample_index}", ids[index]) },
                prompt: prompt.clone(),
                sampling: Arc::clone(sampling),
                max_new_tokens,
                logprobs: logprobs.clone(),
                namespace: namespace(None, fields.extra_key.as_deref()),
                sample_index,
            });
        }
    }
    let streams = fields.stream.unwrap_or(false);
    let is_list = is_batch || jobs.len() > 1;
    let generations = Generations::submit(&state, jobs, streams).await?;
    let with_text = fields.return_text_in_logprobs.unwrap_or(false);
    let answer = Answer { generations, scores, with_text, is_list, state };
    if streams { Ok(stream::response(|frames| answer.stream(frames))) } else { Ok(answer.whole().await?) }
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

/// The scores of one output, as far as they are known.
struct Scores {
    wanted: LogprobRequest,
    first_token: u32,
    /// Of the prompt, once it is computed.
    input: Option<NativeScores>,
    output: NativeScores,
}

impl Scores {
    fn of(logprobs: Option<&LogprobRequest>, first_token: u32) -> Option<Self> {
        let output = NativeScores::default();
        logprobs.map(|wanted| Self { wanted: wanted.clone(), first_token, input: None, output })
    }

    fn write(&mut self, tokenizer: Option<&Tokenizer>, prompt: &[TokenLogprobs], out: &mut Vec<u8>) {
        let input = self.input.get_or_insert_with(|| {
            let mut input = NativeScores::default();
            if self.wanted.prompt_from == Some(0) {
                input.push_first(tokenizer, self.first_token);
            }
            prompt.iter().for_each(|score| input.push(tokenizer, score));
            input
        });
        NativeScores::write(input, &self.output, &self.wanted, out);
    }
}

/// An answer in the making.
struct Answer {
    generations: Generations,
    /// Of each output, if asked for.
    scores: Vec<Option<Scores>>,
    with_text: bool,
    is_list: bool,
    state: Arc<AppState>,
}

impl Answer {
    async fn whole(mut self) -> Result<Response, ApiError> {
        let pieces = self.generations.whole().await?;
        let mut body = Vec::new();
        for (index, piece) in pieces.into_iter().enumerate() {
            body.push(if index == 0 { b'[' } else { b',' });
            self.write(&mut body, index, &piece.text, &piece.tokens, &piece.logprobs, None);
        }
        let body = if self.is_list {
            body.push(b']');
            body
        } else {
            body.split_off(1)
        };
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    /// Frames hold all the text so far, or with `--incremental-streaming-output` what is new.
    async fn stream(mut self, frames: Frames) {
        let incremental = self.state.config.incremental_streaming_output;
        let mut so_far = vec![(String::new(), Vec::new()); self.scores.len()];
        let mut json = Vec::new();
        loop {
            let (index, piece) = match timeout(self.state.keep_alive(), self.generations.next()).await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(_) => {
                    frames.comment().await;
                    continue;
                }
            };
            if let Some(Finish::Failed(error)) = &piece.finish {
                frames.data(&error.native_frame()).await;
                return frames.done().await;
            }
            let (text, tokens) = &mut so_far[index];
            if incremental {
                text.clear();
                tokens.clear();
                self.scores[index].iter_mut().for_each(|scores| scores.output.clear());
            }
            *text += &piece.text;
            tokens.extend(piece.tokens);
            json.clear();
            self.write(&mut json, index, text, tokens, &piece.logprobs, self.is_list.then_some(index));
            frames.json(&json).await;
        }
        frames.done().await;
    }

    /// An answer, whole or the latest state of a stream; `scores` are those since the last one.
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        index: usize,
        text: &str,
        tokens: &[u32],
        scores: &[TokenLogprobs],
        shown_index: Option<usize>,
    ) {
        let output = self.generations.output(index);
        let tokenizer = self.with_text.then_some(&*self.state.tokenizer);
        write_json(out, "{\"text\":", &text);
        write_json(out, ",\"output_ids\":", &tokens);
        write_json(out, ",\"meta_info\":", &self.meta_info(output));
        if let Some(known) = &mut self.scores[index] {
            // Between the braces of `meta_info`.
            out.pop();
            scores.iter().for_each(|score| known.output.push(tokenizer, score));
            known.write(tokenizer, &output.prompt.logprobs, out);
            out.push(b'}');
        }
        if let Some(index) = shown_index {
            write_json(out, ",\"index\":", &index);
        }
        out.push(b'}');
    }

    fn meta_info(&self, output: &Output) -> Map<String, Value> {
        let mut info = Map::from_iter([
            ("id".into(), json!(output.id)),
            ("finish_reason".into(), finish_reason(output)),
            ("prompt_tokens".into(), json!(output.prompt_tokens)),
            ("weight_version".into(), json!(self.state.config.weight_version)),
            ("num_retractions".into(), json!(output.num_retractions)),
            ("reasoning_tokens".into(), json!(0)),
            ("completion_tokens".into(), json!(output.completion_tokens())),
            ("cached_tokens".into(), json!(output.prompt.cached_tokens)),
            ("response_sent_to_client_ts".into(), json!(since_1970(SystemTime::now()).as_secs_f64())),
        ]);
        if output.finish.is_some() {
            info.insert("e2e_latency".into(), json!(output.seconds));
        }
        info
    }
}

fn write_json(out: &mut Vec<u8>, key: &str, value: &impl Serialize) {
    out.extend_from_slice(key.as_bytes());
    serde_json::to_writer(out, value).expect("wire types are plain data");
}

fn finish_reason(output: &Output) -> Value {
    match &output.finish {
        None => Value::Null,
        Some(Finish::Stop(Matched::Token(id))) => json!({ "type": "stop", "matched": id }),
        Some(Finish::Stop(Matched::Text(text))) => json!({ "type": "stop", "matched": text }),
        Some(Finish::Length) => json!({ "type": "length", "length": output.completion_tokens() }),
        Some(Finish::Abort(words)) => {
            json!({ "type": "abort", "message": words, "status_code": null, "err_type": null })
        }
        Some(Finish::Failed(error)) => json!({
            "type": "abort", "message": error.message, "status_code": error.status.as_u16(), "err_type": error.kind,
        }),
    }
}
