//! [`StartError`]: why the server did not start.

use quern_api::listen::ListenError;
use quern_backend::Lost;
use quern_model::LoadError;
use quern_ranks::{LauncherError, MpiError, RendezvousError};
use quern_text::{TemplateError, TokenizerError};

use crate::{
    config::{RefusedFlag, ResolveError},
    hub::HubError,
    machine::ThreadLimit,
};

/// Why the server did not start, or stopped with a failure. One line (a checkpoint's problems: one line
/// each) that names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A flag asks for what is not supported or not possible.
    #[error(transparent)]
    Flag(#[from] RefusedFlag),
    /// The flags, the model and the machine do not go together.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The model cannot be fetched.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer cannot be read.
    #[error("{place}: {cause}")]
    Tokenizer {
        /// Where its files are.
        place: String,
        /// Why.
        cause: TokenizerError,
    },
    /// The tokenizer knows tokens that the model does not.
    #[error(
        "{place}: the tokenizer has {tokenizer} tokens, the model {model}; give the model's own with --tokenizer-path"
    )]
    Vocabulary {
        /// Where the tokenizer's files are.
        place: String,
        /// Its tokens.
        tokenizer: usize,
        /// The model's.
        model: usize,
    },
    /// The chat template cannot be read.
    #[error("{place}: {cause}")]
    Template {
        /// Where it is.
        place: String,
        /// Why.
        cause: TemplateError,
    },
    /// There is no template of the name asked for.
    #[error("--hf-chat-template-name {name}: {place} has no chat template of that name")]
    NoSuchTemplate {
        /// As typed.
        name: String,
        /// Where the tokenizer's files are.
        place: String,
    },
    /// The kernels cannot run here.
    #[error("{0} (--cpu-isa, --cpu-threads)")]
    Device(Box<dyn std::error::Error + Send + Sync>),
    /// The GPU that was asked for cannot compute.
    #[error("--device {compute}: {cause} (--device cpu uses the CPU)")]
    Gpu {
        /// As typed, or decided.
        compute: &'static str,
        /// Why.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Repacked weights cannot be kept.
    #[error("--weight-cache {dir}: {cause}")]
    WeightCache {
        /// As typed.
        dir: String,
        /// Why.
        cause: String,
    },
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread or the runtime cannot be started.
    #[error("the system refuses to start a thread: {0}")]
    Thread(std::io::Error),
    /// Too few threads may be started.
    #[error(transparent)]
    Threads(#[from] ThreadLimit),
    /// What was asked for cannot be printed.
    #[error("standard output cannot be written: {0}")]
    Output(std::io::Error),
    /// Records of internal errors cannot be kept.
    #[error("--crash-dump-folder {folder}: {cause}")]
    CrashDumps {
        /// As typed.
        folder: String,
        /// Why.
        cause: std::io::Error,
    },
    /// An error of ours.
    #[error("the start failed for a reason of our own; the log has it")]
    Panicked,
    /// The first request failed.
    #[error("the first request to ourselves failed: {0} (--skip-server-warmup leaves it out)")]
    Warmup(String),
    /// The server stopped with a failure.
    #[error("the server stopped: {0}")]
    Serve(std::io::Error),
    /// What started this process makes no sense.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// The processes of a launcher are not connected.
    #[error(transparent)]
    Mpi(#[from] MpiError),
    /// The nodes of the network did not meet.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// A node is lost, or a rank on it.
    #[error("{0}: no step can be computed without it. A new start of all nodes may help")]
    NodeLost(#[from] Lost),
    /// Another node was asked to end, and this one with it.
    #[error("another node was asked to end, and this one cannot do without it. A new start of all nodes may help")]
    NodeLeft,
    /// The engine has failed for good.
    #[error("the engine has failed and stays down; the log says why. A new start may help")]
    EngineDown,
}

/// The exit status of a server whose engine has failed for good, or one of whose nodes is missing: `EX_TEMPFAIL` of sysexits.h, which no other end has.
pub const ENGINE_DOWN: u8 = 75;

/// The exit status of a process whose mapped weights were cut off under it: `EX_SOFTWARE` of sysexits.h, which no other
/// end has.
pub const FILE_CUT: u8 = 70;

impl StartError {
    /// The exit status of the program.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::EngineDown | Self::NodeLost(_) | Self::NodeLeft => ENGINE_DOWN,
            Self::Rendezvous(error) if error.is_temporary() => ENGINE_DOWN,
            Self::Mpi(error) if error.is_temporary() => ENGINE_DOWN,
            _ => 1,
        }
    }
}
