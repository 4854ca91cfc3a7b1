//! Which CPUs this process may run on, and pinning a thread to one of them.

use std::cell::Cell;

/// One CPU for each physical core that this process may use, ascending within each node of memory, and those of one
/// node together; empty where the operating system does not say.
///
/// Two hardware threads of a core share its vector units and its load ports, so a second worker on a
/// core brings nothing to kernels that saturate either.
#[cfg(target_os = "linux")]
pub(crate) fn allowed_cores() -> Vec<usize> {
    let mut seen = Vec::new();
    let mut cores = Vec::new();
    for cpu in allowed_cpus() {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        // Without the file (some containers hide it) every CPU counts as a core of its own.
        let siblings = std::fs::read_to_string(path).unwrap_or_else(|_| cpu.to_string());
        if !seen.contains(&siblings) {
            seen.push(siblings);
            cores.push(cpu);
        }
    }
    cores.sort_by_cached_key(|&cpu| node_of(cpu));
    cores
}

/// The node of memory that is nearest to `cpu`; 0 where the operating system does not say.
#[cfg(target_os = "linux")]
fn node_of(cpu: usize) -> usize {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).into_iter().flatten().flatten();
    let node = |name: std::ffi::OsString| name.to_str()?.strip_prefix("node")?.parse().ok();
    entries.filter_map(|entry| node(entry.file_name())).next().unwrap_or(0)
}

#[cfg(target_os = "linux")]
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is a plain bit mask, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: pid 0 is this thread; the pointer and the size describe `set`.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return Vec::new();
    }
    // SAFETY: `cpu` stays below the number of bits of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Let the calling thread run on `cpu` only. Failure is harmless: the thread then stays where the
/// scheduler puts it.
#[cfg(target_os = "linux")]
pub(crate) fn pin_current_thread(cpu: usize) {
    // SAFETY: as in `allowed_cpus`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` comes from `allowed_cpus`, so it is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: pid 0 is this thread; the pointer and the size describe `set`.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// The same, for a thread that asks again and again.
pub(crate) fn keep_current_thread_on(cpu: usize) {
    thread_local! {
        static PINNED_TO: Cell<Option<usize>> = const { Cell::new(None) };
    }
    if PINNED_TO.replace(Some(cpu)) != Some(cpu) {
        pin_current_thread(cpu);
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn allowed_cores() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin_current_thread(_cpu: usize) {}
