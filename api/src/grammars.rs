//! [`Grammars`]: constraints compiled off the threads that serve sockets, and their masks computed beside
//! the forward pass.
//!
//! ```text
//! engine    accept(t) ─┬─▶ forward pass ──────────▶ sample: waits for the mask ─▶ accept(t+1) …
//! mask threads         └─▶ mask of what may follow t ──▲
//! ```
//!
//! A grammar belongs to the engine while it accepts a token and to a mask thread in between; it travels
//! with its job and comes back with the outcome. So nothing is shared and nothing is locked but the queue
//! of jobs, and that holds at most one for each running request.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread,
    time::Duration,
};

use quern_engine::{Grammar, GrammarError, TokenMask};
use quern_text::{GrammarFactory, GrammarSpec, Tokenizer};
use tokio::{
    sync::{Semaphore, oneshot},
    time::sleep,
};

use crate::protocol::ApiError;

/// Threads that compute masks. A mask takes microseconds, at worst a few milliseconds; the forward pass
/// beside it tens.
const MASK_THREADS: usize = 2;

/// Grammars compiled at once: further requests wait, and the steps of others go on.
const COMPILERS: usize = 2;

/// Compilers are recursive: schemas of the greatest depth allowed take some megabytes.
const COMPILER_STACK_BYTES: usize = 16 << 20;

/// A request waits this long for all its grammars. Compiling one takes at most half a second; a queue may take more.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(30);

/// Compiles grammars and drives them, if the server does.
pub struct Grammars {
    works: Option<Works>,
}

struct Works {
    /// Made by a thread of its own while the server starts.
    factory: Arc<OnceLock<Result<GrammarFactory, String>>>,
    compilers: Arc<Semaphore>,
    jobs: Sender<MaskJob>,
}

impl Grammars {
    /// Refuse all constraints.
    pub fn none() -> Self {
        Self { works: None }
    }

    /// Start the threads that prepare the vocabulary (half a second for 152,000 tokens) and compute masks.
    /// `configure` sets what the factory leaves open.
    pub fn start(
        tokenizer: Arc<Tokenizer>,
        vocab_size: usize,
        eos_token_ids: Vec<u32>,
        configure: impl FnOnce(GrammarFactory) -> GrammarFactory + Send + 'static,
    ) -> Self {
        let factory = Arc::new(OnceLock::new());
        let made = Arc::clone(&factory);
        let make = move || {
            let factory = GrammarFactory::new(&tokenizer, vocab_size, &eos_token_ids);
            factory.map(configure).map_err(|cause| cause.to_string())
        };
        let spawned = spawn("vocabulary", move || drop(made.set(contained(make))));
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let spawned = (0..MASK_THREADS).fold(spawned, |spawned, _| {
            let queue = Arc::clone(&queue);
            spawned.and(spawn("masks", move || compute_masks(&queue)))
        });
        spawned.expect("the system lets us start a thread");
        Self { works: Some(Works { factory, compilers: Arc::new(Semaphore::new(COMPILERS)), jobs }) }
    }

    /// A grammar at its beginning for each of a request's outputs that has a constraint. Equal ones in a row are compiled
    /// once.
    ///
    /// # Errors
    /// If grammars are disabled, one does not compile, or compiling all of them takes too long.
    pub async fn begin_each(&self, specs: &[Option<&GrammarSpec>]) -> Result<Vec<Option<Box<dyn Grammar>>>, ApiError> {
        self.begin_each_before(sleep(COMPILE_TIMEOUT), specs).await
    }

    /// The same, given up once `deadline` has come: one for all of them, however many schemas a batch has.
    async fn begin_each_before(
        &self,
        deadline: impl Future<Output = ()>,
        specs: &[Option<&GrammarSpec>],
    ) -> Result<Vec<Option<Box<dyn Grammar>>>, ApiError> {
        let Some(works) = &self.works else {
            return Err(ApiError::invalid(
                "Grammar-based generation (json_schema, regex, ebnf, structural_tag, constrained tool calls) is not \
                 supported when the server is launched with --grammar-backend none.",
            ));
        };
        let late = || ApiError::invalid(format!("Grammar preprocessing timed out: {COMPILE_TIMEOUT:?}"));
        tokio::select! {
            biased;
            begun = works.begin_each(specs) => begun,
            () = deadline => Err(late()),
        }
    }
}

