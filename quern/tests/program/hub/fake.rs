//! A look-alike of the hub: one listener for the hub itself, one for the content network that its large files redirect
//! to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(super) const SHARD: &str = "model-00001-of-00001.safetensors";

/// What the content network does with one GET.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mood {
    Fine,
    BreakAfter(usize),
    IgnoreRange,
    Damage,
    Overloaded,
}

#[derive(Default)]
struct Log {
    /// `METHOD file`, with the range if one was asked for.
    requests: Vec<String>,
    /// Uses of each address of the content network.
    uses: Vec<usize>,
    /// Whether the content network was shown a token.
    token_leaked: bool,
}

pub(super) struct FakeHub {
    pub(super) files: BTreeMap<&'static str, Vec<u8>>,
    token: Option<&'static str>,
    gated: bool,
    moods: Mutex<Vec<Mood>>,
    /// The content network sends nothing from this byte of a file on.
    pub(super) limit: Mutex<Option<usize>>,
    /// Addresses of the content network are good for so many requests.
    address_uses: usize,
    log: Mutex<Log>,
    content: String,
}

impl FakeHub {
    /// What was asked for since the last look.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap().requests)
    }

    /// Whether the content network was shown a token.
    pub(super) fn token_leaked(&self) -> bool {
        self.log.lock().unwrap().token_leaked
    }
}

pub(super) fn weights() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
}

pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) struct Setup {
    pub(super) token: Option<&'static str>,
    pub(super) gated: bool,
    pub(super) moods: Vec<Mood>,
    pub(super) limit: Option<usize>,
    pub(super) address_uses: usize,
    pub(super) index: &'static str,
    /// Files beside the usual ones, or instead of those that are weights.
    pub(super) more: Vec<(&'static str, Vec<u8>)>,
    pub(super) no_safetensors: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            token: None,
            gated: false,
            moods: Vec::new(),
            limit: None,
            address_uses: usize::MAX,
            index: r#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#,
            more: Vec::new(),
            no_safetensors: false,
        }
    }
}

/// A repository of GGUF files, one of them in a folder of its own.
pub(super) fn quantisations() -> Setup {
    let more = vec![
        ("m-Q8_0.gguf", b"GGUF 8".to_vec()),
        ("m-Q4_K_M.gguf", b"GGUF 4".to_vec()),
        ("mmproj-F16.gguf", b"GGUF images".to_vec()),
        ("UD-Q2_K_XL/m-UD-Q2_K_XL-00001-of-00002.gguf", b"GGUF 2".to_vec()),
        ("UD-Q2_K_XL/m-UD-Q2_K_XL-00002-of-00002.gguf", b"GGUF two".to_vec()),
        ("additional_chat_templates/tool_use.jinja", b"{{ tools }}".to_vec()),
    ];
    Setup { more, no_safetensors: true, ..Setup::default() }
}

