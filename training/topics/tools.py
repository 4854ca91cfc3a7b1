"""Tools with varied schemas, requests that need them, the calls wanted, results, and the answers after them.

A tool is made of a verb, a noun and a few parameters; a request names the verb and the noun and gives the
values in phrases. So the model must read the schema: which tool is meant, what its parameters are called.
The arguments come in the order in which the request gives them.
"""

import json
from math import factorial, gcd

from . import words
from .words import article, capital, listed

# verb in the name, verbs in the request, verb in the description, kind of result
VERBS = [
    ("create", ["Create", "Make", "Please create"], "Create", "made"),
    ("add", ["Add", "Please add", "Can you add"], "Add", "made"),
    ("book", ["Book", "Please book", "Can you book"], "Book", "made"),
    ("order", ["Order", "Please order", "I want to order"], "Order", "made"),
    ("send", ["Send", "Please send", "Can you send"], "Send", "sent"),
    ("delete", ["Delete", "Please delete", "Remove"], "Delete", "gone"),
    ("cancel", ["Cancel", "Please cancel", "I want to cancel"], "Cancel", "gone"),
    ("update", ["Update", "Change", "Please update"], "Update", "changed"),
    ("search", ["Search for", "Look for", "Please search for"], "Search for", "found"),
    ("find", ["Find", "Please find", "Can you find"], "Find", "found"),
    ("list", ["List", "Show me", "Please list"], "List", "found"),
    ("get", ["Get", "Fetch", "Please get"], "Get", "value"),
    ("check", ["Check", "Please check", "Can you check"], "Check", "value"),
    ("start", ["Start", "Please start", "Can you start"], "Start", "changed"),
    ("stop", ["Stop", "Please stop", "Can you stop"], "Stop", "changed"),
    ("share", ["Share", "Please share", "Can you share"], "Share", "sent"),
    ("print", ["Print", "Please print", "Can you print"], "Print", "sent"),
    ("save", ["Save", "Please save", "Can you save"], "Save", "made"),
]
DONE = {"create": "created", "add": "added", "book": "booked", "order": "ordered", "save": "saved", "send": "sent", "share": "shared",
        "print": "printed", "delete": "deleted", "cancel": "cancelled", "update": "updated", "start": "started", "stop": "stopped"}
NOUNS = """ticket order meeting note flight hotel invoice user task report reminder product song recipe file message
payment event contact photo table room train server backup job video playlist account document letter parcel course
lesson game""".split()


def written(rng, value):
    """A result in JSON; some programs write no blanks."""
    return json.dumps(value, separators=(",", ":") if rng.random() < 0.5 else None)


def plural(noun):
    return noun + "es" if noun.endswith(("s", "x", "ch")) else noun + "s"


def _choice(*values):
    return lambda rng: rng.choice(values)


def _whole(low, high):
    return lambda rng: rng.randint(low, high)


def _fraction(low, high):
    """Never a whole number: 3.0 and 3 are the same number but not the same text."""
    return lambda rng: rng.randint(low, high) + rng.choice([0.5, 0.25, 0.75, rng.randint(1, 9) / 10])


def _some(pool, low=2, high=4):
    return lambda rng: rng.sample(pool, rng.randint(low, high))


def _numbers(rng):
    return [rng.randint(1, 60) for _ in range(rng.randint(2, 5))]


def _object(rng):
    keys = rng.sample(["colour", "size", "weight", "width", "height", "level", "shape", "style"], rng.randint(1, 3))
    pool = {"colour": words.COLOURS, "shape": ["round", "square", "flat"], "style": ["modern", "plain", "bold"]}
    return {k: rng.choice(pool[k]) if k in pool else rng.randint(1, 40) for k in keys}


def _object_phrase(value):
    return listed(f"{k} {v}" for k, v in value.items())


