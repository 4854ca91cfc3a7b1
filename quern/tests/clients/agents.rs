//! Coding agents: each reads a number in a file, as the script has its model say, and makes it one more.

use std::{fs, path::Path};

use tokio::process::Command;

use crate::{call, installed, roomy, run, support::Server};

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

/// Its command line, in one process: with a folder of its own for its data it starts no daemon.
#[tokio::test(flavor = "multi_thread")]
async fn cline_edits_a_file() {
    let Some(cline) = installed("node_modules/.bin/cline") else { return };
    let tools = Tools {
        known_by: "search_codebase",
        read: |file| call("read_files", &[("files", serde_json::json!([{"path": file}]).to_string())]),
        edit: |file, old, new| {
            let path = file.display().to_string();
            call("editor", &[("path", path), ("old_text", old.into()), ("new_text", new.into())])
        },
    };
    let home = tempfile::tempdir().unwrap();
    let data = home.path().to_owned();
    agent(tools, |base, project_home| {
        let common = ["--data-dir".as_ref(), data.as_os_str()];
        let url = format!("{base}/v1");
        let login = ["auth", "openai-compatible", "-k", "EMPTY", "-b", &url, "-m", "m"];
        let mut auth = command_in(&cline, project_home);
        let set_up = auth.args(login).args(common).as_std_mut().output().unwrap();
        assert!(set_up.status.success(), "{}", String::from_utf8_lossy(&set_up.stderr));
        let mut command = command_in(&cline, project_home);
        command.args(common).arg("-c").arg(project_home.join("project")).args(["--retries", "1", TASK]);
        command
    })
    .await;
}

/// It calls no tools: the file is in its prompt, and the answer holds the change.
#[tokio::test(flavor = "multi_thread")]
async fn aider_edits_a_file() {
    let Some(aider) = installed("venv-aider/bin/aider") else { return };
    let home = tempfile::tempdir().unwrap();
    let project = home.path().join("project");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("notes.txt"), "The number is 4711.\n").unwrap();
    let script = |prompt: &str| {
        let Some((_, rest)) = prompt.rsplit_once("The number is ") else { return "I see no number.".to_owned() };
        let number: u32 = rest.split_once('.').expect("the sentence ends").0.parse().expect("a number");
        let (old, new) = (format!("The number is {number}."), format!("The number is {}.", number + 1));
        format!("It is one more now.\n\nnotes.txt\n```\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n```\n")
    };
    for streams in ["--stream", "--no-stream"] {
        let server = Server::answering(script, roomy(60_000)).await;
        let mut command = command_in(&aider, home.path());
        command.args(["--model", "openai/m", "--edit-format", "diff", "--yes-always", "--no-git", streams]);
        command.args(["--no-show-model-warnings", "--no-check-update", "--analytics-disable"]);
        command.args(["--message", TASK, "notes.txt"]);
        command.envs([("OPENAI_API_BASE", &*server.url("/v1")), ("OPENAI_API_KEY", "EMPTY")]);
        let text = run(&mut command).await;
        assert!(text.contains("It is one more now"), "{text}");
        server.is_clean().await;
    }
    assert_eq!(fs::read_to_string(project.join("notes.txt")).unwrap(), "The number is 4713.\n");
}
