//! [`Roofline`]: the fastest that this machine could run a model.

use std::{sync::Arc, thread, time::Duration};

use quern_api::{AppState, state::Peaks};
use quern_backend::{Device, MachinePeaks, Precision, QuantFormat};
use quern_engine::EngineHandle;
use quern_model::{StepCost, StepShape, Work};

use crate::{
    machine::{self, CpuTicks},
    start::OpenWhole,
};

/// Memory that must be available beside what a measurement takes.
const SPARE_BYTES: u64 = 1 << 30;

/// Time without requests before the machine is measured, and how often that is looked at meanwhile.
const QUIET: Duration = Duration::from_secs(1);
const LOOKS: u32 = 20;

/// Other programs' share of the processors from which on the figures are said to be too low.
const BUSY: f64 = 0.1;

/// The roofline bound of a model on this machine: memory bandwidth and arithmetic peak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// Bytes read a second.
    pub read_bytes_per_s: f64,
    /// Operations a second of its matrix products.
    pub ops_per_s: f64,
}

impl Roofline {
    /// Of a model whose matrices are in `formats`, multiplied in `precision`. Where formats are mixed the fastest
    /// counts, so that the bound cannot be exceeded.
    pub fn of(peaks: &MachinePeaks, formats: &[QuantFormat], precision: Precision) -> Self {
        let ops_per_s = match precision {
            Precision::F32 => peaks.f32_flops,
            Precision::Bf16 if formats.iter().any(|format| format.blocks().is_some()) => peaks.int8_ops,
            Precision::Bf16 if formats.iter().all(|format| matches!(format, QuantFormat::F32 | QuantFormat::F16)) => {
                peaks.f32_flops
            }
            Precision::Bf16 => peaks.bf16_flops.unwrap_or(peaks.f32_flops),
        };
        Self { read_bytes_per_s: peaks.read_bytes_per_s, ops_per_s }
    }

    /// The least time that `work` takes.
    pub fn least_s(self, work: Work) -> f64 {
        work.least_s(self.read_bytes_per_s, self.ops_per_s)
    }

    /// Tokens a second at most, decoding `batch` sequences of `depth` tokens together.
    pub fn decode(self, cost: &StepCost, batch: usize, depth: usize) -> f64 {
        batch as f64 / self.least_s(cost.step(StepShape::sequence(1, depth + 1, 1).times(batch)))
    }
}

/// Measure what `device` could do; `None` where memory is too scarce for it.
pub fn measure(device: &dyn Device) -> Option<MachinePeaks> {
    memory_suffices(device).then(|| device.measure(&|| true)).flatten()
}

fn memory_suffices(device: &dyn Device) -> bool {
    machine::available_bytes(device).unwrap_or(u64::MAX) > device.measured_bytes() + SPARE_BYTES
}

/// A machine that is yet to be measured, and the model that its figures are for.
pub struct Unmeasured {
    /// Starts what computes the model, for as long as it is measured.
    pub open: OpenWhole,
    /// The encodings of its matrices.
    pub formats: Vec<QuantFormat>,
    /// What their inputs are rounded to.
    pub precision: Precision,
}

/// Measure for the live view, on a thread of its own and only while no request is alive: a request that comes ends the
/// attempt. Until that is done nothing is shown as a share of what the machine can do.
///
/// # Errors
/// If the thread cannot be started.
pub fn measure_beside(state: Arc<AppState>, machine: Unmeasured) -> std::io::Result<()> {
    tracing::info!("This machine's peaks are measured when no request runs (--skip-peak-measurement leaves it out).");
    let work = move || {
        let Unmeasured { open, formats, precision } = machine;
        let idle = || state.engine.num_alive() == 0;
        loop {
            let before = CpuTicks::now();
            if !stays(QUIET, &idle) {
                continue;
            }
            let others = before.zip(CpuTicks::now()).map(|(before, after)| after.busy_since(before));
            let device = match open() {
                Ok(device) => device,
                Err(cause) => return tracing::warn!("this machine's peaks are not measured: {cause}"),
            };
            if !memory_suffices(&*device) {
                return tracing::info!("This machine's peaks are not measured: that takes 1.5 GB of free memory.");
            }
            let Some(peaks) = device.measure(&idle) else { continue };
            let roofline = Roofline::of(&peaks, &formats, precision);
            tracing::info!("{}", line(&peaks, &*device));
            tracing::info!("{}", speed_line(roofline, &state.engine));
            if let Some(share) = others.filter(|share| *share > BUSY) {
                tracing::warn!(
                    "These figures are too low: other programs kept {:.0} % of this machine's processors busy.",
                    100.0 * share
                );
            }
            let Roofline { read_bytes_per_s, ops_per_s } = roofline;
            let _ = state.peaks.set(Peaks { read_bytes_per_s, ops_per_s });
            return;
        }
    };
    thread::Builder::new().name("peaks".into()).spawn(work).map(drop)
}

/// Whether `state` holds for all of `time`; where it does not, that is known after as long.
fn stays(time: Duration, state: &dyn Fn() -> bool) -> bool {
    (0..LOOKS).fold(true, |held, _| {
        thread::sleep(time / LOOKS);
        held & state()
    })
}

/// How fast the machine allows it to be.
fn speed_line(roofline: Roofline, engine: &EngineHandle) -> String {
    let speed = roofline.decode(&engine.config().cost, 1, 0);
    format!("One sequence is decoded at {speed:.1} tokens/s at most (projected from the machine peaks).")
}

/// `Machine peaks: reads 31.2 GB/s; int8 1531, bf16 173, f32 353 GFLOP/s (2 threads, avx512bf16).`
pub fn line(peaks: &MachinePeaks, device: &dyn Device) -> String {
    let bf16 = peaks.bf16_flops.map_or("without hardware".into(), |flops| format!("{:.0}", flops / 1e9));
    format!(
        "Machine peaks: reads {:.1} GB/s; int8 {:.0}, bf16 {bf16}, f32 {:.0} GFLOP/s ({} threads, {}).",
        peaks.read_bytes_per_s / 1e9,
        peaks.int8_ops / 1e9,
        peaks.f32_flops / 1e9,
        device.threads(),
        device.isa(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_measured_against_what_computes_them() {
        let peaks = MachinePeaks { read_bytes_per_s: 30e9, f32_flops: 1.0, bf16_flops: Some(2.0), int8_ops: 3.0 };
        let ops = |formats: &[QuantFormat], precision| Roofline::of(&peaks, formats, precision).ops_per_s;
        assert_eq!(ops(&[QuantFormat::BF16], Precision::Bf16), 2.0);
        assert_eq!(ops(&[QuantFormat::BF16, QuantFormat::Q4K], Precision::Bf16), 3.0);
        assert_eq!(ops(&[QuantFormat::F32], Precision::Bf16), 1.0);
        assert_eq!(ops(&[QuantFormat::Fp8Block128], Precision::F32), 1.0);
        let without = MachinePeaks { bf16_flops: None, ..peaks };
        assert_eq!(Roofline::of(&without, &[QuantFormat::BF16], Precision::Bf16).ops_per_s, 1.0);
    }
}
