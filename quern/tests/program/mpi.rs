//! A network on the processes of `mpirun`, of Open MPI and of MPICH: the bits of one process without an address or a key on
//! the command line, what happens when one of them is killed or stopped, and what is said where there is no MPI.

use std::{
    fs,
    io::{BufRead, Read},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::nodes::{CHAT, Client, HERE, LONG, PATIENCE, Starting, content, post, streamed};
use crate::process::{Server, quern, serve};

/// What all processes are started with, and the server of one process that they are compared with.
const NETWORK: [&str; 6] = ["--tp", "2", "--ep", "2", "--max-total-tokens", "2048"];

/// Marks the processes of one test among all of the machine.
const MARK: &str = "QUERN_TEST_NETWORK";

/// A launcher, with the flags for two processes of root on a machine of any size.
struct Mpirun {
    line: &'static [&'static str],
    /// Where a process finds which one it is.
    rank: &'static str,
    /// What the log says of the library.
    library: &'static str,
    package: &'static str,
    /// Whether the others may go on for a second when one is killed.
    leaves_time: bool,
}

const OPEN_MPI: Mpirun = Mpirun {
    line: &["mpirun.openmpi", "--allow-run-as-root", "--oversubscribe", "-np", "2"],
    rank: "OMPI_COMM_WORLD_RANK",
    library: "over MPI (libmpi.so.40, Open MPI v",
    package: "openmpi-bin",
    leaves_time: true,
};

/// It kills the others at once when one is, before they can tell anybody.
const MPICH: Mpirun = Mpirun {
    line: &["mpirun.mpich", "-np", "2"],
    rank: "PMI_RANK",
    library: "over MPI (libmpich.so.12, MPICH Version: ",
    package: "mpich",
    leaves_time: false,
};

impl Mpirun {
    /// It, before `arguments`; says that the test is skipped where it is missing.
    fn command(&self, arguments: &[&str], mark: &str) -> Option<Command> {
        let (program, flags) = self.line.split_first().unwrap();
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if let Err(error) = found {
            crate::skip::skip(&format!("{program}: {error}"), &format!("install {} (Debian)", self.package));
            return None;
        }
        let quern = quern(arguments);
        let mut command = Command::new(program);
        for (name, value) in quern.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(flags).arg(quern.get_program()).args(quern.get_args()).env(MARK, mark).stdin(Stdio::null());
        Some(command)
    }
}

/// The processes of a launcher, which have met and serve.
struct Launched {
    mpirun: Starting,
    rank: &'static str,
    mark: String,
    /// Of node 0 and of node 1.
    addresses: [SocketAddr; 2],
}

