//! The page: its build belongs to its sources, its headers shut it in, and programs see nothing of it.
//!
//! What it does in a browser is tested in `web/test` (`./test web`).

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Server, config, fake};
use flate2::{Compression, write::GzEncoder};
use quern::{configure::table::Table, machine::Machine};
use quern_api::{ApiConfig, Service, config::Secret, page};
use serde_json::Value;
use sha2::{Digest, Sha256};

const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

fn web() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../web")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn below(root: &Path, folder: &str, out: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() { below(root, &path, out) } else { out.push(path) }
    }
}

/// The same as `web/sources.mjs`.
fn fingerprint() -> String {
    let root = web();
    let files = ["index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.mjs"];
    let mut paths: Vec<String> = files.map(String::from).into();
    below(&root, "public", &mut paths);
    below(&root, "src", &mut paths);
    paths.sort();
    let line = |path: &String| format!("{}  {path}\n", sha256(&fs::read(root.join(path)).unwrap()));
    sha256(paths.iter().map(line).collect::<String>().as_bytes())
}

#[test]
fn the_build_belongs_to_the_sources() {
    assert_eq!(
        page::SOURCES.trim(),
        fingerprint(),
        "web/dist is not what web/src makes: run `npm ci && npm run build` in web (needs Node 20.19 or later)"
    );
}

#[test]
fn all_of_it_is_under_300_kilobytes_compressed() {
    let mut paths = Vec::new();
    below(&web(), "dist", &mut paths);
    let compressed = |path: &String| {
        let mut out = GzEncoder::new(Vec::new(), Compression::best());
        out.write_all(&fs::read(web().join(path)).unwrap()).unwrap();
        out.finish().unwrap().len()
    };
    let bytes: usize = paths.iter().map(compressed).sum();
    assert!(bytes < 300_000, "{bytes} bytes");
}

#[test]
fn the_static_page_needs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("configure.html");
    let made = Command::new(env!("CARGO_BIN_EXE_quern")).args(["configure", "--html"]).arg(&file).status().unwrap();
    assert!(made.success());
    let text = fs::read_to_string(&file).unwrap();
    for outside in ["src=\"", "href=\"./", "@import", "url("] {
        assert!(!text.split("<script").next().unwrap().contains(outside), "{outside}");
    }
    assert_eq!(text.matches("</script").count(), 2, "the table and the program, and nothing that ends them early");
    let table = text.split("id=\"configure-table\">").nth(1).unwrap().split("</script").next().unwrap();
    assert!(serde_json::from_str::<Value>(table).unwrap()["forms"].is_array());

    let nowhere = dir.path().join("no/such/folder.html");
    let failed =
        Command::new(env!("CARGO_BIN_EXE_quern")).args(["configure", "--html"]).arg(&nowhere).output().unwrap();
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("--html"));
}

async fn get(server: &Server, path: &str, accept: &str) -> reqwest::Response {
    server.client.get(server.url(path)).header("accept", accept).send().await.unwrap()
}

