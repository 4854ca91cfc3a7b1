"""What tools give back as plain text, and the answer to it: a sentence that says what the result says.

Results are as programs print them: a number, a phrase, lines, an error, JSON with keys of its own. The answer takes
them up word by word, so that it is right for tools that were never seen.
"""

import json

from . import words
from .tools import Calculator, Execute, Made, Weather, written
from .words import listed

STRING, INTEGER, NUMBER = "string", "integer", "number"


class Plain:
    """A tool of everyday use, of one of the `KINDS`.

    After `request`, `answer` gives (text of the tool, answer, the word or number that the answer must hold).
    """

    def __init__(self, rng, kind=None):
        names, about, params, required = (kind or rng.choice(KINDS))(self, rng)
        self.name = rng.choice(names.split())
        properties = {}
        for name, type_, what in params:
            properties[name] = {"type": type_}
            if rng.random() < 0.25:
                properties[name] = {"title": words.capital(name.replace("_", " "))} | properties[name]
            if what and rng.random() < 0.6:
                properties[name]["description"] = what
        parameters = {"type": "object", "properties": properties}
        if required or rng.random() < 0.5:
            parameters["required"] = required
        if rng.random() < 0.25:
            parameters["additionalProperties"] = False
        self.tool = {"type": "function", "function": {"name": self.name, "description": rng.choice(about.split("|")), "parameters": parameters}}
        if rng.random() < 0.1:
            self.tool["function"]["strict"] = True

    def request(self, rng):
        text, arguments = self.ask(rng)
        # `tools.request` ends the sentence.
        return text.rstrip(".?!"), {"name": self.name, "arguments": arguments}

    def result(self, rng):
        shown, said, _ = self.answer(rng)
        return shown, said


def weather_text(rng):
    """(text, a number or word of it)."""
    degrees, sky = rng.randint(-9, 40), rng.choice("sunny cloudy rainy windy clear foggy stormy snowy".split())
    unit = rng.choice([" C", "°C", " degrees", " °C", "°F", " F", "C"])
    text = rng.choice([f"{degrees}{unit}, {sky}", f"{sky}, {degrees}{unit}", f"{degrees}{unit} and {sky}", f"{words.capital(sky)}, {degrees}{unit}",
                       f"{degrees}{unit}", f"{sky}", f"{degrees}{unit}, {sky}, wind {rng.randint(1, 60)} km/h"])
    return text, str(degrees) if str(degrees) in text else sky


def _weather(tool, rng):
    key = rng.choice(["city", "location", "place"])

    def ask(rng):
        tool.city = words.city(rng)
        return rng.choice(["What is the weather in {c}?", "What's the weather like in {c}?", "How is the weather in {c}?", "Weather in {c}?",
                           "Is it warm in {c}?", "What is the weather in {c} today?", "Tell me the weather in {c}."]).format(c=tool.city), {key: tool.city}

    def answer(rng):
        text, found = weather_text(rng)
        if rng.random() < 0.12:
            text = f"It is {text} in {tool.city}."
            return text, text, found
        return text, f"The weather in {tool.city}: {text}.", found

    tool.ask, tool.answer = ask, answer
    about = "Get the weather|Get the current weather for a city|Return the weather in a city|Weather of a place."
    return "get_weather get_current_weather weather fetch_weather", about, [(key, STRING, "The city")], [key]


def _time(tool, rng):
    key = rng.choice(["city", "timezone", "location", None])

    def ask(rng):
        tool.city = words.city(rng)
        if key is None:
            return rng.choice(["What time is it?", "What time is it now?", "Tell me the time.", "What is the time?", "Current time?"]), {}
        return rng.choice(["What time is it in {c}?", "What time is it in {c} now?", "Tell me the time in {c}.", "What is the time in {c}?",
                           "Time in {c}?"]).format(c=tool.city), {key: tool.city}

    def answer(rng):
        time = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
        shown = rng.choice([time, time, f"{words.date(rng)} {time}", f"{words.date(rng)}T{time}:00",
                            f"{time} {rng.choice(['CET', 'UTC', 'PST', 'am', 'pm'])}", written(rng, {"time": time})])
        said = time if shown.startswith("{") else shown
        return shown, f"It is {said}." if key is None else f"It is {said} in {tool.city}.", time

    tool.ask, tool.answer = ask, answer
    params = [] if key is None else [(key, STRING, "The city")]
    about = "Get the time|Get the current time|Return the time of day|The current time"
    return "get_time get_current_time current_time time now", about, params, [p[0] for p in params]


