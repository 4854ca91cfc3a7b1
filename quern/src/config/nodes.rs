//! [`NodeOptions`]: where the nodes of a network meet, and what carries their numbers.

use std::{
    fs,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
};

use clap::Args;
use quern_ranks::{NodeKey, is_private};
use serde::Serialize;

use super::{
    names::{Auto, Names},
    parallel::ParallelOptions,
    refused::RefusedFlag,
    values::positive_seconds,
};

/// Fewest bytes of a secret: shorter ones are guessed.
const MIN_SECRET: usize = 16;

/// Most bytes of a file with one.
const MAX_SECRET: u64 = 64 << 10;

/// Where the nodes of a network meet: what was typed is what is decided.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct NodeOptions {
    /// Where node 0 waits for the others, who connect to it; port 0 lets its system choose and prints the choice
    #[arg(long, alias = "nccl-init-addr", value_name = "HOST:PORT", value_parser = address)]
    pub dist_init_addr: Option<String>,

    /// Seconds that nodes wait for one another: at start until all are there, and in the middle of a step. One that is
    /// gone or hangs as a whole is noticed within 4
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = positive_seconds)]
    pub dist_timeout: f64,

    /// A file with a secret that all nodes have; others are kept out. Needed where --dist-init-addr is not an address of a
    /// private network
    #[arg(long, value_name = "FILE")]
    pub dist_key_file: Option<PathBuf>,

    /// What carries sums between nodes: the MPI of the mpirun or srun that started them, or sockets. `auto` takes MPI under
    /// such a launcher of several processes, unless --nnodes and --dist-init-addr are typed
    #[arg(long, value_name = "TRANSPORT", default_value = "auto", value_parser = Names::or_auto(DistTransport::NAMES))]
    pub dist_transport: Auto<DistTransport>,
}

/// What carries sums between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DistTransport {
    /// The library of the launcher.
    Mpi,
    /// Connections of our own.
    Sockets,
}

impl DistTransport {
    const NAMES: [(&str, Self); 2] = [("mpi", Self::Mpi), ("sockets", Self::Sockets)];
}

/// `host:port`, as it was typed.
fn address(text: &str) -> Result<String, String> {
    let wanted = || "host:port is wanted, such as 10.0.0.1:5000, [fd00::1]:5000 or a name".to_owned();
    // Users of SGLang write this too.
    let bare = text.strip_prefix("tcp://").unwrap_or(text);
    let (host, port) = bare.rsplit_once(':').ok_or_else(wanted)?;
    let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
    match port.parse::<u16>() {
        Ok(_) if is_host => Ok(bare.to_owned()),
        _ => Err(wanted()),
    }
}

impl NodeOptions {
    /// Lines about what changes nothing.
    ///
    /// # Errors
    /// For the flag that the nodes of `parallel` cannot do without, or a [`key`](Self::key) that is none.
    pub fn check(&self, parallel: ParallelOptions) -> Result<Vec<String>, RefusedFlag> {
        let nodes = parallel.nnodes;
        let by_mpi = self.dist_transport == Some(DistTransport::Mpi);
        if nodes > 1 && by_mpi {
            let file = self.dist_key_file.as_ref();
            let note = |file: &PathBuf| {
                format!("--dist-key-file {} changes nothing: node 0 hands out a key by MPI.", file.display())
            };
            return Ok(file.map(note).into_iter().collect());
        }
        if nodes > 1 {
            let reason = "needs --dist-init-addr HOST:PORT, where node 0 waits for the others";
            let address = self.dist_init_addr.as_ref().ok_or_else(|| RefusedFlag::new("nnodes", nodes, reason))?;
            return self.key(address).map(|_| Vec::new());
        }
        let address = self.dist_init_addr.as_ref().map(|address| format!("--dist-init-addr {address}"));
        let file = self.dist_key_file.as_ref().map(|file| format!("--dist-key-file {}", file.display()));
        let transport = by_mpi.then(|| "--dist-transport mpi".to_owned());
        let typed = address.into_iter().chain(file).chain(transport);
        Ok(typed.map(|typed| format!("{typed} changes nothing: there is one node (--nnodes).")).collect())
    }

