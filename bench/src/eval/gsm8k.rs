//! GSM8K in both of SGLang's readings: `few_shot_gsm8k`, which continues a text, and run_eval's, which chats.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use clap::Args;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    RunEvalArgs, TargetArgs,
    exam::{Target, sit},
    question::{Answer, Evaluation, Question, Verdict, chat_body},
};
use crate::{
    data_file::{GSM8K, read_text},
    error::BenchError,
    output,
};

/// What was typed after `quern eval gsm8k`.
#[derive(Args, Clone, Debug)]
pub struct Gsm8kArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub target: TargetArgs,
    /// Examples before each question
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub num_shots: usize,
    /// GSM8K's test file [default: fetched once]
    #[arg(long, value_name = "FILE")]
    pub data_path: Option<PathBuf>,
    /// Questions, from the first on
    #[arg(long, default_value_t = 200, value_name = "COUNT")]
    pub num_questions: usize,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub max_new_tokens: usize,
    /// 0 for greedy
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Ask /v1/completions, for servers without /generate
    #[arg(long)]
    pub completions: bool,
}

/// A line of the test file.
#[derive(Clone, Debug, Deserialize)]
pub struct Gsm8kLine {
    /// A word problem.
    pub question: String,
    /// Its solution, the number after `####` at the end.
    pub answer: String,
}

/// Lines of the test file; those that begin with `#` are passed over.
///
/// # Errors
/// If it cannot be had or read.
pub async fn lines(typed: Option<&PathBuf>) -> Result<Vec<Gsm8kLine>, BenchError> {
    let path = match typed {
        Some(path) => path.clone(),
        None => GSM8K.fetched().await?,
    };
    let text = read_text(&path)?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).map_err(BenchError::content(&path))).collect()
}

/// A question to be answered.
fn open_question(line: &Gsm8kLine) -> String {
    format!("Question: {}\nAnswer:", line.question)
}

/// The first `count` lines, answered.
pub fn examples(lines: &[Gsm8kLine], count: usize) -> String {
    lines.iter().take(count).map(|line| format!("{} {}\n\n", open_question(line), line.answer)).collect()
}

/// `few_shot_gsm8k`: a text of examples and a question, continued.
struct FewShot {
    settings: Value,
    questions: Vec<Question>,
}

/// Ends an answer.
const STOPS: [&str; 3] = ["Question", "Assistant:", "<|separator|>"];

impl FewShot {
    fn new(args: &Gsm8kArgs, model: &str, lines: &[Gsm8kLine]) -> Result<Self, BenchError> {
        let examples = examples(lines, args.num_shots);
        // The examples are among the questions, as in the original.
        let questions = lines.iter().take(args.num_questions).enumerate().map(|(index, line)| {
            let text = examples.clone() + &open_question(line);
            let wanted = last_integer(&line.answer).ok_or_else(|| {
                BenchError::Arguments(format!("line {} of the test file ends without a number", index + 1))
            })?;
            let (path, body) = if args.completions {
                let body = json!({"model": model, "prompt": text, "max_tokens": args.max_new_tokens, "stop": STOPS,
                    "temperature": args.temperature});
                ("/v1/completions", body)
            } else {
                ("/generate", json!({"text": text, "sampling_params": sampling(args)}))
            };
            Ok(Question { id: format!("gsm8k-{index}"), path, body, samples: 1, wanted: json!(wanted) })
        });
        Ok(Self {
            settings: json!({"num_shots": args.num_shots}),
            questions: questions.collect::<Result<_, BenchError>>()?,
        })
    }
}

/// What SGLang's frontend sends, to the last default.
fn sampling(args: &Gsm8kArgs) -> Value {
    json!({
        "skip_special_tokens": true,
        "spaces_between_special_tokens": true,
        "max_new_tokens": args.max_new_tokens,
        "min_new_tokens": 0,
        "n": 1,
        "stop": STOPS,
        "stop_token_ids": [],
        "stop_regex": [],
        "temperature": args.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "ignore_eos": false,
        "regex": null,
        "json_schema": null,
    })
}