impl Works {
    async fn begin_each(&self, specs: &[Option<&GrammarSpec>]) -> Result<Vec<Option<Box<dyn Grammar>>>, ApiError> {
        let mut last: Option<(&GrammarSpec, Compiled)> = None;
        let mut grammars = Vec::with_capacity(specs.len());
        for spec in specs {
            let Some(spec) = *spec else {
                grammars.push(None);
                continue;
            };
            let compiled = match last.take() {
                Some((before, compiled)) if std::ptr::eq(before, spec) || before == spec => compiled,
                _ => Compiled { grammar: self.compile(spec.clone()).await?, jobs: self.jobs.clone() },
            };
            grammars.push(Some(compiled.begin()));
            last = Some((spec, compiled));
        }
        Ok(grammars)
    }

    async fn compile(&self, spec: GrammarSpec) -> Result<quern_text::GrammarMatcher, ApiError> {
        let permit = Arc::clone(&self.compilers).acquire_owned().await.map_err(ApiError::internal)?;
        let (answer, answered) = oneshot::channel();
        let factory = Arc::clone(&self.factory);
        let compile = move || {
            let outcome = match factory.wait() {
                Ok(factory) => factory.compile(&spec).map_err(|cause| ApiError::invalid(cause.to_string())),
                Err(cause) => Err(ApiError::internal(cause)),
            };
            // The receiver is gone once the client has disconnected.
            let _ = answer.send(outcome);
            drop(permit);
        };
        let thread = thread::Builder::new().name("grammar-compiler".into()).stack_size(COMPILER_STACK_BYTES);
        let refused =
            |cause| ApiError::unavailable(format!("No thread can be started to compile the grammar: {cause}"));
        thread.spawn(compile).map_err(refused)?;
        answered.await.unwrap_or_else(|_| Err(ApiError::internal("the grammar's compiler failed")))
    }
}

/// A grammar at its beginning.
struct Compiled {
    grammar: quern_text::GrammarMatcher,
    jobs: Sender<MaskJob>,
}

impl Compiled {
    /// A new output under it. Its first mask is begun at once: the prompt has yet to be computed.
    fn begin(&self) -> Box<dyn Grammar> {
        Box::new(Constrained { next: Some(Next::of(self.grammar.clone(), &self.jobs)), jobs: self.jobs.clone() })
    }
}

/// One output under a grammar, on the engine's side.
struct Constrained {
    /// `None` once the grammar has ended or failed.
    next: Option<Next>,
    jobs: Sender<MaskJob>,
}

/// A mask on its way, and the grammar that comes back with it.
struct Next {
    mask: Arc<TokenMask>,
    grammar: Receiver<Result<quern_text::GrammarMatcher, GrammarError>>,
}

impl Next {
    /// Have a mask computed.
    fn of(grammar: quern_text::GrammarMatcher, jobs: &Sender<MaskJob>) -> Self {
        let (answer, answered) = mpsc::sync_channel(1);
        let mask = Arc::new(TokenMask::pending());
        // A job that is lost forbids every token, and the request fails.
        let _ = jobs.send(MaskJob { grammar: Some(grammar), mask: Arc::clone(&mask), answer });
        Self { mask, grammar: answered }
    }
}

impl Grammar for Constrained {
    fn mask(&mut self) -> Result<Arc<TokenMask>, GrammarError> {
        match &self.next {
            Some(next) => Ok(Arc::clone(&next.mask)),
            None => Err(GrammarError("it has ended".into())),
        }
    }

    fn dead_end(&mut self) -> GrammarError {
        let failed = self.next.as_ref().and_then(|next| next.grammar.try_recv().ok()?.err());
        failed.unwrap_or_else(|| GrammarError("no token can follow".into()))
    }

    fn accept(&mut self, token: u32) -> Result<bool, GrammarError> {
        let next = self.next.take().ok_or_else(|| GrammarError("it has ended".into()))?;
        let lost = |_| GrammarError("its mask could not be computed".into());
        let mut grammar = next.grammar.recv().map_err(lost)??;
        let ended = grammar.accept(token).map_err(|cause| GrammarError(cause.to_string()))?;
        if !ended {
            self.next = Some(Next::of(grammar, &self.jobs));
        }
        Ok(ended)
    }
}

/// A mask to compute.
struct MaskJob {
    grammar: Option<quern_text::GrammarMatcher>,
    mask: Arc<TokenMask>,
    answer: SyncSender<Result<quern_text::GrammarMatcher, GrammarError>>,
}

impl MaskJob {
    fn run(mut self) {
        let Some(mut grammar) = self.grammar.take() else { return };
        let outcome = contained(move || {
            let words = grammar.mask().map_err(|cause| cause.to_string())?;
            Ok((grammar, words))
        });
        let outcome = outcome.map(|(grammar, words)| {
            self.mask.fill(words);
            grammar
        });
        if let Err(cause) = &outcome {
            tracing::warn!("A grammar failed, and the request with it: {cause}");
        }
        // The output may have ended meanwhile.
        let _ = self.answer.send(outcome.map_err(GrammarError));
    }
}

