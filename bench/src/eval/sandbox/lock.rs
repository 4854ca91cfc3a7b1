//! [`Lock`]: what the operating system takes from an interpreter before it runs a program that nobody reviewed.
//!
//! Landlock leaves it the reading of Python's own files, a filter leaves it the system calls that computing needs, and
//! whatever is not on these lists is refused. Both are inherited and cannot be taken off.

use std::path::PathBuf;

use tokio::process::{Child, Command};

/// What holds for a process that was started locked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    /// Files and folders that may be read.
    pub(super) readable: Vec<PathBuf>,
    /// System calls that are allowed, as code for the kernel in hexadecimal digits; none where `sandbox-exec` locks.
    pub(super) filter: String,
    /// What is locked by what, for people.
    pub(super) layers: Vec<String>,
}

#[cfg(target_os = "linux")]
pub(super) use linux::spawn;
#[cfg(target_os = "linux")]
impl Lock {
    /// One that lets `readable` be read.
    ///
    /// # Errors
    /// If this machine has no such lock.
    pub(super) fn new(readable: Vec<PathBuf>) -> Result<Self, String> {
        let (filter, count) = super::system_calls::filter()?;
        let layers = vec![
            "Landlock: of all files only Python's own can be read".to_owned(),
            format!(
                "seccomp: {count} system calls are allowed, none of which writes files, starts processes or connects"
            ),
        ];
        Ok(Self { readable, filter, layers })
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetStatus, Scope, path_beneath_rules,
    };
    use tokio::runtime::Handle;

    use super::{Child, Command, Lock};

    /// Start `command` locked up.
    ///
    /// # Errors
    /// If the lock cannot be had, or the program not be started.
    pub(in super::super) fn spawn(mut command: Command, lock: &Lock) -> Result<Child, String> {
        let runtime = Handle::current();
        let lock = lock.clone();
        // A thread of its own: the kernel locks the thread that asks for it and what that starts, for good.
        let locked = move || {
            let _inside = runtime.enter();
            restrict(&lock).map_err(|cause| format!("Landlock does not hold here: {cause}"))?;
            command.spawn().map_err(|cause| format!("Python cannot be started: {cause}"))
        };
        let thread = std::thread::Builder::new().name("sandbox".into()).spawn(locked);
        let thread = thread.map_err(|cause| format!("the system refuses to start a thread: {cause}"))?;
        thread.join().map_err(|_| "the lock panicked".to_owned())?
    }

    /// Leave this thread nothing but the reading of what may be read.
    fn restrict(lock: &Lock) -> Result<(), String> {
        let ruled = || {
            // What the first kernels with Landlock had must hold; what later ones added, where it is there.
            let rules = Ruleset::default()
                .set_compatibility(CompatLevel::HardRequirement)
                .handle_access(AccessFs::from_all(ABI::V1))?
                .set_compatibility(CompatLevel::BestEffort)
                .handle_access(AccessFs::from_all(ABI::V5))?
                .handle_access(AccessNet::from_all(ABI::V4))?
                .scope(Scope::from_all(ABI::V6))?;
            let reading = path_beneath_rules(&lock.readable, AccessFs::from_read(ABI::V1));
            rules.create()?.add_rules(reading)?.restrict_self()
        };
        let status = ruled().map_err(|error: landlock::RulesetError| error.to_string())?;
        match status.ruleset != RulesetStatus::NotEnforced && status.no_new_privs {
            true => Ok(()),
            false => {
                Err("the kernel does not enforce it (it needs 5.13 or later, with landlock among its lsm=)".into())
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Lock {
    /// The one of `sandbox-exec`, which knows of files only whether they are written.
    ///
    /// # Errors
    /// If this machine has none.
    pub(super) fn new(readable: Vec<PathBuf>) -> Result<Self, String> {
        if !cfg!(target_os = "macos") {
            return Err(format!("there is no lock for {}", std::env::consts::OS));
        }
        let layers = vec!["sandbox-exec: no network, no writing of files, no other processes".to_owned()];
        Ok(Self { readable, filter: String::new(), layers })
    }
}

/// Start `command`, which locks itself.
///
/// # Errors
/// If it cannot be started.
#[cfg(not(target_os = "linux"))]
pub(super) fn spawn(mut command: Command, _lock: &Lock) -> Result<Child, String> {
    command.spawn().map_err(|cause| format!("Python cannot be started: {cause}"))
}