impl Evaluation for FewShot {
    fn name(&self) -> &'static str {
        "gsm8k"
    }

    fn settings(&self) -> Value {
        self.settings.clone()
    }

    fn questions(&self) -> &[Question] {
        &self.questions
    }

    fn judge(&self, question: &Question, answers: &[Answer]) -> Verdict {
        let found = last_integer(&answers[0].text);
        Verdict::single(found.as_deref() == question.wanted.as_str(), found.map(Value::from))
    }
}

/// The last run of digits, commas taken out, as a number without leading zeros.
///
/// No sign and no decimals: `3.50` is 50. A run that is no literal of Python (`007`, or digits of other
/// scripts) is no number: the original's rule, by which some right answers are invalid.
fn last_integer(text: &str) -> Option<String> {
    let text = text.replace(',', "");
    let digits = Regex::new(r"\d+").expect("the pattern is right");
    let last = digits.find_iter(&text).last()?.as_str();
    if !last.is_ascii() {
        return None;
    }
    match last.trim_start_matches('0') {
        "" => Some("0".into()),
        number if number.len() == last.len() => Some(number.into()),
        _ => None,
    }
}

/// Ask GSM8K as `sglang.test.few_shot_gsm8k` does, and print its lines.
///
/// # Errors
/// If the server or the test file cannot be had.
pub async fn run(args: &Gsm8kArgs) -> Result<ExitCode, BenchError> {
    let lines = lines(args.data_path.as_ref()).await?;
    let target = Target::new(&args.target).await?;
    let evaluation = FewShot::new(args, &target.model, &lines)?;
    let began = Instant::now();
    if !args.completions && args.num_questions > 1 {
        // The examples are put into the server's cache first; within the time, as in the original.
        let body = json!({"text": examples(&lines, args.num_shots), "sampling_params": {"max_new_tokens": 0}});
        target.endpoint.post("/generate", &body).await?;
    }
    let outcome = sit(&target, Arc::new(evaluation), &args.target, began).await?;
    super::print_few_shot(&outcome)?;
    Ok(outcome.conclude())
}

/// run_eval's GSM8K: the same prompt as a chat message, the examples not among the questions.
struct Chatted {
    settings: Value,
    questions: Vec<Question>,
}

impl Chatted {
    fn new(args: &RunEvalArgs, model: &str, lines: &[Gsm8kLine]) -> Self {
        let shots = args.num_shots;
        let examples = examples(lines, shots);
        let count = args.num_examples.unwrap_or(usize::MAX);
        let questions = lines.iter().skip(shots).take(count).enumerate().map(|(index, line)| Question {
            id: format!("gsm8k-chat-{index}"),
            path: "/v1/chat/completions",
            body: chat_body(model, &(examples.clone() + &open_question(line)), &args.sampling()),
            samples: 1,
            wanted: json!(last_number(&line.answer)),
        });
        Self { settings: json!({"num_shots": shots}), questions: questions.collect() }
    }
}

impl Evaluation for Chatted {
    fn name(&self) -> &'static str {
        "gsm8k-chat"
    }

    fn settings(&self) -> Value {
        self.settings.clone()
    }

    fn questions(&self) -> &[Question] {
        &self.questions
    }

    fn judge(&self, question: &Question, answers: &[Answer]) -> Verdict {
        let found = last_number(&answers[0].text);
        Verdict::single(found.is_some() && found == question.wanted.as_f64(), found.map(|number| json!(number)))
    }
}

/// The last number, commas taken out, if it is a literal of Python.
fn last_number(text: &str) -> Option<f64> {
    let text = text.replace(',', "");
    let numbers = Regex::new(r"-?\d+\.?\d*").expect("the pattern is right");
    let last = numbers.find_iter(&text).last()?.as_str();
    let digits = last.trim_start_matches('-');
    // A decimal may begin with zeros, an integer may not unless it is nothing else.
    let padded =
        !digits.contains('.') && digits.len() > 1 && digits.starts_with('0') && !digits.trim_matches('0').is_empty();
    if padded || !last.is_ascii() { None } else { last.parse().ok() }
}

