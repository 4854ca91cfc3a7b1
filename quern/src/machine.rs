//! [`Machine`]: the memory, the cores and the threads this process may use.
//!
//! Containers are limited by control groups, not by what `/proc/meminfo` says of the host; both are
//! read, every ancestor group included, and the smallest answer counts.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::RwLock,
    thread,
};

use quern_backend::{Device, DeviceMemory};
use rustix::process::{Resource, getrlimit};

/// What this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes that can still be allocated without swapping; `None` where the system does not say.
    pub available_bytes: Option<u64>,
    /// Physical cores, at least 1.
    pub cores: usize,
}

impl Machine {
    /// Ask this machine.
    pub fn probe() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::probe_under(Path::new("/"), threads, getrlimit(Resource::As).current)
    }

    /// Read `proc` and `sys` under `root`. `threads`: hardware threads this process may run on at once,
    /// quotas considered. `address_limit`: that of `ulimit -v`, bytes.
    fn probe_under(root: &Path, threads: usize, address_limit: Option<u64>) -> Self {
        let mut limits = cgroup_headroom(root);
        limits.extend(address_limit.map(|limit| limit.saturating_sub(addresses_in_use(root))));
        let available_bytes = mem_available(root).into_iter().chain(limits).min();
        // Two threads of one core share its arithmetic units, so a worker per core is as fast and steadier.
        let cores = physical_cores(root).map_or(threads, |cores| cores.min(threads)).max(1);
        Self { available_bytes, cores }
    }
}

/// Bytes that can still be allocated where `device` computes; `None` where that is unknown.
pub fn available_bytes(device: &dyn Device) -> Option<u64> {
    match device.memory() {
        DeviceMemory::Host => Machine::probe().available_bytes,
        DeviceMemory::Own { available_bytes, .. } => Some(available_bytes),
    }
}

/// Nodes of memory that have processors of their own: sockets, mostly. 1 where the system does not say.
pub fn memory_nodes() -> usize {
    memory_nodes_under(Path::new("/"))
}

fn memory_nodes_under(root: &Path) -> usize {
    let entries = fs::read_dir(root.join("sys/devices/system/node")).into_iter().flatten().flatten();
    let has_processors =
        |path: PathBuf| fs::read_to_string(path.join("cpulist")).is_ok_and(|list| !list.trim().is_empty());
    entries.filter(|entry| has_processors(entry.path())).count().max(1)
}

/// What the processor calls itself, where the system tells (Linux on x86).
pub fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

/// Cores that were busy over the last minute, where the system tells (Linux).
pub fn busy_cores() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// What the processors of the machine have done since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTicks {
    busy: u64,
    all: u64,
}

impl CpuTicks {
    /// Where the system tells (Linux).
    pub fn now() -> Option<Self> {
        Self::of(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn of(stat: &str) -> Option<Self> {
        let ticks: Vec<u64> =
            stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|t| t.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in the first two.
        let all = ticks.iter().take(8).sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Some(Self { busy: all - idle, all })
    }

    /// The share of all processors that was busy between `earlier` and this.
    pub fn busy_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.busy.saturating_sub(earlier.busy) as f64 / all as f64
    }
}

/// Fewer threads than are needed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{wanted} threads are needed and the system starts {started} ({cause}): raise the limit of processes (ulimit -u, \
     now {limit}) or the container's (pids.max, --pids-limit), or ask for fewer --cpu-threads"
)]
pub struct ThreadLimit {
    wanted: usize,
    started: usize,
    limit: String,
    cause: io::Error,
}

/// Start `wanted` threads at once, and end them.
///
/// # Errors
/// If the system does not let us.
pub fn check_threads(wanted: usize) -> Result<(), ThreadLimit> {
    /// They do nothing.
    const STACK_BYTES: usize = 16 << 10;
    let all = RwLock::new(());
    let hold = all.write();
    let outcome = thread::scope(|scope| {
        // In here, so that the threads are let go before the scope waits for them.
        let hold = hold;
        let outcome = (0..wanted).try_for_each(|started| {
            let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || drop(all.read()));
            spawned.map(drop).map_err(|cause| (started, cause))
        });
        drop(hold);
        outcome
    });
    outcome.map_err(|(started, cause)| {
        let limit = getrlimit(Resource::Nproc).current.map_or("unlimited".into(), |limit| limit.to_string());
        ThreadLimit { wanted, started, limit, cause }
    })
}

/// `MemAvailable` of `/proc/meminfo`: free memory and caches that can be dropped, bytes.
fn mem_available(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Addresses that this process has mapped, bytes; 0 where the system does not say.
fn addresses_in_use(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let kib =
        text.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(0, |kib: u64| kib * 1024)
}

/// What is left below the memory limit of each control group this process is in, bytes.
fn cgroup_headroom(root: &Path) -> Vec<u64> {
    let Ok(text) = fs::read_to_string(root.join("proc/self/cgroup")) else { return Vec::new() };
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let files = if id == "0" && controllers.is_empty() {
            &CGROUP_V2
        } else if controllers.split(',').any(|name| name == "memory") {
            &CGROUP_V1
        } else {
            continue;
        };
        let mount = root.join(files.mount);
        let inside = path.trim_start_matches('/');
        // The path may be the host's, of which the container sees only the mount's root.
        let mut group: Option<&Path> = Some(Path::new(inside));
        while let Some(path) = group {
            found.extend(files.headroom(&mount.join(path)));
            group = path.parent();
        }
    }
    found
}

