//! [`Process`]: a server as an operator runs it, and what the system says of it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};

/// Long enough for anything here, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The program that is tried.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("QUERN_BIN").map_or_else(|| env!("CARGO_BIN_EXE_quern").into(), PathBuf::from)
}

/// A client that shares no connection between requests that run at once.
pub(crate) fn client() -> Client {
    Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client")
}

/// A port that was free just now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Runs an asynchronous experiment on the runtime of the campaign.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(work)
}

pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// A server that is not ready yet. `prefix`: words of a shell before it, such as `ulimit -n 64; exec`.
    pub(crate) fn spawn(prefix: &str, arguments: &[&str], log: impl Into<Stdio>) -> Self {
        let address = free_address();
        let mut command = if prefix.is_empty() {
            Command::new(program())
        } else {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{prefix} \"$0\" \"$@\"")]).arg(program());
            shell
        };
        command.args(["serve", "--max-total-tokens", "16384", "--port", &address.port().to_string()]).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the program starts");
        Self { child, address }
    }

    /// A server that is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut process = Self::spawn("", arguments, Stdio::null());
        process.until_ready().expect("it gets ready");
        process
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Wait until it is ready; how long that took.
    ///
    /// # Errors
    /// With its status if it ends instead.
    pub(crate) fn until_ready(&mut self) -> Result<Duration, ExitStatus> {
        let (begin, client) = (Instant::now(), client());
        loop {
            let url = self.url("/ready");
            if block_on(async { client.get(url).send().await }).is_ok_and(|answer| answer.status() == 200) {
                return Ok(begin.elapsed());
            }
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return Err(status);
            }
            assert!(begin.elapsed() < PATIENCE, "it does not get ready");
            sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Wait for its end; `None` if it does not come.
    pub(crate) fn until_ended(&mut self) -> Option<ExitStatus> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return Some(status);
            }
            sleep(Duration::from_millis(5));
        }
        None
    }

    /// End it as an operator would; says what is wrong with how it ended.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.signal(Signal::TERM);
        match self.until_ended() {
            Some(status) if status.success() => Vec::new(),
            status => vec![format!("after SIGTERM: {status:?}")],
        }
    }

    /// Memory that it has, bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Its open files.
    pub(crate) fn num_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended, and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
