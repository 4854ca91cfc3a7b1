//! [`Layout`]: the block that SGLang's client prints, blank for blank.

use std::fmt::{Display, Write};

use clap::ValueEnum;

use crate::{goodput::Goodput, metrics::LoadMetrics, statistics::Distribution};

/// Whose block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// Of SGLang 0.5.8
    #[value(name = "0.5.8")]
    V0_5_8,
    /// Of SGLang 0.5.23: more percentiles
    #[value(name = "0.5.23")]
    V0_5_23,
}

impl Layout {
    /// The default of `--seed` in that release.
    pub fn seed(self) -> u32 {
        match self {
            Self::V0_5_8 => 1,
            Self::V0_5_23 => 42,
        }
    }
}

/// What the block says besides the figures.
pub struct Heading<'a> {
    /// The backend's name.
    pub backend: &'a str,
    /// Requests a second, or infinite.
    pub request_rate: f64,
    /// The limit, if there was one.
    pub max_concurrency: Option<usize>,
}

const WIDTH: usize = 50;

/// The block, beginning with an empty line and ending without a line's end.
pub fn block(
    layout: Layout,
    heading: &Heading<'_>,
    metrics: &LoadMetrics,
    goodput: Option<&Goodput>,
    with_cache: bool,
) -> String {
    let mut out = TextBlock(String::from("\n"));
    let max_concurrency = heading.max_concurrency.map_or_else(|| "not set".into(), |limit| limit.to_string());
    out.title(" Serving Benchmark Result ", '=');
    out.row("Backend:", heading.backend);
    // As Python prints it: `inf`, `4.0`.
    out.row("Traffic request rate:", format!("{:?}", heading.request_rate));
    out.row("Max request concurrency:", max_concurrency);
    out.row("Successful requests:", metrics.completed);
    out.number("Benchmark duration (s):", metrics.duration_s);
    out.row("Total input tokens:", metrics.total_input);
    out.row("Total input text tokens:", metrics.total_input);
    out.row("Total generated tokens:", metrics.total_output);
    out.row("Total generated tokens (retokenized):", metrics.total_output_retokenized);
    out.number("Request throughput (req/s):", metrics.per_s(metrics.completed));
    out.number("Input token throughput (tok/s):", metrics.per_s(metrics.total_input));
    out.number("Output token throughput (tok/s):", metrics.per_s(metrics.total_output));
    out.number("Peak output token throughput (tok/s):", metrics.peak_output_per_s);
    out.row("Peak concurrent requests:", metrics.peak_concurrent);
    out.number("Total token throughput (tok/s):", metrics.per_s(metrics.total_input + metrics.total_output));
    out.number("Concurrency:", metrics.concurrency);
    if let Some(length) = metrics.accept_length.filter(|length| *length != 0.0) {
        out.number("Accept length:", length);
    }
    if let Some(goodput) = goodput {
        out.goodput(goodput);
    }
    let newer = layout == Layout::V0_5_23;
    out.title("End-to-End Latency", '-');
    out.distribution("E2E Latency", &metrics.e2e_ms, Rows { p90: true, p95: newer, max: false });
    out.title("Time to First Token", '-');
    out.distribution("TTFT", &metrics.ttft_ms, Rows { p90: newer, p95: newer, max: false });
    out.title("Time per Output Token (excl. 1st token)", '-');
    out.distribution("TPOT", &metrics.tpot_ms, Rows { p90: newer, p95: newer, max: false });
    out.title("Inter-Token Latency", '-');
    out.distribution("ITL", &metrics.itl_ms, Rows { p90: newer, p95: true, max: true });
    if with_cache {
        out.title("Cache Hit Details", '-');
        out.row("Total prompt tokens:", metrics.prompt_tokens);
        out.row("Total cached tokens:", metrics.cached_tokens);
        let rate = 100.0 * metrics.cached_tokens as f64 / metrics.prompt_tokens.max(1) as f64;
        out.line(format_args!("{:<40} {rate:.1}%", "Cache hit rate:"));
    }
    out.0.push_str(&"=".repeat(WIDTH));
    out.0
}

/// Which rows a section has besides mean, median and P99.
struct Rows {
    p90: bool,
    p95: bool,
    max: bool,
}

struct TextBlock(String);

impl TextBlock {
    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes all");
    }

    fn title(&mut self, title: &str, fill: char) {
        // As Python centres: what cannot be halved goes to the right.
        let missing = WIDTH - title.len();
        let fill = |count| fill.to_string().repeat(count);
        self.line(format_args!("{}{title}{}", fill(missing / 2), fill(missing - missing / 2)));
    }

    fn row(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("{name:<40} {:<10}", value.to_string()));
    }

    fn number(&mut self, name: &str, value: f64) {
        self.line(format_args!("{name:<40} {value:<10.2}"));
    }

    fn distribution(&mut self, of: &str, ms: &Distribution, rows: Rows) {
        let all = [
            ("Mean", ms.mean, true),
            ("Median", ms.median, true),
            ("P90", ms.p90, rows.p90),
            ("P95", ms.p95, rows.p95),
            ("P99", ms.p99, true),
            ("Max", ms.max, rows.max),
        ];
        for (name, value, _) in all.into_iter().filter(|(_, _, wanted)| *wanted) {
            self.number(&format!("{name} {of} (ms):"), value);
        }
    }

    fn goodput(&mut self, goodput: &Goodput) {
        let slos: Vec<String> =
            goodput.slos.iter().map(|slo| format!("{}:{}", slo.promise.name(), slo.limit_ms)).collect();
        self.title("Goodput", '-');
        self.row("SLOs (ms):", slos.join(" "));
        self.number("Request goodput (req/s):", goodput.per_s);
        self.number("SLO attainment (%):", 100.0 * goodput.attainment);
        for (slo, attainment) in goodput.slos.iter().zip(&goodput.attainment_of_each) {
            let name = slo.promise.name().to_uppercase();
            self.number(&format!("{name} SLO attainment (%):"), 100.0 * attainment);
        }
    }
}
