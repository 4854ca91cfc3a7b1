//! `demo`: what Quern's own small model was taught, on sets that it has not seen.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use clap::Args;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    TargetArgs,
    exam::{Target, sit},
    question::{Answer, Evaluation, Question, Verdict},
    tool_calls::ToolCallEvaluation,
};
use crate::{data_file::read_text, error::BenchError, output};

/// What was typed after `quern eval demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub target: TargetArgs,
    /// The folder of tools.jsonl, arithmetic.jsonl, fim.jsonl, structured.jsonl and tool_results.jsonl; those that are
    /// missing are not asked
    #[arg(long, default_value = "models/quern-demo/heldout", value_name = "DIR")]
    pub data_path: PathBuf,
    /// Lines of each to ask, from the first on [default: all]
    #[arg(long, value_name = "COUNT")]
    pub num_examples: Option<usize>,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub max_tokens: usize,
}

#[derive(Deserialize)]
struct ArithmeticLine {
    messages: Vec<Value>,
    want: String,
}

#[derive(Deserialize)]
struct FimLine {
    prefix: String,
    suffix: String,
    want: String,
}

#[derive(Deserialize)]
struct StructuredLine {
    messages: Vec<Value>,
    response_format: Value,
}

#[derive(Deserialize)]
struct ResultLine {
    tools: Vec<Value>,
    messages: Vec<Value>,
    want: String,
}

/// A set of questions and the function that finds the answer in a text.
struct Plain {
    name: &'static str,
    questions: Vec<Question>,
    found: fn(&str) -> Option<String>,
}

impl Evaluation for Plain {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> Value {
        json!({})
    }

    fn questions(&self) -> &[Question] {
        &self.questions
    }

    fn judge(&self, question: &Question, answers: &[Answer]) -> Verdict {
        let found = (self.found)(&answers[0].text);
        Verdict::single(found.as_deref() == question.wanted.as_str(), found.map(Value::from))
    }
}

/// JSON answers: right is one that ended by itself and is valid under its schema, which a library judges and not the grammar
/// that made the answer.
struct Structured {
    questions: Vec<Question>,
}

impl Structured {
    fn read(path: &Path, model: &str, args: &DemoArgs) -> Result<Self, BenchError> {
        let questions =
            read::<StructuredLine>(path, args.num_examples)?.into_iter().enumerate().map(|(index, line)| {
                let schema = line.response_format["json_schema"].get("schema").cloned();
                let schema = schema.unwrap_or_else(|| json!({"type": "object"}));
                jsonschema::validator_for(&schema)
                    .map_err(|cause| BenchError::Content { path: path.to_owned(), problem: cause.to_string() })?;
                Ok(Question {
                    id: format!("structured-{index}"),
                    path: "/v1/chat/completions",
                    body: json!({"model": model, "messages": line.messages, "response_format": line.response_format,
                    "temperature": 0, "max_tokens": args.max_tokens}),
                    samples: 1,
                    wanted: schema,
                })
            });
        Ok(Self { questions: questions.collect::<Result<_, BenchError>>()? })
    }
}

impl Evaluation for Structured {
    fn name(&self) -> &'static str {
        "demo-structured"
    }

    fn settings(&self) -> Value {
        json!({})
    }

    fn questions(&self) -> &[Question] {
        &self.questions
    }

    fn judge(&self, question: &Question, answers: &[Answer]) -> Verdict {
        let found: Option<Value> = serde_json::from_str(&answers[0].text).ok();
        let is_valid = found.as_ref().is_some_and(|value| jsonschema::is_valid(&question.wanted, value));
        Verdict::single(is_valid && answers[0].finish_reason == "stop", found)
    }
}

/// Answers to results of tools: right is one that ended by itself, calls nothing, and holds the result's word or number,
/// in capitals or not.
struct ToolResults {
    questions: Vec<Question>,
}

