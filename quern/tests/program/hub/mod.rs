//! Models are fetched from a look-alike of the hub.

mod fake;
mod models;
mod ranges;

use std::{path::Path, time::Duration};

use quern::hub::{Fetched, Hub, HubError, HubOptions, HubRef, RepoId};

use self::fake::{COMMIT, Mood, SHARD, Setup, hex_sha256, quantisations, start, weights};

fn hub(address: &str, cache: &Path, token: Option<&str>, offline: bool) -> Hub {
    Hub::new(HubOptions {
        endpoint: address.to_owned(),
        token: token.map(str::to_owned),
        cache_dir: cache.to_owned(),
        offline,
        range_bytes: u64::MAX,
        retry_delay: Duration::ZERO,
    })
    .unwrap()
}

fn model() -> RepoId {
    RepoId::parse("owner/model").unwrap()
}

async fn fetch(address: &str, cache: &Path) -> Result<std::path::PathBuf, HubError> {
    fetch_all(&hub(address, cache, None, false), &model(), None).await
}

/// Configuration, tokenizer and weights.
async fn fetch_all(hub: &Hub, repo: &RepoId, revision: Option<&str>) -> Result<std::path::PathBuf, HubError> {
    let opened = hub.open(repo, revision).await?;
    hub.fetch_weights(&opened, None).await?;
    Ok(opened.dir().to_owned())
}