/// Names of one generation of control groups' files.
struct CgroupFiles {
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Fields of `memory.stat` that count files which can be dropped.
    reclaimable: [&'static str; 2],
}

const CGROUP_V2: CgroupFiles = CgroupFiles {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: ["inactive_file", "active_file"],
};

const CGROUP_V1: CgroupFiles = CgroupFiles {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file", "total_active_file"],
};

impl CgroupFiles {
    fn headroom(&self, group: &Path) -> Option<u64> {
        // `max` (version 2) is no number: no limit. Version 1 writes a number near 2^63, which loses
        // against every other.
        let limit: u64 = read_number(group.join(self.limit))?;
        let usage = read_number(group.join(self.usage))?;
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let reclaimable: u64 = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| self.reclaimable.contains(name))
            .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
            .sum();
        Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
    }
}

fn read_number(file: PathBuf) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Cores of the threads this process may run on, each counted once.
fn physical_cores(root: &Path) -> Option<usize> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(by_core(&cpu_list(allowed.trim())?, root).len()).filter(|&cores| cores > 0)
}

/// Processors by physical core, those of one memory node together, as the files under `root` say.
pub fn by_core(cpus: &[usize], root: &Path) -> Vec<Vec<usize>> {
    let mut cores: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for cpu in cpus {
        let folder = root.join(format!("sys/devices/system/cpu/cpu{cpu}"));
        // Without the file (some containers hide it) every processor counts as a core.
        let siblings = fs::read_to_string(folder.join("topology/thread_siblings_list")).unwrap_or_default();
        let first = siblings.trim().split([',', '-']).next().and_then(|first| first.parse().ok()).unwrap_or(*cpu);
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let node = |name: std::ffi::OsString| name.to_str()?.strip_prefix("node")?.parse().ok();
        let node = entries.filter_map(|entry| node(entry.file_name())).next().unwrap_or(0);
        cores.entry((node, first)).or_default().push(*cpu);
    }
    cores.into_values().collect()
}

/// `0-3,8` as 0, 1, 2, 3, 8.
fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if last < first || last - first > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    fn machine(files: &[(&str, &str)], threads: usize) -> Machine {
        Machine::probe_under(root(files).path(), threads, None)
    }

    #[test]
    fn nodes_of_memory_without_processors_do_not_count() {
        let nodes = "sys/devices/system/node";
        let list = |node: &str| format!("{nodes}/{node}/cpulist");
        let files = [(list("node0"), "0-7\n"), (list("node1"), "8-15\n"), (list("node2"), "\n")];
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let with_others = [files.as_slice(), &[("sys/devices/system/node/online", "0-2\n")]].concat();
        assert_eq!(memory_nodes_under(root(&with_others).path()), 2);
        assert_eq!(memory_nodes_under(root(&[]).path()), 1);
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  16000 kB\nMemFree: 1 kB\nMemAvailable:  8000 kB\n");

    #[test]
    fn busy_processors_are_told_from_idle_ones() {
        let before = CpuTicks::of("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n").unwrap();
        let after = CpuTicks::of("cpu  130 10 60 900 100 5 5 0 99 0\n").unwrap();
        assert_eq!(after.busy_since(before), 0.285_714_285_714_285_7);
        assert_eq!(before.busy_since(before), 0.0);
        assert_eq!(CpuTicks::of("intr 1"), None);
    }

    #[test]
    fn threads_are_tried() {
        check_threads(3).unwrap();
    }

    #[test]
    fn without_a_group_the_host_decides() {
        assert_eq!(machine(&[MEMINFO], 4), Machine { available_bytes: Some(8000 * 1024), cores: 4 });
        assert_eq!(machine(&[], 0), Machine { available_bytes: None, cores: 1 });
    }

    #[test]
    fn a_limit_of_addresses_counts_less_what_is_mapped() {
        let root = root(&[MEMINFO, ("proc/self/status", "VmPeak: 9 kB\nVmSize:\t  300 kB\n")]);
        let available = |limit| Machine::probe_under(root.path(), 1, limit).available_bytes;
        assert_eq!(available(Some(1000 * 1024)), Some(700 * 1024));
        assert_eq!(available(Some(100 * 1024)), Some(0));
        assert_eq!(available(Some(1 << 40)), Some(8000 * 1024));
    }

    #[test]
    fn a_version_2_limit_counts_less_its_use_without_caches() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/pod/box\n"),
            ("sys/fs/cgroup/pod/box/memory.max", "4000000\n"),
            ("sys/fs/cgroup/pod/box/memory.current", "1500000\n"),
            ("sys/fs/cgroup/pod/box/memory.stat", "anon 900000\ninactive_file 400000\nactive_file 100000\n"),
        ];
        assert_eq!(machine(&files, 1).available_bytes, Some(3_000_000));
    }

    #[test]
    fn an_ancestor_may_be_tighter_and_max_is_no_limit() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/pod/box\n"),
            ("sys/fs/cgroup/pod/box/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/memory.max", "5000000\n"),
            ("sys/fs/cgroup/pod/memory.current", "5500000\n"),
        ];
        assert_eq!(machine(&files, 1).available_bytes, Some(0));
    }

    #[test]
    fn a_version_1_limit_counts_even_where_the_path_is_the_hosts() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100000\n"),
        ];
        assert_eq!(machine(&files, 1).available_bytes, Some(1_600_000));
    }

    #[test]
    fn siblings_are_one_core() {
        let files = [
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-2,5\n"),
            ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,4\n"),
            ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,5\n"),
            ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2,6\n"),
            ("sys/devices/system/cpu/cpu5/topology/thread_siblings_list", "1,5\n"),
        ];
        assert_eq!(machine(&files, 4).cores, 3);
        // A quota of two.
        assert_eq!(machine(&files, 2).cores, 2);
    }
}
