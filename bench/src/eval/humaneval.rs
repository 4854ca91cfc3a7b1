//! HumanEval as SGLang's run_eval asks it: a function's head and docstring in, its body out, tested by running.

use std::{process::ExitCode, sync::Arc, time::Instant};

use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    RunEvalArgs,
    exam::{Target, sit},
    question::{Answer, Evaluation, Question, Verdict, chat_body},
    sandbox::{Ending, Sandbox, Trial},
};
use crate::{
    data_file::{HUMAN_EVAL, read_text},
    error::BenchError,
    output,
    random::PythonRandom,
    statistics::pass_at_k,
};

const INSTRUCTION: &str = "Read the following function signature and docstring, and fully implement the function \
    described. Your response should only contain the code for this function.\n";
/// Seconds that a program may take, as in OpenAI's human-eval.
const SECONDS: f64 = 3.0;

/// A line of the published file.
#[derive(Clone, Debug, Deserialize)]
struct Problem {
    task_id: String,
    prompt: String,
    entry_point: String,
    test: String,
}

struct HumanEval {
    settings: Value,
    questions: Vec<Question>,
    problems: Vec<Problem>,
    sandbox: Sandbox,
    /// Programs run at once: each may want a core for its three seconds.
    cores: Semaphore,
}

impl Evaluation for HumanEval {
    fn name(&self) -> &'static str {
        "humaneval"
    }

    fn settings(&self) -> Value {
        self.settings.clone()
    }

    fn questions(&self) -> &[Question] {
        &self.questions
    }

    fn judge(&self, question: &Question, answers: &[Answer]) -> Verdict {
        let problem = self.problems.iter().find(|problem| problem.task_id == question.id).expect("asked from these");
        let endings: Vec<Value> = Handle::current().block_on(async {
            let mut endings = Vec::with_capacity(answers.len());
            for answer in answers {
                let _core = self.cores.acquire().await.expect("the semaphore is never closed");
                let ending = self.sandbox.run(&problem.trial(body(&answer.text))).await;
                endings.push(match ending {
                    Ok(Ending::Passed) => json!("passed"),
                    Ok(Ending::Failed(problem)) => json!(problem),
                    Err(error) => json!(error.to_string()),
                });
            }
            endings
        });
        let right = endings.iter().filter(|ending| *ending == "passed").count();
        Verdict { score: right as f64 / answers.len() as f64, valid: true, found: json!(endings), right }
    }
}

impl Problem {
    /// The problem's head and a function's body, against its test.
    fn trial(&self, body: &str) -> Trial {
        Trial {
            program: format!("{}{body}", self.prompt),
            head: self.prompt.clone(),
            entry_point: self.entry_point.clone(),
            test: self.test.clone(),
        }
    }
}

/// The first block of Python, or else all, from the end of the first line that ends in a colon before an
/// indented one. Without such a line the first character is lost, as in the original.
fn body(answer: &str) -> &str {
    let block = Regex::new(r"(?s)```python\n(.*?)```").expect("the pattern is right");
    let code = block.captures(answer).map_or(answer, |found| found.get(1).expect("it has one group").as_str());
    match code.find(":\n    ") {
        Some(colon) => &code[colon + 2..],
        None => code.char_indices().nth(1).map_or("", |(second, _)| &code[second..]),
    }
}

