//! [`SteppedEngine`]: the engine without its thread, for simulations.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use quern_model::Model;

use crate::{
    config::EngineConfig,
    engine::{self, Engine, EngineHandle, Flow},
    failure::FailureObserver,
};

/// The loop of the engine's thread, cut into turns that its owner takes at times that it names: nothing in it depends on
/// the machine's clock.
pub struct SteppedEngine(Engine);

impl SteppedEngine {
    /// An engine over a loaded model, and its handle. `now` is the first of its times.
    pub fn new(
        model: Box<dyn Model>,
        config: EngineConfig,
        observer: FailureObserver,
        now: Instant,
    ) -> (EngineHandle, Self) {
        let (handle, engine) = engine::new(model, config, observer, now);
        (handle, Self(engine))
    }

    /// Apply the commands that have come in, then compute a step if there is something to compute. `now` decides which
    /// failures lie close together.
    pub fn turn(&mut self, now: Instant) -> Flow {
        self.guarded(|engine| {
            let flow = engine.turn(now);
            if flow == Flow::Stop {
                engine.end();
            }
            flow
        })
    }

    /// Apply the commands that have come in, and compute nothing.
    pub fn apply_commands(&mut self) -> Flow {
        self.guarded(|engine| engine.drain_commands())
    }

    /// Verify that every page has exactly one owner and every lock is accounted for.
    ///
    /// # Panics
    /// If not, naming the page.
    pub fn check(&self) {
        self.0.scheduler().check();
    }

    fn guarded(&mut self, turn: impl FnOnce(&mut Engine) -> Flow) -> Flow {
        catch_unwind(AssertUnwindSafe(|| turn(&mut self.0))).unwrap_or_else(|panic| self.0.recover(&*panic))
    }
}
