//! [`StepGate`]: which steps of the fake model may begin.

use std::sync::{Arc, Condvar, Mutex};

use quern_engine::fake::StepHook;

/// Steps that would begin while it is shut wait until it opens.
#[derive(Clone, Default)]
pub(crate) struct StepGate(Arc<Steps>);

#[derive(Default)]
struct Steps {
    /// How many may begin yet.
    left: Mutex<u64>,
    changed: Condvar,
}

impl StepGate {
    pub(crate) fn open(&self) {
        self.allow(u64::MAX);
    }

    pub(crate) fn shut(&self) {
        self.allow(0);
    }

    /// Let so many steps begin, and shut behind them.
    pub(crate) fn allow(&self, steps: u64) {
        *self.0.left.lock().unwrap() = steps;
        self.0.changed.notify_all();
    }

    /// Wait until a step may begin.
    pub(crate) fn pass(&self) {
        let left = self.0.left.lock().unwrap();
        let mut left = self.0.changed.wait_while(left, |left| *left == 0).unwrap();
        *left -= 1;
    }

    /// A hook of the model that does no more than this.
    pub(crate) fn hook(&self) -> StepHook {
        let gate = self.clone();
        Box::new(move |_| {
            gate.pass();
            Ok(())
        })
    }
}
