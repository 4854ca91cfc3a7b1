# The beginning of both programs that run locked up: limits, the lock, and the lines they speak in. One line of JSON on
# standard input says what to run; every later line there, and every line on standard output, is a word, a blank and JSON.
import ast, ctypes, json, os, resource, sys

ORDER = json.loads(sys.stdin.buffer.readline())
ANSWERS, WORDS = sys.stdin.buffer, os.dup(1)


def limit():
    cap = lambda what, most: resource.setrlimit(what, (most, most))
    cap(resource.RLIMIT_AS, ORDER["memory_bytes"])
    cap(resource.RLIMIT_CPU, ORDER["cpu_seconds"])
    cap(resource.RLIMIT_FSIZE, 0)
    cap(resource.RLIMIT_CORE, 0)
    cap(resource.RLIMIT_NOFILE, 64)


def leave_namespaces(libc):
    NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000
    return libc.unshare(NEWUSER | NEWNET | NEWIPC | NEWUTS | NEWNS) == 0


def allow_system_calls(libc):
    code = bytes.fromhex(ORDER["filter"])
    packed = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    program = Program(len(code) // 8, ctypes.addressof(packed))
    NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0 or libc.prctl(SECCOMP, FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no filter of system calls")


# The lock is tried, not trusted.
def try_lock():
    forbidden = [
        lambda: __import__("socket").socket(), os.fork, lambda: open("written", "w"), lambda: os.utime(sys.prefix),
        lambda: open("/proc/self/environ"), lambda: os.listdir("/etc"), lambda: os.execv(sys.executable, ["x"]),
        lambda: os.chroot("/"), lambda: os.kill(os.getppid(), 0),
    ]
    for attempt in forbidden:
        try:
            attempt()
        except OSError:
            continue
        raise OSError("the lock does not hold")


def say(word, value=None):
    send(word, json.dumps(value))


def send(word, text):
    line = ("%s %s\n" % (word, text)).encode()
    while line:
        line = line[os.write(WORDS, line):]


def hear():
    line = ANSWERS.readline()
    if not line:
        os._exit(0)
    return json.loads(line)


def lock():
    try:
        limit()
        layers = []
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            layers = ["namespaces"] if leave_namespaces(libc) else []
            import socket

            allow_system_calls(libc)
            try_lock()
    except Exception as problem:
        say("unlocked", "%s" % problem)
        os._exit(3)
    say("locked", layers)


# Values cross as plain data: what is compared is never an object with an opinion of its own on what it equals.
def pack(value, depth=0):
    if depth > 200:
        raise ValueError("nested too deep to be compared")
    inner = lambda values: [pack(one, depth + 1) for one in values]
    if value is None or value is True or value is False:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return value if type(value) is kind else {"plain": kind.__name__, "of": kind.__repr__(value)}
    if isinstance(value, list):
        return inner(list.__iter__(value))
    if isinstance(value, dict):
        return {"dict": [inner(pair) for pair in dict.items(value)]}
    if isinstance(value, (bytes, bytearray, complex)):
        return {"plain": type(value).__name__, "of": repr(value)}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: inner(kind.__iter__(value))}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if type(value).__module__ in ("decimal", "fractions"):
        return {"plain": type(value).__name__, "of": str(value)}
    if hasattr(value, "__iter__"):
        return {"iterator": inner(value)}
    raise TypeError("a value of type %s cannot be compared" % type(value).__name__)


def unpack(packed):
    if isinstance(packed, list):
        return [unpack(one) for one in packed]
    if not isinstance(packed, dict):
        return packed
    if "plain" in packed:
        kind, text = packed["plain"], packed["of"]
        if kind in ("Decimal", "Fraction"):
            return getattr(__import__("decimal" if kind == "Decimal" else "fractions"), kind)(text)
        if kind == "bytearray":
            return bytearray(ast.literal_eval(text[len("bytearray("):-1]))
        return {"int": int, "float": float, "str": ast.literal_eval, "bytes": ast.literal_eval, "complex": complex}[kind](
            text
        )
    ((kind, values),) = packed.items()
    if kind == "dict":
        return {unpack(key): unpack(value) for key, value in values}
    kinds = {"tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}
    return range(*values) if kind == "range" else kinds[kind]([unpack(one) for one in values])


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


def described(problem):
    return ("%s: %s" % (type(problem).__name__, problem))[:500]


def stay_silent():
    sys.stdin = sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = Nothing()


