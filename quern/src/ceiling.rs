//! [`Ceiling`]: how fast this machine could run a model at best.

use quern_backend::QuantFormat;
use quern_cpu::{Compute, CpuBackend, Roof};
use quern_model::{Checkpoint, StepCost, StepShape, Work};

use crate::{config::Config, machine::Machine};

/// Memory that must be available beside what a measurement takes.
const SPARE_BYTES: u64 = 1 << 30;

/// What a model on this machine is measured against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// Bytes read a second.
    pub read_bytes_per_s: f64,
    /// Operations a second of its matrix products.
    pub ops_per_s: f64,
}

impl Ceiling {
    /// Of a model whose matrices are in `formats`, multiplied in `compute`. Where formats are mixed the fastest
    /// counts: the ceiling is none that could be passed.
    pub fn of(roof: &Roof, formats: &[QuantFormat], compute: Compute) -> Self {
        let ops_per_s = match compute {
            Compute::F32 => roof.f32_flops,
            Compute::Bf16 if formats.iter().any(|format| format.blocks().is_some()) => roof.int8_ops,
            Compute::Bf16 if formats.iter().all(|format| matches!(format, QuantFormat::F32 | QuantFormat::F16)) => {
                roof.f32_flops
            }
            Compute::Bf16 => roof.bf16_flops.unwrap_or(roof.f32_flops),
        };
        Self { read_bytes_per_s: roof.read_bytes_per_s, ops_per_s }
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

/// Measure what `backend` could do; `None` where memory is too scarce for it.
pub fn measure(backend: &CpuBackend) -> Option<Roof> {
    let available = Machine::probe().available_bytes.unwrap_or(u64::MAX);
    (available > Roof::BYTES + SPARE_BYTES).then(|| Roof::measure(backend)).flatten()
}

/// Measure at the start of a server, for the live view, before anything else computes.
pub fn at_start(backend: &CpuBackend, checkpoint: &Checkpoint, config: &Config) -> Option<Ceiling> {
    let roof = (!config.no_ui).then(|| measure(backend)).flatten()?;
    let ceiling = Ceiling::of(&roof, &checkpoint.formats(), config.dtype.compute());
    tracing::info!("{}", line(&roof, backend));
    Some(ceiling)
}

/// `Roof: reads 31.2 GB/s; int8 1531, bf16 173, f32 353 GFLOP/s (2 threads, avx512bf16).`
pub fn line(roof: &Roof, backend: &CpuBackend) -> String {
    let bf16 = roof.bf16_flops.map_or("without hardware".into(), |flops| format!("{:.0}", flops / 1e9));
    format!(
        "Roof: reads {:.1} GB/s; int8 {:.0}, bf16 {bf16}, f32 {:.0} GFLOP/s ({} threads, {}).",
        roof.read_bytes_per_s / 1e9,
        roof.int8_ops / 1e9,
        roof.f32_flops / 1e9,
        backend.threads(),
        backend.isa(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_measured_against_what_computes_them() {
        let roof = Roof { read_bytes_per_s: 30e9, f32_flops: 1.0, bf16_flops: Some(2.0), int8_ops: 3.0 };
        let ops = |formats: &[QuantFormat], compute| Ceiling::of(&roof, formats, compute).ops_per_s;
        assert_eq!(ops(&[QuantFormat::BF16], Compute::Bf16), 2.0);
        assert_eq!(ops(&[QuantFormat::BF16, QuantFormat::Q4K], Compute::Bf16), 3.0);
        assert_eq!(ops(&[QuantFormat::F32], Compute::Bf16), 1.0);
        assert_eq!(ops(&[QuantFormat::Fp8Block128], Compute::F32), 1.0);
        let without = Roof { bf16_flops: None, ..roof };
        assert_eq!(Ceiling::of(&without, &[QuantFormat::BF16], Compute::Bf16).ops_per_s, 1.0);
    }
}
