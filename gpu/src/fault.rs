//! [`Faults`]: what went wrong since the last step was waited for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quern_backend::{DeviceFault, UploadError};

use crate::{GpuError, driver::GpuDevice};

/// Operations return nothing, so what fails in them waits here. Behind a failure nothing more is launched until it has
/// been reported.
#[derive(Default)]
pub(crate) struct Faults(Mutex<FaultState>);

#[derive(Default)]
struct FaultState {
    /// The first failure that has not been reported.
    pending: Option<GpuError>,
    /// Why no step can succeed any more.
    lost: Option<String>,
}

impl Faults {
    /// Remember `error`, if it is the first.
    pub(crate) fn record(&self, error: GpuError) {
        self.state().pending.get_or_insert(error);
    }

    /// Whether operations are to be skipped.
    pub(crate) fn any(&self) -> bool {
        let state = self.state();
        state.pending.is_some() || state.lost.is_some()
    }

    /// What an uploader has to report. A network that was not loaded whole is never run.
    pub(crate) fn while_loading(&self, backend: &'static str) -> Result<(), UploadError> {
        let mut state = self.state();
        let Some(error) = state.pending.take() else { return Ok(()) };
        state.lost = Some(error.to_string());
        Err(upload_error("activations", backend, error))
    }

    /// What a step has to report. A device that still works after a failure is not lost: it is asked.
    pub(crate) fn of_step(&self, device: &GpuDevice, backend: &'static str) -> Result<(), DeviceFault> {
        let mut state = self.state();
        if let Some(cause) = &state.lost {
            return Err(DeviceFault::Lost { backend, cause: cause.clone() });
        }
        let Some(error) = state.pending.take() else { return Ok(()) };
        let cause = error.to_string();
        if device.works() {
            return Err(DeviceFault::Step { backend, cause });
        }
        state.lost = Some(cause.clone());
        Err(DeviceFault::Lost { backend, cause })
    }

    fn state(&self) -> MutexGuard<'_, FaultState> {
        // Each change is one assignment: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `error`, met while `what` was allocated or filled.
pub(crate) fn upload_error(what: &'static str, backend: &'static str, error: GpuError) -> UploadError {
    match error {
        GpuError::OutOfMemory { bytes } => UploadError::OutOfMemory { what, bytes, backend },
        error => UploadError::Device { backend, cause: error.to_string() },
    }
}
