//! What programs may do behind the lock, and what they try.

use super::*;

/// None, with a word about it, where programs cannot be locked up.
async fn sandbox() -> Option<Sandbox> {
    match Sandbox::new(4.0).await {
        Ok(sandbox) => Some(sandbox),
        Err(error) => {
            crate::skip::skip(&error.to_string(), "a kernel with Landlock");
            None
        }
    }
}

/// A program that defines nothing to be tested but is run.
fn alone(program: &str) -> Trial {
    function(&format!("{program}\ndef f(): pass"), "assert f() is None")
}

/// A program that defines `f`, and what is said of it.
fn function(program: &str, claims: &str) -> Trial {
    Trial {
        program: program.into(),
        head: "def helper(x):\n    return 2 * x\n\ndef f(x):\n    \"\"\"Not known yet.\"\"\"\n".into(),
        entry_point: "f".into(),
        test: format!("def check(candidate):\n    {claims}\n"),
    }
}

async fn ending(sandbox: &Sandbox, trial: &Trial) -> String {
    match sandbox.run(trial).await.expect("it runs") {
        Ending::Passed => "passed".to_owned(),
        Ending::Failed(problem) => problem,
    }
}

#[tokio::test]
async fn programs_end_as_they_end() {
    let Some(sandbox) = sandbox().await else { return };
    let run = async |program: &str| ending(&sandbox, &alone(program)).await;
    assert_eq!(
        run("import math, re, collections, hashlib, random, decimal\nassert math.gcd(4, 6) == 2").await,
        "passed"
    );
    assert!(run("assert False, 'no'").await.contains("AssertionError: no"));
    assert!(run("def g(:").await.contains("SyntaxError"));
    assert!(run("raise SystemExit(0)").await.contains("SystemExit"));
    assert_eq!(run("import os; os._exit(0)").await, "exit status: 0");
    assert!(run("x = 'a' * (1 << 31)").await.contains("MemoryError"));
    assert_eq!(run("print('much')\nimport sys\nsys.stderr.write('more')").await, "passed");
    assert!(ending(&sandbox, &function("g = 1", "assert candidate()")).await.contains("KeyError"));
}

#[tokio::test]
async fn answers_cross_as_what_they_are() {
    let Some(sandbox) = sandbox().await else { return };
    let echo = "from collections import namedtuple, OrderedDict, Counter\nfrom fractions import Fraction\n\
                import decimal\ndef f(x, *, wrap=None):\n    return eval(wrap) if wrap else x\n";
    let claims = [
        "assert candidate([1, (2.5, None), {'a': {3}, 4: b'x'}, True]) == [1, (2.5, None), {'a': {3}, 4: b'x'}, True]",
        "assert candidate((1,)) != [1] and type(candidate(True)) is bool and candidate(10 ** 400) == 10 ** 400",
        "x = candidate(float('nan')); assert x != x; assert candidate(float('-inf')) == float('-inf')",
        "assert candidate(-0.0).hex() == '-0x0.0p+0' and candidate(0.1) == 0.1 and candidate(1 + 2j) == 1 + 2j",
        "assert candidate(0, wrap='Fraction(1, 3)').denominator == 3 and candidate(0, wrap='(i for i in [1, 2])').__next__() == 1",
        "assert candidate(0, wrap=\"namedtuple('P', 'a b')(1, 2)\") == (1, 2) and candidate(0, wrap='Counter(\\'aab\\')') == {'a': 2, 'b': 1}",
        "assert candidate(0, wrap='range(3)') == range(3) and candidate('\\ud800') == '\\ud800' and candidate(frozenset([1])) == {1}",
        "assert helper(4) == 8 and f([1]) == [1]",
    ];
    for claim in claims {
        assert_eq!(ending(&sandbox, &function(echo, claim)).await, "passed", "{claim}");
    }
    let raised =
        "try:\n        candidate(1)\n    except ValueError as e:\n        assert 'odd' in str(e)\n    else: assert 0";
    assert_eq!(ending(&sandbox, &function("def f(x): raise ValueError('odd')", raised)).await, "passed");
    let unknown = ending(&sandbox, &function("class A: pass\ndef f(x): return A()", "assert candidate(1)")).await;
    assert!(unknown.contains("type A cannot be compared"), "{unknown}");
    let wrong = ending(&sandbox, &function("def f(x): return x + 2", "assert candidate(1) == 2, 'not 2'")).await;
    assert!(wrong.contains("AssertionError: not 2"), "{wrong}");
}

#[tokio::test]
async fn a_verdict_is_out_of_reach() {
    let Some(sandbox) = sandbox().await else { return };
    let wrong = "assert candidate(1) == 2, 'wrong'";
    for program in [
        // An answer that says of itself that it is right.
        "class Yes(int):\n    def __eq__(self, other): return True\ndef f(x): return Yes(7)",
        "class Yes:\n    def __eq__(self, other): return True\ndef f(x): return Yes()",
        // The words that end a test, on any descriptor.
        "import os\nfor fd in range(64):\n    try: os.write(fd, b'passed null\\n')\n    except OSError: pass\ndef f(x): return 7",
        "import os\ndef f(x):\n    for fd in range(64):\n        try: os.write(fd, b'passed null\\n')\n        except OSError: pass\n    return 7",
        // Whatever the callers of the program have.
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for value in list(frame.f_globals.values()):\n            \
             if callable(value):\n                try: value('passed', None)\n                except BaseException: pass\n        \
             frame = frame.f_back\n    return 7",
        "import builtins\nbuiltins.AssertionError = None\ndef f(x): return 7",
        "import os\ndef f(x): os._exit(0)",
        "def f(x): raise SystemExit(0)",
        "def f(x): return 7\ndef check(candidate): pass",
    ] {
        let ending = ending(&sandbox, &function(program, wrong)).await;
        assert_ne!(ending, "passed", "{program}");
    }
}