impl ToolResults {
    fn read(path: &Path, model: &str, args: &DemoArgs) -> Result<Self, BenchError> {
        let questions =
            read::<ResultLine>(path, args.num_examples)?.into_iter().enumerate().map(|(index, line)| Question {
                id: format!("tool-results-{index}"),
                path: "/v1/chat/completions",
                body: json!({"model": model, "messages": line.messages, "tools": line.tools, "temperature": 0,
                    "max_tokens": args.max_tokens}),
                samples: 1,
                wanted: json!(line.want),
            });
        Ok(Self { questions: questions.collect() })
    }
}

impl Evaluation for ToolResults {
    fn name(&self) -> &'static str {
        "demo-tool-results"
    }

    fn settings(&self) -> Value {
        json!({})
    }

    fn questions(&self) -> &[Question] {
        &self.questions
    }

    fn judge(&self, question: &Question, answers: &[Answer]) -> Verdict {
        let answer = &answers[0];
        let text = answer.text.to_lowercase();
        let holds = question.wanted.as_str().is_some_and(|wanted| text.contains(&wanted.to_lowercase()));
        let found = (answer.tool_calls.is_empty() && !answer.text.is_empty()).then(|| json!(answer.text));
        Verdict::single(holds && found.is_some() && answer.finish_reason == "stop", found)
    }
}

/// The word after the last `#### `, commas and a full stop taken off.
fn after_hashes(text: &str) -> Option<String> {
    let (_, rest) = text.rsplit_once("#### ")?;
    let word = rest.split_whitespace().next()?.replace(',', "");
    Some(word.trim_end_matches('.').to_owned())
}

/// All of it; blanks at the end are no part of a filling.
fn filling(text: &str) -> Option<String> {
    Some(text.trim_end().to_owned())
}

fn read<T: DeserializeOwned>(path: &Path, count: Option<usize>) -> Result<Vec<T>, BenchError> {
    let text = read_text(path)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty()).take(count.unwrap_or(usize::MAX));
    lines.map(|line| serde_json::from_str(line).map_err(BenchError::content(path))).collect()
}

fn arithmetic(path: &Path, model: &str, args: &DemoArgs) -> Result<Plain, BenchError> {
    let questions =
        read::<ArithmeticLine>(path, args.num_examples)?.into_iter().enumerate().map(|(index, line)| Question {
            id: format!("arithmetic-{index}"),
            path: "/v1/chat/completions",
            body: json!({"model": model, "messages": line.messages, "temperature": 0, "max_tokens": args.max_tokens}),
            samples: 1,
            wanted: json!(line.want),
        });
    Ok(Plain { name: "demo-arithmetic", questions: questions.collect(), found: after_hashes })
}

fn fim(path: &Path, model: &str, args: &DemoArgs) -> Result<Plain, BenchError> {
    let questions = read::<FimLine>(path, args.num_examples)?.into_iter().enumerate().map(|(index, line)| Question {
        id: format!("fim-{index}"),
        path: "/v1/completions",
        body: json!({"model": model, "prompt": line.prefix, "suffix": line.suffix, "temperature": 0,
            "max_tokens": args.max_tokens}),
        samples: 1,
        wanted: json!(line.want.trim_end()),
    });
    Ok(Plain { name: "demo-fim", questions: questions.collect(), found: filling })
}

