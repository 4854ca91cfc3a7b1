//! [`ResultsFile`]: every transcript of an evaluation, one a line, so that a broken run goes on where it was.

use std::{
    collections::HashMap,
    fs,
    io::{Seek, Write},
    path::Path,
};

use serde_json::Value;

use super::question::Transcript;
use crate::error::BenchError;

/// First a line that says what is evaluated, then a line for each question, then one with the summary.
pub struct ResultsFile {
    file: fs::File,
    path: std::path::PathBuf,
    /// Transcripts of earlier sessions that were broken off.
    pub earlier: HashMap<String, Transcript>,
    /// How many such sessions there were.
    pub session: usize,
}

impl ResultsFile {
    /// Open `path` for the evaluation that `header` describes.
    ///
    /// A file of the same evaluation without a summary is continued; a complete one is begun anew, and so is any
    /// if `fresh`.
    ///
    /// # Errors
    /// If the file holds the beginnings of something else, or cannot be written.
    pub fn open(path: &Path, header: &Value, fresh: bool) -> Result<Self, BenchError> {
        let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(BenchError::file(path))?;
        let text = fs::read(path).map_err(BenchError::file(path))?;
        let text = String::from_utf8_lossy(&text);
        let mut results = Self { file, path: path.to_owned(), earlier: HashMap::new(), session: 0 };
        if fresh || text.is_empty() || !results.take_up(&text, header)? {
            results.earlier.clear();
            results.session = 0;
            results.truncate(0)?;
            results.line(header)?;
        }
        Ok(results)
    }

    /// Read what earlier sessions left. False if there is nothing to go on with.
    fn take_up(&mut self, text: &str, header: &Value) -> Result<bool, BenchError> {
        // A line that was cut off in the middle is forgotten.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines = text[..whole].lines();
        let Some(first) = lines.next() else { return Ok(false) };
        let complete = text[..whole].lines().next_back().is_some_and(|last| last.starts_with("{\"summary\":"));
        if complete {
            return Ok(false);
        }
        if serde_json::from_str::<Value>(first).ok().as_ref() != Some(header) {
            let problem =
                "holds the beginnings of another evaluation; choose another --output, or --fresh to lose them";
            return Err(BenchError::Content { path: self.path.clone(), problem: problem.into() });
        }
        for line in lines {
            let transcript: Transcript = serde_json::from_str(line).map_err(BenchError::content(&self.path))?;
            self.session = self.session.max(transcript.session + 1);
            self.earlier.insert(transcript.id.clone(), transcript);
        }
        self.truncate(whole as u64)?;
        Ok(true)
    }

    fn truncate(&mut self, length: u64) -> Result<(), BenchError> {
        let moved = self.file.set_len(length).and_then(|()| self.file.seek(std::io::SeekFrom::End(0)));
        moved.map(drop).map_err(BenchError::file(&self.path))
    }

    /// Add a question.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(&mut self, transcript: &Transcript) -> Result<(), BenchError> {
        self.line(&serde_json::to_value(transcript).expect("a transcript is plain data"))
    }

    /// Say that all is done.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn complete(&mut self, summary: &Value) -> Result<(), BenchError> {
        self.line(&serde_json::json!({"summary": summary}))
    }

    fn line(&mut self, value: &Value) -> Result<(), BenchError> {
        // One write, so that a break cuts at most one line.
        self.file.write_all(format!("{value}\n").as_bytes()).map_err(BenchError::file(&self.path))
    }

    /// Seconds that earlier sessions spent until their last answer.
    pub fn earlier_s(&self) -> f64 {
        let mut sessions = vec![0.0_f64; self.session];
        for transcript in self.earlier.values() {
            let spent = &mut sessions[transcript.session];
            *spent = spent.max(transcript.at_s);
        }
        sessions.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eval::question::Verdict;

    fn transcript(id: &str, session: usize, at_s: f64) -> Transcript {
        Transcript {
            id: id.into(),
            body: json!({}),
            wanted: json!(1),
            answers: Vec::new(),
            verdict: Verdict::single(true, Some(json!("1"))),
            seconds: 1.0,
            at_s,
            session,
        }
    }

    #[test]
    fn a_broken_run_goes_on_and_a_complete_one_begins_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results.jsonl");
        let header = json!({"evaluation": "x"});
        let mut results = ResultsFile::open(&path, &header, false).expect("opened");
        results.add(&transcript("a", 0, 2.0)).expect("added");
        results.add(&transcript("b", 0, 3.0)).expect("added");
        drop(results);
        // The power fails in the middle of a line.
        let text = fs::read_to_string(&path).expect("read");
        fs::write(&path, format!("{text}{{\"id\":\"c\",\"bo")).expect("written");

        let mut results = ResultsFile::open(&path, &header, false).expect("opened");
        assert_eq!((results.earlier.len(), results.session, results.earlier_s()), (2, 1, 3.0));
        results.add(&transcript("c", 1, 5.0)).expect("added");
        drop(results);
        let mut results = ResultsFile::open(&path, &header, false).expect("opened");
        assert_eq!((results.earlier.len(), results.session, results.earlier_s()), (3, 2, 8.0));
        results.complete(&json!({"accuracy": 1.0})).expect("completed");
        drop(results);
        let results = ResultsFile::open(&path, &header, false).expect("opened");
        assert!(results.earlier.is_empty(), "a complete run is not continued");
    }

    #[test]
    fn another_evaluations_beginnings_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("results.jsonl");
        ResultsFile::open(&path, &json!({"model": "a"}), false).expect("opened");
        let other = json!({"model": "b"});
        let error = ResultsFile::open(&path, &other, false).err().expect("refused").to_string();
        assert!(error.contains("--fresh"), "{error}");
        ResultsFile::open(&path, &other, true).expect("opened");
    }
}
