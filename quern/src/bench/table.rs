//! [`BenchTable`]: what was measured, a row at a time, against what the machine allows.

use std::path::Path;

use quern_bench::{
    BenchError, output,
    report::{Chart, Page, Scale, Series},
    statistics::percentile,
};
use quern_model::Work;
use serde::Serialize;

use crate::{cli::bench::OutputArgs, roofline::Roofline};

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub name: String,
    /// Seconds, half of the times below.
    pub median_s: f64,
    /// A tenth of the times below.
    pub p10_s: f64,
    /// A tenth above.
    pub p90_s: f64,
    /// Times measured.
    pub count: usize,
    /// Tokens a second, where it makes any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// Bytes read a second.
    pub bytes_per_s: f64,
    /// Operations a second.
    pub ops_per_s: f64,
    /// The least time that the machine allows, as a fraction of the median.
    pub of_peak: f64,
}

/// Rows so far.
pub struct BenchTable {
    title: String,
    output: OutputArgs,
    rows: Vec<Row>,
}

impl BenchTable {
    /// Begin with `title`, the lines about the machine, and the header.
    ///
    /// # Errors
    /// If they cannot be printed.
    pub fn begin(title: String, lines: &[String], output: OutputArgs) -> Result<Self, BenchError> {
        if !output.json {
            lines.iter().try_for_each(output::line)?;
            output::line(format_args!(
                "{:44} {:>10} {:>23} {:>8} {:>7} {:>8} {:>7}",
                "work", "median", "p10 – p90", "tok/s", "GB/s", "GFLOP/s", "of peak"
            ))?;
        }
        Ok(Self { title, output, rows: Vec::new() })
    }

    /// Add what took `seconds`, each time doing `work` and making `tokens` tokens.
    ///
    /// # Errors
    /// If the row cannot be printed.
    ///
    /// # Panics
    /// If nothing was timed.
    pub fn add(
        &mut self,
        name: String,
        tokens: Option<usize>,
        work: Work,
        mut seconds: Vec<f64>,
        roofline: Roofline,
    ) -> Result<(), BenchError> {
        seconds.sort_by(f64::total_cmp);
        let [median_s, p10_s, p90_s] = [50.0, 10.0, 90.0].map(|percent| percentile(&seconds, percent));
        let row = Row {
            name,
            median_s,
            p10_s,
            p90_s,
            count: seconds.len(),
            tokens_per_s: tokens.map(|tokens| tokens as f64 / median_s),
            bytes_per_s: work.bytes / median_s,
            ops_per_s: work.ops / median_s,
            of_peak: roofline.least_s(work) / median_s,
        };
        match self.output.json {
            true => output::line(serde_json::to_string(&row).expect("a row is plain data"))?,
            false => output::line(row.line())?,
        }
        self.rows.push(row);
        Ok(())
    }

    /// Write the page, if one was asked for. `charts` are lines through the points (x, tokens a second).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&self, charts: &[(&str, &str, Vec<Series>)]) -> Result<(), BenchError> {
        self.output.report.as_deref().map_or(Ok(()), |path| self.write(path, charts))
    }

    fn write(&self, path: &Path, charts: &[(&str, &str, Vec<Series>)]) -> Result<(), BenchError> {
        let mut page = Page::new(&self.title);
        page.heading("Figures");
        let header = ["", "median", "p10", "p90", "tok/s", "GB/s", "GFLOP/s", "of peak"];
        let rows = self.rows.iter().map(|row| {
            let times = [row.median_s, row.p10_s, row.p90_s].map(duration);
            let rest = [number(row.tokens_per_s), giga(row.bytes_per_s), giga(row.ops_per_s), percent(row.of_peak)];
            [row.name.clone()].into_iter().chain(times).chain(rest).collect()
        });
        page.table(&header, rows);
        let drawn = charts.iter().filter(|(_, _, series)| series.iter().any(|each| each.points.len() > 1));
        page.charts(drawn.map(|(title, x_label, series)| {
            let (x_scale, y_scale) = (Scale::Log, Scale::Linear);
            Chart { title, x_label, y_label: "tok/s", x_scale, y_scale, series: series.clone() }.svg()
        }));
        page.write(path)
    }

    /// The rows so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

impl Row {
    fn line(&self) -> String {
        format!(
            "{:44} {:>10} {:>23} {:>8} {:>7} {:>8} {:>7}",
            self.name,
            duration(self.median_s),
            format!("{} – {}", duration(self.p10_s), duration(self.p90_s)),
            number(self.tokens_per_s),
            giga(self.bytes_per_s),
            giga(self.ops_per_s),
            percent(self.of_peak),
        )
    }
}

/// `18.2 µs`, `18.2 ms`, `18.2 s`.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.1} µs", s * 1e6),
        s if s < 10.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.1}"))
}

fn giga(value: f64) -> String {
    format!("{:.1}", value / 1e9)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_much_of_the_machine_was_used() {
        let roofline = Roofline { read_bytes_per_s: 10e9, ops_per_s: 100e9 };
        let mut table = BenchTable::begin("Title".into(), &[], OutputArgs::default()).unwrap();
        let work = Work { bytes: 1e9, ops: 2e9 };
        table.add("decode".into(), Some(8), work, vec![0.3, 0.2, 0.1], roofline).unwrap();
        let row = &table.rows()[0];
        assert_eq!((row.median_s, row.count, row.tokens_per_s), (0.2, 3, Some(40.0)));
        assert!((row.of_peak - 0.5).abs() < 1e-12, "a tenth of a second is the least");
        assert!(row.line().contains("200.0 ms") && row.line().ends_with("50 %"), "{}", row.line());
    }

    #[test]
    fn durations_have_a_fitting_unit() {
        assert_eq!([0.000_018_24, 0.0182, 9.5, 18.24].map(duration), ["18.2 µs", "18.2 ms", "9500.0 ms", "18.2 s"]);
    }
}