def _dice(tool, rng):
    form = rng.choice(["both", "sides", "count", "none"])
    sides_key, count_key = rng.choice(["sides", "faces", "n_sides"]), rng.choice(["count", "number", "n", "num_dice"])

    def ask(rng):
        tool.count = rng.randint(1, 4) if form in ("both", "count") else 1
        sides = rng.choice([6, 6, 6, 8, 10, 12, 20])
        number = rng.choice([["a", "two", "three", "four"][tool.count - 1], str(tool.count) if tool.count > 1 else "one"])
        dice = "dice" if tool.count > 1 else "die"
        named = form in ("both", "sides") and (sides != 6 or rng.random() < 0.3)
        text = rng.choice([f"Roll {number} {dice}", f"Please roll {number} {dice}", f"Throw {number} {dice}", f"Can you roll {number} {dice}"])
        text += (f" with {sides} sides" if named else "") + rng.choice([".", "", " please", "!"])
        arguments = {}
        if form in ("both", "sides"):
            arguments[sides_key] = sides if named else 6
        if form in ("both", "count"):
            arguments[count_key] = tool.count
        return text, arguments

    def answer(rng):
        rolled = [rng.randint(1, 6) for _ in range(tool.count)]
        shown = rng.choice([str(rolled) if tool.count > 1 else str(rolled[0]), ", ".join(map(str, rolled)), listed(rolled), " ".join(map(str, rolled)),
                            written(rng, {"result": rolled if tool.count > 1 else rolled[0]}), written(rng, {"rolls": rolled})])
        return shown, f"You rolled {listed(rolled)}.", str(rolled[-1])

    tool.ask, tool.answer = ask, answer
    params = [(sides_key, INTEGER, "Sides of a die")] * (form in ("both", "sides")) + [(count_key, INTEGER, "How many dice")] * (form in ("both", "count"))
    return "roll_dice roll_die dice throw_dice roll", "Roll dice|Roll one or more dice|Roll a die and return the result|Throw dice", params, [p[0] for p in params]


SUMS = [("+", "plus", "add add_numbers sum plus", "Add two numbers|Add a and b.|Returns the sum of two numbers"),
        ("*", "times", "multiply times product", "Multiply two numbers|Multiply a and b.|Returns the product of two numbers"),
        ("-", "minus", "subtract minus difference", "Subtract two numbers|Subtract b from a.")]


def _arithmetic(tool, rng):
    a, b = rng.choice([("a", "b"), ("x", "y"), ("first", "second")])
    sign, word, names, about = rng.choice(SUMS)

    def ask(rng):
        tool.x, tool.y = rng.randint(1, 999), rng.randint(1, 999)
        form = rng.choice(["What is {x} {w} {y}?", "What is {x} {s} {y}?", "{x} {s} {y}", "Calculate {x} {s} {y}.", "How much is {x} {w} {y}?"])
        return form.format(x=tool.x, y=tool.y, s=sign, w=word), {a: tool.x, b: tool.y}

    def answer(rng):
        value = {"+": tool.x + tool.y, "*": tool.x * tool.y, "-": tool.x - tool.y}[sign]
        shown = rng.choice([str(value), str(value), f"{value}.0", written(rng, {"result": value})])
        return shown, f"{tool.x} {sign} {tool.y} = {value}" + (".0" if shown.endswith(".0") else ""), str(value)

    tool.ask, tool.answer = ask, answer
    return names, about, [(a, rng.choice([INTEGER, NUMBER]), ""), (b, INTEGER, "")], [a, b]


def _price(tool, rng):
    key = rng.choice(["symbol", "ticker", "stock"])

    def ask(rng):
        tool.symbol = "".join(rng.choice("ABCDEFGHKLMNOPRSTVWXYZ") for _ in range(rng.randint(3, 4)))
        return rng.choice(["What is the price of {s}?", "What is the stock price of {s}?", "How much is {s}?", "Get the price of {s}."]).format(s=tool.symbol), {key: tool.symbol}

    def answer(rng):
        price = f"{rng.randint(2, 900)}.{rng.randint(1, 9)}{rng.randint(1, 9)}"
        shown = rng.choice([price, f"${price}", f"{price} USD", written(rng, {"price": float(price)})])
        return shown, f"The price of {tool.symbol} is {price if shown.startswith('{') else shown}.", price

    tool.ask, tool.answer = ask, answer
    return "get_stock_price stock_price get_price price", "Get the price of a stock|Current stock price|Look up a price", [(key, STRING, "The symbol")], [key]


WANTED = {"name": words.person, "word": lambda rng: rng.choice(words.THINGS), "city": words.city, "query": words.adjective_thing}


