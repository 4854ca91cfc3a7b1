//! [`RunRecord`]: one run as a line of JSON, with the keys of SGLang's client and a few of ours after them.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use chrono::Local;
use serde_json::{Map, Value, json};

use crate::{
    dataset::DatasetArgs,
    error::BenchError,
    goodput::Goodput,
    metrics::{LoadMetrics, RequestOutcome},
    record::Recording,
    stall::Stall,
    statistics::Distribution,
};

/// Settings of a run, as its record carries them.
pub struct RunSettings<'a> {
    /// A name of the user's for the run.
    pub tag: Option<&'a str>,
    /// The backend's name.
    pub backend: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// The flags of requests.
    pub dataset: &'a DatasetArgs,
    /// What of the dataset is not as its name promises.
    pub differs: Option<&'a str>,
    /// How many prompts.
    pub num_prompts: usize,
    /// Requests a second, or infinite.
    pub request_rate: f64,
    /// The limit, if there was one.
    pub max_concurrency: Option<usize>,
    /// The seed.
    pub seed: u32,
}

/// One run as an object of JSON.
#[derive(Clone, Debug)]
pub struct RunRecord(pub Map<String, Value>);

impl RunRecord {
    /// Of a run. An infinite rate is null here; see [`RunRecord::line`].
    pub fn new(settings: &RunSettings<'_>, metrics: &LoadMetrics, server_info: Value) -> Self {
        let mut record = Map::new();
        let mut put = |key: &str, value: Value| record.insert(key.to_owned(), value);
        put("tag", json!(settings.tag));
        put("backend", json!(settings.backend));
        put("dataset_name", json!(settings.dataset.name()));
        put("request_rate", json!(settings.request_rate));
        put("max_concurrency", json!(settings.max_concurrency));
        put("sharegpt_output_len", json!(settings.dataset.sharegpt_output_len));
        put("random_input_len", json!(settings.dataset.random_input_len));
        put("random_output_len", json!(settings.dataset.random_output_len));
        put("random_range_ratio", json!(settings.dataset.random_range_ratio));
        put("server_info", server_info);
        put("duration", json!(metrics.duration_s));
        put("completed", json!(metrics.completed));
        put("total_input_tokens", json!(metrics.total_input));
        put("total_input_text_tokens", json!(metrics.total_input));
        put("total_input_vision_tokens", json!(0));
        put("total_output_tokens", json!(metrics.total_output));
        put("total_output_tokens_retokenized", json!(metrics.total_output_retokenized));
        put("request_throughput", json!(metrics.per_s(metrics.completed)));
        put("input_throughput", json!(metrics.per_s(metrics.total_input)));
        put("output_throughput", json!(metrics.per_s(metrics.total_output)));
        put("total_throughput", json!(metrics.per_s(metrics.total_input + metrics.total_output)));
        let distributions = [
            ("e2e_latency", &metrics.e2e_ms),
            ("ttft", &metrics.ttft_ms),
            ("tpot", &metrics.tpot_ms),
            ("itl", &metrics.itl_ms),
        ];
        for (of, ms) in distributions {
            for (figure, value) in figures(ms) {
                put(&format!("{figure}_{of}_ms"), json!(value));
            }
        }
        put("concurrency", json!(metrics.concurrency));
        put("accept_length", json!(metrics.accept_length));
        put("max_output_tokens_per_s", json!(metrics.peak_output_per_s));
        put("max_concurrent_requests", json!(metrics.peak_concurrent));
        put("max_itl_ms", json!(metrics.itl_ms.max));
        put("failed", json!(metrics.failed));
        put("model", json!(settings.model));
        put("num_prompts", json!(settings.num_prompts));
        put("seed", json!(settings.seed));
        if let Some(differs) = settings.differs {
            put("dataset_differs", json!(differs));
        }
        Self(record)
    }

