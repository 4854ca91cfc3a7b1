//! [`MetricsFlags`]: what is measured of requests, and under which labels.

use clap::Args;

use super::{refused::RefusedFlag, values::json_object};

/// Names and values. (Under this name clap takes it for one value and not for several.)
pub type Labels = Vec<(String, String)>;

/// What was typed about metrics.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs and metrics")]
pub struct MetricsFlags {
    /// Serve Prometheus metrics at /metrics
    #[arg(long)]
    pub enable_metrics: bool,

    /// JSON object of labels added to every metric
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = labels)]
    pub extra_metric_labels: Labels,

    /// Buckets of the time to the first token
    #[arg(long, value_name = "SECONDS", num_args = 1..)]
    pub bucket_time_to_first_token: Option<Vec<f64>>,

    /// Buckets of the time between tokens
    #[arg(long, value_name = "SECONDS", num_args = 1..)]
    pub bucket_inter_token_latency: Option<Vec<f64>>,

    /// Buckets of the time of whole requests
    #[arg(long, value_name = "SECONDS", num_args = 1..)]
    pub bucket_e2e_request_latency: Option<Vec<f64>>,
}

impl MetricsFlags {
    /// Refuse buckets that do not ascend.
    ///
    /// # Errors
    /// The first flag whose buckets do not.
    pub fn check(&self) -> Result<(), RefusedFlag> {
        for (flag, buckets) in [
            ("bucket-time-to-first-token", &self.bucket_time_to_first_token),
            ("bucket-inter-token-latency", &self.bucket_inter_token_latency),
            ("bucket-e2e-request-latency", &self.bucket_e2e_request_latency),
        ] {
            let Some(bounds) = buckets else { continue };
            let ascending = bounds.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || !bounds.iter().all(|bound| bound.is_finite() && *bound > 0.0) {
                let reason = "ascending numbers above 0 are wanted";
                return Err(RefusedFlag::new(flag, format!("{bounds:?}"), reason));
            }
        }
        Ok(())
    }
}

/// Reads a JSON object of strings under names that Prometheus takes.
fn labels(text: &str) -> Result<Labels, String> {
    let is_label = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let labels = json_object(text)?.into_iter().map(|(name, value)| match value.as_str() {
        Some(value) if is_label(&name) => Ok((name, value.to_owned())),
        Some(_) => Err(format!("`{name}`: a label's name is letters, digits and underscores")),
        None => Err(format!("`{name}`: a label's value is a string, not {value}")),
    });
    labels.collect()
}
