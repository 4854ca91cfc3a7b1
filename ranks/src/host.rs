//! [`HostRecord`]: where a process is: on which machine, in which of its networks, on which of its processors.

use std::fs;

use sha2::{Digest, Sha256};

use crate::wire::{RecordReader, RecordWriter, WireError};

/// Processors that a record has room for.
const CPUS: usize = 1024;

/// Where a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRecord {
    /// The same on all processes of a machine, whatever containers they are in.
    machine: [u8; 32],
    /// The same where loopback addresses are the same.
    network: [u8; 32],
    cpus: [u8; CPUS / 8],
}

impl HostRecord {
    /// This process, which may run on `cpus`.
    pub fn of_this_process(cpus: impl IntoIterator<Item = usize>) -> Self {
        let boot = fs::read("/proc/sys/kernel/random/boot_id").or_else(|_| fs::read("/etc/hostname"));
        let boot = boot.unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/net").unwrap_or_default();
        let machine = Sha256::digest(&boot).into();
        let network = Sha256::new().chain_update(&boot).chain_update(namespace.as_os_str().as_encoded_bytes());
        let mut mask = [0; CPUS / 8];
        for cpu in cpus.into_iter().filter(|cpu| *cpu < CPUS) {
            mask[cpu / 8] |= 1 << (cpu % 8);
        }
        Self { machine, network: network.finalize().into(), cpus: mask }
    }

    /// Whether both are on one machine.
    pub fn shares_machine(&self, other: &Self) -> bool {
        self.machine == other.machine
    }

    /// Whether both reach each other at loopback addresses.
    pub fn shares_network(&self, other: &Self) -> bool {
        self.network == other.network
    }

    /// The processors that it may run on, ascending.
    pub fn cpus(&self) -> Vec<usize> {
        (0..CPUS).filter(|cpu| self.cpus[cpu / 8] >> (cpu % 8) & 1 == 1).collect()
    }

    /// As it is told the other processes, always as many bytes.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut record = RecordWriter::default();
        record.bytes(&self.machine).bytes(&self.network).bytes(&self.cpus);
        record.finish()
    }

    /// What [`write`](Self::write) wrote.
    pub(crate) fn read(record: &[u8]) -> Result<Self, WireError> {
        let mut fields = RecordReader::new(record);
        let (machine, network, cpus) = (fields.array("machine")?, fields.array("network")?, fields.array("cpus")?);
        fields.end()?;
        Ok(Self { machine, network, cpus })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_one_machine_know_each_other_and_their_processors() {
        let (one, other) = (HostRecord::of_this_process([0, 9, 1023, 5000]), HostRecord::of_this_process([1]));
        assert_eq!(HostRecord::read(&one.write()).unwrap(), one);
        assert_eq!((one.cpus(), other.cpus()), (vec![0, 9, 1023], vec![1]));
        assert!(one.shares_machine(&other) && one.shares_network(&other));
        let elsewhere = HostRecord { machine: [1; 32], network: [1; 32], cpus: [0; 128] };
        assert!(!one.shares_machine(&elsewhere) && !one.shares_network(&elsewhere));
    }
}