/// Start both listeners; the state and the hub's address.
pub(super) async fn start(setup: Setup) -> (Arc<FakeHub>, String) {
    let hub = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let content = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", hub.local_addr().unwrap());
    let mut files = BTreeMap::from([
        ("config.json", b"{\"a\": 1}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("chat_template.jinja", b"{{ messages }}".to_vec()),
        ("model.safetensors.index.json", setup.index.as_bytes().to_vec()),
        (SHARD, weights()),
        ("consolidated.safetensors", b"a second copy".to_vec()),
        ("pytorch_model.bin", b"pickle".to_vec()),
        ("modeling.py", b"import os".to_vec()),
        ("README.md", b"# read me".to_vec()),
        (".gitattributes", b"*".to_vec()),
        ("sub/config.json", b"{}".to_vec()),
    ]);
    files.retain(|name, _| !(setup.no_safetensors && name.contains("safetensors")));
    files.extend(setup.more);
    let state = Arc::new(FakeHub {
        files,
        token: setup.token,
        gated: setup.gated,
        moods: Mutex::new(setup.moods),
        limit: Mutex::new(setup.limit),
        address_uses: setup.address_uses,
        log: Mutex::default(),
        content: format!("http://{}", content.local_addr().unwrap()),
    });
    let app = Router::new()
        .route("/api/models/{owner}/{name}/revision/{revision}", get(listing))
        .route("/{owner}/{name}/resolve/{revision}/{*file}", get(resolve))
        .with_state(Arc::clone(&state));
    tokio::spawn(async move { axum::serve(hub, app).await.unwrap() });
    let served = Arc::clone(&state);
    tokio::spawn(async move {
        while let Ok((socket, _)) = content.accept().await {
            tokio::spawn(serve_content(Arc::clone(&served), socket));
        }
    });
    (state, address)
}

fn refused(state: &FakeHub, headers: &HeaderMap) -> Option<Response> {
    let expected = state.token.map(|token| format!("Bearer {token}"))?;
    let shown = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let answer = (StatusCode::UNAUTHORIZED, [("x-error-message", "Invalid credentials")]).into_response();
    match shown {
        Some(shown) if shown == expected && state.gated => {
            Some((StatusCode::FORBIDDEN, [("x-error-code", "GatedRepo")]).into_response())
        }
        Some(shown) if shown == expected => None,
        _ => Some(answer),
    }
}

async fn listing(
    State(state): State<Arc<FakeHub>>,
    UrlPath((owner, name, revision)): UrlPath<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    state.log.lock().unwrap().requests.push(format!("LIST {revision}"));
    if let Some(refusal) = refused(&state, &headers) {
        return refusal;
    }
    if (owner.as_str(), name.as_str()) != ("owner", "model") {
        return (StatusCode::NOT_FOUND, [("x-error-code", "RepoNotFound")]).into_response();
    }
    if !["main", "v1", "refs/pr/1", COMMIT].contains(&revision.as_str()) {
        return (StatusCode::NOT_FOUND, [("x-error-code", "RevisionNotFound")]).into_response();
    }
    let siblings: Vec<_> = state.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
    axum::Json(serde_json::json!({"id": "owner/model", "sha": COMMIT, "siblings": siblings})).into_response()
}

async fn resolve(
    State(state): State<Arc<FakeHub>>,
    UrlPath((owner, name, revision, file)): UrlPath<(String, String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    assert_eq!(revision, COMMIT, "files are asked for at the commit that was listed");
    if let Some(refusal) = refused(&state, &headers) {
        return refusal;
    }
    if name == "model" && file == "tokenizer.json" {
        // A model that was renamed: the hub redirects within itself.
        let location = format!("/{owner}/renamed/resolve/{revision}/{file}");
        return (StatusCode::TEMPORARY_REDIRECT, [("location", location)]).into_response();
    }
    let Some(bytes) = state.files.get(file.as_str()) else { return StatusCode::NOT_FOUND.into_response() };
    state.log.lock().unwrap().requests.push(format!("{method} {file}"));
    let large = file.ends_with(".safetensors") || file.contains(".gguf");
    let commit = ("x-repo-commit", COMMIT.to_owned());
    if large {
        let etag = ("x-linked-etag", format!("\"{}\"", hex_sha256(bytes)));
        let size = ("x-linked-size", bytes.len().to_string());
        let ticket = {
            let uses = &mut state.log.lock().unwrap().uses;
            uses.push(0);
            uses.len() - 1
        };
        let location = ("location", format!("{}/{file}?ticket={ticket}", state.content));
        return (StatusCode::FOUND, [commit, etag, size, location, ("etag", "\"other\"".into())]).into_response();
    }
    let etag = ("etag", format!("W/\"{}\"", &hex_sha256(bytes)[..40]));
    ([commit, etag], bytes.clone()).into_response()
}

/// Answer one GET on a bare socket, so that it can be cut at an exact byte.
async fn serve_content(state: Arc<FakeHub>, socket: TcpStream) {
    let mut socket = BufReader::new(socket);
    let (mut file, mut ticket, mut range, mut has_token) = (String::new(), 0, None, false);
    let mut line = String::new();
    while socket.read_line(&mut line).await.unwrap() > 2 {
        let lower = line.trim().to_ascii_lowercase();
        if let Some(rest) = line.strip_prefix("GET /") {
            let (name, number) = rest.split(' ').next().unwrap().split_once("?ticket=").unwrap();
            (file, ticket) = (name.to_owned(), number.parse().unwrap());
        } else if let Some(asked) = lower.strip_prefix("range: ") {
            range = Some(asked.to_owned());
        }
        has_token |= lower.starts_with("authorization:");
        line.clear();
    }
    if file.is_empty() {
        return;
    }
    let expired = {
        let mut log = state.log.lock().unwrap();
        log.token_leaked |= has_token;
        log.requests.push(format!("CONTENT {file} {}", range.as_deref().unwrap_or("whole")));
        log.uses[ticket] += 1;
        log.uses[ticket] > state.address_uses
    };
    if expired {
        socket.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        return socket.shutdown().await.unwrap();
    }
    let mood = {
        let mut moods = state.moods.lock().unwrap();
        if moods.is_empty() { Mood::Fine } else { moods.remove(0) }
    };
    let mut bytes = state.files[file.as_str()].clone();
    let total = bytes.len();
    if mood == Mood::Damage {
        bytes[total / 2] ^= 1;
    }
    let range = range.filter(|_| mood != Mood::IgnoreRange).map(|range| {
        let (from, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (from.parse::<usize>().unwrap(), last.parse::<usize>().map_or(total, |last| last + 1))
    });
    let (from, end) = range.unwrap_or((0, total));
    let head = match (mood, range) {
        (Mood::Overloaded, _) => "503 Service Unavailable\r\n".to_owned(),
        (_, Some(_)) => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}\r\n", end - 1),
        (_, None) => "200 OK\r\n".to_owned(),
    };
    let rest = match mood {
        Mood::Overloaded => &[],
        _ => &bytes[from..end],
    };
    let head = format!("HTTP/1.1 {head}content-length: {}\r\nconnection: close\r\n\r\n", rest.len());
    let sent = match mood {
        Mood::BreakAfter(n) => &rest[..n],
        _ => rest,
    };
    let limit = state.limit.lock().unwrap().unwrap_or(total).saturating_sub(from);
    let sent = &sent[..sent.len().min(limit)];
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(sent).await.unwrap();
    socket.shutdown().await.unwrap();
}
