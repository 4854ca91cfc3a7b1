//! [`Device`]: what a host asks of the machine behind a backend, besides computing.

/// A backend as whoever starts it, plans its memory and reports on it sees it: no weights, no activations, so that it
/// is one type for all of them.
pub trait Device: Send + Sync {
    /// As `--device` and errors name it: `cpu`.
    fn name(&self) -> &'static str;

    /// Where weights and pages lie.
    fn memory(&self) -> DeviceMemory;

    /// Threads of the host that compute.
    fn threads(&self) -> usize;

    /// The instruction set of its kernels.
    fn isa(&self) -> String;

    /// All instruction sets that it could use instead, this one among them.
    fn isas(&self) -> Vec<String>;

    /// Which kernel runs each operation on each encoding.
    fn kernels(&self) -> Vec<KernelChoice>;

    /// Whether [`measure`](Self::measure) ever says anything.
    fn can_be_measured(&self) -> bool;

    /// Measure what the machine can do at best, in pieces of some milliseconds, between which `go_on` is asked. `None`
    /// where it says no, memory cannot be had, or the device [cannot be measured](Self::can_be_measured).
    fn measure(&self, go_on: &dyn Fn() -> bool) -> Option<MachinePeaks>;

    /// Bytes of memory that [`measure`](Self::measure) takes for as long as it runs.
    fn measured_bytes(&self) -> u64;
}

/// Whose memory a device computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceMemory {
    /// The host's, of which the operating system knows how much is left.
    Host,
    /// Its own.
    Own {
        /// All of it.
        total_bytes: u64,
        /// What is not in use.
        available_bytes: u64,
    },
}

/// One line of the start-up summary: which kernel runs an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelChoice {
    /// The operation.
    pub op: &'static str,
    /// The encoding of its weights, or of its keys and values; `None` where there is neither.
    pub format: Option<String>,
    /// The kernel.
    pub kernel: String,
}

/// What a machine can do at best, with all of it at work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachinePeaks {
    /// Bytes a second, reading memory in order.
    pub read_bytes_per_s: f64,
    /// Floating-point operations a second of f32 multiply-adds (two each).
    pub f32_flops: f64,
    /// The same for bfloat16 dot products, where products use them.
    pub bf16_flops: Option<f64>,
    /// Operations a second of 8-bit integer dot products (two each pair), as products with blocks use them.
    pub int8_ops: f64,
}