impl Launched {
    fn start(by: &Mpirun, more: &[&str]) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mark = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let arguments = [&["serve", "--device", "cpu", "--port", "0"], &NETWORK[..], more].concat();
        let mut mpirun = Starting::spawn(by.command(&arguments, &mark)?);
        let node = |index| format!("(node {index}: /health;");
        let address = |rest: &str| rest.split(' ').next().unwrap().parse().unwrap();
        mpirun.wait(&node(1));
        mpirun.wait("(press CTRL+C to stop)");
        let (of_1, of_0): (Vec<&String>, _) =
            mpirun.log.iter().filter(|line| line.contains("Listening on")).partition(|line| line.contains(&node(1)));
        let addresses = [of_0, of_1].map(|lines| address(lines[0].split_once("http://").unwrap().1));
        let begin = Instant::now();
        while !HERE.get(addresses[0], "/health").starts_with("HTTP/1.1 200") {
            assert!(begin.elapsed() < PATIENCE, "{:#?}", mpirun.log);
            thread::sleep(Duration::from_millis(20));
        }
        Some(Self { mpirun, rank: by.rank, mark, addresses })
    }

    fn said(&self, part: &str) {
        assert!(self.mpirun.log.iter().any(|line| line.contains(part)), "no {part:?} in {:#?}", self.mpirun.log);
    }

    /// The number of the process of one of the nodes, while there is one.
    fn process(&self, node: usize) -> Option<String> {
        let (mark, rank) = (format!("{MARK}={}", self.mark), format!("{}={node}", self.rank));
        fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let environment = fs::read_to_string(entry.path().join("environ")).ok()?;
            let has = |wanted: &str| environment.split('\0').any(|variable| variable == wanted);
            (has(&mark) && has(&rank)).then(|| entry.file_name().into_string().unwrap())
        })
    }

    fn signal(&self, node: usize, name: &str) {
        let process = self.process(node).expect("it is there");
        assert!(Command::new("kill").args([&format!("-{name}"), &process]).status().unwrap().success());
    }

    /// What the launcher ends with, and what was said until then. No process of it is left.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let status = crate::nodes::status(self.mpirun.process.as_mut().unwrap());
        let begin = Instant::now();
        while let Some(left) = (0..2).find_map(|node| self.process(node)) {
            assert!(begin.elapsed() < PATIENCE, "process {left} is left");
            thread::sleep(Duration::from_millis(20));
        }
        let mut log = std::mem::take(&mut self.mpirun.log);
        log.extend(self.mpirun.lines.iter());
        (status, log)
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        // A launcher that is killed leaves its processes to themselves.
        for process in (0..2).filter_map(|node| self.process(node)) {
            let _ = Command::new("kill").args(["-KILL", &process]).status();
        }
    }
}

fn has_the_bits_of_one_process(by: &Mpirun) {
    let Some(network) = Launched::start(by, &[]) else { return };
    network.said(by.library);
    network.said("Ranks: 0 to 0 of 2 on node 0 of 2 over MPI");
    network.said("Ranks: 1 to 1 of 2 on node 1 of 2 over MPI");
    let alone = serve(&NETWORK);
    let chat = format!("{CHAT}}}");
    let expected = content(&alone.post("/v1/chat/completions", &chat));
    let ask = |body: &str| HERE.ask(network.addresses[0], &post("/v1/chat/completions", body));
    assert_eq!(content(&ask(&chat)), expected);
    let answer = ask(&format!("{CHAT},\"stream\":true}}"));
    assert!(answer.contains("data: [DONE]"), "{answer}");
    assert_eq!(streamed(&answer), expected[0]["message"]["content"].as_str().unwrap());
    assert!(HERE.get(network.addresses[1], "/health").starts_with("HTTP/1.1 200"));
    // Asked to end, node 0 takes the other one with it, and both part in peace.
    network.signal(0, "TERM");
    let (status, log) = network.end();
    assert_eq!(status, Some(0), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("Node 0 has ended, and this node with it.")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("MPI_Finalize")), "{log:#?}");
}

#[test]
fn processes_of_open_mpi_have_the_bits_of_one() {
    has_the_bits_of_one_process(&OPEN_MPI);
}

#[test]
fn processes_of_mpich_have_the_bits_of_one() {
    has_the_bits_of_one_process(&MPICH);
}

/// What becomes of a stream and of all processes when `signal` comes to node 1, of which node 0 says `what` if the launcher
/// lets it.
fn node_1_is_missed(by: &Mpirun, signal: &str, what: &str) {
    let Some(network) = Launched::start(by, &LONG) else { return };
    let body = r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":80000,"ignore_eos":true,"stream":true}"#;
    let mut stream = Client::open(HERE, network.addresses[0], &post("/v1/chat/completions", body));
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(stream.answer.read_line(&mut line).unwrap() > 0, "the stream begins");
    }
    let begin = Instant::now();
    network.signal(1, signal);
    let health = loop {
        let health = HERE.get(network.addresses[0], "/health");
        if !health.starts_with("HTTP/1.1 200") {
            break health;
        }
        assert!(begin.elapsed() < PATIENCE, "it is noticed");
    };
    eprintln!("{}: noticed after {:?}", thread::current().name().unwrap_or_default(), begin.elapsed());
    let mut rest = String::new();
    stream.answer.read_to_string(&mut rest).unwrap();
    if signal == "STOP" {
        // The launcher ends it, or it goes by itself.
        network.signal(1, "CONT");
    }
    let (status, log) = network.end();
    assert_ne!(status, Some(0), "{log:#?}");
    if by.leaves_time {
        assert!(health.starts_with("HTTP/1.1 503"), "{health:?}");
        let why = format!("rank 1 (node 1, 127.0.0.1) {what}");
        assert!(rest.contains("\"error\"") && rest.contains(&why), "an end that says why: {rest}");
        assert!(log.iter().any(|line| line.contains(&why)), "{why}: {log:#?}");
        // With status 75, which is not the launcher's.
        let ended = log.iter().any(|line| line.contains("quern: error: the engine has failed and stays down"));
        assert!(ended, "{log:#?}");
    }
}