#[tokio::test]
async fn only_the_needed_files_are_fetched_and_only_once() {
    let (state, address) = start(Setup::default()).await;
    let cache = tempfile::tempdir().unwrap();
    let dir = fetch(&address, cache.path()).await.unwrap();
    assert_eq!(dir, cache.path().join("models--owner--model/snapshots").join(COMMIT));
    let mut found: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let expected = ["chat_template.jinja", "config.json", SHARD, "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(found, expected);
    for name in expected {
        assert_eq!(std::fs::read(dir.join(name)).unwrap(), state.files[name], "{name}");
    }
    let blob = std::fs::read_link(dir.join(SHARD)).unwrap();
    assert_eq!(blob, Path::new("../../blobs").join(hex_sha256(&weights())));
    let main = std::fs::read_to_string(cache.path().join("models--owner--model/refs/main")).unwrap();
    assert_eq!(main, COMMIT);

    state.requests();
    assert_eq!(fetch(&address, cache.path()).await.unwrap(), dir);
    assert_eq!(state.requests(), ["LIST main"]);
}

#[tokio::test]
async fn a_tokenizer_needs_no_weights() {
    let (state, address) = start(Setup::default()).await;
    let cache = tempfile::tempdir().unwrap();
    let dir = hub(&address, cache.path(), None, false).open(&model(), None).await.unwrap().dir().to_owned();
    assert!(dir.join("tokenizer.json").exists() && !dir.join(SHARD).exists());
    assert!(!state.requests().iter().any(|request| request.contains(SHARD)));
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let moods = vec![Mood::BreakAfter(400_000), Mood::Overloaded, Mood::BreakAfter(300_000)];
    let (state, address) = start(Setup { moods, token: Some("right"), ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&address, cache.path(), Some("right"), false);
    let dir = fetch_all(&hub, &model(), None).await.unwrap();
    assert_eq!(std::fs::read(dir.join(SHARD)).unwrap(), weights());
    let content: Vec<_> = state.requests().into_iter().filter(|request| request.starts_with("CONTENT")).collect();
    let expected = ["whole", "bytes=400000-", "bytes=400000-", "bytes=700000-"];
    assert_eq!(content, expected.map(|range| format!("CONTENT {SHARD} {range}")));
    assert!(!state.token_leaked(), "the token stays with the hub");
}

#[tokio::test]
async fn a_later_start_goes_on_too() {
    let moods = [Mood::BreakAfter(500_000)].into_iter().chain([Mood::BreakAfter(0); 5]).collect();
    let (state, address) = start(Setup { moods, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&address, cache.path()).await.unwrap_err();
    assert!(matches!(error, HubError::Broken { done_bytes: 500_000, total_bytes: 1_200_000, .. }), "{error}");
    for part in ["owner/model", SHARD, "resume"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    state.requests();
    let dir = fetch(&address, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(dir.join(SHARD)).unwrap(), weights());
    assert_eq!(
        state.requests(),
        ["LIST main", &format!("HEAD {SHARD}"), &format!("GET {SHARD}"), &format!("CONTENT {SHARD} bytes=500000-")]
    );
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_beginning() {
    let moods = vec![Mood::BreakAfter(1000), Mood::IgnoreRange];
    let (_, address) = start(Setup { moods, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let dir = fetch(&address, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(dir.join(SHARD)).unwrap(), weights());
}

#[tokio::test]
async fn damaged_files_are_fetched_again_and_never_kept() {
    let (_, address) = start(Setup { moods: vec![Mood::Damage], ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let dir = fetch(&address, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(dir.join(SHARD)).unwrap(), weights());

    let (_, address) = start(Setup { moods: vec![Mood::Damage; 2], ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&address, cache.path()).await.unwrap_err();
    assert!(matches!(&error, HubError::Damaged { file, .. } if file == SHARD), "{error}");
    let sum = hex_sha256(&weights());
    let blobs = cache.path().join("models--owner--model/blobs");
    assert!(!blobs.join(&sum).exists() && !blobs.join(format!("{sum}.incomplete")).exists());
}

#[tokio::test]
async fn who_may_not_see_a_model_is_told_what_to_do() {
    let (_, address) = start(Setup { token: Some("right"), ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    for (token, part) in [(None, "set HF_TOKEN"), (Some("wrong"), "not valid")] {
        let hub = hub(&address, cache.path(), token, false);
        let error = fetch_all(&hub, &model(), None).await.unwrap_err().to_string();
        assert!(error.starts_with("owner/model:") && error.contains("401") && error.contains(part), "{error}");
    }
    let (_, address) = start(Setup { token: Some("right"), gated: true, ..Setup::default() }).await;
    let hub = hub(&address, cache.path(), Some("right"), false);
    let error = fetch_all(&hub, &model(), None).await.unwrap_err().to_string();
    assert!(error.contains("403") && error.contains("terms") && error.contains(&address), "{error}");
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let (_, address) = start(Setup::default()).await;
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&address, cache.path(), None, false);
    let error = fetch_all(&hub, &model(), Some("v9")).await.unwrap_err().to_string();
    assert!(error.contains("owner/model") && error.contains("\"v9\"") && error.contains("--revision"), "{error}");
    let nobody = RepoId::parse("nobody/model").unwrap();
    let error = fetch_all(&hub, &nobody, None).await.unwrap_err();
    assert!(matches!(error, HubError::NoSuchModel { .. }), "{error}");
    for revision in ["", "../x", "a//b"] {
        let error = fetch_all(&hub, &model(), Some(revision)).await.unwrap_err();
        assert!(matches!(error, HubError::NoSuchRevision { .. }), "{error}");
    }

    let index = r#"{"weight_map": {"a": "model-00002-of-00002.safetensors"}}"#;
    let (_, address) = start(Setup { index, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&address, cache.path()).await.unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors is missing"), "{error}");
}

#[tokio::test]
async fn a_revision_may_be_a_tag_a_commit_or_a_pull_request() {
    let (_, address) = start(Setup::default()).await;
    let cache = tempfile::tempdir().unwrap();
    for revision in ["v1", "refs/pr/1", COMMIT] {
        let online = hub(&address, cache.path(), None, false);
        let dir = online.open(&model(), Some(revision)).await.unwrap().dir().to_owned();
        let offline = hub(&address, cache.path(), None, true);
        let found = offline.open(&model(), Some(revision)).await.unwrap().dir().to_owned();
        assert_eq!(found, dir, "{revision}");
    }
}

#[tokio::test]
async fn the_cache_serves_without_a_network() {
    let (state, address) = start(Setup::default()).await;
    let cache = tempfile::tempdir().unwrap();
    let error = fetch_all(&hub(&address, cache.path(), None, true), &model(), None).await.unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    let dir = fetch(&address, cache.path()).await.unwrap();
    state.requests();
    let offline = fetch_all(&hub(&address, cache.path(), None, true), &model(), None).await.unwrap();
    assert_eq!(offline, dir);
    assert!(state.requests().is_empty(), "nothing is asked offline");

    // A port that was free a moment ago, so that connections are refused.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let unreachable = format!("http://{free}");
    assert_eq!(fetch(&unreachable, cache.path()).await.unwrap(), dir);
    let empty = tempfile::tempdir().unwrap();
    let error = fetch(&unreachable, empty.path()).await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused") && error.to_string().contains("HF_ENDPOINT"), "{error}");
}

#[tokio::test]
async fn a_quantisation_is_fetched_by_its_name_and_four_bits_without_one() {
    let (state, address) = start(quantisations()).await;
    let cache = tempfile::tempdir().unwrap();
    let fetch = async |named: &str, offline: bool| {
        let HubRef { repo, pick } = HubRef::parse(named).unwrap();
        let hub = hub(&address, cache.path(), None, offline);
        let opened = hub.open(&repo, None).await?;
        assert!(opened.dir().join("additional_chat_templates/tool_use.jinja").exists());
        match hub.fetch_weights(&opened, pick.as_ref()).await? {
            Fetched::Gguf(file) => Ok(file.strip_prefix(opened.dir()).unwrap().display().to_string()),
            Fetched::Directory(dir) => panic!("{}", dir.display()),
        }
    };
    let whole = |requests: Vec<String>| -> Vec<String> {
        requests
            .into_iter()
            .filter_map(|line| line.strip_prefix("CONTENT ")?.strip_suffix(" whole").map(str::to_owned))
            .collect()
    };
    assert_eq!(fetch("owner/model", false).await.unwrap(), "m-Q4_K_M.gguf");
    assert_eq!(whole(state.requests()), ["m-Q4_K_M.gguf"], "and nothing else is fetched");
    assert_eq!(fetch("owner/model:q8_0", false).await.unwrap(), "m-Q8_0.gguf");
    let split = "UD-Q2_K_XL/m-UD-Q2_K_XL-00001-of-00002.gguf";
    assert_eq!(fetch("hf.co/owner/model:Q2_K_XL", false).await.unwrap(), split);
    let file = "UD-Q2_K_XL/m-UD-Q2_K_XL-00002-of-00002.gguf";
    assert_eq!(fetch(&format!("owner/model/{file}"), false).await.unwrap(), split, "any file of several");
    for name in [split, file] {
        let here = cache.path().join("models--owner--model/snapshots").join(COMMIT).join(name);
        assert_eq!(std::fs::read(here).unwrap(), state.files[name], "links lead out of folders");
    }
    let error: HubError = fetch("owner/model:Q5_K_M", false).await.unwrap_err();
    assert!(error.to_string().contains("Q5_K_M") && error.to_string().contains("Q4_K_M, Q8_0"), "{error}");

    state.requests();
    assert_eq!(fetch("owner/model", true).await.unwrap(), "m-Q4_K_M.gguf");
    assert_eq!(fetch("owner/model:Q8_0", true).await.unwrap(), "m-Q8_0.gguf");
    assert!(state.requests().is_empty(), "nothing is asked offline");
}

#[tokio::test]
async fn a_repository_without_weights_says_what_it_has() {
    let (_, address) = start(Setup { no_safetensors: true, ..Setup::default() }).await;
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&address, cache.path()).await.unwrap_err().to_string();
    assert!(["pytorch_model.bin", "never run"].iter().all(|part| error.contains(part)), "{error}");
}

#[tokio::test]
async fn a_complete_cache_is_only_read() {
    let (_, address) = start(Setup::default()).await;
    let cache = tempfile::tempdir().unwrap();
    fetch(&address, cache.path()).await.unwrap();
    let main = cache.path().join("models--owner--model/refs/main");
    let before = std::fs::metadata(&main).unwrap().modified().unwrap();
    std::fs::File::options().append(true).open(&main).unwrap().set_modified(before - Duration::from_secs(60)).unwrap();
    fetch(&address, cache.path()).await.unwrap();
    assert_eq!(std::fs::metadata(&main).unwrap().modified().unwrap(), before - Duration::from_secs(60));
}