/// Ask GSM8K as run_eval does, and print its lines.
///
/// # Errors
/// If the server or the test file cannot be had.
pub async fn run_chatted(args: &RunEvalArgs) -> Result<ExitCode, BenchError> {
    let lines = lines(args.data_path.as_ref()).await?;
    let target = Target::new(&args.target).await?;
    let began = Instant::now();
    let evaluation = Chatted::new(args, &target.model, &lines);
    let outcome = sit(&target, Arc::new(evaluation), &args.target, began).await?;
    super::print_run_eval(&outcome)?;
    output::line(outcome.interval())?;
    Ok(outcome.conclude())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use sha2::{Digest, Sha256};

    use super::*;

    fn line(question: &str, answer: &str) -> Gsm8kLine {
        Gsm8kLine { question: question.into(), answer: answer.into() }
    }

    #[test]
    fn prompts_are_built_as_in_the_original() {
        let lines = [line("A?", "x\n#### 1"), line("B?", "y\n#### 2"), line("C?", "z\n#### 3")];
        let text = examples(&lines, 2) + &open_question(&lines[2]);
        assert_eq!(text, "Question: A?\nAnswer: x\n#### 1\n\nQuestion: B?\nAnswer: y\n#### 2\n\nQuestion: C?\nAnswer:");
    }

    /// Hashes of what the functions of `sglang/test/few_shot_gsm8k.py` 0.5.8 make of GSM8K's test file (sha256
    /// 3730d312…39d14): the first 200 prompts, each followed by a zero byte, and all labels, one a line.
    #[tokio::test]
    async fn prompts_and_labels_of_the_published_file_are_the_originals() {
        let Some(path) = crate::data_file::tests::fixtures("gsm8k_test.jsonl") else { return };
        let lines = lines(Some(&path)).await.expect("the file is right");
        assert_eq!(lines.len(), 1319);
        let args = Gsm8kCli::parse_from(["gsm8k"]).args;
        let evaluation = FewShot::new(&args, "m", &lines).expect("every line has a label");
        let mut prompts = Sha256::new();
        for question in evaluation.questions() {
            prompts.update(question.body["text"].as_str().expect("text"));
            prompts.update([0]);
        }
        assert_eq!(hex(prompts), "932739c1b129a62fa1abffd1bd4166038ca012101c7a515f0aaf10753a6fcbd1");
        let mut labels = Sha256::new();
        for line in &lines {
            labels.update(last_integer(&line.answer).expect("a label"));
            labels.update("\n");
        }
        assert_eq!(hex(labels), "e8a841162b8d4fece360ceacb138e89c182bf81e784ab9424f8b6fec74ed16ae");
    }

    #[derive(clap::Parser)]
    struct Gsm8kCli {
        #[command(flatten)]
        args: Gsm8kArgs,
    }

    fn hex(hash: Sha256) -> String {
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn answers_are_read_by_the_originals_rule() {
        for (text, wanted) in [
            ("She makes 9 * 2 = $<<9*2=18>>18.\n#### 18", Some("18")),
            ("1,234,567 in all", Some("1234567")),
            ("it is 3.50", Some("50")),
            ("-7", Some("7")),
            ("agent 007", None),
            ("000", Some("0")),
            ("٣", None),
            ("none at all", None),
        ] {
            assert_eq!(last_integer(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn chats_are_read_by_run_evals_rule() {
        for (text, wanted) in [
            ("#### 18", Some(18.0)),
            ("18.00.", Some(18.0)),
            ("it is 3.", Some(3.0)),
            ("-7", Some(-7.0)),
            ("007", None),
            ("007.5", Some(7.5)),
            ("00", Some(0.0)),
            ("none", None),
        ] {
            assert_eq!(last_number(text), wanted, "{text}");
        }
    }
}
