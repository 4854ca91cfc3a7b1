# Runs the published test. The function that it tests is in another process: here are only its arguments and answers.
import builtins


def candidate(*arguments, **keywords):
    say("call", pack([list(arguments), keywords]))
    try:
        how, value = hear()
        if how == "returned":
            return unpack(value)
        kind, text = value
    except Exception:
        raise RuntimeError("its answer cannot be read") from None
    kind = getattr(builtins, str(kind), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    try:
        problem = kind(text)
    except TypeError:
        problem = RuntimeError(text)
    raise problem


# What the problem's head defines beside the function, tests may use.
def given():
    for end in ("", "\n    pass\n"):
        names = {"__name__": "test"}
        try:
            exec(ORDER["head"] + end, names)
        except Exception:
            continue
        return names
    return {"__name__": "test"}


def examine():
    try:
        names = given()
        names[ORDER["entry_point"]] = candidate
        exec(ORDER["test"], names)
        names["check"](candidate)
    except BaseException as problem:
        return "failed", described(problem)
    return "passed", None


lock()
stay_silent()
say(*examine())
os._exit(0)
