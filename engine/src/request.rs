//! [`GenerateRequest`] and [`TokenEvent`]: the engine's input and output.

use std::sync::Arc;

use quern_backend::{SamplingParams, TokenMask};

use crate::tenant::Tenant;

/// A prompt and everything that decides what follows it. Already validated: ids are below the
/// vocabulary, numbers within their ranges, the prompt is not empty and fits the context.
pub struct GenerateRequest {
    /// The request's id; unique among those alive. Aborts match it by prefix.
    pub id: String,
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// How to choose each token.
    pub sampling: SamplingParams,
    /// Draws depend on this and on the index of the output token alone.
    pub seed: u64,
    /// Most tokens to generate. `0` computes (and caches) the prompt and finishes.
    pub max_new_tokens: usize,
    /// Stop tokens cannot be sampled before this many tokens are out.
    pub min_new_tokens: usize,
    /// Tokens that end the output, the model's end-of-sequence tokens included. The token that ends it
    /// is reported and counted.
    pub stop_token_ids: Vec<u32>,
    /// Do not stop at `stop_token_ids`. Below `min_new_tokens` they stay banned all the same, as in SGLang.
    pub ignore_eos: bool,
    /// Which log-probabilities to report.
    pub logprobs: Option<LogprobRequest>,
    /// Who it belongs to: tenants share the engine fairly.
    pub tenant: Tenant,
    /// Prefixes are shared only among requests of the same namespace (cache salt, tenant).
    pub namespace: Option<Arc<str>>,
    /// A grammar to follow, asked for a mask before each token and told of each token.
    pub grammar: Option<Box<dyn Grammar>>,
}

impl GenerateRequest {
    /// Exactly `max_new_tokens` greedy tokens after `prompt`, whatever they are: what measurements ask for.
    pub fn greedy(prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            id: String::new(),
            prompt,
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            seed: 0,
            max_new_tokens,
            min_new_tokens: 0,
            stop_token_ids: Vec::new(),
            ignore_eos: true,
            logprobs: None,
            tenant: Tenant::default(),
            namespace: None,
            grammar: None,
        }
    }
}

/// Which log-probabilities a request wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogprobRequest {
    /// Score prompt tokens from this index on (the first prompt token has no score); `None`: output only.
    /// A cached prefix is used only up to here, since scores need logits.
    pub prompt_from: Option<usize>,
    /// Report this many likeliest tokens at each place.
    pub top: usize,
    /// Report these tokens at each place.
    pub ids: Vec<u32>,
}

/// Constrained output: an automaton over tokens. Implemented outside the engine, which knows no text.
/// An error, or a panic, of a grammar ends its own request and no other.
pub trait Grammar: Send {
    /// The tokens that may come next. Asked before the step that samples one of them; the mask may be
    /// filled while the network runs. A mask that allows nothing fails the request.
    ///
    /// # Errors
    /// If the grammar cannot go on.
    fn mask(&mut self) -> Result<Arc<TokenMask>, GrammarError>;
    /// `token` was chosen. Returns whether the grammar has reached its end.
    ///
    /// # Errors
    /// If the grammar cannot go on.
    fn accept(&mut self, token: u32) -> Result<bool, GrammarError>;
    /// Why its last mask allows nothing.
    fn dead_end(&mut self) -> GrammarError {
        GrammarError("it allows no token here".into())
    }
}

/// Why a grammar cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

/// Where a request's events go. Called on the engine's thread: must not block.
pub trait EventSink: Send {
    /// Deliver one event. After `Finished` or `Failed` no other comes.
    fn send(&mut self, event: TokenEvent);
    /// The request has left the queue for the first time; not called where it ends there.
    fn admitted(&mut self) {}
}

impl TokenEvent {
    /// Whether no event follows this one.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Finished(_) | Self::Failed(_))
    }
}

impl<F: FnMut(TokenEvent) + Send> EventSink for F {
    fn send(&mut self, event: TokenEvent) {
        self(event)
    }
}

