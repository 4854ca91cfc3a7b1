//! [`Fitting`]: what the generator proposes where nothing is chosen: what the machine holds.

use quern_model::Parallelism;

use super::{
    cookbook::Size,
    hardware::Hardware,
    network::Weights,
    plan::{MIN_CONTEXT, Room},
};
use crate::machine::Machine;

/// Choices that depend on how much memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitting {
    /// How the weights are stored.
    pub weights: Weights,
    /// Most tokens of a sequence.
    pub context_length: u64,
    /// Requests that are expected at once.
    pub concurrency: u64,
}

impl Fitting {
    /// What is proposed where there is memory enough.
    pub const DEFAULT: Self = Self { weights: Weights::Fp8, context_length: 32_768, concurrency: 4 };

    /// The best that fits, undivided: weights come before the length of the context, and that before the number of
    /// requests. [`DEFAULT`](Self::DEFAULT) if nothing does.
    pub fn of(hardware: Hardware, machine: &Machine, size: Size) -> Self {
        let Self { context_length: most, concurrency, .. } = Self::DEFAULT;
        for weights in [Weights::Fp8, Weights::FourBit] {
            let Room::Tokens(tokens) = Room::of(hardware, machine, size, weights, Parallelism::NONE) else { continue };
            let halves = std::iter::successors(Some(most), |length| Some(length / 2));
            for context_length in halves.take_while(|&length| length >= MIN_CONTEXT) {
                match tokens / context_length {
                    0 => {}
                    whole if whole >= concurrency => return Self { weights, context_length, concurrency },
                    _ => return Self { weights, context_length, concurrency: 1 },
                }
            }
        }
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(gibibytes: u64) -> Fitting {
        let machine = Machine { available_bytes: Some(gibibytes << 30), cores: 4 };
        Fitting::of(Hardware::ThisMachine, &machine, Size::B30)
    }

    #[test]
    fn small_machines_are_offered_what_they_hold() {
        assert_eq!(on(64), Fitting::DEFAULT);
        assert_eq!(on(28), Fitting { weights: Weights::FourBit, context_length: 32_768, concurrency: 1 });
        assert_eq!(on(24), Fitting { weights: Weights::FourBit, context_length: 16_384, concurrency: 1 });
        // Nothing fits, and the usual is refused with its arithmetic.
        assert_eq!(on(8), Fitting::DEFAULT);
    }
}
