//! Real clients against a server whose model follows a script; template, parser, stream and cache are
//! real. They are installed by `./test clients`, which names their folder in `QUERN_CLIENTS`.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use quern_server::config::Config;
use support::{CALL, Server, parsing};
use tokio::process::Command;

/// A client that has not come to its end by then never will.
const PATIENCE: Duration = Duration::from_secs(180);

/// What an agent's tool writes; an agent's exit code says nothing.
const PROOF: &str = "written by a tool\n";

fn roomy() -> Config {
    let (page_size, num_pages) = (32, 8192);
    Config {
        page_size,
        num_pages,
        max_total_num_tokens: page_size * num_pages,
        context_length: 200_000,
        chunked_prefill_size: 8192,
        max_prefill_tokens: 200_000,
        ..parsing()
    }
}

/// The installed file, or a word about its absence.
fn installed(path: &str) -> Option<PathBuf> {
    let found = std::env::var_os("QUERN_CLIENTS").map(|dir| Path::new(&dir).join(path)).filter(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: {path} is not installed (./test clients)");
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

async fn sdk(program: Option<PathBuf>, name: &str) {
    let Some(program) = program else { return };
    let server = Server::saying(CALL, Config { context_length: 60_000, ..roomy() }).await;
    let text = run(Command::new(program).arg(script(name)).arg(server.url("")).current_dir(
        // JavaScript looks for packages from here.
        std::env::var_os("QUERN_CLIENTS").expect("something is installed"),
    ))
    .await;
    assert!(text.contains("passed"), "{text}");
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

/// Let an agent, set up by `command` for a server in an empty folder, call `tool` to write a file.
async fn agent(tool: &str, parameter: &str, command: impl FnOnce(&str, &Path) -> Command) {
    let call = format!(
        "On it.\n<tool_call>\n<function={tool}>\n<parameter={parameter}>\nprintf 'written by a tool\\n' > proof.txt\n\
         </parameter>\n</function>\n</tool_call>"
    );
    let server = Server::saying_in_turn(&[&call, "The file is there."], roomy()).await;
    let home = tempfile::tempdir().unwrap();
    let text = run(&mut command(&server.url(""), home.path())).await;
    assert!(text.contains("The file is there."), "{text}");
    assert_eq!(fs::read_to_string(home.path().join("proof.txt")).expect("the tool ran"), PROOF);
    server.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_writes_a_file() {
    let Some(codex) = installed("node_modules/.bin/codex") else { return };
    agent("exec_command", "cmd", |base, home| {
        let config = format!(
            "model = \"m\"\nmodel_provider = \"quern\"\ncheck_for_update_on_startup = false\n\n\
             [analytics]\nenabled = false\n\n\
             [model_providers.quern]\nname = \"Quern\"\nbase_url = \"{base}/v1\"\nenv_key = \"QUERN_KEY\"\n\
             wire_api = \"responses\"\n"
        );
        fs::write(home.join("config.toml"), config).unwrap();
        let mut command = Command::new(codex);
        command
            .args(["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "Write proof.txt"])
            .envs([("QUERN_KEY", "EMPTY"), ("NO_COLOR", "1")])
            .envs([("HOME", home), ("CODEX_HOME", home)])
            .current_dir(home);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn continue_writes_a_file() {
    let Some(cn) = installed("node_modules/.bin/cn") else { return };
    agent("Bash", "command", |base, home| {
        let config = format!(
            "name: quern\nversion: 0.0.1\nschema: v1\nmodels:\n  - name: quern\n    provider: openai\n    model: m\n    \
             apiBase: {base}/v1\n    apiKey: EMPTY\n    roles: [chat]\n    capabilities: [tool_use]\n"
        );
        fs::write(home.join("config.yaml"), config).unwrap();
        let mut command = Command::new(cn);
        command
            .arg("--config")
            .arg(home.join("config.yaml"))
            .args(["--auto", "-p", "Write proof.txt"])
            .envs([("HOME", home)])
            .envs([("CONTINUE_TELEMETRY_ENABLED", "0"), ("NO_COLOR", "1")])
            .current_dir(home);
        command
    })
    .await;
}