def _code(rng):
    x, y = rng.randint(1, 30), rng.randint(1, 30)
    name = rng.choice(["x", "y", "total", "n"])
    word = rng.choice(words.THINGS)
    return rng.choice([
        f"print({x} + {y})", f'print("{word}")', f"{name} = {x}\nprint({name} * {y})",
        f"for i in range({x}):\n    print(i)", f"import math\nprint(math.sqrt({x}))", f'console.log("{word}");',
        f"{name} = [{x}, {y}]\nprint(sum({name}))", f'echo "{word}"', f"let {name} = {x};", f"SELECT * FROM {word} WHERE id = {x};",
    ])


STRING, INTEGER, NUMBER, BOOLEAN, ARRAY, OBJECT = "string", "integer", "number", "boolean", "array", "object"


class Param:
    """A parameter: names it may have, type, description, values, and phrases that give a value in a request."""

    def __init__(self, names, kind, about, value, phrases, **extra):
        self.names, self.kind, self.about, self.value, self.phrases, self.extra = names.split(), kind, about, value, phrases, extra


PARAMS = [
    Param("title subject", STRING, "The title", words.title, ['titled "{v}"', 'with the title "{v}"', 'called "{v}"']),
    Param("message text body", STRING, "The text of the message", words.sentence, ['saying "{v}"', 'with the text "{v}"', 'that says "{v}"']),
    Param("city location", STRING, "Name of the city", words.city, ["in {v}", "in the city of {v}"]),
    Param("origin from_city", STRING, "City to start from", words.city, ["from {v}", "leaving from {v}"]),
    Param("destination to_city", STRING, "City to go to", words.city, ["to {v}", "going to {v}"]),
    Param("date day", STRING, "Date as YYYY-MM-DD", words.date, ["on {v}", "for the date {v}"]),
    Param("time start_time", STRING, "Time as HH:MM", words.time, ["at {v}", "at {v} o'clock"]),
    Param("name person customer", STRING, "Name of the person", words.person, ["for {v}", "in the name of {v}"]),
    Param("email recipient", STRING, "Mail address", words.email, ["for the address {v}", "with the email {v}"]),
    Param("path filename", STRING, "Path of the file", words.path, ["at the path {v}", "stored as {v}"]),
    Param("query keywords", STRING, "What to look for", words.adjective_thing, ['about "{v}"', 'matching "{v}"']),
    Param("colour color", STRING, "The colour", _choice(*words.COLOURS), ["in {v}", "with the colour {v}"]),
    Param("language lang", STRING, "The language", _choice(*words.LANGUAGES), ["in {v}", "with the language {v}"]),
    Param("priority level", STRING, "How important it is", _choice("low", "medium", "high"),
          ["with {v} priority", "with priority {v}"], enum=["low", "medium", "high"]),
    Param("format file_format", STRING, "Format of the result", _choice("pdf", "csv", "json", "html"),
          ["as {v}", "in {v} format"], enum=["pdf", "csv", "json", "html"]),
    Param("order sort_order", STRING, "Order of the results", _choice("newest", "oldest", "cheapest"),
          ["with the {v} first", "sorted by {v}"], enum=["newest", "oldest", "cheapest"]),
    Param("code source", STRING, "The code", _code, ["with this code:\n{v}\n", "containing the code\n{v}\n"]),
    Param("id number", INTEGER, "The id", _whole(10, 999), ["with the id {v}", "number {v}"]),
    Param("quantity count", INTEGER, "How many", _whole(2, 60), ["with a quantity of {v}", "{v} times"]),
    Param("people guests", INTEGER, "Number of people", _whole(2, 12), ["for {v} people", "for {v} guests"]),
    Param("days duration", INTEGER, "Number of days", _whole(2, 30), ["for {v} days", "lasting {v} days"]),
    Param("limit max_results", INTEGER, "Most results to give", _whole(2, 50), ["limited to {v}", "at most {v} results"]),
    Param("price max_price", NUMBER, "The price in dollars", _fraction(2, 90), ["for {v} dollars", "at a price of {v}"]),
    Param("weight weight_kg", NUMBER, "Weight in kilograms", _fraction(1, 40), ["weighing {v} kg", "with a weight of {v} kg"]),
    Param("rating min_rating", NUMBER, "Rating from 1 to 5", _fraction(1, 4), ["rated {v}", "with a rating of {v}"]),
    Param("urgent is_urgent", BOOLEAN, "Whether it is urgent", _choice(True, False), {True: ["and it is urgent", "which is urgent"], False: ["and it is not urgent", "which is not urgent"]}),
    Param("notify send_notification", BOOLEAN, "Whether to notify people", _choice(True, False), {True: ["and notify everyone", "with a notification"], False: ["and notify nobody", "without a notification"]}),
    Param("public is_public", BOOLEAN, "Whether everyone may see it", _choice(True, False), {True: ["and make it public", "visible to everyone"], False: ["and keep it private", "not visible to everyone"]}),
    Param("tags labels", ARRAY, "List of tags", _some(words.TAGS), ["tagged {v}", "with the tags {v}"], items={"type": "string"}),
    Param("members attendees", ARRAY, "Names of the people", _some(words.PEOPLE), ["with {v}", "together with {v}"], items={"type": "string"}),
    Param("numbers values", ARRAY, "List of numbers", _numbers, ["with the numbers {v}", "using the values {v}"], items={"type": "integer"}),
    Param("options settings", OBJECT, "More settings", _object, ["with the options {v}", "and set {v}"]),
    Param("details properties", OBJECT, "Its properties", _object, ["with these details: {v}", "having {v}"]),
]


