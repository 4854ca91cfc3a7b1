//! The built program where what it prints cannot be written: an error and an exit status, and no panic.

use std::{
    fs::File,
    process::{Command, Output, Stdio},
};

/// A device that takes no byte, as a full disk.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn quern(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
    command.args(words.split_whitespace()).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    for words in [
        "man serve",
        "completions bash",
        "serve --print-config",
        "configure",
        "configure table",
        "configure sglang",
        "doctor --cpu-threads 1",
        "doctor --cpu-threads 1 --json",
        "bench kernels --cpu-threads 1 --only norm",
        "bench kernels --cpu-threads 1 --only norm --json",
        "bench offline --cpu-threads 1 --batch-sizes 1 --prompt-lens 4 --steps 1 --repeats 1 --max-total-tokens 8192",
    ] {
        let output: Output = quern(words).stdout(full()).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}: {error}");
        assert!(error.contains("standard output") && error.contains("No space left"), "{words}: {error}");
        assert!(!error.contains("panicked"), "{words}: {error}");
    }
}

#[test]
fn remarks_that_cannot_be_written_cost_no_result() {
    // Which remark is made depends on the machine; this one is always too small.
    let words = "configure --model-size 480b --quantization bf16 --hardware this";
    let both = quern(words).output().unwrap();
    let alone = quern(words).stderr(full()).output().unwrap();
    assert!(both.stderr.starts_with(b"# "), "{}", text(&both.stderr));
    assert_eq!((text(&alone.stdout), alone.status.code()), (text(&both.stdout), both.status.code()));
}
