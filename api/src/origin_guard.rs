//! [`CrossOrigin`]: the guard that refuses what web pages from elsewhere ask for, and the headers for those that may.
//!
//! A browser lets any page send requests to any address, `http://localhost:30000` among them, and only hides the
//! answers. What a foreign page sends is therefore refused before it has an effect, by its `Origin`; and because a name
//! that the page's owner controls may be made to resolve to this machine (DNS rebinding), which makes the page no
//! foreign one, so is a request for a name that is not ours. Programs send no `Origin` and are not concerned.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::Response,
};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, Any, CorsLayer};

use crate::{
    auth::ADMIN,
    cross_origin::CrossOriginConfig,
    protocol::{ApiError, envelope::Envelope},
};

/// How long a browser may keep the answer to a preflight; Starlette's default.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Tells the pages that may use a server from those that may not.
#[derive(Debug)]
pub struct CrossOrigin {
    config: CrossOriginConfig,
    /// Whether only this machine can reach the server.
    is_loopback: bool,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("The request has {0} Host headers; one is wanted.")]
    Hosts(usize),
    #[error(
        "This server is not asked for as {0:?} by default, since a web page could have that name point here; \
         --allowed-hosts allows it."
    )]
    Host(String),
    #[error("Web pages of {0} may not use this server; --allowed-origins allows them.")]
    Origin(String),
    #[error("A link from another site may not do this.")]
    Link,
}

impl CrossOrigin {
    /// By `config`, for a server that listens on this machine alone (`is_loopback`) or for others.
    pub fn new(config: CrossOriginConfig, is_loopback: bool) -> Arc<Self> {
        Arc::new(Self { config, is_loopback })
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let num_hosts = headers.get_all(header::HOST).iter().count();
        if num_hosts > 1 {
            return Err(Refusal::Hosts(num_hosts));
        }
        let host = headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).to_ascii_lowercase());
        for host in uri.authority().map(|authority| authority.as_str().to_ascii_lowercase()).iter().chain(&host) {
            if !self.is_our_name(host_name(host)) {
                return Err(Refusal::Host(host.clone()));
            }
        }
        let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        match headers.get(header::ORIGIN) {
            Some(origin) => {
                let is_allowed = self.allows(origin) || site == Some(b"same-origin") || is_own(origin, host.as_deref());
                let refusal = || Refusal::Origin(String::from_utf8_lossy(origin.as_bytes()).into_owned());
                is_allowed.then_some(()).ok_or_else(refusal)
            }
            // Links and images: their answers are hidden, so only what they do counts.
            None if matches!(site, Some(b"cross-site" | b"same-site")) && ADMIN.contains(&uri.path()) => {
                Err(Refusal::Link)
            }
            None => Ok(()),
        }
    }

    /// Whether no one else can make `name` point to this machine, or it is meant to.
    fn is_our_name(&self, name: &str) -> bool {
        if !self.is_loopback && self.config.allowed_hosts.is_none() {
            return true;
        }
        let allowed = self.config.allowed_hosts.iter().flatten().any(|pattern| pattern.matches(name));
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        // Names without a dot are not in the public DNS.
        allowed || is_address || !name.contains('.') || name.ends_with(".localhost")
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.config.allowed_origins.iter().any(|pattern| pattern.matches(origin))
    }
}

/// `host:port` without its port and without the root's dot.
fn host_name(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    host[..end].trim_end_matches('.')
}

/// Whether a page of `origin` came from the host that is asked. A proxy may have taken TLS off: the scheme decides
/// only which port is meant where none is named.
fn is_own(origin: &HeaderValue, host: Option<&str>) -> bool {
    let (Ok(origin), Some(host)) = (origin.to_str(), host) else { return false };
    let (authority, usual) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, ":80"),
        Some(("https", authority)) => (authority, ":443"),
        _ => return false,
    };
    let without = |authority: &str| authority.strip_suffix(usual).unwrap_or(authority).to_ascii_lowercase();
    without(authority) == without(host)
}

/// Refuse what foreign pages and foreign names ask for.
pub async fn guard(State(policy): State<Arc<CrossOrigin>>, request: Request, next: Next) -> Response {
    match policy.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            tracing::info!("{} {}: {refusal}", request.method(), request.uri().path());
            let status =
                if matches!(refusal, Refusal::Hosts(_)) { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
            Envelope::of_path(request.uri().path()).wrap(ApiError::status(status, refusal.to_string()))
        }
    }
}

