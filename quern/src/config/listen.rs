//! [`ListenOptions`]: where the server listens, and what it does before it says that it is ready.

use clap::Args;
use serde::Serialize;

/// Where the server listens, and what it does before it says that it is ready: what was typed is what is decided.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
#[command(next_help_heading = "Server")]
pub struct ListenOptions {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,

    /// Port to listen on; 0 lets the system choose and prints the choice
    #[arg(long, default_value_t = 30000)]
    pub port: u16,

    /// Do not send the first request to ourselves before reporting ready
    #[arg(long)]
    pub skip_server_warmup: bool,

    /// Do not measure what this machine can do at best, which the live view compares with (half a second, while no
    /// request runs)
    #[arg(long)]
    pub skip_peak_measurement: bool,
}
