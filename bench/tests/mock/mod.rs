//! A server that says what it is told to say, cut where it is told to cut.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What is answered.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: &'static str,
    pub(crate) body: Vec<u8>,
    /// Bytes of each piece of a stream; 0 to send the body whole, with its length.
    pub(crate) piece: usize,
    /// Whether the connection breaks before the body's end.
    pub(crate) breaks: bool,
}

impl Reply {
    pub(crate) fn json(value: &Value) -> Self {
        Self { status: "200 OK", body: value.to_string().into_bytes(), piece: 0, breaks: false }
    }

    pub(crate) fn error(status: &'static str, text: &str) -> Self {
        Self { status, body: text.as_bytes().to_vec(), piece: 0, breaks: false }
    }

    pub(crate) fn stream(body: String, piece: usize) -> Self {
        Self { status: "200 OK", body: body.into_bytes(), piece, breaks: false }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

pub(crate) struct Mock {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) in_flight: Arc<AtomicUsize>,
    pub(crate) most_in_flight: Arc<AtomicUsize>,
}

impl Mock {
    /// Answer by `answer`, which is told how many generating requests came before.
    pub(crate) async fn start(answer: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mock = Self {
            address: listener.local_addr().expect("bound"),
            seen: Arc::default(),
            in_flight: Arc::default(),
            most_in_flight: Arc::default(),
        };
        let answer = Arc::new(answer);
        let (seen, now, most) = (mock.seen.clone(), mock.in_flight.clone(), mock.most_in_flight.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                let (answer, seen, now, most) = (answer.clone(), seen.clone(), now.clone(), most.clone());
                tokio::spawn(async move {
                    let mut stream = stream;
                    let Some(request) = read(&mut stream).await else { return };
                    let generating = request.method == "POST" && !request.path.contains("tokenize");
                    let before = {
                        let mut seen = seen.lock().expect("no test panics with it");
                        let generating = |one: &&Seen| one.method == "POST" && !one.path.contains("tokenize");
                        let before = seen.iter().filter(generating).count();
                        seen.push(request.clone());
                        before
                    };
                    if generating {
                        let running = now.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(running, Ordering::SeqCst);
                    }
                    let reply = answer(before, &request);
                    // Others get their turn while this one is under way.
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                    if generating {
                        now.fetch_sub(1, Ordering::SeqCst);
                    }
                    let _ = write(&mut stream, &reply).await;
                });
            }
        });
        mock
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests to `path`, in the order of coming.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.seen.lock().expect("no test panics with it");
        seen.iter().filter(|one| one.path.split('?').next() == Some(path)).cloned().collect()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.ok()?;
        if count == 0 {
            return None;
        }
        bytes.extend_from_slice(&piece[..count]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    let length: usize =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0);
    while bytes.len() < head_end + length {
        let mut piece = [0; 65536];
        let count = stream.read(&mut piece).await.ok()?;
        bytes.extend_from_slice(&piece[..count]);
    }
    let first = String::from_utf8_lossy(&bytes).lines().next()?.to_owned();
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let body = serde_json::from_slice(&bytes[head_end..]).unwrap_or(Value::Null);
    Some(Seen { method, path, body })
}

async fn write(stream: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let status = reply.status;
    if reply.piece == 0 {
        let length = reply.body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&reply.body).await?;
        return stream.shutdown().await;
    }
    let head = format!("HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for piece in reply.body.chunks(reply.piece) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        stream.write_all(piece).await?;
        stream.write_all(b"\r\n").await?;
    }
    if !reply.breaks {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    stream.shutdown().await
}

/// The words of an answer; each counts as a token.
pub(crate) const WORDS: [&str; 5] = ["Grüße", " aus", " 水", " \"q\"\n", "🙂"];

/// Events of an answer of `count` words in the form of `path`.
pub(crate) fn events(path: &str, count: usize) -> String {
    let words = || WORDS.iter().cycle().take(count);
    let mut out = String::new();
    let mut event = |value: Value| out.push_str(&format!("data: {value}\n\n"));
    match path {
        "/generate" => {
            let mut text = String::new();
            for (index, word) in words().enumerate() {
                text.push_str(word);
                let tokens = index + 1;
                let finish = if tokens == count { json!({"type": "length", "length": count}) } else { Value::Null };
                event(json!({"text": text, "output_ids": (0..tokens).collect::<Vec<_>>(), "meta_info": {
                    "prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": tokens, "finish_reason": finish}}));
            }
        }
        "/v1/completions" => {
            for word in words() {
                event(json!({"choices": [{"index": 0, "text": word, "finish_reason": null}]}));
            }
            event(json!({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}));
        }
        "/v1/chat/completions" => {
            event(json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}));
            for word in words() {
                event(json!({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": null}]}));
            }
            event(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}));
            event(json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": count}}));
        }
        "/v1/messages" => {
            let usage = json!({"input_tokens": 7, "output_tokens": 0});
            out.push_str(&format!(
                "event: message_start\ndata: {}\n\n",
                json!({"type": "message_start", "message": {"usage": usage}})
            ));
            for word in words() {
                let delta =
                    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}});
                out.push_str(&format!("event: content_block_delta\r\ndata: {delta}\r\n\r\n: ping\n\n"));
            }
            let end = json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": count}});
            out.push_str(&format!(
                "event: message_delta\ndata: {end}\n\ndata: {}\n\n",
                json!({"type": "message_stop"})
            ));
            return out;
        }
        other => panic!("no events for {other}"),
    }
    out.push_str("data: [DONE]\n\n");
    out
}

/// What every server here answers besides generating: one model, and a tokenizer whose tokens are bytes.
pub(crate) fn common(request: &Seen) -> Option<Reply> {
    Some(match request.path.split('?').next()? {
        "/v1/models" => Reply::json(&json!({"data": [{"id": "mock-model"}]})),
        "/tokenize" => {
            let text = request.body["prompt"].as_str().or(request.body["content"].as_str()).unwrap_or("");
            let ids: Vec<u8> = text.bytes().collect();
            Reply::json(&json!({"tokens": ids, "count": ids.len()}))
        }
        "/detokenize" => {
            let ids = request.body["tokens"].as_array().cloned().unwrap_or_default();
            let text: String =
                ids.iter().filter_map(|id| char::from_u32(id.as_u64()? as u32).filter(|c| *c as u32 <= 200)).collect();
            Reply::json(&json!({"text": text, "content": text}))
        }
        "/flush_cache" => Reply::json(&json!({})),
        "/server_info" => Reply::json(&json!({"internal_states": [{"avg_spec_accept_length": 1.5}]})),
        "/get_model_info" | "/model_info" => Reply::json(&json!({"model_path": "mock-model"})),
        "/generate" | "/v1/completions" | "/v1/chat/completions" | "/v1/messages" => return None,
        _ => Reply::error("404 Not Found", "no such path"),
    })
}