/// Ask HumanEval and print run_eval's lines.
///
/// # Errors
/// If the server or the file cannot be had, or if generated code may not or cannot be run.
pub async fn run(args: &RunEvalArgs) -> Result<ExitCode, BenchError> {
    if !args.allow_code_execution {
        return Err(BenchError::Arguments(
            "humaneval runs code that the model writes: locked up, without network, other processes and writing of \
             files, but on this machine. Say --allow-code-execution if that is all right"
                .into(),
        ));
    }
    let path = match &args.data_path {
        Some(path) => path.clone(),
        None => HUMAN_EVAL.fetched().await?,
    };
    let text = read_text(&path)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let all: Result<Vec<Problem>, BenchError> =
        lines.map(|line| serde_json::from_str(line).map_err(BenchError::content(&path))).collect();
    let mut problems = all?;
    if let Some(count) = args.num_examples.filter(|count| *count < problems.len()) {
        let chosen = PythonRandom::new(0).sample(problems.len(), count);
        problems = chosen.into_iter().map(|index| problems[index].clone()).collect();
    }
    let sandbox = Sandbox::new(SECONDS).await?;
    for layer in sandbox.layers() {
        output::note(format_args!("Generated code is locked up. {layer}"));
    }
    let target = Target::new(&args.target).await?;
    let questions = problems.iter().map(|problem| Question {
        id: problem.task_id.clone(),
        path: "/v1/chat/completions",
        body: chat_body(&target.model, &format!("{INSTRUCTION}{}", problem.prompt), &args.sampling()),
        samples: args.num_samples,
        wanted: Value::Null,
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let evaluation = HumanEval {
        settings: json!({"num_samples": args.num_samples}),
        questions: questions.collect(),
        problems,
        sandbox,
        cores: Semaphore::new(cores),
    };
    let outcome = sit(&target, Arc::new(evaluation), &args.target, Instant::now()).await?;
    super::print_run_eval(&outcome)?;
    for k in [1, 2, 5].into_iter().filter(|k| *k <= args.num_samples) {
        let of_each = outcome.transcripts.iter().map(|one| pass_at_k(args.num_samples, one.verdict.right, k));
        output::line(format_args!("pass@{k}: {:.3}", of_each.sum::<f64>() / outcome.transcripts.len().max(1) as f64))?;
    }
    output::line(format_args!("All samples right: {}", outcome.interval()))?;
    Ok(outcome.conclude())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published solutions pass the published tests inside the lock: it takes nothing from right programs.
    #[tokio::test]
    async fn the_published_solutions_pass() {
        #[derive(Deserialize)]
        struct Solved {
            #[serde(flatten)]
            problem: Problem,
            canonical_solution: String,
        }
        let Some(path) = crate::data_file::tests::fixtures("HumanEval.jsonl.gz") else { return };
        // Longer than in earnest: the machine may be busy with other tests.
        let sandbox = match Sandbox::new(30.0).await {
            Ok(sandbox) => sandbox,
            Err(error) => return crate::skip::skip(&error.to_string(), "a kernel with Landlock"),
        };
        let text = read_text(&path).expect("the file is right");
        let mut failed = Vec::new();
        // A quarter of them, for the time that they take.
        for line in text.lines().step_by(4) {
            let solved: Solved = serde_json::from_str(line).expect("the file is right");
            let trial = solved.problem.trial(&solved.canonical_solution);
            let ending = sandbox.run(&trial).await.expect("it runs");
            if ending != Ending::Passed {
                failed.push((solved.problem.task_id, ending));
            }
        }
        assert_eq!(failed, []);
    }

    #[test]
    fn the_body_is_cut_out_as_in_the_original() {
        let fenced = "Sure:\n```python\ndef f(x: int) -> int:\n    return x + 1\n```\nDone.";
        assert_eq!(body(fenced), "    return x + 1\n");
        assert_eq!(body("def f():\n    return 1\n"), "    return 1\n");
        assert_eq!(body("    return 1"), "   return 1");
        assert_eq!(body(""), "");
        assert_eq!(body("é = 1"), " = 1");
    }

    #[test]
    fn programs_are_put_together_as_in_human_eval() {
        let problem = Problem {
            task_id: "T/0".into(),
            prompt: "def f():\n    \"\"\"One.\"\"\"\n".into(),
            entry_point: "f".into(),
            test: "def check(candidate):\n    assert candidate() == 1\n".into(),
        };
        let trial = problem.trial(body("```python\ndef f():\n    return 1\n```"));
        assert_eq!(trial.program, "def f():\n    \"\"\"One.\"\"\"\n    return 1\n");
        assert_eq!((trial.head, trial.test, trial.entry_point), (problem.prompt, problem.test, "f".into()));
    }
}