    /// The key of the nodes that meet at `address`, and a line for the log where it keeps nobody out.
    ///
    /// # Errors
    /// If there is none and everybody could come, or the file has none.
    pub fn key(&self, address: &str) -> Result<(NodeKey, Option<String>), RefusedFlag> {
        if let Some(file) = &self.dist_key_file {
            let refused = |reason| RefusedFlag::new("dist-key-file", file.display(), reason);
            return Ok((NodeKey::new(&secret(file).map_err(refused)?), None));
        }
        // A name that means nothing yet may mean something when it is tried.
        let mut addresses = address.to_socket_addrs().into_iter().flatten();
        if let Some(public) = addresses.find(|address| !is_private(address.ip())) {
            let reason = format!(
                "{} is not an address of a private network, and who reaches it could join: give all nodes the same \
                 --dist-key-file",
                public.ip()
            );
            return Err(RefusedFlag::new("dist-init-addr", address, reason));
        }
        let line = format!(
            "everyone who can reach {address} may join as a node: there is no --dist-key-file (fine in a network of one's \
             own)"
        );
        Ok((NodeKey::new(b""), Some(line)))
    }
}

/// What is in a file, without the white space around it.
fn secret(file: &Path) -> Result<Vec<u8>, String> {
    let about = fs::metadata(file).map_err(|error| error.to_string())?;
    if !about.is_file() || about.len() > MAX_SECRET {
        return Err(format!("a file of at most {MAX_SECRET} bytes is wanted"));
    }
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    match bytes.trim_ascii() {
        secret if secret.len() >= MIN_SECRET => Ok(secret.to_vec()),
        secret => Err(format!(
            "{} bytes are no secret, at least {MIN_SECRET} are (head -c 32 /dev/urandom | base64)",
            secret.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::tests::decide;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (text, expected) in [
            ("10.0.0.1:5000", Some("10.0.0.1:5000")),
            ("tcp://node-0:5000", Some("node-0:5000")),
            ("[fd00::1]:5000", Some("[fd00::1]:5000")),
            ("fd00::1:5000", None),
            ("10.0.0.1", None),
            (":5000", None),
            ("node-0:70000", None),
            ("node-0:", None),
        ] {
            assert_eq!(address(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn nodes_are_refused_by_the_flag_that_is_wrong() {
        for (line, parts) in [
            ("--tp 4 --nnodes 2", &["--nnodes 2: needs --dist-init-addr"][..]),
            ("--tp 2 --nnodes 3 --dist-init-addr a:1", &["--nnodes 3", "--tp-size 2"]),
            ("--tp 6 --nnodes 2 --dist-init-addr a:1", &["--nnodes 2", "3 ranks", "1, 2, 4"]),
            ("--tp 2 --nnodes 2 --node-rank 2 --dist-init-addr a:1", &["--node-rank 2", "0 to 1"]),
            ("--node-rank 1", &["--node-rank 1", "--nnodes"]),
            ("--dist-init-addr a", &["--dist-init-addr", "host:port"]),
            ("--dist-timeout 0", &["--dist-timeout", "more than 0"]),
        ] {
            let error = decide(line).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{line}: {error}");
        }
        let notes = decide("--dist-init-addr a:1").unwrap().notes;
        assert!(notes.iter().any(|note| note.starts_with("--dist-init-addr a:1 changes nothing")), "{notes:?}");
    }

    #[test]
    fn a_key_is_needed_where_everybody_could_come() {
        let folder = tempfile::tempdir().unwrap();
        let with = |text: Option<&str>| {
            let file = text.map(|text| {
                let file = folder.path().join("key");
                fs::write(&file, text).unwrap();
                file
            });
            NodeOptions { dist_init_addr: None, dist_timeout: 1.0, dist_key_file: file, dist_transport: None }
        };
        let line = with(None).key("10.0.0.1:5000").unwrap().1.unwrap();
        assert!(line.contains("10.0.0.1:5000") && line.contains("--dist-key-file"), "{line}");
        let error = with(None).key("203.0.113.7:5000").unwrap_err().to_string();
        assert!(
            error.starts_with("--dist-init-addr 203.0.113.7:5000: ") && error.contains("--dist-key-file"),
            "{error}"
        );
        assert!(with(Some("a secret that is long enough\n")).key("203.0.113.7:5000").unwrap().1.is_none());
        let error = with(Some(" short \n")).key("127.0.0.1:1").unwrap_err().to_string();
        assert!(error.contains("5 bytes") && error.contains("at least 16"), "{error}");
    }
}
