//! [`CrossOriginFlags`]: which web pages may use the server, and under which names.

use clap::Args;
use quern_api::cross_origin::{AllowedHeader, AllowedMethod, CrossOriginConfig, HostPattern, OriginPattern};

/// Which web pages may use the server. The first four have vLLM's names, and its JSON lists are understood.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct CrossOriginFlags {
    /// Origins whose web pages may use this server beside its own page: `https://app.example`,
    /// `http://localhost:*`, `https://*.example`, `*` for any; several with commas, as a JSON list, or by repeating the flag [default: none]
    #[arg(long, value_name = "ORIGIN", num_args = 1.., value_parser = list(OriginPattern::parse))]
    pub allowed_origins: Vec<List<OriginPattern>>,

    /// Methods that they may use [default: all]
    #[arg(long, value_name = "METHOD", num_args = 1.., value_parser = list(AllowedMethod::parse))]
    pub allowed_methods: Vec<List<AllowedMethod>>,

    /// Headers that they may send [default: all]
    #[arg(long, value_name = "HEADER", num_args = 1.., value_parser = list(AllowedHeader::parse))]
    pub allowed_headers: Vec<List<AllowedHeader>>,

    /// Let them send what a browser adds by itself, such as a proxy's cookies
    #[arg(long)]
    pub allow_credentials: bool,

    /// Names under which the server may be asked for, beside addresses, localhost and names without a dot:
    /// `llm.example`, `*.example`, `*` for any [default: any, but none more where it listens on this machine alone]
    #[arg(long, value_name = "HOST", num_args = 1.., value_parser = list(HostPattern::parse))]
    pub allowed_hosts: Vec<List<HostPattern>>,
}

impl CrossOriginFlags {
    /// What was decided.
    pub fn config(&self) -> CrossOriginConfig {
        CrossOriginConfig {
            allowed_origins: flat(&self.allowed_origins),
            allowed_methods: flat(&self.allowed_methods),
            allowed_headers: flat(&self.allowed_headers),
            allow_credentials: self.allow_credentials,
            allowed_hosts: (!self.allowed_hosts.is_empty()).then(|| flat(&self.allowed_hosts)),
        }
    }
}

/// The values of one flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

fn flat<T: Clone>(lists: &[List<T>]) -> Vec<T> {
    lists.iter().flat_map(|list| &list.0).cloned().collect()
}

/// Reads a JSON list of strings, or values with commas between them.
fn list<T>(parse: fn(&str) -> Result<T, String>) -> impl Fn(&str) -> Result<List<T>, String> + Clone {
    move |text| {
        let values = match text.starts_with('[') {
            true => serde_json::from_str::<Vec<String>>(text).map_err(|cause| format!("not a JSON list: {cause}"))?,
            false => text.split(',').map(|value| value.trim().to_owned()).collect(),
        };
        values.iter().map(|value| parse(value)).collect::<Result<_, _>>().map(List)
    }
}