#[tokio::test]
async fn time_and_output_are_limited_from_outside() {
    let Some(sandbox) = sandbox().await else { return };
    for program in [
        "while True: pass",
        // Timers and signals of its own change nothing.
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n\
         try: signal.setitimer(signal.ITIMER_REAL, 0)\nexcept OSError: pass\nwhile True: pass",
        "import time\nwhile True:\n    try: time.sleep(100)\n    except BaseException: pass",
        // More than anybody hears: the pipe is full, and it waits.
        "import os\nos.write(1, b'loaded null\\n')\nfor fd in range(64):\n    try:\n        while True: os.write(fd, b'answer null\\n' * 4096)\n    except OSError: pass",
    ] {
        let ended = ending(&sandbox, &alone(program)).await;
        let ways = ["timed out", "AssertionError", "cannot be read", "signal"];
        assert!(ways.iter().any(|way| ended.contains(way)), "{program}: {ended}");
    }
    let much = "import os\nfor fd in range(64):\n    try:\n        while True: os.write(fd, b'x' * 65536)\n    except OSError: pass";
    let ended = ending(&sandbox, &alone(much)).await;
    assert!(ended.contains("says more than 4194304 bytes"), "{ended}");
    let ended = ending(&sandbox, &function("def f(x): return 'x' * (200 << 20)", "assert candidate(1)")).await;
    assert!(ended.contains("says more than") || ended.contains("MemoryError"), "{ended}");
}

#[tokio::test]
async fn programs_can_do_no_harm() {
    let Some(sandbox) = sandbox().await else { return };
    // Python reports what the lock refuses in a few ways; a program that is not refused reports nothing.
    for program in [
        "import socket; socket.create_connection(('127.0.0.1', 1))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import socket; socket.socketpair()",
        "import subprocess; subprocess.run(['true'], check=True)",
        "import os; os.fork()",
        "import os, sys; os.execv(sys.executable, ['python3', '-c', 'pass'])",
        "import os; os.kill(os.getppid(), 0)",
        "import threading; t = threading.Thread(target=print); t.start()",
        "open('file', 'w')",
        "open('/tmp/quern-no-such-file', 'a')",
        "import os; os.open('/dev/null', os.O_RDWR)",
        "import os; os.mkdir('/tmp/quern-no-such-folder')",
        "import os; os.remove('/tmp/no-such-file')",
        "import os; os.rename('/tmp/no-such-file', '/tmp/no-other-file')",
        "import os; os.symlink('/', '/tmp/quern-no-such-link')",
        "import os, sys; os.utime(sys.prefix)",
        "import os, sys; os.chmod(sys.prefix, 0o755)",
        "import os, sys; os.chown(sys.prefix, -1, -1)",
        "import os; os.truncate('/tmp/no-such-file', 0)",
        "import os, sys; os.setxattr(sys.prefix, 'user.a', b'b')",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open('/proc/1/environ').read()",
        "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
        "import os; os.listdir('/')",
        "import os; os.listdir('/tmp')",
        "import os; os.chroot('/')",
        "import os; os.chdir('/')",
        "import os; os.nice(-5)",
        "import os; os.setuid(0)",
        "import os; os.sched_setaffinity(0, {0})",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
        "import os; os.memfd_create('x')",
        "import os; os.pipe()",
    ] {
        let ended = ending(&sandbox, &alone(program)).await;
        let refused = ["PermissionError", "can't start new thread", "not allowed to raise", "Errno 1]", "[Errno 13]"];
        assert!(refused.iter().any(|words| ended.contains(words)), "{program}: {ended}");
    }
}

/// System calls that Python has no words for, tried as root or not: each is refused before the kernel looks at arguments.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn system_calls_that_are_not_on_the_list_are_refused() {
    let Some(sandbox) = sandbox().await else { return };
    let calls = [
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("open_tree", libc::SYS_open_tree),
        ("fsopen", libc::SYS_fsopen),
        ("swapon", libc::SYS_swapon),
        ("settimeofday", libc::SYS_settimeofday),
        ("reboot", libc::SYS_reboot),
        ("ptrace", libc::SYS_ptrace),
        ("process_vm_readv", libc::SYS_process_vm_readv),
        ("pidfd_open", libc::SYS_pidfd_open),
        ("bpf", libc::SYS_bpf),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("keyctl", libc::SYS_keyctl),
        ("unshare", libc::SYS_unshare),
        ("setns", libc::SYS_setns),
        ("clone3", libc::SYS_clone3),
        ("openat2", libc::SYS_openat2),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("init_module", libc::SYS_init_module),
        ("sethostname", libc::SYS_sethostname),
        ("tgkill", libc::SYS_tgkill),
        ("a call that is not there yet", 1000),
        ("a call of 32-bit pointers", 0x4000_0000),
    ];
    for (name, number) in calls {
        let program = format!(
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n\
             assert libc.syscall({number}, 0, 0, 0, 0, 0, 0) == -1\nassert ctypes.get_errno() == 1, ctypes.get_errno()"
        );
        assert_eq!(ending(&sandbox, &alone(&program)).await, "passed", "{name} is refused");
    }
}

#[tokio::test]
async fn the_layers_are_named() {
    let Some(sandbox) = sandbox().await else { return };
    let layers: Vec<_> = sandbox.layers().collect();
    let named = |word: &str| layers.iter().any(|layer| layer.contains(word));
    assert!(named("limits: 4 s, 1024 MiB"), "{layers:?}");
    if cfg!(target_os = "linux") {
        assert!(named("Landlock") && named("seccomp: "), "{layers:?}");
    }
}
