//! What a system runs out of: room on a disk, readers of a log, files, threads, memory.

use std::{
    fs::File,
    io,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use rustix::process::{Signal, getuid};
use tokio::net::TcpStream;

use crate::{
    Scale,
    process::{Process, block_on, client, program},
    requests::{Outcome, mixed},
    table::Row,
};

/// Requests that must be answered whatever is wrong with the log.
const REQUESTS: usize = 56;

/// What is wrong with the answers to so many requests.
fn answers(process: &Process) -> Vec<String> {
    let base = process.url("");
    let outcomes = block_on(async {
        let client = client();
        join_all((0..REQUESTS).map(|index| mixed(&client, &base, index))).await
    });
    outcomes.into_iter().filter_map(Outcome::wrong).collect()
}

fn with_log(log: impl Into<Stdio>) -> Row {
    let mut process = Process::spawn("", &["--log-level", "debug"], log);
    if let Err(status) = process.until_ready() {
        return Row::new("a start".into(), String::new(), vec![format!("it ends with {status}")]);
    }
    let mut failures = answers(&process);
    failures.extend(process.stop());
    Row::new(format!("{REQUESTS} requests"), format!("{} wrong", failures.len()), failures)
}

pub(crate) fn full_log(_: Scale) -> Row {
    match File::options().write(true).open("/dev/full") {
        Ok(full) => with_log(full),
        Err(cause) => Row::skipped(&format!("/dev/full: {cause}")),
    }
}

pub(crate) fn stuck_log(_: Scale) -> Row {
    // Nobody reads it, and it is full after 64 KiB.
    let (_reader, writer) = io::pipe().expect("a pipe");
    with_log(writer)
}

pub(crate) fn closed_log(_: Scale) -> Row {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    with_log(writer)
}

/// A checkpoint whose repacked weights have no room on their disk.
pub(crate) fn full_disk(_: Scale) -> Row {
    let folder = tempfile::tempdir().expect("a folder");
    let [gguf, small] = ["demo.gguf", "small"].map(|name| folder.path().join(name).display().to_string());
    std::fs::create_dir(&small).expect("a folder");
    let converted = Command::new(program()).args(["convert", "--outtype", "q8_0", "--outfile", &gguf]).output();
    if !converted.is_ok_and(|output| output.status.success()) {
        return Row::skipped("the shipped model cannot be converted");
    }
    let mount = format!("mount -t tmpfs -o size=512k none {small}");
    let works =
        Command::new("unshare").args(["-m", "sh", "-c", &mount]).output().is_ok_and(|output| output.status.success());
    if !works {
        return Row::skipped("no disk can be made here (unshare, mount)");
    }
    let prefix = format!("exec unshare -m sh -c '{mount} && exec \"$0\" \"$@\"'");
    let mut process = Process::spawn(&prefix, &["--model", &gguf, "--weight-cache", &small], Stdio::null());
    let mut failures = match process.until_ready() {
        Ok(_) => answers(&process),
        Err(status) => vec![format!("it ends with {status}")],
    };
    if failures.is_empty() {
        failures.extend(process.stop());
    }
    Row::new("a disk of 512 KiB for --weight-cache".into(), format!("{} of {REQUESTS} wrong", failures.len()), failures)
}

pub(crate) fn files(_: Scale) -> Row {
    let mut failures = Vec::new();
    for limit in [24, 64] {
        let mut process = Process::spawn(&format!("ulimit -n {limit}; exec"), &[], Stdio::null());
        if let Err(status) = process.until_ready() {
            failures.push(format!("{limit}: it ends with {status}"));
            continue;
        }
        block_on(async {
            let sockets = join_all((0..100).map(|_| TcpStream::connect(process.address))).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(sockets);
        });
        let base = process.url("");
        let outcomes = block_on(async {
            let client = client();
            let mut outcomes = Vec::new();
            for index in 0..14 {
                outcomes.push(mixed(&client, &base, index).await);
            }
            outcomes
        });
        failures.extend(outcomes.into_iter().filter_map(Outcome::wrong).map(|why| format!("{limit}: {why}")));
        failures.extend(process.stop());
    }
    let figures = format!("{} requests after them wrong", failures.len());
    Row::new("ulimit -n 24 and 64, 100 connections at once".into(), figures, failures)
}

/// Starts under a limit: each refuses with a status of its own, serves and goes on serving, or ends before it is ready as
/// Rust's allocator ends a process that gets no memory (SIGABRT).
fn starts(amount: &str, prefixes: &[String], arguments: &[&str]) -> Row {
    let (mut served, mut refused, mut aborted, mut failures) = (0, 0, 0, Vec::new());
    let is_abort = |status: ExitStatus| status.signal() == Some(Signal::ABORT.as_raw());
    for prefix in prefixes {
        let mut process = Process::spawn(prefix, arguments, Stdio::null());
        match process.until_ready() {
            Ok(_) => {
                let (client, base) = (client(), process.url(""));
                let mut wrong = Vec::new();
                // One after the other: what no thread can be had for may be refused, and must not end the server.
                for index in 0..14 {
                    if let Some(why) = block_on(mixed(&client, &base, index)).wrong()
                        && !why.contains(": 503")
                    {
                        wrong.push(format!("{prefix}: {why}"));
                    }
                }
                served += 1;
                failures.extend(wrong);
                failures.extend(process.stop());
            }
            Err(status) if is_abort(status) => aborted += 1,
            // An ordinary error's status: no panic (101), no other signal.
            Err(status) if matches!(status.code(), Some(1 | 2)) => refused += 1,
            Err(status) => failures.push(format!("{prefix}: it ends with {status}")),
        }
    }
    let figures =
        format!("{served} serve, {refused} refuse to start with a message, {aborted} end by the allocator's abort");
    Row::new(amount.to_owned(), figures, failures)
}

pub(crate) fn threads(_: Scale) -> Row {
    if !getuid().is_root() {
        return Row::skipped("another user's threads can be limited by root alone");
    }
    let as_nobody = |limit: usize| format!("exec setpriv --reuid 65534 --clear-groups prlimit --nproc={limit} --");
    let mut readable = Command::new("setpriv");
    readable.args(["--reuid", "65534", "--clear-groups"]).arg(program()).arg("--version");
    if !readable.output().is_ok_and(|output| output.status.success()) {
        return Row::skipped("another user cannot run the program where it lies");
    }
    let prefixes: Vec<String> = [1, 2, 3, 4, 6, 8, 10, 12, 16, 24].map(as_nobody).into();
    starts("1 to 24 threads", &prefixes, &[])
}

pub(crate) fn memory(_: Scale) -> Row {
    let prefixes: Vec<String> =
        [80, 120, 160, 240, 400, 800, 1600, 2400].map(|mib| format!("ulimit -v {}; exec", mib * 1024)).into();
    starts("80 to 2400 MiB of addresses", &prefixes, &["--max-total-tokens", "4096"])
}
