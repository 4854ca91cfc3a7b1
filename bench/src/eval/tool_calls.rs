//! `tool-calls`: does the model call the right tools with the right arguments, and the server understand it?

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    TargetArgs,
    exam::{Target, sit},
    question::{Answer, Evaluation, Question, Verdict},
};
use crate::{data_file::read_text, error::BenchError};

/// What was typed after `quern eval tool-calls`.
#[derive(Args, Clone, Debug)]
pub struct ToolCallsArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub target: TargetArgs,
    /// Lines of {"tools":[…],"messages":[…],"want":[{"name":…,"arguments":{…}}]}; an empty `want` is no call
    #[arg(long, value_name = "FILE.jsonl")]
    pub data_path: PathBuf,
    /// Lines to ask, from the first on [default: all]
    #[arg(long, value_name = "COUNT")]
    pub num_examples: Option<usize>,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    pub max_tokens: usize,
}

#[derive(Deserialize)]
struct CaseLine {
    #[serde(default)]
    tools: Vec<Value>,
    messages: Vec<Value>,
    want: Vec<Value>,
}

/// Tool calls, compared with those wanted: as many, in the same order, names and arguments equal as JSON.
pub(super) struct ToolCallEvaluation {
    name: String,
    questions: Vec<Question>,
}

impl ToolCallEvaluation {
    pub(super) fn read(
        name: &str,
        path: &Path,
        model: &str,
        max_tokens: usize,
        count: Option<usize>,
    ) -> Result<Self, BenchError> {
        let text = read_text(path)?;
        let lines = text.lines().filter(|line| !line.trim().is_empty()).take(count.unwrap_or(usize::MAX));
        let questions = lines.enumerate().map(|(index, line)| {
            let line: CaseLine = serde_json::from_str(line).map_err(BenchError::content(path))?;
            let mut body =
                json!({"model": model, "messages": line.messages, "temperature": 0, "max_tokens": max_tokens});
            if !line.tools.is_empty() {
                body["tools"] = json!(line.tools);
            }
            let id = format!("{name}-{index}");
            Ok(Question { id, path: "/v1/chat/completions", body, samples: 1, wanted: json!(line.want) })
        });
        Ok(Self { name: name.to_owned(), questions: questions.collect::<Result<_, BenchError>>()? })
    }
}

impl Evaluation for ToolCallEvaluation {
    fn name(&self) -> &str {
        &self.name
    }

    fn settings(&self) -> Value {
        json!({})
    }

    fn questions(&self) -> &[Question] {
        &self.questions
    }

    fn judge(&self, question: &Question, answers: &[Answer]) -> Verdict {
        let found: Option<Vec<Value>> = answers[0].tool_calls.iter().map(plain_call).collect();
        let wanted = question.wanted.as_array().expect("read as a list");
        let is_right = found.as_ref().is_some_and(|found| {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(found, wanted)| {
                    let nothing = json!({});
                    let arguments = wanted.get("arguments").unwrap_or(&nothing);
                    found.get("name") == wanted.get("name") && equal(&found["arguments"], arguments)
                })
        });
        Verdict::single(is_right, found.map(Value::from))
    }
}

/// A call in OpenAI's form as name and arguments; none if the arguments are no JSON.
fn plain_call(call: &Value) -> Option<Value> {
    let function = call.get("function")?;
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => serde_json::from_str(text).ok()?,
        Some(other) => other.clone(),
        None => json!({}),
    };
    Some(json!({"name": function.get("name")?, "arguments": arguments}))
}

/// Whether two values of JSON mean the same: members in any order, 1 and 1.0 and 1e0 the same number.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64().is_some_and(|x| Some(x) == y.as_f64()),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => members_equal(x, y),
        _ => a == b,
    }
}

fn members_equal(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    a.len() == b.len() && a.iter().all(|(key, x)| b.get(key).is_some_and(|y| equal(x, y)))
}

/// Ask for the calls and print how many were right.
///
/// # Errors
/// If the server or the file cannot be had.
pub async fn run(args: &ToolCallsArgs) -> Result<ExitCode, BenchError> {
    let target = Target::new(&args.target).await?;
    let evaluation =
        ToolCallEvaluation::read("tool-calls", &args.data_path, &target.model, args.max_tokens, args.num_examples)?;
    let outcome = sit(&target, Arc::new(evaluation), &args.target, Instant::now()).await?;
    super::print_few_shot(&outcome)?;
    Ok(outcome.conclude())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(want: Value, calls: Value) -> (f64, bool) {
        let question =
            Question { id: "x".into(), path: "/v1/chat/completions", body: json!({}), samples: 1, wanted: want };
        let tool_calls = calls.as_array().cloned().expect("a list");
        let evaluation = ToolCallEvaluation { name: "tool-calls".into(), questions: Vec::new() };
        let verdict = evaluation.judge(&question, &[Answer { tool_calls, ..Answer::default() }]);
        (verdict.score, verdict.valid)
    }

    fn call(name: &str, arguments: &str) -> Value {
        json!({"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}})
    }

    #[test]
    fn calls_are_compared_as_json() {
        let want = json!([{"name": "f", "arguments": {"a": 1, "b": [true, null], "c": "x"}}]);
        let same = r#"{"c":"x","a":1.0,"b":[true,null]}"#;
        assert_eq!(judged(want.clone(), json!([call("f", same)])), (1.0, true));
        assert_eq!(judged(want.clone(), json!([call("g", same)])), (0.0, true));
        assert_eq!(judged(want.clone(), json!([call("f", r#"{"a":"1","b":[true,null],"c":"x"}"#)])), (0.0, true));
        assert_eq!(judged(want.clone(), json!([call("f", same), call("f", same)])), (0.0, true));
        assert_eq!(judged(want.clone(), json!([call("f", "{\"a\":")])), (0.0, false));
        assert_eq!(judged(want, json!([])), (0.0, true));
        assert_eq!(judged(json!([]), json!([])), (1.0, true));
        assert_eq!(judged(json!([]), json!([call("f", "{}")])), (0.0, true));
    }
}