#[test]
fn a_process_of_open_mpi_that_is_killed_ends_streams_with_an_error() {
    node_1_is_missed(&OPEN_MPI, "KILL", "is gone");
}

#[test]
fn a_process_of_mpich_that_is_killed_takes_the_others_with_it() {
    node_1_is_missed(&MPICH, "KILL", "is gone");
}

#[test]
fn a_process_that_stands_still_is_missed() {
    node_1_is_missed(&OPEN_MPI, "STOP", "has been silent for 4 s");
}

/// A folder whose files have the names of all MPI libraries and are none, for the loader to find first.
fn no_mpi() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["libmpi.so.40", "libmpi.so.12", "libmpich.so.12", "libmpi_abi.so.1", "libmpi_abi.so.0"] {
        fs::write(folder.path().join(file), "").unwrap();
    }
    folder
}

#[test]
fn without_a_library_several_processes_are_told_what_was_tried_and_one_serves() {
    let folder = no_mpi();
    let of = |size: &str, arguments: &[&str]| {
        let mut command = quern(arguments);
        command.env("LD_LIBRARY_PATH", folder.path());
        command.env("PMI_SIZE", size).env("PMI_RANK", "0");
        command
    };
    let output = of("2", &["serve", "--tp", "2", "--port", "0"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    for part in [
        "mpiexec started this process as 0 of 2 (PMI_SIZE)",
        "libmpi.so.12: ",
        "libmpi_abi.so.1: ",
        "LD_LIBRARY_PATH",
        "--dist-transport sockets",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let mut alone = of("1", &["serve", "--tp", "2", "--port", "0", "--max-total-tokens", "2048", "--device", "cpu"]);
    alone.stdin(Stdio::null());
    let alone = Server::start(alone);
    alone.said("Ranks: 2 in this process");
}

#[test]
fn the_library_of_another_launcher_is_told() {
    // Open MPI's library without Open MPI's launcher: it takes itself for the only process.
    let Some(there) = OPEN_MPI.command(&["--version"], "") else { return };
    drop(there);
    let mut command = quern(&["serve", "--tp", "2", "--port", "0"]);
    command.env("OMPI_COMM_WORLD_SIZE", "2").env("OMPI_COMM_WORLD_RANK", "1");
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let said = ["says that this is process 0 of 1", "mpirun that it is 1 of 2 (OMPI_COMM_WORLD_SIZE)", "--nnodes 2"];
    assert!(said.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn what_disagrees_with_the_launcher_is_refused() {
    for (arguments, part) in [
        (&["--tp", "2", "--nnodes", "4"][..], "--nnodes 4: mpirun started 2 processes (OMPI_COMM_WORLD_SIZE)"),
        (&["--tp", "2", "--node-rank", "0"], "--node-rank 0: mpirun started this process as number 1 of 2"),
        (&[], "--tp-size 1: mpirun started 2 processes"),
    ] {
        let mut command = quern(&[&["serve"], arguments].concat());
        let output = command.env("OMPI_COMM_WORLD_SIZE", "2").env("OMPI_COMM_WORLD_RANK", "1").output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && error.contains(part), "{error}");
    }
}