impl Drop for MaskJob {
    /// Fill the mask with nothing if it was never computed, so that no step waits for it for ever.
    fn drop(&mut self) {
        self.mask.fill(Vec::new());
    }
}

fn compute_masks(queue: &Mutex<Receiver<MaskJob>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        job.run();
    }
}

fn spawn(what: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(format!("grammar-{what}")).spawn(work).map(drop)
}

/// Run the library's code. A panic in it is one more way to fail.
fn contained<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("it panicked".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    /// The vocabulary of the model inside the program.
    const TOKENIZER: &[u8] = include_bytes!("../../models/quern-demo/tokenizer.json");
    const TOKENIZER_CONFIG: &[u8] = include_bytes!("../../models/quern-demo/tokenizer_config.json");

    /// Rows of logits: as many as this vocabulary has tokens.
    const ROWS: usize = 2560;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_bytes(TOKENIZER, Some(TOKENIZER_CONFIG)).unwrap()
    }

    fn grammars() -> Grammars {
        let tokenizer = tokenizer();
        let eos = tokenizer.eos_id().unwrap();
        Grammars::start(Arc::new(tokenizer), ROWS, vec![eos], |factory| factory)
    }

    #[tokio::test]
    async fn outputs_of_one_grammar_go_their_own_ways() {
        let spec = GrammarSpec::Regex("(ab|ba)c".into());
        let mut begun = grammars().begin_each(&[Some(&spec), None, Some(&spec)]).await.unwrap();
        assert!(begun.remove(1).is_none());
        let [mut one, mut other] = [0, 1].map(|index| begun[index].take().expect("it has a constraint"));
        let [a, b, c] = ["a", "b", "c"].map(|text| tokenizer().token_id(text).unwrap());
        for grammar in [&mut one, &mut other] {
            let mask = grammar.mask().unwrap();
            assert!(mask.allows(a) && mask.allows(b) && !mask.allows(c));
            assert_eq!(mask.words().len(), ROWS / 32);
        }
        assert!(!one.accept(a).unwrap() && !other.accept(b).unwrap());
        assert!(one.mask().unwrap().allows(b) && !other.mask().unwrap().allows(b));
        assert!(Arc::ptr_eq(&one.mask().unwrap(), &one.mask().unwrap()), "asking again changes nothing");
        assert!(!one.accept(b).unwrap());
        assert!(one.accept(c).unwrap(), "the end");
        assert!(one.mask().is_err() && one.accept(c).is_err());
        assert!(other.accept(c).is_err(), "a token that the mask forbids");
        assert!(other.mask().is_err());
    }

    #[tokio::test]
    async fn one_deadline_ends_the_wait_for_all_grammars_of_a_request() {
        let grammars = grammars();
        let compilers = Arc::clone(&grammars.works.as_ref().unwrap().compilers);
        let all = || Arc::clone(&compilers).acquire_many_owned(COMPILERS as u32);
        let specs = ["a+", "b+", "c+"].map(|expression| GrammarSpec::Regex(expression.into()));
        let specs: Vec<_> = specs.iter().map(Some).collect();
        let (deadline, has_come) = oneshot::channel();
        let deadline_comes = async { has_come.await.unwrap() };
        let busy = all().await.unwrap();
        let between = async {
            // The semaphore is fair: the first grammar is compiled, and before the second all compilers are ours again.
            let (wait, _) = (all(), drop(busy));
            let busy = wait.await.unwrap();
            deadline.send(()).unwrap();
            busy
        };
        let (begun, busy) = tokio::join!(grammars.begin_each_before(deadline_comes, &specs), between);
        let error = begun.err().expect("the second is late, though the first was in time");
        assert!(error.status == 400 && error.message.contains("timed out"), "{error}");
        drop(busy);
        let begun = grammars.begin_each_before(std::future::pending(), &specs).await.unwrap();
        assert_eq!(begun.iter().filter(|grammar| grammar.is_some()).count(), 3, "nothing waits any more");
    }

    #[tokio::test]
    async fn a_mask_that_is_never_computed_forbids_every_token() {
        let grammar = grammars().works.unwrap().compile(GrammarSpec::JsonObject).await.unwrap();
        let (jobs, queue) = mpsc::channel();
        drop(queue);
        let mut output = Compiled { grammar, jobs }.begin();
        assert!((0..ROWS as u32).all(|token| !output.mask().unwrap().allows(token)));
        assert!(output.accept(0).is_err());
    }

    #[tokio::test]
    async fn without_a_backend_constraints_are_refused() {
        let error = Grammars::none().begin_each(&[Some(&GrammarSpec::JsonObject)]).await.err().unwrap();
        assert!(error.status == 400 && error.message.contains("--grammar-backend none"), "{error}");
    }
}
