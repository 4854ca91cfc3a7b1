//! [`Ranks`]: a network that is divided over threads, as one [`Model`].
//!
//! Rank 0 computes on the caller's thread, and samples; each other rank has a thread of its own. A step is handed to all
//! of them at once, and has ended when all of them say so: no rank runs ahead of the others, and when one fails, nobody
//! waits for it any more before the next step begins.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use quern_backend::{Collective, ForwardBatch, Lost, SampleBatch};

use crate::{ForwardError, Model, StepOutput};

/// What one rank computes, and how it exchanges.
pub struct RankModel {
    /// Its part of the network.
    pub model: Box<dyn Model>,
    /// Its way to the other ranks.
    pub collective: Arc<dyn Collective>,
}

/// The ranks of a network.
pub struct Ranks {
    /// Rank 0, or the first one of this process.
    first: Box<dyn Model>,
    /// The others of this process.
    others: Vec<RankThread>,
    /// Each rank's way to the others.
    collectives: Vec<Arc<dyn Collective>>,
    /// Tells the other processes of a step.
    followers: Option<StepSink>,
    /// The launch of the step in flight on the first rank.
    launched: Option<Result<(), ForwardError>>,
}

/// Hands a step to the processes that hold the other ranks.
pub type StepSink = Box<dyn FnMut(&ForwardBatch) -> Result<(), Lost> + Send>;

/// A rank on a thread of its own, which lives until `steps` is dropped.
struct RankThread {
    steps: Option<Sender<Arc<ForwardBatch>>>,
    /// How each of them ended.
    ends: Receiver<Result<(), ForwardError>>,
    thread: Option<JoinHandle<()>>,
}

impl Ranks {
    /// Start a thread for each of `ranks` but the first.
    ///
    /// # Errors
    /// If the system has no thread to spare.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(ranks: Vec<RankModel>) -> io::Result<Self> {
        let collectives = ranks.iter().map(|rank| Arc::clone(&rank.collective)).collect();
        let mut ranks = ranks.into_iter();
        let first = ranks.next().expect("a network has a rank").model;
        Ok(Self {
            first,
            others: ranks.map(RankThread::start).collect::<Result<_, _>>()?,
            collectives,
            followers: None,
            launched: None,
        })
    }

    /// The same, with ranks in other processes, which `followers` tells of each step.
    #[must_use]
    pub fn with_followers(self, followers: StepSink) -> Self {
        Self { followers: Some(followers), ..self }
    }
}

impl Model for Ranks {
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch) {
        assert!(self.launched.is_none(), "the step before has not been waited for");
        // Where a process is lost, so is the exchange, and the ranks here find that out in their step.
        let told = self.followers.as_mut().map_or(Ok(()), |tell| tell(batch));
        let shared = Arc::new(batch.clone());
        for rank in &self.others {
            // A thread that is gone is missed when its word is waited for.
            let _ = rank.steps.as_ref().map(|steps| steps.send(Arc::clone(&shared)));
        }
        let launched = guarded(&*self.collectives[0], || self.first.launch(batch, samples));
        self.launched = Some(told.map_err(ForwardError::from).and(launched));
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        let launched = self.launched.take().expect("a step is in flight");
        let first = launched.and_then(|()| guarded(&*self.collectives[0], || self.first.wait())?);
        // All of them, before anything else happens: a rank that still computes must not meet the next step.
        let ranks = self.collectives.iter().map(|collective| collective.rank().index).skip(1);
        let others: Vec<_> = self.others.iter().zip(ranks).map(|(other, rank)| other.end(rank)).collect();
        let failed = others.into_iter().filter_map(Result::err).next();
        let output = match (first, failed) {
            (Ok(output), None) => return Ok(output),
            (Err(error), _) | (Ok(_), Some(error)) => Err(error),
        };
        for collective in &self.collectives {
            collective.reset()?;
        }
        output
    }
}

impl RankThread {
    fn start(RankModel { mut model, collective }: RankModel) -> io::Result<Self> {
        let name = format!("quern-rank-{}", collective.rank().index);
        let (steps, inbox) = mpsc::channel::<Arc<ForwardBatch>>();
        let (outbox, ends) = mpsc::channel();
        let body = move || {
            for batch in inbox {
                let launched = guarded(&*collective, || model.launch(&batch, &SampleBatch::default()));
                let end = launched.and_then(|()| guarded(&*collective, || model.wait())?.map(drop));
                if outbox.send(end).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name(name).spawn(body)?;
        Ok(Self { steps: Some(steps), ends, thread: Some(thread) })
    }

    /// Wait for the end of its step.
    fn end(&self, rank: usize) -> Result<(), ForwardError> {
        self.ends.recv().unwrap_or_else(|_| Err(Lost { rank, cause: "has ended".into(), gone: true }.into()))
    }
}

impl Drop for RankThread {
    fn drop(&mut self) {
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            // It catches the panics of its model, so there is no result to look at.
            let _ = thread.join();
        }
    }
}

/// Run a part of a rank's step. A panic frees the others from waiting for this rank.
fn guarded<T>(collective: &dyn Collective, run: impl FnOnce() -> T) -> Result<T, ForwardError> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let cause = format!("panicked: {}", message(&*panic));
        collective.poison(&cause);
        Lost { rank: collective.rank().index, cause, gone: false }.into()
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
