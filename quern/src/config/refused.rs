//! [`RefusedFlag`] and [`ResolveError`]: command lines that cannot be served.

use quern_model::LoadError;

use crate::{memory::PoolError, request_memory::NoRequestMemory};

/// A flag, its value and why it cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}{}: {reason}", if value.is_empty() { String::new() } else { format!(" {value}") })]
pub struct RefusedFlag {
    /// Its name without dashes.
    pub flag: &'static str,
    /// What was asked for; empty for a switch.
    pub value: String,
    /// What is supported instead.
    pub reason: String,
}

impl RefusedFlag {
    /// The refusal of `--flag value`.
    pub fn new(flag: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self { flag, value: value.to_string(), reason: reason.into() }
    }
}

/// Flags that do not go together with the model or the machine.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A flag asks for what is not supported or not possible.
    #[error(transparent)]
    Flag(#[from] RefusedFlag),
    /// The weights cannot be counted.
    #[error(transparent)]
    Weights(#[from] LoadError),
    /// The KV pool does not fit.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Nothing is left for requests.
    #[error(transparent)]
    Requests(#[from] NoRequestMemory),
}
