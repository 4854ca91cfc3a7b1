//! [`sit`]: all questions of an evaluation, asked in parallel, judged and written down.

use std::{process::ExitCode, sync::Arc, time::Instant};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::{
    TargetArgs,
    question::{Answer, Evaluation, Question, Transcript, back_off},
    results::ResultsFile,
};
use crate::{endpoint::Endpoint, error::BenchError, output, serving};

/// How often a question is asked again after an answer that another try may better.
const TRIES: u32 = 6;

/// What came out of an evaluation.
#[derive(Clone, Debug)]
pub struct ExamOutcome {
    /// In the order of the questions; those without an answer are left out.
    pub transcripts: Vec<Transcript>,
    /// Questions without an answer, and why.
    pub unanswered: Vec<(String, String)>,
    /// Seconds, those of sessions that were broken off included.
    pub latency_s: f64,
}

impl ExamOutcome {
    /// The part of the answered questions with full score; their mean score, where there is more than one sample.
    pub fn score(&self) -> f64 {
        let scores: f64 = self.transcripts.iter().map(|transcript| transcript.verdict.score).sum();
        scores / self.transcripts.len().max(1) as f64
    }

    /// Questions with full score.
    pub fn right(&self) -> usize {
        self.transcripts.iter().filter(|transcript| transcript.verdict.score >= 1.0).count()
    }

    /// The part of the answered questions in whose answers nothing was found.
    pub fn invalid(&self) -> f64 {
        let invalid = self.transcripts.iter().filter(|transcript| !transcript.verdict.valid).count();
        invalid as f64 / self.transcripts.len().max(1) as f64
    }

    /// Generated tokens a second.
    pub fn output_throughput(&self) -> f64 {
        let answers = self.transcripts.iter().flat_map(|transcript| &transcript.answers);
        answers.map(|answer| answer.completion_tokens).sum::<usize>() as f64 / self.latency_s
    }

    /// How sure the part with full score is, as printed.
    pub fn interval(&self) -> String {
        interval(self.right(), self.transcripts.len())
    }

    /// The exit status: a failure if anything got no answer. Says on standard error what.
    pub fn conclude(&self) -> ExitCode {
        if self.unanswered.is_empty() {
            return ExitCode::SUCCESS;
        }
        output::note(format_args!(
            "ERROR: {} questions got no answer and are not counted; run again to ask them:",
            self.unanswered.len()
        ));
        for (id, error) in self.unanswered.iter().take(5) {
            output::note(format_args!("  {id}: {error}"));
        }
        ExitCode::FAILURE
    }
}

/// The server of an evaluation.
pub struct Target {
    /// Its address.
    pub endpoint: Endpoint,
    /// The model's name.
    pub model: String,
}

impl Target {
    /// What `args` name.
    ///
    /// # Errors
    /// If it cannot be reached, or lists no model while none was typed.
    pub async fn new(args: &TargetArgs) -> Result<Self, BenchError> {
        let base = args.base_url.clone().unwrap_or_else(|| serving::host_url(&args.host, args.port));
        let endpoint = Endpoint::new(&base, &args.header)?;
        let model = match &args.model {
            Some(model) => model.clone(),
            None => serving::first_model(&endpoint.get("/v1/models").await?)
                .ok_or_else(|| BenchError::Arguments("the server lists no model; name one with --model".into()))?,
        };
        Ok(Self { endpoint, model })
    }
}

