//! [`Tally`]: what has happened in a world, or in many.

use std::collections::BTreeMap;

/// Counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Requests whose first byte was sent.
    pub(crate) requests: u64,
    /// Those with a whole answer.
    pub(crate) whole: u64,
    /// Those of them whose answer was compared, to the bit, with what the model says to the request alone or said
    /// before.
    pub(crate) compared: u64,
    /// Virtual time, seconds.
    pub(crate) seconds: f64,
    /// Steps of the engine.
    pub(crate) steps: u64,
    /// Faults, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Answers, by status; 0 where there was none.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Of the order and content of all answers and their times.
    pub(crate) fingerprint: u64,
}

impl Tally {
    pub(crate) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn num_faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Takes note of an event, in order.
    pub(crate) fn note(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // FNV-1a.
            self.fingerprint = (self.fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.whole += other.whole;
        self.compared += other.compared;
        self.seconds += other.seconds;
        self.steps += other.steps;
        other.faults.iter().for_each(|(kind, count)| *self.faults.entry(kind).or_default() += count);
        other.statuses.iter().for_each(|(status, count)| *self.statuses.entry(*status).or_default() += count);
    }
}