    /// Add how many requests were as fast as promised.
    pub fn add_goodput(&mut self, goodput: &Goodput) {
        let by_name = |values: Vec<f64>| -> Value {
            let names = goodput.slos.iter().map(|slo| slo.promise.name().to_owned());
            Value::Object(names.zip(values.into_iter().map(|value| json!(value))).collect())
        };
        let limits = goodput.slos.iter().map(|slo| slo.limit_ms).collect();
        self.0.insert("goodput_slos_ms".into(), by_name(limits));
        self.0.insert("request_goodput".into(), json!(goodput.per_s));
        self.0.insert("slo_attainment".into(), json!(goodput.attainment));
        self.0.insert("slo_attainment_by_metric".into(), by_name(goodput.attainment_of_each.clone()));
    }

    /// Add how much of the prompts came from the server's cache.
    pub fn add_cache(&mut self, metrics: &LoadMetrics) {
        let rate = 100.0 * metrics.cached_tokens as f64 / metrics.prompt_tokens.max(1) as f64;
        let report = json!({
            "total_prompt_tokens": metrics.prompt_tokens,
            "total_cached_tokens": metrics.cached_tokens,
            "cache_hit_rate_pct": (rate * 100.0).round() / 100.0,
        });
        self.0.insert("cache_report".into(), report);
    }

    /// Add the times in which answers stood still.
    pub fn add_stalls(&mut self, stalls: &[Stall]) {
        let all: Vec<Value> = stalls
            .iter()
            .map(|stall| json!({"start_s": stall.start_s, "length_s": stall.length_s, "requests": stall.requests}))
            .collect();
        self.0.insert("stalls".into(), json!(all));
    }

    /// Add what became of each request.
    pub fn add_details(&mut self, outcomes: &[RequestOutcome]) {
        let recordings = || outcomes.iter().map(|outcome| &outcome.recording);
        let output_len = |recording: &Recording| if recording.succeeded() { recording.output_len } else { 0 };
        let itls = |recording: &Recording| recording.itls_s().collect::<Vec<f64>>();
        let error = |recording: &Recording| recording.error.clone().unwrap_or_default();
        let mut put = |key: &str, value: Value| self.0.insert(key.to_owned(), value);
        put("input_lens", outcomes.iter().map(RequestOutcome::input_len).collect());
        put("output_lens", recordings().map(output_len).collect());
        put("ttfts", recordings().map(Recording::ttft_s).collect());
        put("itls", recordings().map(itls).collect());
        put("generated_texts", recordings().map(|recording| recording.text.clone()).collect());
        put("errors", recordings().map(error).collect());
        put("latencies", recordings().map(|recording| recording.latency_s).collect());
        put("start_times", recordings().map(|recording| recording.start_s).collect());
    }

    /// As a line of a file. An infinite rate is written as Python does, `Infinity`, which is no JSON but what
    /// readers of such files expect.
    pub fn line(&self) -> String {
        let line = serde_json::to_string(&self.0).expect("an object of JSON");
        // Quotation marks inside strings are escaped, so this can only be the key.
        line.replacen("\"request_rate\":null", "\"request_rate\":Infinity", 1)
    }

    /// Append the run to a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&self, path: &Path) -> Result<(), BenchError> {
        let file = fs::File::options().append(true).create(true).open(path);
        let written = file.and_then(|mut file| file.write_all((self.line() + "\n").as_bytes()));
        written.map_err(BenchError::file(path))
    }

    /// All runs of a file, ours or SGLang's.
    ///
    /// # Errors
    /// If it cannot be read, or holds a line that is no run.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, BenchError> {
        let text = fs::read_to_string(path).map_err(BenchError::file(path))?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| serde_json::from_str(&strict(line)).map(Self).map_err(BenchError::content(path))).collect()
    }

    /// A figure, 0 where there is none.
    pub fn number(&self, key: &str) -> f64 {
        self.0.get(key).and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// A text, empty where there is none.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or("")
    }
}

/// Where a run goes if no file is named, as SGLang's client names it.
pub fn default_path(backend: &str, dataset: &DatasetArgs, num_prompts: usize) -> PathBuf {
    let day = Local::now().format("%m%d");
    let what = if dataset.is_random() {
        format!("{}_{}", dataset.random_input_len, dataset.random_output_len)
    } else {
        dataset.name()
    };
    PathBuf::from(format!("{backend}_{day}_{num_prompts}_{what}.jsonl"))
}