/// Ask all questions, at most `args.parallel` at once, and write every transcript down as it is complete.
/// `began` is when the clock of the evaluation started.
///
/// # Errors
/// If the results cannot be written.
pub async fn sit(
    target: &Target,
    evaluation: Arc<dyn Evaluation>,
    args: &TargetArgs,
    began: Instant,
) -> Result<ExamOutcome, BenchError> {
    serving::allow_many_connections();
    let header = json!({
        "evaluation": evaluation.name(),
        "model": target.model,
        "settings": evaluation.settings(),
        "questions": evaluation.questions().len(),
        "questions_sha256": fingerprint(evaluation.questions()),
    });
    let path = args.output.clone().unwrap_or_else(|| {
        let model = target.model.replace(|c: char| !(c.is_alphanumeric() || "-._".contains(c)), "_");
        format!("eval_{}_{model}.jsonl", evaluation.name()).into()
    });
    let mut results = ResultsFile::open(&path, &header, args.fresh)?;
    let earlier_s = results.earlier_s();
    if !results.earlier.is_empty() {
        let all = evaluation.questions().len();
        output::note(format_args!(
            "Going on: {} of {all} questions were answered before (--fresh begins anew).",
            results.earlier.len()
        ));
    }
    let open: Vec<Question> =
        evaluation.questions().iter().filter(|question| !results.earlier.contains_key(&question.id)).cloned().collect();
    let bar = ProgressBar::with_draw_target(Some(open.len() as u64), ProgressDrawTarget::stderr());
    let session = results.session;
    let asked = stream::iter(open).map(|question| {
        let (endpoint, evaluation) = (target.endpoint.clone(), Arc::clone(&evaluation));
        let task = tokio::spawn(async move { one(&endpoint, evaluation, question, began, session).await });
        async { task.await.expect("asking does not panic") }
    });
    let mut asked = asked.buffer_unordered(args.parallel.max(1));
    let mut unanswered = Vec::new();
    while let Some(answered) = asked.next().await {
        bar.inc(1);
        match answered {
            Ok(transcript) => {
                results.add(&transcript)?;
                results.earlier.insert(transcript.id.clone(), transcript);
            }
            Err(failed) => unanswered.push(failed),
        }
    }
    bar.finish_and_clear();
    let latency_s = earlier_s + began.elapsed().as_secs_f64();
    let transcripts =
        evaluation.questions().iter().filter_map(|question| results.earlier.remove(&question.id)).collect();
    let outcome = ExamOutcome { transcripts, unanswered, latency_s };
    if outcome.unanswered.is_empty() {
        results.complete(&json!({
            "score": outcome.score(),
            "invalid": outcome.invalid(),
            "latency_s": outcome.latency_s,
            "output_throughput": outcome.output_throughput(),
        }))?;
    }
    output::note(format_args!("Transcripts: {}", path.display()));
    Ok(outcome)
}

async fn one(
    endpoint: &Endpoint,
    evaluation: Arc<dyn Evaluation>,
    question: Question,
    began: Instant,
    session: usize,
) -> Result<Transcript, (String, String)> {
    let start = Instant::now();
    let mut answers = Vec::with_capacity(question.samples);
    for _ in 0..question.samples {
        let answer = ask(endpoint, &question).await.map_err(|error| (question.id.clone(), error.to_string()))?;
        answers.push(answer);
    }
    let seconds = start.elapsed().as_secs_f64();
    let at_s = began.elapsed().as_secs_f64();
    let judged = tokio::task::spawn_blocking(move || {
        let verdict = evaluation.judge(&question, &answers);
        let Question { id, body, wanted, .. } = question;
        Transcript { id, body, wanted, answers, verdict, seconds, at_s, session }
    });
    Ok(judged.await.expect("judging does not panic"))
}

/// Ask once; again, later and later, while the server is away or overloaded.
async fn ask(endpoint: &Endpoint, question: &Question) -> Result<Answer, BenchError> {
    let mut trial = 0;
    loop {
        let error = match endpoint.post(question.path, &question.body).await {
            Ok(answer) => {
                return Answer::read(&answer)
                    .ok_or_else(|| endpoint.odd(question.path, format!("no answer in {answer}")));
            }
            Err(error) => error,
        };
        let may_pass = match &error {
            BenchError::Unreachable { .. } => true,
            BenchError::Refused { status, .. } => status.starts_with('5') || status.starts_with("429"),
            _ => false,
        };
        trial += 1;
        if !may_pass || trial >= TRIES {
            return Err(error);
        }
        sleep(back_off(trial - 1)).await;
    }
}

fn fingerprint(questions: &[Question]) -> String {
    let mut hash = Sha256::new();
    for question in questions {
        let Question { id, path, body, samples, wanted } = question;
        hash.update(json!([id, path, body, samples, wanted]).to_string());
    }
    let digest = hash.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The printed interval of a proportion.
fn interval(right: usize, total: usize) -> String {
    let (low, high) = crate::statistics::wilson(right, total);
    format!("95% confidence: {low:.3} to {high:.3} ({right} of {total})")
}