/// What happens to a request, in order: `Prefilled` once, `Token` any number of times, and exactly one
/// of `Finished` and `Failed`, whatever happens. `Retracted` may come between any of them.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenEvent {
    /// The whole prompt is computed.
    Prefilled(PromptReport),
    /// Its pages were taken for others: it is computed again later, to the same tokens.
    Retracted,
    /// One output token.
    Token {
        /// Its id.
        id: u32,
        /// Log-probabilities, if asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The end, as wanted.
    Finished(FinishReason),
    /// The end, for a cause the request did not choose.
    Failed(FailCause),
}

/// Facts about the prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptReport {
    /// Prompt tokens that were not computed because their pages were cached.
    pub cached_tokens: usize,
    /// Scores of the prompt tokens from `prompt_from` on (the very first token has none), if asked for.
    pub logprobs: Vec<TokenLogprobs>,
}

/// Log-probabilities at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token there.
    pub id: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The likeliest tokens, best first.
    pub top: Vec<(u32, f32)>,
    /// The tokens asked for, in the order asked.
    pub requested: Vec<(u32, f32)>,
}

/// Why an output ended as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token came; it is the last `Token` event.
    StopToken(u32),
    /// The grammar reached its end with this token.
    GrammarEnd(u32),
    /// `max_new_tokens` are out.
    Length,
    /// Closed by its owner ([`RequestHandle::close`](crate::RequestHandle::close)).
    Closed,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailCause {
    /// Its handle was dropped, or it was aborted by id.
    #[error("the request was aborted")]
    Aborted,
    /// The pool cannot hold it even alone.
    #[error(
        "out of KV memory: the request needs {needed_pages} pages of {page_size} tokens; the pool has {total_pages}"
    )]
    OutOfPages {
        /// Pages it would need next.
        needed_pages: usize,
        /// Pages in all.
        total_pages: usize,
        /// Tokens of a page.
        page_size: usize,
    },
    /// Its logits were not numbers.
    #[error("numerical fault: the logits of output token {step} are not finite")]
    NumericalFault {
        /// Index of the output token.
        step: usize,
    },
    /// What the request asks for leaves no token to choose: its bans, penalties and biases, or its grammar.
    #[error("no token may be output token {step}{}", grammar.as_ref().map_or(String::new(), |why| format!(": {why}")))]
    NoToken {
        /// Index of the output token.
        step: usize,
        /// Why the grammar allows none, if there is one.
        grammar: Option<GrammarError>,
    },
    /// Its grammar could not go on.
    #[error("the grammar failed: {0}")]
    Grammar(GrammarError),
    /// The model failed in the step this request was part of.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// `--max-queued-requests` are waiting.
    #[error("The request queue is full.")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// The queue is full, and the tenant has its share of it while others are served.
    #[error(
        "Too many of your requests are waiting: {waiting}, in a full queue that is shared by {tenants} clients. Try again \
         when some of them are served."
    )]
    ShareExceeded {
        /// Requests of the tenant that wait.
        waiting: usize,
        /// Tenants that have requests.
        tenants: usize,
    },
    /// `--max-queued-tokens` are waiting.
    #[error("The request queue is full: its prompts have {limit} tokens or almost as many.")]
    QueueFullOfTokens {
        /// The limit.
        limit: usize,
    },
    /// The pool can never hold this prompt.
    #[error("the prompt has {prompt_tokens} tokens; the KV pool holds {pool_tokens}")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the pool.
        pool_tokens: usize,
    },
    /// The engine has failed and is being restarted.
    #[error("the engine is restarting after a failure")]
    Restarting,
    /// The engine has failed repeatedly.
    #[error("the engine takes no more requests: it has failed repeatedly")]
    Unhealthy,
    /// Draining, or the engine thread has ended.
    #[error("the server is shutting down")]
    ShuttingDown,
}