/// Ask the sets one after the other and print how much of each was right.
///
/// # Errors
/// If the server or all sets are missing.
pub async fn run(args: &DemoArgs) -> Result<ExitCode, BenchError> {
    let target = Target::new(&args.target).await?;
    let model = target.model.as_str();
    let mut sets: Vec<(&str, Arc<dyn Evaluation>)> = Vec::new();
    let present = |name: &str| Some(args.data_path.join(name)).filter(|path| path.is_file());
    if let Some(path) = present("tools.jsonl") {
        sets.push((
            "tools",
            Arc::new(ToolCallEvaluation::read("demo-tools", &path, model, args.max_tokens, args.num_examples)?),
        ));
    }
    if let Some(path) = present("arithmetic.jsonl") {
        sets.push(("arithmetic", Arc::new(arithmetic(&path, model, args)?)));
    }
    if let Some(path) = present("fim.jsonl") {
        sets.push(("fim", Arc::new(fim(&path, model, args)?)));
    }
    if let Some(path) = present("structured.jsonl") {
        sets.push(("structured", Arc::new(Structured::read(&path, model, args)?)));
    }
    if let Some(path) = present("tool_results.jsonl") {
        sets.push(("tool_results", Arc::new(ToolResults::read(&path, model, args)?)));
    }
    if sets.is_empty() {
        let problem = "holds none of tools.jsonl, arithmetic.jsonl, fim.jsonl, structured.jsonl and tool_results.jsonl; \
                       name their folder with --data-path";
        return Err(BenchError::Content { path: args.data_path.clone(), problem: problem.into() });
    }
    let mut status = ExitCode::SUCCESS;
    for (name, set) in sets {
        let mut target_args = args.target.clone();
        // Each set has a file of its own beside the one that was named.
        target_args.output = target_args.output.map(|path| path.with_extension(format!("{name}.jsonl")));
        let outcome = sit(&target, set, &target_args, Instant::now()).await?;
        output::line(format_args!(
            "{name}: Accuracy: {:.3}  Invalid: {:.3}  Latency: {:.3} s  Output throughput: {:.3} token/s  {}",
            outcome.score(),
            outcome.invalid(),
            outcome.latency_s,
            outcome.output_throughput(),
            outcome.interval()
        ))?;
        if outcome.conclude() != ExitCode::SUCCESS {
            status = ExitCode::FAILURE;
        }
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_after_four_hashes() {
        assert_eq!(after_hashes("2 + 2 = 4\n#### 4").as_deref(), Some("4"));
        assert_eq!(after_hashes("#### 1\n#### 1,250.\nDone").as_deref(), Some("1250"));
        assert_eq!(after_hashes("#### -3").as_deref(), Some("-3"));
        assert_eq!(after_hashes("it is 4"), None);
        assert_eq!(after_hashes("#### "), None);
    }

    fn score(set: &dyn Evaluation, wanted: Value, text: &str, finish_reason: &str) -> (f64, bool) {
        let question = Question { id: "x".into(), path: "", body: json!({}), samples: 1, wanted };
        let answer = Answer { text: text.into(), finish_reason: finish_reason.into(), ..Answer::default() };
        let verdict = set.judge(&question, &[answer]);
        (verdict.score, verdict.valid)
    }

    #[test]
    fn json_is_right_where_it_is_whole_and_valid() {
        let set = Structured { questions: Vec::new() };
        let schema = json!({"type": "object", "required": ["a"]});
        assert_eq!(score(&set, schema.clone(), r#"{"a": 1}"#, "stop"), (1.0, true));
        assert_eq!(score(&set, schema.clone(), r#"{"b": 1}"#, "stop"), (0.0, true));
        assert_eq!(score(&set, schema.clone(), r#"{"a": 1}"#, "length"), (0.0, true));
        assert_eq!(score(&set, schema, r#"{"a": "#, "length"), (0.0, false));
    }

    #[test]
    fn an_answer_to_a_result_holds_it_and_ends() {
        let set = ToolResults { questions: Vec::new() };
        assert_eq!(score(&set, json!("18"), "It is 18 C.", "stop"), (1.0, true));
        assert_eq!(score(&set, json!("open"), "Open.", "stop"), (1.0, true));
        assert_eq!(score(&set, json!("18"), "It is warm.", "stop"), (0.0, true));
        assert_eq!(score(&set, json!("18"), "18 18 18 18", "length"), (0.0, true));
        assert_eq!(score(&set, json!("18"), "", "stop"), (0.0, false));
    }
}