def _lookup(tool, rng):
    """Anything that is looked up by some words: its result is a phrase or sentences."""
    noun, key = rng.choice([("user", "name"), ("word", "word"), ("customer", "name"), ("topic", "query"), ("web", "query"), ("docs", "query"), ("city", "city"), ("item", "name")])

    def ask(rng):
        tool.what = WANTED[key](rng)
        question = "What is {w}?" if key in ("query", "word") else "Who is {w}?"
        return rng.choice(["Look up {w}.", "Search for {w}", "What do you find about {w}?", "Find {w}.", "Tell me about {w}.", question,
                           "Search the web for {w}"]).format(w=tool.what), {key: tool.what}

    def answer(rng):
        if rng.random() < 0.12:
            return rng.choice(["No results", "No results found.", "nothing found", ""]), f"I found nothing about {tool.what}.", tool.what.split()[-1]
        text, found = phrase(rng, tool.what)
        return text, reported(text), found

    tool.ask, tool.answer = ask, answer
    names = f"search lookup find_{noun} get_{noun} search_{noun} lookup_{noun} {noun}_search {noun}_info"
    about = "Search|Look something up|Get information|Find information about something|Search and return the result"
    return names, about, [(key, STRING, "What to look for")], [key]


def phrase(rng, about):
    """(a result in words, a word or number of it)."""
    thing, n = rng.choice(words.THINGS), rng.randint(2, 990)
    kind = rng.randrange(9)
    if kind == 0:
        text = words.sentence(rng)
        return text + rng.choice([".", ""]), text.split()[-1]
    if kind == 1:
        text = words.title(rng)
        return text, text.split()[-1]
    if kind == 2:
        pairs = {rng.choice("name city owner kind".split()): words.title(rng), rng.choice("count total size level".split()): n}
        return written(rng, pairs), str(n)
    return [str(n), f"{n} {thing}s", f"{about} has {n} {thing}s in {words.city(rng)}.", f"{words.person(rng)}, {words.email(rng)}, {n}",
            f"{words.sentence(rng)}. {words.sentence(rng)}. {words.person(rng)} has {n}.",
            f"{rng.choice(['id', 'total', 'status', 'value', 'found'])}: {n}"][kind - 3], str(n)


def reported(text):
    """The answer to a result of which nothing else is known."""
    if text.startswith("{"):
        return f"The {listed(f'{k} is {v}' for k, v in json.loads(text).items())}."
    if text.endswith((".", "!", "?")) and " " in text:
        return text
    return f"The result is: {text}" + ("" if text.endswith(".") else ".")


def _file(tool, rng):
    key = rng.choice(["path", "filename", "file", "file_path"])

    def ask(rng):
        tool.path = words.path(rng) if rng.random() < 0.7 else words.path(rng).split("/")[1]
        return rng.choice(["Read {p}.", "Read the file {p}", "What is in {p}?", "Show me {p}.", "Open {p}", "What does {p} say?",
                           "Please read {p} and tell me what it says."]).format(p=tool.path), {key: tool.path}

    def answer(rng):
        if rng.random() < 0.12:
            shown = rng.choice([f"Error: {tool.path} not found", "Error: file not found", "File not found", f"No such file or directory: {tool.path}"])
            return shown, f"That did not work: {tool.path} was not found.", "not"
        lines = [rng.choice([words.sentence, words.title, words.adjective_thing])(rng) for _ in range(rng.choice([1, 1, 2, 3, 5, 8]))]
        text = "\n".join(lines) + rng.choice(["", "\n"])
        if len(lines) == 1:
            return text, f"It says: {lines[0]}.", lines[0].split()[-1]
        if len(lines) < 4:
            return text, "It says:\n\n```\n" + "\n".join(lines) + "\n```", lines[-1].split()[-1]
        return text, f"It begins with: {lines[0]}.", lines[0].split()[-1]

    tool.ask, tool.answer = ask, answer
    about = "Read a file|Read the contents of a file|Return the content of a file|Reads a file from disk"
    return "read_file read open_file cat get_file view_file", about, [(key, STRING, "Path of the file")], [key]


def _folder(tool, rng):
    key = rng.choice(["path", "directory", "folder"])

    def ask(rng):
        tool.folder = rng.choice(words.FOLDERS)
        return rng.choice(["List the files in {p}.", "What files are in {p}?", "Which files are in the folder {p}?", "Show me the files in {p}", "ls {p}"]).format(p=tool.folder), {key: tool.folder}

    def answer(rng):
        names = [words.path(rng).split("/")[1] for _ in range(rng.choice([1, 2, 3, 4, 6]))]
        shown = rng.choice(["\n".join(names), "\n".join(names), ", ".join(names), json.dumps(names)])
        said = f"I found {listed(names)}." if len(names) < 5 else f"I found {', '.join(names[:3])} and more."
        return shown, said, names[0]

    tool.ask, tool.answer = ask, answer
    return "list_files list_dir list_directory ls files", "List files|List the files in a directory|List a folder", [(key, STRING, "The folder")], [key]


