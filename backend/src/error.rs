//! What can go wrong on a device: [`UploadError`] while a network is loaded, [`DeviceFault`] in a step.

use crate::QuantFormat;

/// A weight that this backend cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// No kernel for this encoding.
    #[error("no {op} kernel for {format} weights on the {backend} backend")]
    UnsupportedFormat {
        /// The operation the weight is for.
        op: &'static str,
        /// Its encoding.
        format: QuantFormat,
        /// The backend's name.
        backend: &'static str,
    },
    /// Memory ran out.
    #[error("{what} needs {bytes} bytes; the {backend} backend could not allocate them")]
    OutOfMemory {
        /// What was to be allocated.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The backend's name.
        backend: &'static str,
    },
    /// The backend has no kernel for a shape, or for an encoding of keys and values.
    #[error("the {backend} backend does not support {what}")]
    Unsupported {
        /// What was asked for, and what works instead.
        what: String,
        /// The backend's name.
        backend: &'static str,
    },
    /// The device failed.
    #[error("the {backend} backend failed: {cause}")]
    Device {
        /// The backend's name.
        backend: &'static str,
        /// Its words.
        cause: String,
    },
}

/// A step that the device did not compute. What it wrote to the pages of the step's sequences means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceFault {
    /// This step failed; a later one may succeed.
    #[error("the {backend} backend failed: {cause}")]
    Step {
        /// The backend's name.
        backend: &'static str,
        /// Its words.
        cause: String,
    },
    /// The device or a peer is gone: no later step can succeed.
    #[error("the {backend} backend is lost: {cause}")]
    Lost {
        /// The backend's name.
        backend: &'static str,
        /// Its words.
        cause: String,
    },
}
