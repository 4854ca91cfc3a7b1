//! The built program over the cache: `quern pull`, `quern list`, `quern rm`.

use std::{
    fs::{self, File, FileTimes},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use quern_backend::SharedBytes;
use quern_model::{Checkpoint, gguf::GgufModel};
use serde_json::{Map, Value};

use super::{
    fake::{COMMIT, SHARD, Setup, hex_sha256, quantisations, start, weights},
    fetch_all, hub, model,
};

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// What the program did with `words`, its hub at `address`.
async fn quern(address: &str, cache: &Path, words: &[&str]) -> Ran {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_quern"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HF_") || name.to_string_lossy().to_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command.args(words).env("HF_ENDPOINT", address).env("HF_HUB_CACHE", cache).env("HF_HOME", cache.join("home"));
    let output = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn repo_dir(cache: &Path) -> PathBuf {
    cache.join("models--owner--model")
}

fn blob(cache: &Path, bytes: &[u8]) -> PathBuf {
    repo_dir(cache).join("blobs").join(hex_sha256(bytes))
}

/// Name, format and size of what `quern list` finds.
async fn listed(cache: &Path) -> Vec<(String, String, u64)> {
    let ran = quern("http://127.0.0.1:1", cache, &["list", "--json"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let rows: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "model"), text(row, "format"), row["size_bytes"].as_u64().unwrap())).collect()
}

fn row(model: &str, format: &str, size: usize) -> (String, String, u64) {
    (model.to_owned(), format.to_owned(), size as u64)
}