COMMANDS = [("List the files in {f}", "ls {f}"), ("Show me {p}", "cat {p}"), ("Which folder is this?", "pwd"), ("Delete {p}", "rm {p}"),
            ("Count the lines of {p}", "wc -l {p}"), ("Run `ls {f}`", "ls {f}"), ("Run cat {p}", "cat {p}"), ("What is the git status?", "git status")]


def _shell(tool, rng):
    key = rng.choice(["command", "cmd"])

    def ask(rng):
        names = {"f": rng.choice(words.FOLDERS), "p": words.path(rng)}
        text, command = rng.choice(COMMANDS)
        return text.format(**names), {key: command.format(**names)}

    def answer(rng):
        text, found = phrase(rng, "The folder")
        return text, reported(text), found

    tool.ask, tool.answer = ask, answer
    about = "Run a shell command|Execute a command in the terminal|Run a command and return its output"
    return "bash shell run_command run_shell execute_command terminal run_shell_command", about, [(key, STRING, "The command")], [key]


def _sent(tool, rng):
    key, to = rng.choice(["message", "text", "body"]), rng.choice(["to", "recipient", "user"])

    def ask(rng):
        tool.person, said = words.person(rng), words.sentence(rng)
        return f"{rng.choice(['Send', 'Please send', 'Write'])} {tool.person} the message \"{said}\"", {to: tool.person, key: said}

    def answer(rng):
        shown = rng.choice(["ok", "OK", "sent", "Message sent", "Message sent.", "Success", "done", "true", "null", ""])
        return shown, f"The message was sent to {tool.person}.", tool.person

    tool.ask, tool.answer = ask, answer
    about = "Send a message|Send a message to a person|Write to somebody"
    return "send_message message send notify send_email", about, [(to, STRING, "Who gets it"), (key, STRING, "The text")], [to, key]


KINDS = [_weather, _weather, _time, _time, _dice, _dice, _arithmetic, _price, _lookup, _lookup, _lookup, _file, _folder, _shell, _sent]


def plain_result(rng, tool):
    """(text, answer, the word or number that the answer must hold) of any tool, as plain text where its kind has such a form."""
    if isinstance(tool, Plain):
        return tool.answer(rng)
    if rng.random() < 0.1:
        why = rng.choice(["not found", "no permission", "service not available", "wrong date", "timeout", "invalid argument", "connection refused"])
        return rng.choice([f"Error: {why}", f"error: {why}", f"ERROR: {why}", f"Error: {why}."]), f"That did not work: {why}.", why
    if isinstance(tool, Weather):
        text, found = weather_text(rng)
        return text, f"The weather in {tool.city}: {text}.", found
    if isinstance(tool, Calculator):
        return *tool.result(rng), str(eval(tool.value))
    if isinstance(tool, Execute):
        return *tool.result(rng), tool.output.split()[-1].strip("[]")
    if isinstance(tool, Made):
        return _made_result(rng, tool)
    value = f"{rng.randint(2, 900)}.{rng.choice(['5', '25', '75'])}"
    return value, f"That is {value} {tool.two}.", value


def _made_result(rng, tool):
    kind, noun = tool.verb[3], tool.noun
    if kind == "found":
        found = [words.title(rng) for _ in range(rng.randint(1, 3))]
        shown = rng.choice(["\n".join(found), "\n".join(f"- {f}" for f in found), "\n".join(f"{i}. {f}" for i, f in enumerate(found, 1)), ", ".join(found), json.dumps(found)])
        return shown, f"I found these {tool.thing}: {listed(found)}.", found[0].split()[-1]
    if kind == "value":
        status = rng.choice(["open", "closed", "ready", "late", "paid", "done", "running"])
        shown = rng.choice([status, words.capital(status), f"status: {status}", f"Status: {status}", f"The {noun} is {status}."])
        return shown, f"The {noun} is {status}.", status
    number, done = rng.randint(10, 999), tool.done()
    if rng.random() < 0.6:
        shown = rng.choice([str(number), f"id {number}", f"id: {number}", f"{words.capital(noun)} {done} with id {number}", f"{words.capital(done)}: {number}",
                            f"ok, id={number}", f"#{number}"])
        return shown, f"The {noun} was {done} with the id {number}.", str(number)
    shown = rng.choice(["ok", "OK", "done", "Done.", "success", "Success", words.capital(done), f"{words.capital(noun)} {done}", f"{words.capital(noun)} {done}.", "true"])
    return shown, f"The {noun} was {done}.", done
