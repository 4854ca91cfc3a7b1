//! Who is let in: probes always, requests whatever idle or slow clients do, and nobody at the price of an answer
//! that is under way.

use std::sync::mpsc;

use crate::support::{PATIENCE, Server, config, gate::StepGate, until};
use futures_util::future::join_all;
use quern_api::{ApiConfig, connection};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// A server whose steps wait while the gate is shut.
async fn held_server(config: ApiConfig) -> (Server, StepGate) {
    let gate = StepGate::default();
    gate.open();
    (Server::with(config, Some(gate.hook())).await, gate)
}

async fn connect_and_say(server: &Server, words: &str) -> TcpStream {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(words.as_bytes()).await.unwrap();
    socket
}

/// Whether the server closes a connection that it owes nothing.
async fn is_closed(socket: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(timeout(PATIENCE, socket.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
}

async fn answer(server: &Server) -> u16 {
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}});
    timeout(PATIENCE, server.post("/generate", body)).await.expect("an answer in time").0
}

const SLOW_HEAD: &str = "POST /generate HTTP/1.1\r\nhost: x\r\n";

#[tokio::test]
async fn idle_and_slow_connections_lock_nobody_out() {
    let server = Server::with(ApiConfig { max_connections: 8, ..config() }, None).await;
    for words in ["", SLOW_HEAD, "GET /live HTTP/1.1\r\nhost: x\r\n", "GET /li"] {
        let sockets = join_all((0..100).map(|_| connect_and_say(&server, words))).await;
        assert_eq!(answer(&server).await, 200, "{words:?}");
        for path in ["/live", "/ready", "/health"] {
            assert_eq!(timeout(PATIENCE, server.get(path)).await.unwrap().0, 200, "{words:?}: {path}");
        }
        drop(sockets);
    }
    server.is_clean().await;
}

#[tokio::test]
async fn the_oldest_idle_connection_gives_way_first() {
    let server = Server::with(ApiConfig { max_connections: 2, ..config() }, None).await;
    let ask = async |socket: &mut TcpStream| {
        socket.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}]}") {
            assert!(timeout(PATIENCE, socket.read_buf(&mut answer)).await.unwrap().unwrap() > 0, "it was closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    };
    let mut older = TcpStream::connect(server.address).await.unwrap();
    ask(&mut older).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    ask(&mut idle).await;
    // It is older, but it was of use later.
    ask(&mut older).await;
    let mut third = TcpStream::connect(server.address).await.unwrap();
    ask(&mut third).await;
    assert!(is_closed(&mut idle).await);
    ask(&mut older).await;
    ask(&mut third).await;
}

#[tokio::test]
async fn requests_that_are_answered_keep_their_places_and_others_wait() {
    let (server, gate) = held_server(ApiConfig { max_connections: 2, ..config() }).await;
    gate.shut();
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}});
    let send = || tokio::spawn(server.client.post(server.url("/generate")).json(&body).send());
    let running = [send(), send()];
    until("two run", || server.engine().num_alive() == 2).await;
    // Of five more, two wait, and three hear at once that there is no room.
    let mut more: JoinSet<_> = (0..5)
        .map(|_| {
            let request = server.client.post(server.url("/generate")).json(&body).send();
            async move {
                let answer = request.await.unwrap();
                let retry = answer.headers().get("retry-after").is_some();
                (answer.status().as_u16(), retry, answer.text().await.unwrap())
            }
        })
        .collect();
    for _ in 0..3 {
        let (status, retry, text) = timeout(PATIENCE, more.join_next()).await.unwrap().unwrap().unwrap();
        assert!(status == 503 && retry && text.contains("--max-connections"), "{status}: {text}");
    }
    for (path, status) in [("/live", 200), ("/ready", 200), ("/health/progress", 200)] {
        assert_eq!(timeout(PATIENCE, server.get(path)).await.unwrap().0, status, "{path}");
    }
    assert_eq!(server.engine().num_alive(), 2);
    gate.open();
    for answer in running {
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap().status(), 200);
    }
    for _ in 0..2 {
        let (status, _, text) = timeout(PATIENCE, more.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(status, 200, "{text}");
    }
    server.is_clean().await;
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_its_share() {
    let limits = ApiConfig { max_connections_per_address: Some(1), ..config() };
    let (server, gate) = held_server(limits).await;
    let mut idle = connect_and_say(&server, "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
    idle.read_exact(&mut [0; 12]).await.unwrap();
    assert_eq!(answer(&server).await, 200);
    let mut rest = Vec::new();
    let closed = timeout(PATIENCE, idle.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "its place was needed");
    gate.shut();
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 2, "ignore_eos": true}});
    let running = tokio::spawn(server.client.post(server.url("/generate")).json(&body).send());
    until("it runs", || server.engine().num_alive() == 1).await;
    let mut second = connect_and_say(&server, "GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut refused = String::new();
    timeout(PATIENCE, second.read_to_string(&mut refused)).await.unwrap().unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("--max-connections-per-address"), "{refused}");
    assert_eq!(server.get("/live").await.0, 200, "probes are not counted");
    gate.open();
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_while_every_thread_of_requests_is_blocked() {
    let server = Server::new().await;
    let requests = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(connection::serve(listener, &server.state, requests.handle().clone(), stopped));
    let get = async |path: &str| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(PATIENCE, socket.read_exact(&mut answer)).await.expect("an answer in time").unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    };
    assert_eq!(get("/v1/models").await, "HTTP/1.1 200");

    let blocked = [(), ()].map(|()| {
        let (begun, has_begun) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        requests.spawn(async move {
            begun.send(()).unwrap();
            let _ = held.recv();
        });
        has_begun.recv().unwrap();
        hold
    });
    for path in ["/live", "/ready", "/ping", "/health", "/health/progress"] {
        assert_eq!(get(path).await, "HTTP/1.1 200", "{path}");
    }
    drop(blocked);
    assert_eq!(get("/v1/models").await, "HTTP/1.1 200");
    stop.send(true).unwrap();
    timeout(PATIENCE, served).await.unwrap().unwrap();
    requests.shutdown_background();
}
