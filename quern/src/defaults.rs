//! Defaults that `quern serve` and the command generator share.

/// Share of the available memory for weights and pool. The rest is for activations, the page cache and
/// the operating system.
pub const MEM_FRACTION: f64 = 0.8;

/// Rows of a step fill the matrix units long before this; more only costs memory and latency.
pub const MAX_RUNNING_REQUESTS: usize = 256;
