# Runs the program on standard input where it can do no harm: limited time and memory, no network, no other
# processes, no writing of files. Prints the first line of its input if the program ends by itself.
import ctypes, ctypes.util, os, platform, resource, signal, struct, sys

NONCE = sys.stdin.readline().strip()
SECONDS = float(sys.stdin.readline())
MEMORY_BYTES = int(sys.stdin.readline())
PROGRAM = sys.stdin.read()
OUT = os.dup(1)


def limit():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


# Name: (x86_64, aarch64). What is not denied can read files and compute, no more.
DENIED = {
    "socket": (41, 198), "connect": (42, 203), "sendto": (44, 206), "sendmsg": (46, 211), "bind": (49, 200),
    "socketpair": (53, 199), "sendmmsg": (307, 269), "io_uring_setup": (425, 425),
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "rt_sigqueueinfo": (129, 138),
    "creat": (85, None), "openat2": (437, 437), "truncate": (76, 45), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37), "symlink": (88, None),
    "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None), "fchown": (93, 55),
    "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "utimensat": (280, 88), "mount": (165, 40), "umount2": (166, 39), "setns": (308, 268), "unshare": (272, 97),
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241), "add_key": (248, 217),
    "keyctl": (250, 219), "prlimit64": (302, 261), "setrlimit": (160, 164),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}
OPEN, OPENAT = (2, None), (257, 56)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def lock_system_calls():
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    audit = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[platform.machine()]
    load, equal, above, anyset, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    code = [
        (load, 0, 0, 4), (equal, 1, 0, audit), (ret, 0, 0, 0x80000000),  # another architecture: kill
        (load, 0, 0, 0), (above, 0, 1, 0x40000000), (ret, 0, 0, 0x00050001),  # x32: not permitted
    ]
    for numbers in DENIED.values():
        if numbers[column] is not None:
            code += [(equal, 0, 1, numbers[column]), (ret, 0, 0, 0x00050001)]
    for numbers, argument in ((OPEN, 1), (OPENAT, 2)):
        if numbers[column] is not None:
            code += [
                (equal, 0, 4, numbers[column]), (load, 0, 0, 16 + 8 * argument),
                (anyset, 0, 1, WRITING), (ret, 0, 0, 0x00050001), (ret, 0, 0, 0x7FFF0000),
            ]
    code.append((ret, 0, 0, 0x7FFF0000))
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(packed)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no filter of system calls")


def end(*_):
    os._exit(4)


try:
    limit()
    signal.signal(signal.SIGALRM, end)
    if sys.platform == "linux":
        lock_system_calls()
        # The lock is tried, not trusted.
        for forbidden in (lambda: __import__("socket").socket(), os.fork, lambda: open("written", "w")):
            try:
                forbidden()
            except OSError:
                continue
            raise OSError("the lock does not hold")
    elif sys.platform != "darwin":  # there, sandbox-exec has locked the door already
        raise OSError("no lock for " + sys.platform)
except Exception as problem:
    os.write(OUT, ("unlocked: %s" % problem).encode())
    os._exit(3)


class Nothing:
    def write(self, text):
        return len(text)

    def flush(self):
        pass

    def read(self, *_):
        raise OSError("nothing to read")

    readline = readlines = read

    def isatty(self):
        return False


def main(nonce):
    sys.stdin = sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = Nothing()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        exec(PROGRAM, {"__name__": "__main__"})
    except BaseException as problem:
        os.write(OUT, ("failed: %s: %s" % (type(problem).__name__, problem))[:500].encode("utf-8", "replace"))
        os._exit(1)
    os.write(OUT, nonce.encode())
    os._exit(0)


nonce, NONCE = NONCE, None
main(nonce)
