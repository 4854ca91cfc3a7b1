//! [`CoreShare`]: the cores of a process where a launcher put several on one machine. A launcher that binds its processes is
//! obeyed; where it leaves all of them to all cores each keeps to its share, so that no two pin their threads to one core.

use std::path::Path;

use quern_backend::Rank;
use quern_ranks::HostRecord;
use rustix::process::{Pid, getppid};

use crate::machine;

/// The processors that a process keeps to, and what an operator should know.
#[derive(Debug, PartialEq, Eq)]
pub struct CoreShare {
    /// `None`: those that it was given.
    cpus: Option<Vec<usize>>,
    /// Lines for the log.
    pub lines: Vec<String>,
}

/// Processors that a process may run on; those of this thread for `None`. Empty where the system does not say.
#[cfg(target_os = "linux")]
pub fn allowed(process: Option<Pid>) -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let set = sched_getaffinity(process).ok();
    set.map_or_else(Vec::new, |set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

#[cfg(not(target_os = "linux"))]
pub fn allowed(_process: Option<Pid>) -> Vec<usize> {
    Vec::new()
}

/// Have this thread, and those that it starts from now on, keep to `cpus`.
#[cfg(target_os = "linux")]
fn keep_to(cpus: &[usize]) -> std::io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(not(target_os = "linux"))]
fn keep_to(_cpus: &[usize]) -> std::io::Result<()> {
    Ok(())
}

impl CoreShare {
    /// That of the process with this `index` among `hosts`.
    pub fn of(hosts: &[HostRecord], index: usize) -> Self {
        let beside = |(place, host): (usize, &HostRecord)| {
            host.shares_machine(&hosts[index]).then(|| (place == index, host.cpus()))
        };
        let here: Vec<_> = hosts.iter().enumerate().filter_map(beside).collect();
        Self::among(&here, &allowed(getppid()), Path::new("/"))
    }

    /// `here`: the processors of each process of the machine, and whether it is this one. `of_launcher`: those of what
    /// started this one.
    fn among(here: &[(bool, Vec<usize>)], of_launcher: &[usize], root: &Path) -> Self {
        let own = here.iter().find(|(is_own, _)| *is_own).map_or(&[][..], |(_, cpus)| cpus);
        let overlap = |cpus: &[usize]| cpus.iter().any(|cpu| own.contains(cpu));
        let sharing: Vec<_> = here.iter().filter(|(_, cpus)| overlap(cpus)).collect();
        let count = sharing.len();
        let cores = machine::by_core(own, root);
        let mut share = Self { cpus: None, lines: Vec::new() };
        if count < 2 {
            let all = machine::by_core(of_launcher, root).len();
            if !cores.is_empty() && cores.len() * here.len() < all {
                share.lines.push(format!(
                    "the launcher bound this process to {} of {all} cores, and {} of its processes are on this machine: \
                     --bind-to none leaves each its share of all",
                    cores.len(),
                    here.len()
                ));
            }
            return share;
        }
        let index = sharing.iter().position(|(is_own, _)| *is_own).expect("it shares with itself");
        let part: Vec<usize> = cores[Rank { index, count }.share(cores.len())].concat();
        if sharing.iter().any(|(_, cpus)| cpus != own) {
            share.lines.push(format!(
                "{count} processes of the launcher may run on processors that overlap, this one on {}: bind all of them \
                 or none",
                shown(own)
            ));
        } else if cores.len() < count {
            let cores = cores.len();
            share
                .lines
                .push(format!("{count} processes of the launcher are on the same {cores} cores: they take turns"));
        } else {
            share.lines.push(format!(
                "the launcher left {count} processes to the same processors {}: this one keeps to its share, {}",
                shown(own),
                shown(&part)
            ));
            share.cpus = Some(part);
        }
        share
    }

    /// Have this thread, and those that it starts from now on, keep to it.
    pub fn keep_to(&self) {
        let Some(cpus) = &self.cpus else { return };
        if let Err(error) = keep_to(cpus) {
            tracing::warn!("this process may not keep to its share of the processors: {error}");
        }
    }
}

/// `0-3,8` for 0, 1, 2, 3, 8.
fn shown(cpus: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    for cpu in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let run = |(first, last): (usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.into_iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Four cores of two threads each: 0 and 4, 1 and 5 on one memory node, 2 and 6, 3 and 7 on the other.
    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for cpu in 0..8 {
            let folder = root.path().join(format!("sys/devices/system/cpu/cpu{cpu}"));
            fs::create_dir_all(folder.join("topology")).unwrap();
            fs::create_dir_all(folder.join(format!("node{}", cpu % 4 / 2))).unwrap();
            let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
            fs::write(folder.join("topology/thread_siblings_list"), siblings).unwrap();
        }
        root
    }

    /// The share of each of processes with these processors.
    fn shares(processes: &[&[usize]]) -> Vec<CoreShare> {
        let (root, all) = (machine(), (0..8).collect::<Vec<_>>());
        let of = |own: usize| {
            let here = processes.iter().enumerate().map(|(at, cpus)| (at == own, cpus.to_vec()));
            CoreShare::among(&here.collect::<Vec<_>>(), &all, root.path())
        };
        (0..processes.len()).map(of).collect()
    }

    #[test]
    fn processes_that_were_left_to_all_cores_take_shares_of_them() {
        let all: Vec<usize> = (0..8).collect();
        let both = shares(&[&all, &all]);
        assert_eq!(both[0].cpus, Some(vec![0, 4, 1, 5]), "whole cores of one memory node");
        assert_eq!(both[1].cpus, Some(vec![2, 6, 3, 7]));
        assert!(both[1].lines[0].contains("same processors 0-7") && both[1].lines[0].ends_with("share, 2-3,6-7"));
        // More processes than cores.
        let many = shares(&[&[0, 4], &[0, 4]]);
        assert!(many.iter().all(|share| share.cpus.is_none() && share.lines[0].contains("take turns")), "{many:?}");
    }

    #[test]
    fn processes_that_were_bound_keep_to_what_they_were_given() {
        let halves = shares(&[&[0, 1, 4, 5], &[2, 3, 6, 7]]);
        assert!(halves.iter().all(|share| *share == CoreShare { cpus: None, lines: Vec::new() }), "{halves:?}");
        let narrow = shares(&[&[0, 4], &[1, 5]]);
        assert!(narrow[0].lines[0].contains("to 1 of 4 cores") && narrow[0].lines[0].contains("--bind-to none"));
        let crossed = shares(&[&[0, 1], &[1, 2]]);
        assert!(crossed.iter().all(|share| share.cpus.is_none() && share.lines[0].contains("overlap")), "{crossed:?}");
    }

    #[test]
    fn the_system_says_where_this_thread_may_run() {
        assert!(!allowed(None).is_empty() || !cfg!(target_os = "linux"));
        assert_eq!(shown(&[8, 0, 1, 2, 3]), "0-3,8");
    }
}
