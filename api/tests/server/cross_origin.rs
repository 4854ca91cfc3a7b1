//! Web pages: those from elsewhere do nothing, the server's own works, and programs are not concerned.

use crate::support::{Server, config};
use quern_api::{
    ApiConfig,
    config::Secret,
    cross_origin::{AllowedHeader, AllowedMethod, CrossOriginConfig, HostPattern, OriginPattern},
};
use reqwest::{Method, Response};
use serde_json::json;

/// Ask `path` with further headers.
async fn ask(server: &Server, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = server.client.request(method, server.url(path)).body(r#"{"text": "a"}"#);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

const PREFLIGHT: [(&str, &str); 2] =
    [("access-control-request-method", "POST"), ("access-control-request-headers", "authorization,content-type")];

#[tokio::test]
async fn pages_from_elsewhere_do_nothing_by_default() {
    let server = Server::new().await;
    let own = format!("http://{}", server.address);
    for path in ["/generate", "/v1/chat/completions", "/v1/messages", "/api/chat", "/abort_request", "/flush_cache"] {
        for origin in ["https://evil.example", "http://localhost:1", "null"] {
            // What a page can send without asking first.
            let simple = [("origin", origin), ("content-type", "text/plain")];
            let answer = ask(&server, Method::POST, path, &simple).await;
            assert_eq!(answer.status(), 403, "{path} {origin}");
            assert!(answer.headers().get("access-control-allow-origin").is_none());
            assert!(answer.text().await.unwrap().contains("--allowed-origins"));
        }
        let host = [("host", "evil.example:30000")];
        let answer = ask(&server, Method::POST, path, &host).await;
        assert_eq!(answer.status(), 403, "{path}");
        assert!(answer.text().await.unwrap().contains("--allowed-hosts"));
    }
    let asked = [&[("origin", "https://evil.example")][..], &PREFLIGHT].concat();
    let preflight = ask(&server, Method::OPTIONS, "/generate", &asked).await;
    assert_eq!(preflight.status(), 403);
    assert_eq!(server.engine().metrics().snapshot().scheduler.steps, 0, "nothing was computed");

    let answer = ask(&server, Method::POST, "/generate", &[("origin", &own)]).await;
    assert_eq!(answer.status(), 200, "the server's own page");
    assert_eq!(server.post("/generate", json!({"text": "a"})).await.0, 200, "a program");
}

#[tokio::test]
async fn pages_that_are_allowed_hear_what_they_asked_for() {
    let allowed = CrossOriginConfig {
        allowed_origins: vec![OriginPattern::parse("https://*.example").unwrap()],
        allowed_hosts: Some(vec![HostPattern::parse("llm.example").unwrap()]),
        ..CrossOriginConfig::default()
    };
    let server = Server::with(ApiConfig { cross_origin: allowed.clone(), ..config() }, None).await;
    let page = [("origin", "https://app.example"), ("host", "llm.example")];
    let asked = [&page[..], &PREFLIGHT, &[("access-control-request-private-network", "true")]].concat();
    let preflight = ask(&server, Method::OPTIONS, "/v1/chat/completions", &asked).await;
    assert_eq!(preflight.status(), 200);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-headers", "authorization,content-type"),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-private-network", "true"),
    ] {
        assert_eq!(preflight.headers()[name], value);
    }
    let answer = ask(&server, Method::POST, "/generate", &page).await;
    assert_eq!(
        (answer.status(), &answer.headers()["access-control-allow-origin"]),
        (200.try_into().unwrap(), &page[0].1.parse().unwrap())
    );

    let narrow = CrossOriginConfig {
        allowed_methods: vec![AllowedMethod::parse("get").unwrap()],
        allowed_headers: vec![AllowedHeader::parse("X-Api-Key").unwrap()],
        allow_credentials: true,
        ..allowed
    };
    // Browsers send no key with a preflight.
    let api_key = vec![Secret::new("sesame")];
    let server = Server::with(ApiConfig { cross_origin: narrow, api_key, ..config() }, None).await;
    let preflight = ask(&server, Method::OPTIONS, "/v1/models", &asked).await;
    assert_eq!(preflight.status(), 200);
    for (name, value) in [
        ("access-control-allow-headers", "x-api-key"),
        ("access-control-allow-methods", "GET"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(preflight.headers()[name], value);
    }
}