/// The headers by which a browser shows an answer to a page that may have it. What a preflight asks for is named in its
/// answer: `*` does not cover `Authorization` (Fetch, "CORS protocol and credentials").
pub fn cors(policy: &Arc<CrossOrigin>) -> CorsLayer {
    let config = &policy.config;
    let methods = match config.allowed_methods.as_slice() {
        [] => AllowMethods::mirror_request(),
        names => AllowMethods::list(names.iter().map(|name| name.0.clone())),
    };
    let headers = match config.allowed_headers.as_slice() {
        [] => AllowHeaders::mirror_request(),
        names => AllowHeaders::list(names.iter().map(|name| name.0.clone())),
    };
    let origins = Arc::clone(policy);
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin: &HeaderValue, _: &Parts| origins.allows(origin)))
        .allow_methods(methods)
        .allow_headers(headers)
        .allow_private_network(true)
        .max_age(PREFLIGHT_MAX_AGE);
    // `*` in what is exposed has no meaning where credentials are sent, and the library refuses the pair.
    if config.allow_credentials { cors.allow_credentials(true) } else { cors.expose_headers(Any) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cross_origin::{HostPattern, OriginPattern};

    fn policy(origins: &[&str], hosts: Option<&[&str]>, is_loopback: bool) -> Arc<CrossOrigin> {
        let config = CrossOriginConfig {
            allowed_origins: origins.iter().map(|text| OriginPattern::parse(text).unwrap()).collect(),
            allowed_hosts: hosts.map(|hosts| hosts.iter().map(|text| HostPattern::parse(text).unwrap()).collect()),
            ..CrossOriginConfig::default()
        };
        CrossOrigin::new(config, is_loopback)
    }

    fn check(policy: &CrossOrigin, path: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        policy.check(&path.parse().unwrap(), &map).is_ok()
    }

    #[test]
    fn names_that_others_control_are_refused_on_this_machines_own_addresses() {
        let ours =
            ["localhost", "LocalHost:30000", "127.0.0.1:1", "[::1]:30000", "10.0.0.7", "app.localhost", "box", ""];
        let foreign =
            ["evil.example", "evil.example:30000", "evil.example.", "127.0.0.1.evil.example", "localhost.evil"];
        for (policy, accepts_foreign) in [
            (policy(&[], None, true), false),
            (policy(&[], Some(&["llm.example"]), false), false),
            (policy(&[], Some(&["*"]), true), true),
            (policy(&[], None, false), true),
        ] {
            assert!(ours.iter().all(|host| check(&policy, "/generate", &[("host", host)])));
            assert!(check(&policy, "/generate", &[]), "HTTP/1.0");
            for host in foreign {
                assert_eq!(check(&policy, "/generate", &[("host", host)]), accepts_foreign, "{host}");
                assert_eq!(check(&policy, &format!("http://{host}/x"), &[("host", "localhost")]), accepts_foreign);
            }
        }
        let named = policy(&[], Some(&["llm.example", "*.test.example"]), true);
        assert!(
            check(&named, "/", &[("host", "LLM.example:443")]) && check(&named, "/", &[("host", "a.test.example")])
        );
        assert!(!check(&named, "/", &[("host", "test.example")]) && !check(&named, "/", &[("host", "xllm.example")]));
        assert!(!check(&named, "/", &[("host", "llm.example"), ("host", "llm.example")]), "two of them");
    }

    #[test]
    fn a_page_of_the_server_may_and_one_from_elsewhere_may_not() {
        let policy = policy(&[], None, true);
        for (host, origin, allowed) in [
            ("localhost:30000", "http://localhost:30000", true),
            ("LOCALHOST:30000", "http://localhost:30000", true),
            ("localhost", "http://localhost", true),
            ("localhost:80", "http://localhost", true),
            ("box", "https://box:443", true),
            ("localhost:30000", "http://localhost:3000", false),
            ("localhost:30000", "http://127.0.0.1:30000", false),
            ("localhost:30000", "https://evil.example", false),
            ("localhost:30000", "http://localhost:30000.evil.example", false),
            ("localhost:30000", "null", false),
            ("localhost:30000", "file://", false),
            ("localhost:30000", "", false),
        ] {
            assert_eq!(check(&policy, "/generate", &[("host", host), ("origin", origin)]), allowed, "{host} {origin}");
        }
        let tunnel =
            [("host", "localhost:30000"), ("origin", "https://x.tunnel.example"), ("sec-fetch-site", "same-origin")];
        assert!(check(&policy, "/generate", &tunnel), "the browser says so itself");
        assert!(!check(&policy, "/flush_cache", &[("sec-fetch-site", "cross-site")]), "an image's address");
        assert!(!check(&policy, "/flush_cache", &[("sec-fetch-site", "same-site")]));
        assert!(check(&policy, "/dashboard", &[("sec-fetch-site", "cross-site")]), "a link");
        assert!(check(&policy, "/flush_cache", &[("sec-fetch-site", "none")]), "typed");
    }

    #[test]
    fn origins_are_allowed_by_name_and_by_pattern() {
        let policy =
            policy(&["https://app.example", "http://localhost:*", "https://*.team.example", "null"], None, true);
        for origin in
            ["https://app.example", "HTTPS://APP.example", "http://localhost:3000", "https://a.team.example", "null"]
        {
            assert!(check(&policy, "/generate", &[("origin", origin)]), "{origin}");
        }
        for origin in
            ["http://app.example", "https://app.example:444", "http://localhost", "https://team.example", "file://"]
        {
            assert!(!check(&policy, "/generate", &[("origin", origin)]), "{origin}");
        }
    }
}