fn figures(ms: &Distribution) -> [(&'static str, f64); 6] {
    [("mean", ms.mean), ("median", ms.median), ("std", ms.std), ("p90", ms.p90), ("p95", ms.p95), ("p99", ms.p99)]
}

/// Python's JSON as JSON: `Infinity` and `NaN` outside of strings become null.
fn strict(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut in_string = false;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !in_string && rest.starts_with(word));
        if let Some(word) = word {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        let taken =
            if c == '\\' && in_string { 1 + rest[1..].chars().next().map_or(0, char::len_utf8) } else { c.len_utf8() };
        in_string ^= c == '"';
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_numbers_become_null_outside_of_strings() {
        let line = r#"{"a":Infinity,"b":[NaN,-Infinity],"c":"Infinity \" NaN \\","d":NaN}"#;
        assert_eq!(strict(line), r#"{"a":null,"b":[null,null],"c":"Infinity \" NaN \\","d":null}"#);
    }

    #[test]
    fn a_run_is_written_with_sglangs_keys_and_read_again() {
        let dataset = crate::serving::tests_args(&["--dataset-name", "random"]).dataset;
        let settings = RunSettings {
            tag: Some("\"request_rate\":null"),
            backend: "sglang",
            model: "m",
            dataset: &dataset,
            differs: None,
            num_prompts: 10,
            request_rate: f64::INFINITY,
            max_concurrency: Some(1),
            seed: 1,
        };
        let metrics = LoadMetrics { duration_s: 2.0, completed: 10, total_output: 4220, ..LoadMetrics::default() };
        let record = RunRecord::new(&settings, &metrics, Value::Null);
        let line = record.line();
        assert!(line.contains(r#""request_rate":Infinity,"max_concurrency":1,"#), "{line}");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runs.jsonl");
        record.append(&path).expect("written");
        record.append(&path).expect("written");
        let again = RunRecord::read_all(&path).expect("read");
        assert_eq!(again.len(), 2);
        assert_eq!(again[1].number("output_throughput"), 2110.0);
        assert_eq!(again[1].text("tag"), "\"request_rate\":null");
        let sglangs = "tag backend dataset_name request_rate max_concurrency sharegpt_output_len random_input_len \
            random_output_len random_range_ratio server_info duration completed total_input_tokens \
            total_input_text_tokens total_input_vision_tokens total_output_tokens total_output_tokens_retokenized \
            request_throughput input_throughput output_throughput total_throughput mean_e2e_latency_ms \
            median_e2e_latency_ms std_e2e_latency_ms p90_e2e_latency_ms p95_e2e_latency_ms p99_e2e_latency_ms \
            mean_ttft_ms median_ttft_ms std_ttft_ms p90_ttft_ms p95_ttft_ms p99_ttft_ms mean_tpot_ms \
            median_tpot_ms std_tpot_ms p90_tpot_ms p95_tpot_ms p99_tpot_ms mean_itl_ms median_itl_ms std_itl_ms \
            p90_itl_ms p95_itl_ms p99_itl_ms concurrency accept_length max_output_tokens_per_s \
            max_concurrent_requests";
        let keys: Vec<&str> = record.0.keys().map(String::as_str).collect();
        let wanted: Vec<&str> = sglangs.split_whitespace().collect();
        assert_eq!(keys[..wanted.len()], wanted, "SGLang's keys come first, in its order");
    }

    #[test]
    fn files_are_named_as_sglangs_client_names_them() {
        let args = crate::serving::tests_args(&["--dataset-name", "random", "--random-input-len", "1000"]);
        let name = default_path("sglang", &args.dataset, 10).display().to_string();
        assert!(name.starts_with("sglang_") && name.ends_with("_10_1000_1024.jsonl"), "{name}");
        let args = crate::serving::tests_args(&["--dataset-name", "generated-shared-prefix"]);
        let name = default_path("vllm", &args.dataset, 7).display().to_string();
        assert!(name.ends_with("_7_generated-shared-prefix.jsonl"), "{name}");
    }
}
