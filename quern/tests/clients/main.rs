//! Real clients against a server whose model follows a script; template, parser, stream and cache are
//! real. They are installed by `./test clients`, which names their folder in `QUERN_CLIENTS`.

mod agents;
mod frameworks;
#[path = "../../../tests/skip.rs"]
mod skip;
#[path = "../../../api/tests/support/mod.rs"]
mod support;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use quern_api::ApiConfig;
use quern_engine::EngineConfig;
use support::{CALL, Server, Setup, parsing, small_engine};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// A client that has not come to its end by then never will.
const PATIENCE: Duration = Duration::from_secs(180);

fn roomy(context_length: usize) -> Setup {
    Setup {
        api: ApiConfig { context_length, ..parsing() },
        engine: EngineConfig {
            page_size: 32,
            num_pages: 8192,
            chunk_tokens: 8192,
            max_prefill_tokens: 200_000,
            ..small_engine()
        },
    }
}

/// The installed file, or `None`, and the test says that it is skipped.
fn installed(path: &str) -> Option<PathBuf> {
    let found = std::env::var_os("QUERN_CLIENTS").map(|dir| Path::new(&dir).join(path)).filter(|path| path.exists());
    if found.is_none() {
        skip::skip(&format!("{path} is not installed"), "./test clients installs it");
    }
    found
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients").join(name)
}

/// Run to the end; what it printed.
async fn run(command: &mut Command) -> String {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends in time").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{errors}", output.status);
    print!("{text}");
    text
}

/// A script of `tests/clients`, to the end, which it says it has reached.
async fn run_script(program: &Path, name: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    // JavaScript looks for packages from here.
    command.arg(script(name)).args(arguments).current_dir(clients_dir()).env("PYTHONDONTWRITEBYTECODE", "1");
    // Nothing is asked of anybody but this server.
    command.envs([("DO_NOT_TRACK", "1"), ("NO_PROXY", "127.0.0.1")]);
    let text = run(&mut command).await;
    assert!(text.contains("passed"), "{text}");
}

fn clients_dir() -> PathBuf {
    std::env::var_os("QUERN_CLIENTS").expect("something is installed").into()
}

async fn sdk(program: Option<PathBuf>, name: &str) {
    let Some(program) = program else { return };
    let server = Server::saying(CALL, roomy(60_000)).await;
    run_script(&program, name, &[&server.url("")]).await;
    server.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_sdk() {
    sdk(installed("venv/bin/python"), "openai_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_sdk() {
    sdk(installed("venv/bin/python"), "anthropic_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_in_javascript() {
    sdk(installed("node_modules/openai").map(|_| "node".into()), "sdks.mjs").await;
}

/// `quern serve` with the model inside it; ends with the test.
struct Demo {
    base: String,
    _process: Child,
}

impl Demo {
    async fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_quern"))
            .args(["serve", "--port", "0", "--max-total-tokens", "32768", "--skip-peak-measurement"])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut base = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, rest)) = line.split_once("Listening on ") {
                base = rest.split(' ').next().unwrap().to_owned();
            }
            if line.ends_with("ready to roll!") {
                break;
            }
        }
        // Lines that nobody reads must not stop the server.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { base, _process: process }
    }
}

/// A call as the model writes it.
fn call(name: &str, parameters: &[(&str, String)]) -> String {
    let parameter = |(name, value): &(&str, String)| format!("<parameter={name}>\n{value}\n</parameter>\n");
    let parameters: String = parameters.iter().map(parameter).collect();
    format!("<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_the_shipped_model() {
    let Some(python) = installed("venv/bin/python") else { return };
    let demo = Demo::start().await;
    let home = tempfile::tempdir().unwrap();
    let text = run(Command::new(python).arg(script("demo_agent.py")).arg(&demo.base).current_dir(home.path())).await;
    assert!(text.contains("passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_behind_a_router() {
    let Some(_) = installed("venv/bin/sglang-router") else { return };
    let Some(python) = installed("venv/bin/python") else { return };
    let text = run(Command::new(python).arg(script("router.py")).arg(env!("CARGO_BIN_EXE_quern"))).await;
    assert!(text.contains("passed"), "{text}");
}
