//! [`DeviceFlags`] and [`DeviceSettings`]: what computes.

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::TypedValueParser};
use quern_model::Checkpoint;
use serde::Serialize;

use super::{
    names::{Auto, Names},
    nodes::NodeOptions,
    parallel::{ParallelFlags, ParallelOptions},
    refused::RefusedFlag,
};
use crate::machine::Machine;

/// Threads are started one by one; more than this is a slip of the keyboard.
const MAX_THREADS: u64 = 1024;

/// What was typed about what computes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine")]
pub struct DeviceFlags {
    /// What computes: the CPU, an NVIDIA GPU (cuda), an AMD GPU (hip); `auto` takes a GPU where there is one that can
    /// serve the model, else the CPU. The GPUs' kernels have run on emulated drivers only
    #[arg(long, visible_alias = "backend", value_name = "DEVICE", default_value = "cpu",
          value_parser = Names::or_auto(Compute::ALL.map(|compute| (compute.name(), compute)))
              .refusing(&["xpu", "hpu", "npu", "musa", "mps", "tpu"]))]
    pub device: Auto<Compute>,

    /// Which of the machine's GPUs, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub base_gpu_id: usize,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub cpu: CpuFlags,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub parallel: ParallelFlags,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub nodes: NodeOptions,

    /// Keep a GGUF model's repacked weights in DIR, as large as the model, so that later starts map them and repack
    /// nothing
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub weight_cache: Option<PathBuf>,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Threads of this machine.
    Cpu,
    /// A GPU of NVIDIA.
    Cuda,
    /// A GPU of AMD.
    Hip,
}

impl Compute {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::Hip];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Hip => "hip",
        }
    }
}

/// The part of it that measurements of the machine have too.
#[derive(Args, Clone, Debug, Default)]
pub struct CpuFlags {
    /// Worker threads of all ranks together [default: one per physical core this process may use]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=MAX_THREADS).map(|threads| threads as usize))]
    pub cpu_threads: Option<usize>,

    /// Instruction set of the kernels, to compare or to find a fault [default: the best this machine has]
    #[arg(long, value_name = "ISA", value_parser = Names::<CpuIsa>::of_enum())]
    pub cpu_isa: Option<CpuIsa>,
}

/// An instruction set that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum CpuIsa {
    /// Plain Rust, any CPU.
    Scalar,
    /// AVX2 (x86-64-v3).
    Avx2,
    /// AVX2 with the 8-bit dot product.
    AvxVnni,
    /// AVX-512 (x86-64-v4).
    Avx512,
    /// AVX-512 with the 8-bit dot product.
    Avx512Vnni,
    /// AVX-512 with the 8-bit and the BF16 dot product.
    Avx512Bf16,
    /// NEON (every 64-bit Arm).
    Neon,
    /// NEON with the 8-bit dot product (Armv8.2).
    NeonDot,
}

/// What computes. Fields of the same names as flags are shown as they were asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceSettings {
    /// What computes.
    pub device: Compute,
    /// Which of the machine's GPUs, from 0.
    pub base_gpu_id: usize,
    /// Worker threads.
    pub cpu_threads: usize,
    /// The instruction set of the kernels; `None`: the best this machine has.
    pub cpu_isa: Option<CpuIsa>,
    /// Where repacked weights are kept between starts.
    pub weight_cache: Option<PathBuf>,
    /// Over how many ranks the network is divided.
    #[serde(flatten)]
    pub parallel: ParallelOptions,
    /// Where its nodes meet.
    #[serde(flatten)]
    pub nodes: NodeOptions,
    /// Pipeline stages.
    pub pp_size: usize,
    /// Replicas.
    pub dp_size: usize,
}

impl CpuFlags {
    /// Worker threads on `machine`.
    pub fn threads(&self, machine: &Machine) -> usize {
        self.cpu_threads.unwrap_or(machine.cores)
    }
}

impl DeviceFlags {
    /// Lines about what changes nothing, whatever the model is.
    ///
    /// # Errors
    /// For the flag that asks for what the device that is named does not do, or for ranks that no network has.
    pub fn check(&self) -> Result<Vec<String>, RefusedFlag> {
        let parallel = self.parallel.options();
        parallel.check()?;
        let mut notes = self.nodes.check(parallel)?;
        match self.device {
            None => Ok(notes),
            Some(Compute::Cpu) => {
                if self.base_gpu_id != 0 {
                    let id = self.base_gpu_id;
                    notes.push(format!(
                        "--base-gpu-id {id} changes nothing: the CPU computes (--device cuda or hip takes a GPU)."
                    ));
                }
                Ok(notes)
            }
            Some(gpu) => match self.of_cpu().into_iter().next() {
                None => Ok(notes),
                Some((flag, value)) => {
                    let reason = format!("--device {} does without; leave it out, or take --device cpu", gpu.name());
                    Err(RefusedFlag::new(flag, value, reason))
                }
            },
        }
    }

    /// Lines about what changes nothing where `gpu` computes.
    pub fn ignored_by(&self, gpu: Compute) -> Vec<String> {
        let ignored = self.of_cpu().into_iter();
        ignored
            .map(|(flag, value)| format!("--{flag} {value} changes nothing: the {} device computes.", gpu.name()))
            .collect()
    }

    /// What was typed that only a CPU heeds: flags and values.
    fn of_cpu(&self) -> Vec<(&'static str, String)> {
        let isa = self.cpu.cpu_isa.and_then(|isa| isa.to_possible_value());
        let isa = isa.map(|isa| ("cpu-isa", isa.get_name().to_owned()));
        let cache = self.weight_cache.as_ref().map(|dir| ("weight-cache", dir.display().to_string()));
        isa.into_iter().chain(cache).collect()
    }

    /// What computes on `machine`: its CPU, or the GPU that was found.
    pub fn settings(&self, machine: &Machine, gpu: Option<Compute>) -> DeviceSettings {
        DeviceSettings {
            device: gpu.unwrap_or(Compute::Cpu),
            base_gpu_id: self.base_gpu_id,
            cpu_threads: self.cpu.threads(machine),
            cpu_isa: self.cpu.cpu_isa,
            weight_cache: self.weight_cache.clone(),
            parallel: self.parallel.options(),
            nodes: self.nodes.clone(),
            pp_size: 1,
            dp_size: 1,
        }
    }
}

impl DeviceSettings {
    /// A line on what would suit a machine of `nodes` memory nodes better; none where a GPU computes.
    pub fn advice(&self, nodes: usize, checkpoint: &Checkpoint) -> Option<String> {
        if self.device == Compute::Cpu { self.parallel.advice(nodes, checkpoint) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::{config::LoadFormat, model_files::ModelFiles, resolve::tests::decide};

    #[test]
    fn ranks_for_memory_nodes_are_recommended_where_the_cpu_computes() {
        let checkpoint = ModelFiles::Shipped.checkpoint(LoadFormat::Safetensors, &Map::new()).unwrap();
        let on_cpu = decide("").unwrap().config.device;
        assert!(on_cpu.advice(2, &checkpoint).is_some_and(|line| line.contains("--tp-size 2")));
        assert_eq!(on_cpu.advice(1, &checkpoint), None);
        for device in [Compute::Cuda, Compute::Hip] {
            assert_eq!(DeviceSettings { device, ..on_cpu.clone() }.advice(2, &checkpoint), None);
        }
    }
}
