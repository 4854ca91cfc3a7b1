//! [`filter`]: the system calls that a program needs to compute and to import Python's modules, as code for the kernel.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Allowed with any arguments.
const PLAIN: &[i64] = &[
    // What is open already.
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_getdents64,
    // What is asked of files; Landlock says which can be opened.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
];

/// The same in the older forms that only some architectures have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// How a file would be opened to change something.
const WRITING: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;

/// The code, in hexadecimal digits, and how many calls it allows. What it does not allow fails with `EPERM`.
///
/// # Errors
/// If there is no such code for this architecture.
pub(super) fn filter() -> Result<(String, usize), String> {
    let code = || -> Result<_, seccompiler::BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            PLAIN.iter().chain(OLDER).map(|&call| (call, vec![])).collect();
        let only = |argument, operator, value: u64| {
            SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
        };
        let reading = |argument| only(argument, SeccompCmpOp::MaskedEq(WRITING as u64), 0);
        rules.insert(libc::SYS_openat, vec![reading(2)?]);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, vec![reading(1)?]);
        // Whether a file is a terminal, and that children do not inherit it.
        let questions = [libc::TCGETS, libc::FIOCLEX].map(|question| only(1, SeccompCmpOp::Eq, question));
        rules.insert(libc::SYS_ioctl, questions.into_iter().collect::<Result<_, _>>()?);
        // Limits are read, not set.
        let no_new_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
        rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![no_new_limit])?]);
        let count = rules.len();
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
        Ok((BpfProgram::try_from(filter)?, count))
    };
    let (code, count) =
        code().map_err(|cause| format!("there is no filter of system calls for this machine: {cause}"))?;
    let digits = code.iter().map(|step| {
        let [low, high] = step.code.to_ne_bytes();
        let bytes = [[low, high, step.jt, step.jf], step.k.to_ne_bytes()].concat();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    Ok((digits.collect(), count))
}
