//! One page about one or several measurements of servers, and what other measurements draw theirs with.

mod chart;
mod page;

use std::{path::Path, process::ExitCode};

use clap::Args;
use serde_json::Value;

pub use self::{
    chart::{Chart, Scale, Series},
    page::Page,
};
use crate::{
    error::BenchError,
    measurement::Measurement,
    metrics::{RequestOutcome, Seconds},
    output,
    record::Recording,
    run_file::RunRecord,
};

/// What was typed after `quern bench report`.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Measurements to put side by side: files that `quern bench serving` or SGLang's client wrote
    #[arg(required = true, value_name = "FILE.jsonl")]
    pub files: Vec<std::path::PathBuf>,
    /// The page to write
    #[arg(long, short, default_value = "report.html", value_name = "FILE.html")]
    pub output: std::path::PathBuf,
}

/// Write a page about the measurements of some files.
///
/// # Errors
/// If a file cannot be read or written.
pub fn run(args: &ReportArgs) -> Result<ExitCode, BenchError> {
    let mut records = Vec::new();
    for file in &args.files {
        records.extend(RunRecord::read_all(file)?);
    }
    write(&args.output, &[], &records)?;
    output::line(args.output.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Write a page about `measurements`, with `others` beside them.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, measurements: &[Measurement], others: &[RunRecord]) -> Result<(), BenchError> {
    page(measurements, others).write(path)
}

fn page(measurements: &[Measurement], others: &[RunRecord]) -> Page {
    let records: Vec<&RunRecord> = measurements.iter().map(|each| &each.record).chain(others).collect();
    let model = records.first().map_or("", |record| record.text("model"));
    let title = if model.is_empty() { "Serving benchmark".into() } else { format!("Serving benchmark: {model}") };
    let mut page = Page::new(&title);
    warnings(&mut page, measurements, &records);
    page.heading("Figures");
    table(&mut page, &records);
    page.charts(charts(measurements, &records));
    page
}

fn warnings(page: &mut Page, measurements: &[Measurement], records: &[&RunRecord]) {
    for (index, record) in records.iter().enumerate() {
        let name = name(record);
        if record.number("failed") > 0.0 {
            page.warning(&format!(
                "{name}: {} requests failed; the figures are of the others.",
                record.number("failed")
            ));
        }
        match measurements.get(index) {
            Some(measurement) => {
                for stall in measurement.stalls.iter().take(10) {
                    page.warning(&format!("{name}: stall: {}.", stall.describe()));
                }
            }
            // SGLang's files tell the longest gap at best, in their details.
            None => {
                let longest_s = record.number("max_itl_ms") / 1000.0;
                if longest_s >= 1.0 && longest_s * 1000.0 >= 20.0 * record.number("median_itl_ms") {
                    page.warning(&format!("{name}: an answer stood still for {longest_s:.1} s."));
                }
            }
        }
        if !record.text("dataset_differs").is_empty() {
            page.warning(&format!("{name}: {}", record.text("dataset_differs")));
        }
    }
}

/// What tells a measurement from the others.
fn name(record: &RunRecord) -> String {
    let limit = match record.0.get("max_concurrency") {
        Some(Value::Number(limit)) => format!("concurrency {limit}"),
        _ => "no limit".into(),
    };
    match record.text("tag") {
        "" => format!("{}, {limit}", record.text("backend")),
        tag => format!("{tag}, {limit}"),
    }
}

const ROWS: [(&str, &str); 19] = [
    ("Completed requests", "completed"),
    ("Failed requests", "failed"),
    ("Duration (s)", "duration"),
    ("Input tokens", "total_input_tokens"),
    ("Output tokens", "total_output_tokens"),
    ("Requests a second", "request_throughput"),
    ("Output tokens a second", "output_throughput"),
    ("Peak output tokens a second", "max_output_tokens_per_s"),
    ("Tokens a second", "total_throughput"),
    ("Concurrency", "concurrency"),
    ("Median TTFT (ms)", "median_ttft_ms"),
    ("P99 TTFT (ms)", "p99_ttft_ms"),
    ("Median TPOT (ms)", "median_tpot_ms"),
    ("P99 TPOT (ms)", "p99_tpot_ms"),
    ("Median ITL (ms)", "median_itl_ms"),
    ("P99 ITL (ms)", "p99_itl_ms"),
    ("Longest ITL (ms)", "max_itl_ms"),
    ("P99 latency (ms)", "p99_e2e_latency_ms"),
    ("Requests within SLOs", "slo_attainment"),
];

fn table(page: &mut Page, records: &[&RunRecord]) {
    let header: Vec<String> = [String::new()].into_iter().chain(records.iter().map(|record| name(record))).collect();
    let known = ROWS.iter().filter(|(_, key)| records.iter().any(|record| record.0.contains_key(*key)));
    page.table(
        &header,
        known.map(|&(label, key)| {
            let cells = records.iter().map(|record| match record.0.get(key).and_then(Value::as_f64) {
                None => "–".into(),
                Some(value) if value.fract() == 0.0 => format!("{value}"),
                Some(value) if key == "slo_attainment" => format!("{:.1} %", 100.0 * value),
                Some(value) => format!("{value:.2}"),
            });
            [label.to_owned()].into_iter().chain(cells).collect()
        }),
    );
}

fn charts(measurements: &[Measurement], records: &[&RunRecord]) -> Vec<String> {
    let mut charts = Vec::new();
    if !measurements.is_empty() {
        let over_time = |pick: fn(Seconds) -> Vec<usize>| -> Vec<Series> {
            let points = |outcomes: &[RequestOutcome]| {
                let seconds = pick(Seconds::of(completed(outcomes)));
                seconds.into_iter().enumerate().map(|(second, count)| (second as f64, count as f64)).collect()
            };
            lines(measurements, points)
        };
        let throughput = over_time(|seconds| seconds.tokens);
        let running = over_time(|seconds| seconds.requests);
        let linear = (Scale::Linear, Scale::Linear);
        charts.push(draw("Output tokens a second", "seconds", "tokens/s", linear, throughput));
        charts.push(draw("Requests under way", "seconds", "requests", linear, running));
        let ttfts = lines(measurements, |outcomes| shares(completed(outcomes).map(Recording::ttft_s).collect()));
        let itls = lines(measurements, |outcomes| shares(completed(outcomes).flat_map(Recording::itls_s).collect()));
        let log = (Scale::Log, Scale::Linear);
        charts.push(draw("Time to first token", "milliseconds", "% of requests below", log, ttfts));
        charts.push(draw("Time between tokens", "milliseconds", "% of tokens below", log, itls));
    }
    charts.extend(against_concurrency(records));
    charts
}

fn completed(outcomes: &[RequestOutcome]) -> impl Iterator<Item = &Recording> + Clone {
    outcomes.iter().map(|outcome| &outcome.recording).filter(|recording| recording.succeeded())
}

fn lines(measurements: &[Measurement], points: impl Fn(&[RequestOutcome]) -> Vec<(f64, f64)>) -> Vec<Series> {
    let line = |each: &Measurement| Series {
        name: each.max_concurrency.map_or_else(|| "no limit".into(), |limit| format!("{limit} at once")),
        points: points(&each.outcomes),
        marked: false,
    };
    measurements.iter().map(line).collect()
}

/// For each value in milliseconds, how many percent are at most as large.
fn shares(mut seconds: Vec<f64>) -> Vec<(f64, f64)> {
    seconds.sort_by(f64::total_cmp);
    let count = seconds.len() as f64;
    let share = |(index, value): (usize, f64)| (1000.0 * value, 100.0 * (index + 1) as f64 / count);
    seconds.into_iter().enumerate().map(share).collect()
}

fn draw(title: &str, x_label: &str, y_label: &str, scales: (Scale, Scale), series: Vec<Series>) -> String {
    Chart { title, x_label, y_label, x_scale: scales.0, y_scale: scales.1, series }.svg()
}

/// What more users at once do to speed and waiting; nothing if all measurements had the same limit.
fn against_concurrency(records: &[&RunRecord]) -> Vec<String> {
    let mut limited: Vec<(f64, &RunRecord)> =
        records.iter().filter_map(|record| Some((record.0.get("max_concurrency")?.as_f64()?, *record))).collect();
    limited.sort_by(|a, b| a.0.total_cmp(&b.0));
    if limited.first().map(|first| first.0) == limited.last().map(|last| last.0) {
        return Vec::new();
    }
    let mut tags: Vec<&str> = limited.iter().map(|(_, record)| record.text("tag")).collect();
    tags.sort_unstable();
    tags.dedup();
    let line = |tag: &str, key: &str, label: &str| Series {
        name: if tags.len() > 1 { format!("{tag} {label}").trim().to_owned() } else { label.to_owned() },
        points: limited
            .iter()
            .filter(|(_, record)| record.text("tag") == tag)
            .map(|(limit, record)| (*limit, record.number(key)))
            .collect(),
        marked: true,
    };
    let all = |keys: &[(&str, &str)]| -> Vec<Series> {
        tags.iter().flat_map(|tag| keys.iter().map(|(key, label)| line(tag, key, label))).collect()
    };
    let log = (Scale::Log, Scale::Log);
    let linear = (Scale::Log, Scale::Linear);
    let x = "requests under way at most";
    vec![
        draw("Output tokens a second against concurrency", x, "tokens/s", linear, all(&[("output_throughput", "")])),
        draw(
            "Time to first token against concurrency",
            x,
            "milliseconds",
            log,
            all(&[("median_ttft_ms", "median"), ("p99_ttft_ms", "P99")]),
        ),
        draw(
            "Time between tokens against concurrency",
            x,
            "milliseconds",
            log,
            all(&[("median_itl_ms", "median"), ("p99_itl_ms", "P99")]),
        ),
        draw(
            "Latency against concurrency",
            x,
            "milliseconds",
            log,
            all(&[("median_e2e_latency_ms", "median"), ("p99_e2e_latency_ms", "P99")]),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        metrics::{LoadMetrics, tests::outcome},
        stall::Stall,
    };

    #[test]
    fn a_page_holds_figures_charts_and_warnings_and_loads_nothing() {
        let outcomes = vec![outcome(0.0, &[0.1, 0.12, 0.14, 30.0]), outcome(0.5, &[0.6, 0.62])];
        let metrics = LoadMetrics::of(&outcomes, 30.0);
        let stalls = Stall::find(&outcomes);
        let measurement = |limit: usize| {
            let fields = json!({"backend": "sglang", "model": "<m>", "max_concurrency": limit, "completed": 2,
                "median_ttft_ms": 100.0, "output_throughput": 10.5});
            Measurement {
                max_concurrency: Some(limit),
                outcomes: outcomes.clone(),
                metrics: metrics.clone(),
                stalls: stalls.clone(),
                record: RunRecord(fields.as_object().cloned().expect("an object")),
            }
        };
        let html = page(&[measurement(1), measurement(16)], &[measurement(64).record]).html();
        assert!(html.contains("stood still for 29.9 s"), "{html}");
        assert!(html.contains("&lt;m&gt;") && !html.contains("<m>"));
        assert_eq!(html.matches("<svg").count(), 8);
        assert!(!html.contains("http") && !html.contains("<script"), "nothing is loaded from elsewhere");
        let alone = page(&[], &[measurement(1).record]).html();
        assert_eq!(alone.matches("<svg").count(), 0);
        assert!(alone.contains("10.50"));
    }
}
