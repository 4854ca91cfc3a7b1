//! Real clients against a server whose model follows a script; template, parser, stream and cache are
//! real. They are installed by `./test clients`, which names their folder in `QUERN_CLIENTS`.

#[path = "../../tests/skip.rs"]
mod skip;
#[path = "../../api/tests/support/mod.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use quern_api::ApiConfig;
use quern_engine::EngineConfig;
use support::{CALL, Server, Setup, parsing, small_engine};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
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

async fn sdk(program: Option<PathBuf>, name: &str) {
    let Some(program) = program else { return };
    let server = Server::saying(CALL, roomy(60_000)).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_the_shipped_model() {
    let Some(python) = installed("venv/bin/python") else { return };
    let mut server = Command::new(env!("CARGO_BIN_EXE_quern"))
        .args(["serve", "--port", "0", "--max-total-tokens", "8192"])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut base = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, rest)) = line.split_once("Listening on ") {
            base = rest.split(' ').next().unwrap().to_owned();
        }
        if line.ends_with("ready to roll!") {
            break;
        }
    }
    // Whoever stops reading must not stop the server.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let home = tempfile::tempdir().unwrap();
    let text = run(Command::new(python).arg(script("demo_agent.py")).arg(base).current_dir(home.path())).await;
    assert!(text.contains("passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_behind_a_router() {
    let Some(_) = installed("venv/bin/sglang-router") else { return };
    let Some(python) = installed("venv/bin/python") else { return };
    let text = run(Command::new(python).arg(script("router.py")).arg(env!("CARGO_BIN_EXE_quern"))).await;
    assert!(text.contains("passed"), "{text}");
}

/// A call as the model writes it.
fn call(name: &str, parameters: &[(&str, String)]) -> String {
    let parameter = |(name, value): &(&str, String)| format!("<parameter={name}>\n{value}\n</parameter>\n");
    let parameters: String = parameters.iter().map(parameter).collect();
    format!("<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>")
}

/// How an agent's tools read a file and edit it.
struct Tools {
    /// Named in every prompt of the conversation itself; others are for titles and the like.
    known_by: &'static str,
    read: fn(&Path) -> String,
    /// The first text becomes the second.
    edit: fn(&Path, &str, &str) -> String,
}

fn shell(name: &str, parameter: &str, command: String) -> String {
    call(name, &[(parameter, command)])
}

/// Have an agent, set up by `command` for a server and a home, read a number in a file and make it
/// one more. The model knows the number only from the result of its first call.
async fn agent(tools: Tools, command: impl FnOnce(&str, &Path) -> Command) {
    let home = tempfile::tempdir().unwrap();
    let project = home.path().join("project");
    fs::create_dir(&project).unwrap();
    let file = project.join("notes.txt");
    fs::write(&file, "The number is 4711.\n").unwrap();
    let script = {
        let file = file.clone();
        move |prompt: &str| {
            let results: Vec<&str> = prompt.split("<tool_response>").skip(1).collect();
            let number = |text: &str| {
                let (_, rest) = text.split_once("The number is ")?;
                rest.split_once('.')?.0.parse::<u32>().ok()
            };
            match (prompt.contains(tools.known_by), results.as_slice()) {
                (false, _) => "A number".to_owned(),
                (true, []) => format!("I read it first.\n{}", (tools.read)(&file)),
                (true, [result]) => {
                    let Some(found) = number(result) else { return format!("I see no number in: {result}") };
                    let said = |n: u32| format!("The number is {n}.");
                    (tools.edit)(&file, &said(found), &said(found + 1))
                }
                (true, [.., last]) => format!("It is one more now; I was told: {last}"),
            }
        }
    };
    let server = Server::answering(script, roomy(200_000)).await;
    let text = run(&mut command(&server.url(""), home.path())).await;
    assert!(text.contains("It is one more now"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "The number is 4712.\n");
    server.is_clean().await;
}

/// `program` in the project.
fn command_in(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    // Some need a younger Node than the machine may have; theirs is installed beside them.
    let own = program.parent().expect("a folder of programs").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path))).unwrap();
    command.current_dir(home.join("project")).envs([("HOME", home.as_os_str()), ("PATH", &path)]).env("NO_COLOR", "1");
    command
}

const TASK: &str = "Add one to the number in notes.txt";

