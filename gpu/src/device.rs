//! A GPU as a [`Device`]: what it is called, what it has.

use quern_backend::{Device, DeviceMemory, KernelChoice, MachinePeaks};

use crate::{GpuBackend, KV_FORMATS, WEIGHT_FORMATS};

impl Device for GpuBackend {
    fn name(&self) -> &'static str {
        GpuBackend::name(self)
    }

    fn memory(&self) -> DeviceMemory {
        let (available_bytes, total_bytes) = self.device().memory().unwrap_or((0, 0));
        DeviceMemory::Own { total_bytes, available_bytes }
    }

    /// One queues the work; sampling takes as many as there are.
    fn threads(&self) -> usize {
        1
    }

    fn isa(&self) -> String {
        self.arch().to_string()
    }

    fn isas(&self) -> Vec<String> {
        vec![self.arch().to_string()]
    }

    fn kernels(&self) -> Vec<KernelChoice> {
        let product = match self.arch().vendor() {
            crate::Vendor::Nvidia => "mma m16n8k16",
            crate::Vendor::Amd => "mfma 16x16x16",
        };
        let mut choices = Vec::new();
        for (op, formats) in [("linear", WEIGHT_FORMATS), ("moe", WEIGHT_FORMATS)] {
            for format in formats {
                let tiled = crate::weights::is_tiled(format);
                let kernel = if tiled { format!("{product}, bf16 activations") } else { "f32".to_owned() };
                choices.push(KernelChoice { op, format: Some(format.to_string()), kernel });
            }
        }
        choices.extend(KV_FORMATS.map(|format| KernelChoice {
            op: "attention",
            format: Some(format.to_string()),
            kernel: product.to_owned(),
        }));
        choices
    }

    /// There is no measurement for GPUs yet.
    fn can_be_measured(&self) -> bool {
        false
    }

    fn measure(&self, _: &dyn Fn() -> bool) -> Option<MachinePeaks> {
        None
    }

    fn measured_bytes(&self) -> u64 {
        0
    }
}
