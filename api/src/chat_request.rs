//! [`ChatRequest`]: a chat request of any API, in the terms of `/v1/chat/completions`.

use std::sync::Arc;

use quern_engine::LogprobRequest;
use quern_text::{
    fim_tokens,
    tool::{ToolParser, ToolSchemas},
};
use serde_json::Value;

use crate::{
    caller::Caller,
    chat_generation::ChatGeneration,
    constraint::ToolUse,
    generate::{GenerationSpec, Generations},
    limits::check_prompt_tokens,
    offload::to_pool_for,
    prompt::PromptSource,
    protocol::{ApiError, sampling::SamplingFields, scalar::Int},
    sampling::Sampling,
    score_limits::ScoreReport,
    state::AppState,
};

/// A request to be answered.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest {
    /// Its id.
    pub id: String,
    /// What the model reads.
    pub prompt: PromptSource,
    /// The functions that may be called: `{type, function: {name, …}}`.
    pub tools: Vec<Value>,
    /// `auto`, `none`, `required` or a function.
    pub tool_choice: Option<Value>,
    /// Whether one output may have several calls.
    pub parallel_tool_calls: Option<bool>,
    /// The form that the output's text must have. It replaces the one of `sampling`.
    pub response_format: Option<Value>,
    /// How to choose tokens and where to stop.
    pub sampling: SamplingFields,
    /// How many outputs; one where it is absent. It replaces the one of `sampling`.
    pub n: Option<Int>,
    /// Refuse an output longer than a context that the operator has typed, as SGLang does. Otherwise it is as
    /// long as fits: agents ask for tens of thousands of tokens whatever the context.
    pub refuses_excess: bool,
    /// Which log-probabilities to report.
    pub logprobs: Option<LogprobRequest>,
    /// Who wants it.
    pub caller: Caller,
    /// Prefixes are shared only within it, and among the caller's own.
    pub namespace: Option<Arc<str>>,
    /// Whether the answer streams.
    pub streams: bool,
}

impl ChatRequest {
    /// Validate, render, tokenise, admit and submit: what every such request must obey is checked here.
    ///
    /// # Errors
    /// For a conversation, prompt or grammar that is refused, a prompt that does not fit, and a full queue.
    pub async fn begin(self, state: &Arc<AppState>) -> Result<ChatGeneration, ApiError> {
        let fields = SamplingFields { n: self.n, response_format: self.response_format, ..self.sampling };
        let mut sampling = Sampling::new(&fields, state.chat_defaults, state.vocab_size())?;
        if !self.refuses_excess {
            sampling.max_new_tokens = sampling.max_new_tokens.map(|most| most.min(state.config.context_length));
        }
        let tool_use = ToolUse::new(&self.tools, self.tool_choice.as_ref(), self.parallel_tool_calls.unwrap_or(true))?;
        sampling.constraint = tool_use.constraint(sampling.constraint, state.config.tool_call_parser)?;
        let tools = tool_use.tools;
        let parser = state.config.tool_call_parser.filter(|_| !tools.is_empty());
        if parser.is_some() {
            // The tags of a call may be control tokens, and the parser must see them.
            sampling.skip_special_tokens = false;
        }
        if matches!(self.prompt, PromptSource::Fim(_)) {
            sampling.stop_token_ids.extend(fim_tokens(&state.tokenizer));
        }
        let schemas = Arc::new(ToolSchemas::new(&tools));
        let mut prompt = self.prompt.tokenise(state, tools).await?;
        let report = ScoreReport { with_text: true, repeated_every: None };
        let mut max_new_tokens = state.limits.admit_chat(&mut prompt, sampling.max_new_tokens)?;
        if sampling.max_new_tokens.is_none() {
            max_new_tokens = max_new_tokens.min(report.open_length(sampling.n, prompt.len(), self.logprobs.as_ref()));
        }
        check_prompt_tokens("messages", prompt.len() * sampling.n)?;
        let n = sampling.n;
        // Each output has a copy of it.
        to_pool_for(prompt.len() * n * size_of::<u32>()).await;
        let spec = GenerationSpec {
            id: self.id,
            prompt,
            sampling: Arc::new(sampling),
            max_new_tokens,
            logprobs: self.logprobs,
            score_report: report,
            caller: self.caller,
            namespace: self.namespace,
            sample_index: 0,
        };
        let generations = Generations::submit(state, spec.samples(n).collect(), self.streams).await?;
        let parsers = (0..n).map(|_| parser.map(|p| ToolParser::new(p.format(), Arc::clone(&schemas))));
        Ok(ChatGeneration::new(generations, parsers.collect()))
    }

    /// How many tokens the model would read, whatever their number.
    ///
    /// # Errors
    /// If the template or the request's own fields refuse it.
    pub async fn count_tokens(self, state: &Arc<AppState>) -> Result<usize, ApiError> {
        // What must be called changes what may be written, not what is read.
        let choice = self.tool_choice.filter(|choice| choice == "none");
        let tools = ToolUse::new(&self.tools, choice.as_ref(), true)?.tools;
        Ok(self.prompt.tokenise_any(state, tools).await?.len())
    }

    /// Forget the `turns` oldest turns of its messages; see [`Conversation::forget`](crate::prompt::Conversation::forget).
    pub fn forget(&mut self, turns: usize) -> bool {
        match &mut self.prompt {
            PromptSource::Messages(conversation) => conversation.forget(turns),
            PromptSource::Raw(_) | PromptSource::Fim(_) => false,
        }
    }
}