#[tokio::test]
async fn browsers_get_the_page_and_programs_what_they_always_got() {
    let server = Server::new().await;
    assert_eq!(get(&server, "/", "*/*").await.text().await.unwrap(), "\"SGLang is running\"");
    assert_eq!(get(&server, "/", "application/json").await.text().await.unwrap(), "\"SGLang is running\"");
    for path in ["/", "/configure", "/dashboard"] {
        let answer = get(&server, path, BROWSER).await;
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
        assert_eq!(answer.text().await.unwrap(), page::DOCUMENT);
    }
    for path in ["/", "/configure", "/dashboard", "/ui/app.js", "/ui/app.css", "/ui/sandbox.js", "/ui/icon.svg"] {
        let answer = get(&server, path, BROWSER).await;
        assert_eq!(answer.status(), 200, "{path}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        let tag = answer.headers()["etag"].clone();
        let again = server.client.get(server.url(path)).header("accept", BROWSER).header("if-none-match", tag);
        assert_eq!(again.send().await.unwrap().status(), 304, "{path}");
    }
    assert_eq!(get(&server, "/ui/..%2f..%2fetc%2fpasswd", BROWSER).await.status(), 404);
    server.is_clean().await;
}

#[tokio::test]
async fn the_table_is_the_rules_own() {
    let server = Server::over(Service { configure_table: Table::json, ..fake(config(), None) }).await;
    let served: Value = serde_json::from_str(&server.get("/configure/table").await.1).unwrap();
    let own = serde_json::to_value(Table::of(&Machine::probe())).unwrap();
    assert_eq!(served["forms"][1], own["forms"][1]);
    assert_eq!(served["forms"][0]["axes"], own["forms"][0]["axes"]);
}

#[tokio::test]
async fn with_a_key_the_files_are_open_and_the_rest_is_not() {
    let server = Server::with(ApiConfig { api_key: vec![Secret::new("s3cret")], ..config() }, None).await;
    for path in ["/", "/configure", "/configure/table", "/dashboard", "/ui/app.js"] {
        assert_eq!(get(&server, path, BROWSER).await.status(), 200, "{path}");
    }
    for path in [
        "/dashboard/events",
        "/v1/models",
        "/server_info",
        "/ui/other.js",
        "/v1/models/",
        "//v1/models",
        "/configure/table/x",
    ] {
        assert_eq!(get(&server, path, BROWSER).await.status(), 401, "{path}");
    }
    assert_eq!(get(&server, "/", "*/*").await.status(), 401);
    assert_eq!(server.client.post(server.url("/")).header("accept", BROWSER).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn no_ui_leaves_the_api_alone() {
    let server = Server::with(ApiConfig { no_ui: true, ..config() }, None).await;
    assert_eq!(get(&server, "/", BROWSER).await.text().await.unwrap(), "\"SGLang is running\"");
    for path in ["/configure", "/configure/table", "/dashboard", "/dashboard/events", "/ui/app.js"] {
        assert_eq!(get(&server, path, BROWSER).await.status(), 404, "{path}");
    }
    let closed = ApiConfig { no_ui: true, api_key: vec![Secret::new("s3cret")], ..config() };
    let server = Server::with(closed, None).await;
    assert_eq!(get(&server, "/", BROWSER).await.status(), 401);
}

#[tokio::test]
async fn the_live_view_hears_of_the_engine_and_ends_with_the_server() {
    let server = Server::new().await;
    let mut stream = get(&server, "/dashboard/events", "text/event-stream").await;
    let body = serde_json::json!({
        "text": "Hello", "sampling_params": {"max_new_tokens": 9, "ignore_eos": true}, "stream": true,
    });
    server.frames("/generate", body).await;
    let mut text = String::new();
    // A second may end within the request: what is seen in either counts.
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let sample = loop {
        let piece = stream.chunk().await.unwrap().expect("the stream goes on");
        text += std::str::from_utf8(&piece).unwrap();
        let Some((whole, _)) = text.rsplit_once("\n\n") else { continue };
        let last = whole.rsplit_once("data: ").unwrap().1;
        let event: Value = serde_json::from_str(last).unwrap();
        assert!(event["log"].is_array() && event["uptime"].is_number());
        let samples = event["samples"].as_array().unwrap();
        for at in ["/decode_rate", "/prefill_rate", "/ttft/p50", "/itl/p99", "/busy"] {
            if samples.iter().any(|each| each.pointer(at).and_then(Value::as_f64).is_some_and(|value| value > 0.0)) {
                seen.insert(at);
            }
        }
        if let Some(last) = samples.last().filter(|last| last["finished"] == 1) {
            break last.clone();
        }
    };
    // Who looks later sees it as well.
    let later = get(&server, "/dashboard/events", "text/event-stream").await.chunk().await.unwrap().unwrap();
    let later: Value = serde_json::from_slice(later.strip_prefix(b"data: ").unwrap()).unwrap();
    let samples = later["samples"].as_array().unwrap();
    assert!(samples.iter().any(|each| each["decode_rate"].as_f64().unwrap() > 0.0), "{samples:?}");
    assert_eq!(sample["pool_tokens"], 2048);
    assert_eq!((&sample["running"], &sample["waiting"]), (&0.into(), &0.into()));
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(sample["of_peak"].is_null(), "no peak is known of a machine that was not measured");
    server.state.set_ready(false);
    while stream.chunk().await.unwrap().is_some() {}
}
