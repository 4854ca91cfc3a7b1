//! `quern completions` and `quern man`: every shell's script and every command's page, from the flags themselves.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use clap::ValueEnum;
use quern::cli::Cli;

fn quern(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quern")).args(words).output().unwrap()
}

fn printed(words: &[&str]) -> String {
    let output = quern(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Flags of `quern serve` that its help shows.
fn shown_flags() -> Vec<String> {
    let command = Cli::full_command();
    let serve = command.find_subcommand("serve").unwrap();
    serve.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

#[test]
fn each_shell_gets_a_script_that_knows_every_flag() {
    for shell in clap_complete::Shell::value_variants() {
        let script = printed(&["completions", &shell.to_string()]);
        for flag in shown_flags() {
            assert!(script.contains(&flag), "{shell}: {flag}");
        }
        for command in ["serve", "convert", "configure", "doctor", "bench", "completions", "man"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn bash_can_read_its_script() {
    let script = printed(&["completions", "bash"]);
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_page_names_its_command_and_every_flag() {
    let page = printed(&["man", "serve"]).replace('\\', "");
    assert!(page.contains(".TH quern-serve 1"), "{page}");
    for flag in shown_flags() {
        assert!(page.contains(&format!("--{flag}")), "{flag}");
    }
    assert!(printed(&["man"]).contains(".TH quern 1"));
    assert!(printed(&["man", "bench", "serving"]).replace('\\', "").contains(".TH quern-bench-serving 1"));
}

#[test]
fn a_folder_gets_the_pages_of_all_commands() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("man1");
    assert_eq!(printed(&["man", "--dir", dir.to_str().unwrap()]), "");
    let mut names: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in ["quern.1", "quern-serve.1", "quern-bench.1", "quern-bench-serving.1", "quern-man.1"] {
        assert!(names.iter().any(|other| other == name), "{name} is not among {names:?}");
    }
}

#[test]
fn what_cannot_be_written_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    for (words, part) in [
        (&["man", "serves"][..], "quern man serves: there is no such command"),
        (&["man", "--dir", file.to_str().unwrap()], "--dir "),
        (&["completions", "sh"], "possible values"),
        (&["man", "serve", "--dir", "x"], "cannot be used with"),
    ] {
        let output = quern(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(part), "{words:?}: {error}");
    }
}
