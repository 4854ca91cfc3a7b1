//! The built program measures itself from inside: `quern bench offline`, `quern bench kernels`, `quern doctor`.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn quern(folder: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
    command.args(words.split_whitespace()).current_dir(folder).env("HF_HUB_OFFLINE", "1");
    command.output().unwrap()
}

/// The lines of JSON that it prints; it must succeed.
fn lines(folder: &Path, words: &str) -> Vec<Value> {
    let output = quern(folder, words);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words}: {}\n{out}\n{err}", output.status);
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

#[test]
fn offline_measures_the_shipped_model_in_every_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let words = "bench offline --batch-sizes 1,3 --depths 0,40 --prompt-lens 48,96 --steps 6 --repeats 2 \
        --cpu-threads 1 --max-total-tokens 4096 --json --report offline.html";
    let rows = lines(folder.path(), words);
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    let wanted = [
        "decode, batch 1 at 1",
        "decode, batch 1 at 40",
        "decode, batch 3 at 1",
        "decode, batch 3 at 40",
        "prefill, 48 tokens",
        "prefill, 96 tokens",
    ];
    assert_eq!(names, wanted);
    for row in &rows {
        let positive = |key: &str| row[key].as_f64().is_some_and(|value| value > 0.0);
        assert!(["median_s", "tokens_per_s", "bytes_per_s", "ops_per_s", "of_peak"].into_iter().all(positive), "{row}");
        assert_eq!(row["count"], if row["name"].as_str().unwrap().starts_with("decode") { 6 } else { 2 });
    }
    let page = fs::read_to_string(folder.path().join("offline.html")).unwrap();
    assert!(page.contains("prefill, 96 tokens") && page.contains("Decoding against batch size"), "{page}");

    let four = lines(folder.path(), &format!("{words} --quantization q4_k_m"));
    assert_eq!(four.len(), rows.len());
}

#[test]
fn what_does_not_fit_is_refused_with_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    for (words, wanted) in [
        ("bench offline --prompt-lens 999999", "context of"),
        ("bench offline --batch-sizes 64 --depths 1000 --max-total-tokens 4096", "the pool of 4096"),
        ("bench offline --batch-sizes 0", "at least 1"),
        ("bench offline --prompt-lens 0", "at least 1"),
        ("bench offline --layers 3", "--shape"),
        ("bench offline --tp 2", "--tp"),
        ("bench offline --port 1", "--port changes nothing"),
        ("bench offline --config x.yaml", "--config changes nothing"),
        ("bench offline --shape 30b --json-model-override-args {}", "cannot be used with"),
        ("bench kernels --cpu-isa mmx", "mmx"),
        ("doctor --model /nowhere/at/all", "/nowhere/at/all"),
    ] {
        let output = quern(folder.path(), words);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && err.contains(wanted), "{words}: {err}");
    }
}

#[test]
fn kernels_are_measured_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let rows = lines(folder.path(), "bench kernels --cpu-threads 1 --only add_rms_norm --json");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["add_rms_norm, 1 rows", "add_rms_norm, 512 rows"]);
}

#[test]
fn the_doctor_measures_and_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let output = quern(folder.path(), "doctor --json --cpu-threads 1");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["peaks"]["read_bytes_per_s"].as_f64().unwrap() > 1e8, "{found}");
    let models = found["models"].as_array().unwrap();
    assert_eq!(models.len(), 12, "two models in six forms");
    let decode = |name: &str| {
        let model = models.iter().find(|model| model["name"] == name).unwrap();
        model["decode"][0].as_f64().unwrap()
    };
    assert!(decode("Qwen3-Coder-30B-A3B q4_k_m") > 2.0 * decode("Qwen3-Coder-30B-A3B bf16"));

    let text = String::from_utf8(quern(folder.path(), "doctor --cpu-threads 1").stdout).unwrap();
    assert!(text.contains("Measured") && text.contains("Qwen3-Coder-480B-A35B fp8"), "{text}");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    let output = quern(folder.path(), &format!("doctor --cpu-threads 1 --model {}", model.display()));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("--quantization q4_k_m"), "{text}");
}