def phrase(rng, param, value):
    """The words by which a request gives `value`."""
    if param.kind == BOOLEAN:
        return rng.choice(param.phrases[value])
    if param.kind == ARRAY:
        shown = listed(value)
    elif param.kind == OBJECT:
        shown = _object_phrase(value)
    else:
        shown = value
    return rng.choice(param.phrases).format(v=shown)


def schema(rng, param):
    """The schema of one parameter, as a client would write it."""
    out = {"type": param.kind}
    if rng.random() < 0.85:
        out["description"] = param.about
    out.update(param.extra)
    return out


def tool(name, about, properties, required):
    return {"type": "function", "function": {"name": name, "description": about,
            "parameters": {"type": "object", "properties": properties, "required": required}}}


class Made:
    """A tool made of a verb, a noun and parameters."""

    def __init__(self, rng, verb=None, noun=None):
        self.verb = verb or rng.choice(VERBS)
        self.noun = noun or rng.choice(NOUNS)
        many = self.verb[3] == "found"
        self.thing = plural(self.noun) if many else self.noun
        snake = f"{self.verb[0]}_{self.thing}"
        self.name = self.verb[0] + capital(self.thing) if rng.random() < 0.12 else snake
        self.params = []
        phrases = set()
        for param in rng.sample(PARAMS, rng.randint(1, 4)):
            # Two parameters whose values are given by the same words cannot be told apart.
            shown = {p.split("{v}")[0] for p in (sum(param.phrases.values(), []) if isinstance(param.phrases, dict) else param.phrases)}
            if not shown & phrases:
                phrases |= shown
                self.params.append((rng.choice(param.names), param))
        # A block of code ends the sentence.
        self.params.sort(key=lambda p: p[0] in ("code", "source"))
        self.required = [n for n, _ in self.params if rng.random() < 0.6] or [self.params[0][0]]
        about = f"{self.verb[2]} {'' if many else article(self.noun) + ' '}{self.thing}"
        self.tool = tool(self.name, rng.choice([about, about + "."]), {n: schema(rng, p) for n, p in self.params}, self.required)

    def request(self, rng):
        """(words, call)."""
        arguments, parts = {}, []
        given = [(n, p) for n, p in self.params if n in self.required or rng.random() < 0.6]
        if rng.random() < 0.3 and not any(n in ("code", "source") for n, _ in given):
            rng.shuffle(given)
        for name, param in given:
            value = param.value(rng)
            arguments[name] = value
            parts.append(phrase(rng, param, value))
        many = self.verb[3] == "found"
        thing = self.thing if many else f"{rng.choice([article(self.noun), 'the'])} {self.noun}"
        opening = rng.choice(self.verb[1])
        text = f"{opening} {thing} {' '.join(parts)}"
        return text, {"name": self.name, "arguments": arguments}

    def result(self, rng):
        """(text of the tool, sentence about it)."""
        kind = self.verb[3]
        if rng.random() < 0.08:
            why = rng.choice(["not found", "no permission", "service not available", "wrong date"])
            return written(rng, {"error": why}), f"That did not work: {why}."
        if kind == "found":
            found = [words.title(rng) for _ in range(rng.randint(1, 3))]
            if rng.random() < 0.15:
                return written(rng, {"results": []}), f"I found no {self.thing}."
            return written(rng, {"results": found}), f"I found these {self.thing}: {listed(found)}."
        if kind == "value":
            status = rng.choice(["open", "closed", "ready", "late", "paid", "done", "running"])
            return written(rng, {"status": status}), f"The {self.noun} is {status}."
        done = self.done()
        if rng.random() < 0.5:
            number = rng.randint(10, 999)
            return written(rng, {"status": "ok", "id": number}), f"The {self.noun} was {done} with the id {number}."
        return written(rng, {"status": "ok"}), f"The {self.noun} was {done}."

    def done(self):
        """What was done with it, in a word."""
        return DONE[self.verb[0]]


