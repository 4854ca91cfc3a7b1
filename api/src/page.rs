//! The page: the files that the folder `web` builds, embedded, and the headers that keep them to themselves.
//!
//! The build is checked in, so that neither `cargo build` nor the program needs Node; `tests/page.rs` holds
//! it to its sources.

use axum::{
    http::{HeaderMap, HeaderValue, Method, header},
    response::{IntoResponse, Response},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

/// The document, the same for every part; the script looks at the address.
pub const DOCUMENT: &str = include_str!("../../web/dist/index.html");
const SCRIPT: &str = include_str!("../../web/dist/ui/app.js");
const STYLE: &str = include_str!("../../web/dist/ui/app.css");
const SANDBOX: &str = include_str!("../../web/dist/ui/sandbox.js");
const ICON: &str = include_str!("../../web/dist/ui/icon.svg");

/// What the build was made from; changes with every source.
pub const SOURCES: &str = include_str!("../../web/dist/sources.sha256");

/// Nothing from elsewhere, nothing to elsewhere, no script inside the document, in no one's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Of the worker that answers example tools: it computes, and reaches nothing.
const SANDBOX_POLICY: &str = "default-src 'none'";

/// Paths whose files anyone may read. The API behind them still wants the key.
const OPEN: &[&str] =
    &["/configure", "/configure/table", "/dashboard", "/ui/app.js", "/ui/app.css", "/ui/sandbox.js", "/ui/icon.svg"];

/// Whether a request is for the page itself and not for what it shows.
pub fn is_open(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && (OPEN.contains(&path) || path == "/" && wants_html(headers))
}

/// Whether a browser asks. Programs ask for anything (`*/*`) and get JSON.
pub fn wants_html(headers: &HeaderMap) -> bool {
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|kinds| kinds.contains("text/html"));
    headers.get_all(header::ACCEPT).iter().any(accepts)
}

/// The file `ui/NAME`.
pub fn file(name: &str, headers: &HeaderMap) -> Option<Response> {
    let (kind, policy, text) = match name {
        "app.js" => ("text/javascript; charset=utf-8", POLICY, SCRIPT),
        "app.css" => ("text/css; charset=utf-8", POLICY, STYLE),
        "sandbox.js" => ("text/javascript; charset=utf-8", SANDBOX_POLICY, SANDBOX),
        "icon.svg" => ("image/svg+xml", SANDBOX_POLICY, ICON),
        _ => return None,
    };
    Some(answer(kind, policy, text, headers))
}

/// The document.
pub fn document(headers: &HeaderMap) -> Response {
    let mut response = answer("text/html; charset=utf-8", POLICY, DOCUMENT, headers);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

fn answer(kind: &'static str, policy: &'static str, text: &'static str, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", SOURCES.trim());
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|given| given.as_bytes() == tag.as_bytes());
    let mut response = if known { axum::http::StatusCode::NOT_MODIFIED.into_response() } else { text.into_response() };
    let out = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in fixed {
        out.insert(name, HeaderValue::from_static(value));
    }
    out.insert(header::ETAG, tag.parse().expect("a hash in quotes is a header's value"));
    response
}

/// The generator as one file that needs no server: script, style and its table (JSON) inside the document, and a
/// policy that lets in these and nothing else.
pub fn standalone(table: &str) -> String {
    // `<` inside a script could end it; JSON and JavaScript strings may spell it otherwise.
    let table = table.replace('<', "\\u003c");
    let script = SCRIPT.replace("</script", "<\\/script");
    let policy = format!("default-src 'none'; script-src '{}'; style-src '{}'", digest(&script), digest(STYLE));
    let head = DOCUMENT.split("<title").next().expect("split yields one part");
    format!(
        "{head}<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\" />\n<title>Quern</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<div id=\"app\"></div>\n\
         <script type=\"application/json\" id=\"configure-table\">{table}</script>\n\
         <script type=\"module\">{script}</script>\n</body>\n</html>\n"
    )
}

/// A text's hash as policies name it.
fn digest(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}
