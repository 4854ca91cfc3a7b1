//! The GPUs of this machine: which one is to compute, and opening it.

use std::env;

use quern_gpu::{
    GpuBackend, GpuConfig, GpuError, GpuInfo, KV_FORMATS, MAX_EXPERTS, MAX_HEAD_DIM, MIN_SCALE_ROWS, Vendor,
    WEIGHT_FORMATS,
};

use crate::{
    config::{Compute, DeviceFlags, DeviceSettings},
    environment,
    memory::gib,
    resolve::GpuHost,
    start_error::StartError,
};

/// The GPU that `flags` ask for; where they leave it open, the first that there is. `notes` gets a line that says what
/// was found.
///
/// # Errors
/// If the one that was asked for by its maker cannot compute.
pub fn find(flags: &DeviceFlags, notes: &mut Vec<String>) -> Result<Option<GpuHost>, StartError> {
    let (asked, candidates) = match flags.device {
        Some(Compute::Cpu) => return Ok(None),
        Some(gpu) => (true, vec![gpu]),
        None => (false, vec![Compute::Cuda, Compute::Hip]),
    };
    for compute in candidates {
        let Some(vendor) = vendor(compute) else { continue };
        match GpuInfo::probe(vendor, flags.base_gpu_id, None) {
            Ok(found) => {
                notes.push(format!(
                    "GPU {}: {} ({}), {} of {} free. No GPU has been measured with this version.",
                    flags.base_gpu_id,
                    found.name,
                    found.arch,
                    gib(found.available_bytes),
                    gib(found.total_bytes)
                ));
                return Ok(Some(host(compute, asked, found.available_bytes)));
            }
            Err(cause) if asked => return Err(StartError::Gpu { compute: compute.name(), cause: cause.into() }),
            Err(GpuError::NoDriver { .. }) => {}
            // There is a driver, so that somebody may have counted on the GPU.
            Err(cause) => notes.push(format!("The {} device does not compute: {cause}.", compute.name())),
        }
    }
    notes.push("The CPU computes: neither NVIDIA's driver (libcuda) nor AMD's (libamdhip64) offers a GPU.".to_owned());
    Ok(None)
}

/// What a GPU with so many free bytes allows, where this program's kernels compute on it.
pub fn host(compute: Compute, is_asked_for: bool, available_bytes: u64) -> GpuHost {
    GpuHost {
        compute,
        is_asked_for,
        available_bytes,
        weights: &WEIGHT_FORMATS,
        pages: &KV_FORMATS,
        min_scale_rows: MIN_SCALE_ROWS,
        max_experts: MAX_EXPERTS,
        max_head_dim: MAX_HEAD_DIM,
        kv_bytes_per_token: quern_gpu::kv_bytes_per_token,
    }
}

/// The GPU that was decided on, with its kernels; `None` where the CPU computes.
///
/// # Errors
/// If it does not open, or its kernels do not compile.
pub fn open(device: &DeviceSettings) -> Result<Option<GpuBackend>, StartError> {
    let Some(vendor) = vendor(device.device) else { return Ok(None) };
    // None where there is no cache: kernels out of a folder that others may write to would run as this program.
    let cache = environment::caches(|name| env::var_os(name)).map(|caches| caches.join("quern").join("kernels"));
    let config = GpuConfig { vendor, index: device.base_gpu_id, libraries: None, cache };
    let compute = device.device.name();
    tracing::info!("Opening the {compute} device; its first start compiles the kernels.");
    let backend = GpuBackend::open(&config).map_err(|cause| StartError::Gpu { compute, cause: cause.into() })?;
    let made =
        if backend.is_compiled_now() { "compiled at this start" } else { "loaded as an earlier start compiled them" };
    tracing::info!("Kernels for the {compute} device: {made}.");
    if let Some(cause) = backend.not_kept() {
        tracing::warn!("the compiled kernels cannot be kept, so that the next start compiles them again: {cause}");
    }
    Ok(Some(backend))
}

fn vendor(compute: Compute) -> Option<Vendor> {
    match compute {
        Compute::Cpu => None,
        Compute::Cuda => Some(Vendor::Nvidia),
        Compute::Hip => Some(Vendor::Amd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Job};

    #[test]
    fn the_cpu_asks_no_driver() {
        for line in ["", " --device cpu", " --device cpu --base-gpu-id 7"] {
            let line = format!("quern serve{line}");
            let parsed = Cli::from_arguments(line.split_whitespace().map(Into::into)).unwrap();
            let Job::Serve(args) = parsed.command else { panic!("not `serve`") };
            let mut notes = Vec::new();
            assert!(find(&args.device, &mut notes).unwrap().is_none(), "{line}");
            assert_eq!(notes, Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn each_gpu_has_the_drivers_of_its_maker() {
        assert_eq!(Compute::ALL.map(|compute| vendor(compute).map(Vendor::backend)), [None, Some("cuda"), Some("hip")]);
    }
}