class Weather:
    def __init__(self, rng):
        self.name = rng.choice(["get_weather", "get_current_weather", "weather"])
        self.key = rng.choice(["city", "location"])
        self.unit = rng.random() < 0.5
        properties = {self.key: {"type": "string", "description": rng.choice(["Name of the city", "The city", "City name, e.g. Paris"])}}
        if self.unit:
            properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        self.tool = tool(self.name, rng.choice(["Get the weather in a city", "Get the current weather in a given location", "Current weather"]), properties, [self.key])

    def request(self, rng):
        self.city = words.city(rng)
        text = rng.choice(["What is the weather in {c}", "What's the weather like in {c}", "How is the weather in {c}",
                           "Tell me the weather in {c}", "Check the weather in {c}", "Weather in {c}"]).format(c=self.city)
        arguments = {self.key: self.city}
        if self.unit and rng.random() < 0.5:
            arguments["unit"] = rng.choice(["celsius", "fahrenheit"])
            text += " in " + arguments["unit"]
        return text, {"name": self.name, "arguments": arguments}

    def result(self, rng):
        degrees, sky = rng.randint(-5, 38), rng.choice(["sunny", "cloudy", "rainy", "windy", "clear"])
        return written(rng, {"temperature": degrees, "condition": sky}), f"It is {sky} in {self.city}, with {degrees} degrees."


class Convert:
    def __init__(self, rng):
        self.name = rng.choice(["convert_currency", "exchange_money"])
        self.keys = rng.choice([("amount", "from", "to"), ("amount", "from_currency", "to_currency"), ("value", "source", "target")])
        a, f, t = self.keys
        self.tool = tool(self.name, "Convert money from one currency to another",
                         {a: {"type": "number", "description": "Amount of money"}, f: {"type": "string", "description": "Currency code"},
                          t: {"type": "string", "description": "Currency code"}}, [a, f, t])

    def request(self, rng):
        one, self.two = rng.sample(words.CURRENCIES, 2)
        amount = rng.choice([rng.randint(2, 900), _fraction(1, 90)(rng)])
        text = rng.choice(["Convert {a} {o} to {t}", "How much is {a} {o} in {t}", "Change {a} {o} into {t}"]).format(a=amount, o=one, t=self.two)
        return text, {"name": self.name, "arguments": dict(zip(self.keys, (amount, one, self.two)))}

    def result(self, rng):
        value = rng.randint(2, 900) + rng.choice([0.5, 0.25, 0.75])
        return written(rng, {"result": value}), f"That is {value} {self.two}."


