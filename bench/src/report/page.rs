//! [`Page`]: a page of HTML, self-contained, without a script, fit to be mailed.

use std::{fmt::Write, fs, path::Path};

use chrono::Local;

use super::chart::escape;
use crate::error::BenchError;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:1360px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:1rem}\
svg{width:100%;height:auto;font:12px system-ui,sans-serif;border:1px solid #8884;border-radius:6px}\
svg text{fill:currentColor}svg .title{font-weight:600;font-size:13px}svg .grid{stroke:#8883}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .7rem;border-bottom:1px solid #8884;text-align:right}\
th:first-child,td:first-child{text-align:left}\
.warning{border-left:4px solid #d55e00;padding:.3rem .8rem;margin:.5rem 0;background:#d55e0018}";

/// A page that grows from top to bottom.
pub struct Page(String);

impl Page {
    /// Begin with `title`, the time and the version.
    pub fn new(title: &str) -> Self {
        Self(format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head>\n\
             <body><h1>{0}</h1>\n<p>Written {1} by quern {2}.</p>\n",
            escape(title),
            Local::now().format("%Y-%m-%d %H:%M"),
            env!("CARGO_PKG_VERSION"),
        ))
    }

    /// Something that figures alone would hide.
    pub fn warning(&mut self, text: &str) {
        self.put(format_args!("<p class=\"warning\">{}</p>\n", escape(text)));
    }

    /// A part begins.
    pub fn heading(&mut self, text: &str) {
        self.put(format_args!("<h2>{}</h2>\n", escape(text)));
    }

    /// A table.
    pub fn table(&mut self, header: &[impl AsRef<str>], rows: impl IntoIterator<Item = Vec<String>>) {
        self.0.push_str("<table><tr>");
        for cell in header {
            self.put(format_args!("<th>{}</th>", escape(cell.as_ref())));
        }
        self.0.push_str("</tr>\n");
        for row in rows {
            self.0.push_str("<tr>");
            for cell in row {
                self.put(format_args!("<td>{}</td>", escape(&cell)));
            }
            self.0.push_str("</tr>\n");
        }
        self.0.push_str("</table>\n");
    }

    /// A part with drawings, if there are any.
    pub fn charts(&mut self, charts: impl IntoIterator<Item = String>) {
        let charts: Vec<String> = charts.into_iter().collect();
        if !charts.is_empty() {
            self.heading("Charts");
            self.put(format_args!("<div class=\"charts\">\n{}\n</div>\n", charts.join("\n")));
        }
    }

    /// All of it.
    pub fn html(self) -> String {
        self.0 + "</body></html>\n"
    }

    /// Write it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(self, path: &Path) -> Result<(), BenchError> {
        fs::write(path, self.html()).map_err(BenchError::file(path))
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string takes all");
    }
}