#[tokio::test]
async fn of_several_gguf_models_one_is_pulled_and_the_others_are_named() {
    let (state, address) = start(quantisations()).await;
    let cache = tempfile::tempdir().unwrap();
    let ran = quern(&address, cache.path(), &["pull", "owner/model"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let file = repo_dir(cache.path()).join("snapshots").join(COMMIT).join("m-Q4_K_M.gguf");
    assert_eq!(ran.out, format!("{}\n", file.display()));
    assert_eq!(fs::read(&file).unwrap(), state.files["m-Q4_K_M.gguf"]);
    for part in ["Q4_K_M is taken", "owner/model:QUANTISATION", "Q8_0", "UD-Q2_K_XL"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    let ran = quern(&address, cache.path(), &["pull", "hf.co/owner/model:q8_0", "owner/model/m-Q4_K_M.gguf"]).await;
    let names: Vec<_> = ran.out.lines().filter_map(|line| line.rsplit('/').next()).collect();
    assert_eq!((ran.code, names), (Some(0), vec!["m-Q8_0.gguf", "m-Q4_K_M.gguf"]), "{}", ran.err);
    assert_eq!(listed(cache.path()).await, [row("owner/model:Q4_K_M", "GGUF", 6), row("owner/model:Q8_0", "GGUF", 6)]);
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_before_its_weights_are_fetched() {
    let config = br#"{"architectures": ["Qwen3NextForCausalLM"], "hidden_size": 64}"#.to_vec();
    let (state, address) = start(Setup { more: vec![("config.json", config)], ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let ran = quern(&address, cache.path(), &["pull", "owner/model"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("owner/model: ") && ran.err.contains("Qwen3Next"), "{}", ran.err);
    assert!(!state.requests().iter().any(|request| request.contains(SHARD)));
    assert_eq!(listed(cache.path()).await[0].1, "no weights");

    let ran = quern(&address, cache.path(), &["pull", "owner/model", "--revision", "v9"]).await;
    assert!(ran.code == Some(1) && ran.err.contains("\"v9\""), "{}", ran.err);
    let ran = quern(&address, cache.path(), &["pull", "/some/where"]).await;
    assert!(ran.code == Some(2) && ran.err.contains("OWNER/NAME"), "{}", ran.err);
}

/// The shipped model in llama.cpp's format.
async fn gguf_file() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let ran = quern("http://127.0.0.1:1", dir.path(), &["convert", "--outfile", path.to_str().unwrap()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    fs::read(path).unwrap()
}

#[tokio::test]
async fn gguf_files_are_judged_by_their_headers_before_they_are_fetched() {
    let whole = gguf_file().await;
    let at = whole.windows(8).position(|bytes| bytes == b"qwen3moe").unwrap();
    let mut other = whole.clone();
    other[at..at + 8].copy_from_slice(b"qwen3nxt");
    let more = vec![("m-Q8_0.gguf", whole.clone()), ("m-Q4_0.gguf", other)];
    let (state, address) = start(Setup { more, no_safetensors: true, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let first_mebibyte = |file: &str| format!("CONTENT {file} bytes=0-{}", (1 << 20) - 1);
    let fetched = || -> Vec<_> { state.requests().into_iter().filter(|asked| asked.starts_with("CONTENT")).collect() };

    // Another network, whatever way it is named.
    for id in ["owner/model:Q4_0", "owner/model/m-Q4_0.gguf", "owner/model"] {
        let ran = quern(&address, cache.path(), &["pull", id]).await;
        assert!(ran.code == Some(1) && ran.err.contains("qwen3nxt"), "{id}: {}", ran.err);
        assert_eq!(fetched(), [first_mebibyte("m-Q4_0.gguf")], "{id}");
    }
    // More than this machine's memory.
    for id in ["owner/model:Q8_0", "owner/model/m-Q8_0.gguf"] {
        let serve = ["serve", "--model", id, "--port", "0", "--mem-fraction-static", "0.0000001"];
        let ran = quern(&address, cache.path(), &serve).await;
        assert!(ran.code == Some(1) && ran.err.contains("the weights need"), "{id}: {}", ran.err);
        assert_eq!(fetched(), [first_mebibyte("m-Q8_0.gguf")], "{id}");
    }
    assert_eq!(listed(cache.path()).await[0].1, "no weights");

    let ran = quern(&address, cache.path(), &["pull", "owner/model:Q8_0"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(fetched(), [first_mebibyte("m-Q8_0.gguf"), "CONTENT m-Q8_0.gguf whole".into()]);
    assert_eq!(fs::read(ran.out.trim_end()).unwrap(), whole);
    // Now that it is here, nothing is asked for again.
    assert_eq!(quern(&address, cache.path(), &["pull", "owner/model:Q8_0"]).await.code, Some(0));
    assert!(fetched().is_empty());
}

#[tokio::test]
async fn pieces_of_a_gguf_file_are_one_model() {
    let whole = gguf_file().await;
    let (first, second) = whole.split_at(whole.len() / 2);
    let more = vec![("m.i1-Q6_K.gguf.part1of2", first.to_vec()), ("m.i1-Q6_K.gguf.part2of2", second.to_vec())];
    let (_, address) = start(Setup { more, no_safetensors: true, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    for id in ["owner/model:Q6_K", "owner/model/m.i1-Q6_K.gguf.part2of2"] {
        let ran = quern(&address, cache.path(), &["pull", id]).await;
        assert!(ran.code == Some(0) && ran.out.ends_with("m.i1-Q6_K.gguf.part1of2\n"), "{id}: {} {}", ran.out, ran.err);
        let model = GgufModel::open(Path::new(ran.out.trim_end())).unwrap();
        assert_eq!(model.paths().len(), 2);
        assert!(Checkpoint::gguf(model, &Map::new()).is_ok());
    }
    assert_eq!(listed(cache.path()).await, [row("owner/model:Q6_K", "GGUF", whole.len())]);
}

#[tokio::test]
async fn doctor_counts_a_gguf_file_that_is_not_here() {
    let whole = gguf_file().await;
    let model = GgufModel::embedded("m.gguf", &SharedBytes::new(Arc::new(whole.clone()))).unwrap();
    let held = Checkpoint::gguf(model, &Map::new()).unwrap().weight_bytes();
    let (state, address) =
        start(Setup { more: vec![("m-Q8_0.gguf", whole)], no_safetensors: true, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let ran = quern(&address, cache.path(), &["doctor", "--json", "--model", "owner/model:Q8_0"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["models"][0]["weight_bytes"], held, "{report}");
    assert!(!state.requests().iter().any(|asked| asked.ends_with("whole")));
}

#[tokio::test]
async fn the_list_tells_kinds_sizes_and_last_use() {
    let config = include_bytes!("../../../../models/quern-demo/config.json").to_vec();
    let (_, address) = start(Setup { more: vec![("config.json", config)], ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    assert!(listed(&cache.path().join("none")).await.is_empty(), "a cache that is not there");
    let ran = quern(&address, cache.path(), &["pull", "owner/model"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    fs::create_dir_all(cache.path().join("datasets--owner--data/snapshots")).unwrap();
    assert_eq!(
        listed(cache.path()).await,
        [row("owner/model", "safetensors bfloat16", weights().len())],
        "data sets are none of ours"
    );

    let old = SystemTime::now() - Duration::from_secs(40 * 86_400);
    let weights = File::options().append(true).open(blob(cache.path(), &weights())).unwrap();
    weights.set_times(FileTimes::new().set_accessed(old).set_modified(old)).unwrap();
    let table = || async { quern(&address, cache.path(), &["ls"]).await };
    let ran = table().await;
    assert!(
        ran.out.contains("owner/model") && ran.out.contains("1.1 MB") && ran.out.contains("1 month ago"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("1 model in ") && ran.err.contains(cache.path().to_str().unwrap()), "{}", ran.err);
    fetch_all(&hub(&address, cache.path(), None, true), &model(), None).await.unwrap();
    assert!(table().await.out.contains("just now"), "it has been used now");

    fs::write(repo_dir(cache.path()).join("blobs/ab.incomplete"), "part").unwrap();
    assert!(listed(cache.path()).await.contains(&row("owner/model", "unfinished download", 4)));
}

#[tokio::test]
async fn one_gguf_model_is_removed_and_what_others_share_stays() {
    let mut setup = quantisations();
    // The same bytes under two names are one blob.
    setup.more.push(("m-Q8_K.gguf", b"GGUF 8".to_vec()));
    let (_, address) = start(setup).await;
    let cache = tempfile::tempdir().unwrap();
    let ids = ["owner/model:Q4_K_M", "owner/model:Q8_0", "owner/model:Q8_K", "owner/model:UD-Q2_K_XL"];
    let pulled = quern(&address, cache.path(), &[&["pull"], &ids[..]].concat()).await;
    assert_eq!(pulled.code, Some(0), "{}", pulled.err);
    let rm = async |words: &[&str]| quern(&address, cache.path(), &[&["rm"], words].concat()).await;

    let ran = rm(&["owner/model:q8_0"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "Removed owner/model:q8_0 (0.0 kB)\n"), "{}", ran.err);
    assert!(blob(cache.path(), b"GGUF 8").exists(), "Q8_K needs it");
    let ran = rm(&["owner/model:Q8_0"]).await;
    assert!(
        ran.code == Some(1) && ran.err.contains("has no Q8_0; it has: ") && ran.err.contains("Q8_K"),
        "{}",
        ran.err
    );
    let ran = rm(&["owner/model/UD-Q2_K_XL/m-UD-Q2_K_XL-00002-of-00002.gguf"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(!blob(cache.path(), b"GGUF 2").exists() && !blob(cache.path(), b"GGUF two").exists(), "all of its files");
    assert!(!repo_dir(cache.path()).join("snapshots").join(COMMIT).join("UD-Q2_K_XL").exists());
    assert_eq!(rm(&["owner/model:Q8_K"]).await.code, Some(0));
    assert!(!blob(cache.path(), b"GGUF 8").exists());
    assert_eq!(listed(cache.path()).await, [row("owner/model:Q4_K_M", "GGUF", 6)]);
    assert_eq!(rm(&["owner/model:Q4_K_M"]).await.code, Some(0));
    assert!(!repo_dir(cache.path()).exists(), "a tokenizer alone is of no use");
}

#[tokio::test]
async fn a_repository_is_removed_unless_it_is_being_downloaded() {
    let config = include_bytes!("../../../../models/quern-demo/config.json").to_vec();
    let (_, address) = start(Setup { more: vec![("config.json", config)], ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(quern(&address, cache.path(), &["pull", "owner/model"]).await.code, Some(0));
    let lock = cache.path().join(".locks/models--owner--model").join(format!("{}.lock", hex_sha256(&weights())));
    let held = File::options().write(true).open(lock).unwrap();
    held.lock().unwrap();
    let ran = quern(&address, cache.path(), &["rm", "owner/model"]).await;
    assert!(ran.code == Some(1) && ran.err.contains("owner/model is being downloaded"), "{}", ran.err);
    assert!(blob(cache.path(), &weights()).exists());
    drop(held);
    let ran = quern(&address, cache.path(), &["rm", "owner/model"]).await;
    assert!(ran.code == Some(0) && ran.out.starts_with("Removed owner/model (1.1 MB"), "{} {}", ran.out, ran.err);
    assert!(!repo_dir(cache.path()).exists() && listed(cache.path()).await.is_empty());
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(quern(&address, cache.path(), &["pull", "owner/model"]).await.code, Some(0));
    let moved = elsewhere.path().join("large");
    fs::rename(repo_dir(cache.path()), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, repo_dir(cache.path())).unwrap();
    assert_eq!(listed(cache.path()).await.len(), 1, "a folder on another disk");
    assert_eq!(quern(&address, cache.path(), &["rm", "owner/model"]).await.code, Some(0));
    assert!(!moved.exists() && fs::symlink_metadata(repo_dir(cache.path())).is_err(), "there, and the link to it");
    let ran = quern(&address, cache.path(), &["rm", "owner/model"]).await;
    assert!(
        ran.code == Some(1) && ran.err.contains("owner/model is not in") && ran.err.contains("quern list"),
        "{}",
        ran.err
    );
}
