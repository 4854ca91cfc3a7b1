//! The CPU as a [`Device`]: what it is called, what it has, what it can reach.

use quern_backend::{Device, DeviceMemory, KernelChoice, MachinePeaks};

use crate::{CpuBackend, detect::Isa, machine_peaks};

impl Device for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn memory(&self) -> DeviceMemory {
        DeviceMemory::Host
    }

    fn threads(&self) -> usize {
        self.pool.workers()
    }

    fn isa(&self) -> String {
        self.kernels.isa().to_string()
    }

    fn isas(&self) -> Vec<String> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(|isa| isa.to_string()).collect()
    }

    fn kernels(&self) -> Vec<KernelChoice> {
        self.kernels.choices()
    }

    fn can_be_measured(&self) -> bool {
        true
    }

    fn measure(&self, go_on: &dyn Fn() -> bool) -> Option<MachinePeaks> {
        machine_peaks::measure(self, go_on)
    }

    fn measured_bytes(&self) -> u64 {
        machine_peaks::READ_BYTES as u64
    }
}
