//! [`FaultyModel`]: the double whose words depend on every earlier token, and that fails when it is told to.

use std::{
    cell::Cell,
    panic::{self, resume_unwind},
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
};

use quern_engine::{
    DeviceFault, ForwardBatch, ForwardError, LogitFault, Model, RowOutput, SampleBatch, StepOutput, fake::FakeModel,
};

/// What happens to the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepFault {
    /// The device says that it failed.
    Device,
    /// The model panics while it computes.
    ModelPanic,
    /// One row of logits is not finite.
    NotANumber,
    /// A row too many, at which the scheduler panics.
    SchedulerPanic,
}

/// All of them.
pub(crate) const STEP_FAULTS: &[StepFault] =
    &[StepFault::Device, StepFault::ModelPanic, StepFault::NotANumber, StepFault::SchedulerPanic];

impl StepFault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Device => "the device fails a step",
            Self::ModelPanic => "the model panics",
            Self::NotANumber => "logits are not finite",
            Self::SchedulerPanic => "the scheduler panics",
        }
    }
}

/// Where faults are asked for. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct NextFault {
    pub(crate) fault: Arc<Mutex<Option<StepFault>>>,
    /// Those that have struck.
    pub(crate) struck: Arc<AtomicU64>,
}

pub(crate) struct FaultyModel {
    inner: FakeModel,
    next: NextFault,
    fault: Option<StepFault>,
}

thread_local! {
    /// A panic that was asked for is no news.
    static EXPECTS_PANIC: Cell<bool> = const { Cell::new(false) };
}

impl FaultyModel {
    pub(crate) fn new(inner: FakeModel, next: NextFault) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !EXPECTS_PANIC.get() {
                    usual(info);
                }
            }));
        });
        Self { inner, next, fault: None }
    }
}

impl Model for FaultyModel {
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch) {
        EXPECTS_PANIC.set(false);
        self.fault = self.next.fault.lock().expect("no panic while it is held").take();
        if self.fault.is_some() {
            self.next.struck.fetch_add(1, Ordering::Relaxed);
        }
        if self.fault == Some(StepFault::ModelPanic) {
            resume_unwind(Box::new("asked for".to_owned()));
        }
        self.inner.launch(batch, samples);
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        let mut output = self.inner.wait()?;
        match self.fault.take() {
            Some(StepFault::Device) => {
                return Err(DeviceFault::Step { backend: "fake", cause: "asked for".into() }.into());
            }
            Some(StepFault::NotANumber) => {
                if let Some(row) = output.rows.first_mut() {
                    row.fault = Some(LogitFault::NotFinite);
                }
            }
            Some(StepFault::SchedulerPanic) => {
                EXPECTS_PANIC.set(true);
                output.rows.push(RowOutput::default());
            }
            Some(StepFault::ModelPanic) | None => {}
        }
        Ok(output)
    }
}