#[tokio::test(flavor = "multi_thread")]
async fn codex_edits_a_file() {
    let Some(codex) = installed("node_modules/.bin/codex") else { return };
    let tools = Tools {
        known_by: "exec_command",
        read: |file| shell("exec_command", "cmd", format!("cat {}", file.display())),
        edit: |file, old, new| shell("exec_command", "cmd", format!("sed -i 's/^{old}$/{new}/' {}", file.display())),
    };
    agent(tools, |base, home| {
        let config = format!(
            "model = \"m\"\nmodel_provider = \"quern\"\ncheck_for_update_on_startup = false\n\n\
             [analytics]\nenabled = false\n\n\
             [model_providers.quern]\nname = \"Quern\"\nbase_url = \"{base}/v1\"\nenv_key = \"QUERN_KEY\"\n\
             wire_api = \"responses\"\n"
        );
        fs::write(home.join("config.toml"), config).unwrap();
        let mut command = command_in(&codex, home);
        command
            .args(["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK])
            .env("QUERN_KEY", "EMPTY")
            .env("CODEX_HOME", home);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn continue_edits_a_file() {
    let Some(cn) = installed("node_modules/.bin/cn") else { return };
    let tools = Tools {
        known_by: "CheckBackgroundJob",
        read: |file| call("Read", &[("filepath", file.display().to_string())]),
        edit: |file, old, new| {
            let path = file.display().to_string();
            call("Edit", &[("file_path", path), ("old_string", old.into()), ("new_string", new.into())])
        },
    };
    agent(tools, |base, home| {
        let config = format!(
            "name: quern\nversion: 0.0.1\nschema: v1\nmodels:\n  - name: quern\n    provider: openai\n    model: m\n    \
             apiBase: {base}/v1\n    apiKey: EMPTY\n    roles: [chat]\n    capabilities: [tool_use]\n"
        );
        fs::write(home.join("config.yaml"), config).unwrap();
        let mut command = command_in(&cn, home);
        command.arg("--config").arg(home.join("config.yaml")).args(["--auto", "-p", TASK]);
        command.env("CONTINUE_TELEMETRY_ENABLED", "0");
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qwen_code_edits_a_file() {
    let Some(qwen) = installed("node_modules/.bin/qwen") else { return };
    let tools = Tools {
        known_by: "run_shell_command",
        read: |file| call("read_file", &[("file_path", file.display().to_string())]),
        edit: |file, old, new| {
            let path = file.display().to_string();
            call("edit", &[("file_path", path), ("old_string", old.into()), ("new_string", new.into())])
        },
    };
    agent(tools, |base, home| {
        fs::create_dir(home.join(".qwen")).unwrap();
        let quiet = r#"{"privacy": {"usageStatisticsEnabled": false}}"#;
        fs::write(home.join(".qwen/settings.json"), quiet).unwrap();
        let mut command = command_in(&qwen, home);
        command.args(["-p", TASK, "--yolo"]);
        command.env("OPENAI_BASE_URL", format!("{base}/v1"));
        command.envs([("OPENAI_API_KEY", "EMPTY"), ("OPENAI_MODEL", "m")]);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_edits_a_file() {
    let Some(claude) = installed("node_modules/.bin/claude") else { return };
    let tools = Tools {
        known_by: "ScheduleWakeup",
        read: |file| call("Read", &[("file_path", file.display().to_string())]),
        edit: |file, old, new| {
            let path = file.display().to_string();
            call("Edit", &[("file_path", path), ("old_string", old.into()), ("new_string", new.into())])
        },
    };
    agent(tools, |base, home| {
        let mut command = command_in(&claude, home);
        command.args(["-p", TASK, "--dangerously-skip-permissions"]);
        command.envs([("IS_SANDBOX", "1"), ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")]);
        command.envs([("ANTHROPIC_BASE_URL", base), ("ANTHROPIC_AUTH_TOKEN", "EMPTY")]);
        command.envs([("ANTHROPIC_MODEL", "m"), ("ANTHROPIC_SMALL_FAST_MODEL", "m")]);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_edits_a_file() {
    let Some(opencode) = installed("node_modules/.bin/opencode") else { return };
    let tools = Tools {
        known_by: "todowrite",
        read: |file| call("read", &[("filePath", file.display().to_string())]),
        edit: |file, old, new| {
            let path = file.display().to_string();
            call("edit", &[("filePath", path), ("oldString", old.into()), ("newString", new.into())])
        },
    };
    agent(tools, |base, home| {
        let config = serde_json::json!({
            "provider": {"quern": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": format!("{base}/v1"), "apiKey": "EMPTY"},
                "models": {"m": {"limit": {"context": 200_000, "output": 32_000}}},
            }},
            "permission": {"*": "allow"},
            "autoupdate": false,
        });
        fs::create_dir_all(home.join(".config/opencode")).unwrap();
        fs::write(home.join(".config/opencode/opencode.json"), config.to_string()).unwrap();
        let mut command = command_in(&opencode, home);
        command.args(["run", "--model", "quern/m", TASK]).env("OPENCODE_DISABLE_MODELS_FETCH", "1");
        command
    })
    .await;
}
