# Runs the program that a model wrote, then its function for whoever asks. Nothing that it says is a verdict.
def serve():
    try:
        names = {"__name__": "__main__"}
        exec(ORDER["program"], names)
        function = names[ORDER["entry_point"]]
    except BaseException as problem:
        say("failed", described(problem))
        os._exit(1)
    say("loaded")
    while True:
        arguments, keywords = unpack(hear())
        try:
            answer = json.dumps(["returned", pack(function(*arguments, **keywords))])
        except BaseException as problem:
            answer = json.dumps(["raised", [type(problem).__name__, str(problem)[:500]]])
        send("answer", answer)


lock()
stay_silent()
serve()