class Calculator:
    def __init__(self, rng):
        self.name = rng.choice(["calculator", "calculate", "evaluate"])
        self.tool = tool(self.name, rng.choice(["Evaluate an arithmetic expression", "Do a calculation"]),
                         {"expression": {"type": "string", "description": "The expression"}}, ["expression"])

    def request(self, rng):
        most = rng.choice([20, 99, 999])  # small ones are what people try
        x, y, z = rng.randint(2, most), rng.randint(2, most), rng.randint(2, 99)
        self.value = rng.choice([f"{x} * {y}", f"{x} + {y}", f"({x} + {y}) * {z}", f"{x} - {z}", f"{x} * {y} + {z}"])
        text = rng.choice(["Calculate {e}", "What is {e}", "Compute {e}", "Use the calculator for {e}"]).format(e=self.value)
        return text, {"name": self.name, "arguments": {"expression": self.value}}

    def result(self, rng):
        value = str(eval(self.value))
        return rng.choice([value, written(rng, {"result": int(value)})]), f"{self.value} = {value}"


FACTORIAL = "def factorial(n):\n    result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result\n\nprint(factorial({n}))"
FIBONACCI = "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n\nprint(fibonacci({n}))"
PRIMES = "primes = [n for n in range(2, {n} + 1) if all(n % d for d in range(2, n))]\nprint(primes)"


