//! [`Table`]: what was tried, how much, and what came of it.

use std::fmt;

/// What came of an experiment.
pub(crate) struct Row {
    /// How much was tried.
    pub(crate) amount: String,
    /// The figures.
    pub(crate) figures: String,
    /// What must not have happened and did.
    pub(crate) failures: Vec<String>,
    /// Why it could not be tried here.
    pub(crate) skipped: Option<String>,
}

impl Row {
    pub(crate) fn new(amount: String, figures: String, failures: Vec<String>) -> Self {
        Self { amount, figures, failures, skipped: None }
    }

    pub(crate) fn skipped(why: &str) -> Self {
        Self { amount: String::new(), figures: String::new(), failures: Vec::new(), skipped: Some(why.to_owned()) }
    }

    pub(crate) fn words(&self) -> String {
        match (&self.skipped, self.failures.as_slice()) {
            (Some(why), _) => format!("SKIPPED: {why}"),
            (None, []) => format!("held; {}: {}", self.amount, self.figures),
            (None, failures) => {
                let shown: Vec<_> = failures.iter().take(3).map(String::as_str).collect();
                format!("FAILED {} times; {}: {}; {}", failures.len(), self.amount, self.figures, shown.join("; "))
            }
        }
    }
}

/// All rows.
#[derive(Default)]
pub(crate) struct Table(Vec<(&'static str, Row)>);

impl Table {
    pub(crate) fn push(&mut self, name: &'static str, row: Row) {
        self.0.push((name, row));
    }

    /// Whether no experiment failed.
    pub(crate) fn has_held(&self) -> bool {
        self.0.iter().all(|(_, row)| row.failures.is_empty())
    }
}

/// In Markdown.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| What | How much | Result |\n|---|---|---|")?;
        for (name, row) in &self.0 {
            let result = match (&row.skipped, row.failures.len()) {
                (Some(why), _) => format!("not tried: {why}"),
                (None, 0) => format!("held. {}", row.figures),
                (None, _) => row.words(),
            };
            writeln!(f, "| {name} | {} | {result} |", row.amount)?;
        }
        Ok(())
    }
}

/// The share `part` of sorted numbers, by the nearest rank.
pub(crate) fn percentile(numbers: &mut [f64], part: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let rank = (numbers.len() as f64 * part).ceil() as usize;
    numbers.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

/// `p50 / p99 / max` of times in seconds, as milliseconds.
pub(crate) fn spread_ms(seconds: &mut [f64]) -> String {
    let [median, high, most] = [0.5, 0.99, 1.0].map(|part| percentile(seconds, part) * 1000.0);
    format!("p50 {median:.1}, p99 {high:.1}, max {most:.1} ms")
}
