//! `/metrics`, with `--enable-metrics`: Prometheus' text form, or OpenMetrics for who prefers it.

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{protocol::ApiError, state::AppState};

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Its route.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(state): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    if !state.config.enable_metrics {
        let message = "Metrics are off; start the server with --enable-metrics.";
        return ApiError::status(axum::http::StatusCode::NOT_FOUND, message).into_response();
    }
    let openmetrics = state.metrics.text(&state.engine);
    let (kind, text) = match prefers_openmetrics(&headers) {
        true => (OPENMETRICS, openmetrics),
        false => (PROMETHEUS, prometheus(&openmetrics)),
    };
    ([(header::CONTENT_TYPE, kind), (header::VARY, "accept")], text).into_response()
}

/// Whether `Accept` names OpenMetrics, and the classic form not with a greater weight.
fn prefers_openmetrics(headers: &HeaderMap) -> bool {
    let weight = |wanted: &str| {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let weights = values.flat_map(|value| value.split(',')).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next().filter(|name| name.eq_ignore_ascii_case(wanted))?;
            let given = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            Some(given.map_or(1.0, |weight| weight.parse::<f64>().unwrap_or(0.0)))
        });
        weights.fold(0.0, f64::max)
    };
    let openmetrics = weight("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= weight("text/plain")
}

/// OpenMetrics as our library writes it, in the form that came before (Prometheus' "text-based format" 0.0.4):
/// the name of a counter has its `_total` in `HELP` and `TYPE` too, nothing has a unit, and nothing marks the end.
fn prometheus(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len() + openmetrics.len() / 16);
    // `HELP` comes before the `TYPE` that tells what it is about.
    let mut help = None;
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match [words.next(), words.next(), words.next(), words.next()] {
            [Some("#"), Some("HELP"), Some(name), text] => help = Some((name, text.unwrap_or(""))),
            [Some("#"), Some("TYPE"), Some(name), Some(kind)] => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "unknown" => ("", "untyped"),
                    _ => ("", kind),
                };
                if let Some((_, text)) = help.take().filter(|(about, _)| *about == name) {
                    let _ = writeln!(out, "# HELP {name}{suffix} {text}");
                }
                let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
            }
            [Some("#"), ..] => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn counters_have_their_suffix_everywhere_and_nothing_marks_the_end() {
        let openmetrics = "# HELP sglang:a Things done.\n# TYPE sglang:a counter\nsglang:a_total{m=\"x\"} 3\n\
            # HELP b_seconds Time.\n# TYPE b_seconds histogram\n# UNIT b_seconds seconds\nb_seconds_sum 1.5\n\
            b_seconds_bucket{le=\"+Inf\"} 1\n# HELP c Free.\n# TYPE c gauge\nc 2.0\n# EOF\n";
        let classic = "# HELP sglang:a_total Things done.\n# TYPE sglang:a_total counter\nsglang:a_total{m=\"x\"} 3\n\
            # HELP b_seconds Time.\n# TYPE b_seconds histogram\nb_seconds_sum 1.5\n\
            b_seconds_bucket{le=\"+Inf\"} 1\n# HELP c Free.\n# TYPE c gauge\nc 2.0\n";
        assert_eq!(prometheus(openmetrics), classic);
    }

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        let of = |accept: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(header::ACCEPT, HeaderValue::from_str(value).unwrap());
            }
            prefers_openmetrics(&headers)
        };
        assert!(!of(&[]) && !of(&["*/*"]) && !of(&["text/plain;version=0.0.4"]));
        assert!(of(&["application/openmetrics-text; version=1.0.0"]));
        // Prometheus' own.
        assert!(of(&["application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"]));
        assert!(!of(&["text/plain;version=0.0.4;q=0.5", "application/openmetrics-text;q=0.2"]));
        assert!(!of(&["application/openmetrics-text;q=0"]));
    }
}