def _fib(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def code_task(rng):
    """(task in words, code, output, answer)."""
    n, x, y = rng.randint(2, 20), rng.randint(2, 99), rng.randint(2, 99)
    word = rng.choice(words.THINGS)
    numbers = [rng.randint(1, 60) for _ in range(rng.randint(3, 6))]
    primes = [p for p in range(2, x + 1) if all(p % d for d in range(2, p))]
    kinds = [
        ("the factorial of {n}", FACTORIAL, lambda: factorial(n), "The factorial of {n} is {r}."),
        ("the factorial of {n}", FACTORIAL, lambda: factorial(n), "The factorial of {n} is {r}."),
        ("the factorial of {n}", FACTORIAL, lambda: factorial(n), "The factorial of {n} is {r}."),
        ("the Fibonacci number {n}", FIBONACCI, lambda: _fib(n), "The Fibonacci number {n} is {r}."),
        ("the sum of the numbers from 1 to {x}", "print(sum(range(1, {x} + 1)))", lambda: sum(range(1, x + 1)),
         "The sum of the numbers from 1 to {x} is {r}."),
        ("{x} to the power of {n}", "print({x} ** {n})", lambda: x**n, "{x} to the power of {n} is {r}."),
        ("{x} times {y}", "print({x} * {y})", lambda: x * y, "{x} times {y} is {r}."),
        ("the greatest common divisor of {x} and {y}", "import math\nprint(math.gcd({x}, {y}))", lambda: gcd(x, y),
         "The greatest common divisor of {x} and {y} is {r}."),
        ("the length of the word {w}", 'print(len("{w}"))', lambda: len(word), "The word {w} has {r} letters."),
        ("the word {w} backwards", 'print("{w}"[::-1])', lambda: word[::-1], "Backwards, {w} is {r}."),
        ("the largest of the numbers {l}", "print(max({s}))", lambda: max(numbers), "The largest of the numbers is {r}."),
        ("the sum of the numbers {l}", "print(sum({s}))", lambda: sum(numbers), "The sum of the numbers is {r}."),
        ("the numbers {l} in order", "print(sorted({s}))", lambda: sorted(numbers), "In order, the numbers are {r}."),
        ("the primes up to {x}", PRIMES.replace("{n}", "{x}"), lambda: primes if x < 40 else None, "The primes up to {x} are {r}."),
    ]
    task, code, run, answer = rng.choice(kinds)
    result = run()
    if result is None:
        return code_task(rng)
    names = {"n": n, "x": x, "y": y, "w": word, "l": listed(numbers), "s": numbers, "r": result}

    def fill(text):
        for key, value in names.items():
            text = text.replace("{" + key + "}", str(value))
        return text

    return fill(task), fill(code), str(result), fill(answer)


class Execute:
    def __init__(self, rng):
        self.name = rng.choice(["execute_code", "execute_code", "execute_code", "run_code", "run_python", "python"])
        properties = {"code": {"type": "string", "description": rng.choice(
            ["The code to execute", "The Python code to execute", "Code to run", "Python code", "The code", "Python code to execute"])}}
        self.language = rng.random() < 0.4 and self.name in ("execute_code", "run_code")
        required = ["code"]
        if self.language:
            properties["language"] = {"type": "string", "description": rng.choice(["The programming language", "Programming language", "Language of the code"])}
            if rng.random() < 0.5:
                properties["language"]["enum"] = rng.choice([["python", "javascript"], ["python", "bash"], ["python", "javascript", "rust"], ["python"]])
            if rng.random() < 0.4:
                required = ["code", "language"]
        self.tool = tool(self.name, rng.choice(["Execute code and return the output", "Execute Python code", "Run Python code",
                         "Executes code", "Execute Python code and return the result", "Run code and get the output",
                         "Execute the given code"]), properties, required)

    def request(self, rng):
        task, code, self.output, self.answer = code_task(rng)
        text = rng.choice(["Calculate {t} using Python", "Calculate {t}", "Compute {t} with Python", "Find {t}",
                           "Use Python to find {t}", "Run code to calculate {t}", "Write and execute Python code to calculate {t}",
                           "Please calculate {t} in Python", "Use the tool to compute {t}", "What is {t}", "Show me {t}"]).format(t=task)
        arguments = {"code": code}
        if self.language:
            arguments["language"] = "python"
        return text, {"name": self.name, "arguments": arguments}

    def result(self, rng):
        shown = rng.choice([self.output, self.output, self.output + "\n", written(rng, {"output": self.output}),
                            written(rng, {"result": self.output}), written(rng, {"stdout": self.output + "\n", "exit_code": 0})])
        return shown, self.answer


NATURAL = [Weather, Convert, Calculator, Execute, Execute]


def toolbox(rng, crowded=False):
    """A few tools with different names; `crowded`: more of them, and more alike."""
    tools = []
    natural, alike = (0.15, 0.8) if crowded else (0.3, 0.4)
    for _ in range(rng.choice([2, 3, 3, 4] if crowded else [1, 1, 2, 2, 3])):
        if rng.random() < natural:
            made = rng.choice(NATURAL)(rng)
        elif tools and isinstance(tools[-1], Made) and rng.random() < alike:
            # A neighbour with the same verb or noun makes the choice depend on both.
            last = tools[-1]
            made = Made(rng, noun=last.noun) if rng.random() < 0.5 else Made(rng, verb=last.verb)
        else:
            made = Made(rng)
        if all(made.name.lower() != t.name.lower() and type(made) is not type(t) or isinstance(made, Made) and made.name.lower() != t.name.lower() for t in tools):
            tools.append(made)
    return tools


def ended(rng, text):
    """A request as a sentence."""
    if "\n" in text:
        return text.rstrip("\n")
    question = text.split()[0] in ("What", "What's", "How", "Can", "Is", "Which", "Who")
    return text + rng.choice(["?", "?", ""] if question else [".", ".", "", "!"])


def joined(rng, first, second):
    """Two requests in one message."""
    lower = second if second.startswith("I ") else second[0].lower() + second[1:]
    return first + rng.choice([", and then ", " and also ", ", then ", ". Also "]) + lower


def request(rng, tools):
    """(user text, [(tool, call), …]): one call mostly, at times two."""
    one = rng.choice(tools)
    text, call = one.request(rng)
    calls = [(one, call)]
    if rng.random() < 0.18 and "\n" not in text:
        two = rng.choice(tools)
        if isinstance(two, Made) or two is not one:
            more, other = two.request(rng)
            text = joined(rng, text, more)
            calls.append((two, other))
    return ended(rng, text), calls


def forced_call(function, text):
    """A call of a function that the text does not ask for: the required parameters, filled from the text."""
    parameters = function["parameters"]
    names = parameters.get("required", list(parameters["properties"])[:1])

    def value(field):
        if "enum" in field:
            return field["enum"][0]
        words = text.split()
        short = text if len(words) <= 12 else " ".join(words[:8])
        return {STRING: short.replace("\n", " "), INTEGER: 1, NUMBER: 1, BOOLEAN: True, ARRAY: [1] if field.get("items", {}).get("type") == INTEGER else [words[-1]],
                OBJECT: {}}[field["type"]]

    return {"name": function["name"], "arguments": {n: value(parameters["properties"][n]) for n in parameters["properties"] if n in names}}
