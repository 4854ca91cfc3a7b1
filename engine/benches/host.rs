//! What the host does for a step beside computing it: planning, committing, sending events.
//!
//! `cargo bench -p quern-engine --bench host`. This is all that preparing a step while another one runs could hide.
//! Sequences decode at a context of 1,000 tokens in pages of 32; the model is left out, its outputs are made up.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use quern_backend::RowOutput;
use quern_engine::{
    EngineConfig, GenerateRequest, TokenEvent, fake, scheduler::Scheduler, sequence::SequenceKey, step_plan::StepPlan,
};
use quern_model::StepOutput;

const CONTEXT: usize = 1000;
const PAGE: usize = 32;
const WARM_UP: usize = 50;
const STEPS: usize = 1000;

fn main() {
    println!("{:>9} {:>14} {:>14} {:>14}", "sequences", "plan, us", "commit, us", "both, p90");
    for sequences in [1, 8, 64, 256] {
        let (mut plan, mut commit) = measured(sequences);
        let mut both: Vec<_> = plan.iter().zip(&commit).map(|(a, b)| *a + *b).collect();
        for times in [&mut plan, &mut commit, &mut both] {
            times.sort();
        }
        let us =
            |times: &[Duration], share: f64| times[(share * (times.len() - 1) as f64) as usize].as_secs_f64() * 1e6;
        println!("{sequences:>9} {:>14.1} {:>14.1} {:>14.1}", us(&plan, 0.5), us(&commit, 0.5), us(&both, 0.9));
    }
}

/// Times of planning and of committing each step that decodes `sequences`.
fn measured(sequences: usize) -> (Vec<Duration>, Vec<Duration>) {
    let tokens = CONTEXT + WARM_UP + STEPS + 2 * PAGE;
    let mut scheduler = Scheduler::new(EngineConfig {
        max_running: sequences,
        chunk_tokens: 1 << 20,
        max_prefill_tokens: 1 << 20,
        balanced_context: usize::MAX,
        conservativeness: 0.0,
        decode_log_interval: u64::MAX,
        ..fake::engine_config(PAGE, sequences * tokens.div_ceil(PAGE))
    });
    let (events, heard) = mpsc::channel();
    for key in 0..sequences as u64 {
        let prompt = (0..CONTEXT as u32).map(|i| i * 7 + key as u32 * 1009).collect();
        let events = events.clone();
        // The receiver outlives the scheduler.
        let sink = move |event: TokenEvent| drop(events.send(event));
        scheduler.submit(SequenceKey(key), GenerateRequest::greedy(prompt, usize::MAX >> 1), Box::new(sink));
    }
    let output = |plan: &StepPlan, step: usize| StepOutput {
        rows: plan.batch.logit_rows.iter().map(|_| RowOutput { token: step as u32, ..RowOutput::default() }).collect(),
    };
    let (mut plans, mut commits) = (Vec::new(), Vec::new());
    for step in 0..WARM_UP + STEPS {
        let begin = Instant::now();
        let plan = scheduler.schedule().expect("all of them run");
        let planned = begin.elapsed();
        let output = output(&plan, step);
        let begin = Instant::now();
        scheduler.commit(plan, output);
        let committed = begin.elapsed();
        if step >= WARM_UP {
            plans.push(planned);
            commits.push(committed);
        }
        heard.try_iter().for_each(drop);
    }
    (plans, commits)
}
