//! [`Hardware`]: the memory of one rank on each kind of machine, for the command generator.

use clap::ValueEnum;

use crate::machine::Machine;

/// Where a model is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "names of devices")]
pub enum Hardware {
    #[value(name = "this")]
    ThisMachine,
    #[value(name = "cpu-64gb")]
    Cpu64,
    #[value(name = "cpu-256gb")]
    Cpu256,
    #[value(name = "cpu-1tb")]
    Cpu1024,
    H100,
    H200,
    Mi300x,
    Mi325x,
    Mi355x,
    B200,
    Gb200,
}

impl Hardware {
    /// Its name.
    pub fn title(self) -> &'static str {
        match self {
            Hardware::ThisMachine => "This machine",
            Hardware::Cpu64 => "CPU, 64 GB",
            Hardware::Cpu256 => "CPU, 256 GB",
            Hardware::Cpu1024 => "CPU, 1 TB",
            Hardware::H100 => "H100",
            Hardware::H200 => "H200",
            Hardware::Mi300x => "MI300X",
            Hardware::Mi325x => "MI325X",
            Hardware::Mi355x => "MI355X",
            Hardware::B200 => "B200",
            Hardware::Gb200 => "GB200",
        }
    }

    /// What `--device` is told there; nothing on a CPU.
    pub fn device(self) -> Option<&'static str> {
        match self {
            Hardware::ThisMachine | Hardware::Cpu64 | Hardware::Cpu256 | Hardware::Cpu1024 => None,
            Hardware::Mi300x | Hardware::Mi325x | Hardware::Mi355x => Some("hip"),
            Hardware::H100 | Hardware::H200 | Hardware::B200 | Hardware::Gb200 => Some("cuda"),
        }
    }

    /// Whether it is an accelerator. Each rank then has a device of its own; on a CPU they share the memory.
    pub fn is_gpu(self) -> bool {
        self.device().is_some()
    }

    /// Bytes of memory of one of `ranks` ranks; `None` where this machine does not say.
    ///
    /// Of GPUs the vendors' figures, in gigabytes of 10⁹ bytes: the cautious reading.
    pub fn bytes_per_rank(self, machine: &Machine, ranks: u64) -> Option<u64> {
        let gpu = |gigabytes: u64| Some(gigabytes * 1_000_000_000);
        let cpu = |gibibytes: u64| Some((gibibytes << 30) / ranks);
        match self {
            Hardware::ThisMachine => machine.available_bytes.map(|bytes| bytes / ranks),
            Hardware::Cpu64 => cpu(64),
            Hardware::Cpu256 => cpu(256),
            Hardware::Cpu1024 => cpu(1024),
            Hardware::H100 => gpu(80),
            Hardware::H200 => gpu(141),
            Hardware::Mi300x => gpu(192),
            Hardware::Mi325x => gpu(256),
            Hardware::Mi355x => gpu(288),
            Hardware::B200 => gpu(180),
            Hardware::Gb200 => gpu(186),
        }
    }
}
