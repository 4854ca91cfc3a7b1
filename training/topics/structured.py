"""JSON answers: details out of a text, things made up, choices, sums, and schemas of any names.

The server puts no schema into the prompt; it only masks what the schema forbids. So most questions here do not
speak of JSON at all, or only in a few words, and the keys come from the mask: an answer is a list of
(text, learned), and what the mask writes is given where it cannot be known.
"""

import json
import re

from . import words
from .words import ADJECTIVES, THINGS

GOOD = "great lovely excellent wonderful perfect nice fantastic helpful".split()
BAD = "terrible awful bad broken useless horrible poor disappointing".split()
JOBS = "teacher doctor engineer painter farmer baker nurse writer driver cook pilot student".split()
FOODS = "bread cheese apples lemons carrots rice eggs butter sugar flour milk tomatoes onions salt pepper beans".split()
HOBBIES = "chess music football reading cooking painting running hiking swimming gardening".split()
COUNTRIES = "France Spain Italy Japan Peru Egypt Norway Poland Kenya India Canada Brazil".split()
EVENTS = ["meeting", "concert", "lesson", "party", "lunch", "dinner", "workshop", "science fair", "game night", "book club"]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
CATEGORIES = [["bug", "feature", "question"], ["food", "travel", "music", "sport"], ["low", "medium", "high"], ["yes", "no"]]

# A detail: its key, its schema, how it is made, and how a text tells it (`{v}`).
STRING, INTEGER, NUMBER, BOOLEAN = ({"type": t} for t in ("string", "integer", "number", "boolean"))
STRINGS, INTEGERS = {"type": "array", "items": STRING}, {"type": "array", "items": INTEGER}


def _some(pool, low=1, high=3):
    return lambda rng: rng.sample(pool, rng.randint(low, high))


def _one(pool):
    return lambda rng: rng.choice(pool)


def _whole(low, high):
    return lambda rng: rng.randint(low, high)


def _full_name(rng):
    return words.person(rng) if rng.random() < 0.6 else f"{words.person(rng)} {rng.choice('Smith Miller Brown Weber Rossi Novak Berg Lopez Tanaka Moreau'.split())}"


def _price(rng):
    return rng.choice([rng.randint(1, 90), rng.randint(1, 90) + rng.choice([0.5, 0.25, 0.99])])


def _event(rng):
    return rng.choice(EVENTS)


SUBJECTS = {
    "person user contact customer employee character": [
        ("name full_name", STRING, _full_name, "{v}"),
        ("age", INTEGER, _whole(6, 90), "is {v} years old|, {v} years old,|aged {v}"),
        ("city location", STRING, words.city, "lives in {v}|from {v}"),
        ("occupation job", STRING, _one(JOBS), "works as a {v}|is a {v}"),
        ("email", STRING, words.email, "has the email {v}|can be reached at {v}"),
        ("hobbies interests", STRINGS, _some(HOBBIES), "likes {v}|enjoys {v}"),
        ("country", STRING, _one(COUNTRIES), "comes from {v}"),
    ],
    "product item article": [
        ("name title", STRING, words.adjective_thing, "The {v}"),
        ("price", NUMBER, _price, "costs {v} dollars|for {v} dollars|is sold for {v}"),
        ("color colour", STRING, _one(words.COLOURS), "in {v}|is {v}"),
        ("quantity stock", INTEGER, _whole(1, 90), "with {v} in stock|and there are {v} of it"),
        ("in_stock available", BOOLEAN, _one([True, False]), {True: "is available", False: "is sold out"}),
        ("tags", STRINGS, _some(words.TAGS), "tagged {v}"),
    ],
    "event meeting appointment": [
        ("name title", STRING, _event, "The {v}"),
        ("date", STRING, words.date, "on {v}"),
        ("day date", STRING, _one(DAYS), "on {v}"),
        ("time", STRING, words.time, "at {v}"),
        ("location city", STRING, words.city, "in {v}"),
        ("participants attendees", STRINGS, _some(words.PEOPLE, 2, 3), "with {v}"),
    ],
    "order invoice purchase": [
        ("order_id id", INTEGER, _whole(10, 999), "Order {v}|The order {v}"),
        ("customer name", STRING, words.person, "by {v}|from {v}"),
        ("total amount", NUMBER, _price, "comes to {v} dollars|for {v} dollars"),
        ("items products", STRINGS, _some(FOODS), "with {v}|of {v}"),
        ("paid", BOOLEAN, _one([True, False]), {True: "and is paid", False: "and is not paid"}),
    ],
}

WISHES = ["Answer in JSON.", "Reply in JSON.", "Return JSON.", "Answer as JSON.", "Give me JSON.", "Respond with a JSON object.",
          "Respond only with JSON.", "Output JSON only."]
KEYED = ["Return JSON with the keys {k}.", "Answer in JSON with {k}.", "Give me a JSON object with {k}.", "Use the keys {k}.",
         "Return a JSON object with the fields {k}.", "Reply with JSON: {k}."]
SYSTEMS = ["You answer in JSON.", "You are a helpful assistant that replies in JSON.", "Respond in JSON format.", "Always answer with JSON.",
           "You are a helpful assistant designed to output JSON."]
PLAIN_SYSTEMS = ["You are a helpful assistant.", "Extract the information.", "You extract data from text.", "Extract the event information.",
                 "Be brief."]


class Answer:
    """A value with its schema, the user's words, and how much of it can be known from these."""

    def __init__(self, asked, schema, value, keys_known=True):
        self.asked, self.schema, self.value, self.keys_known = asked, schema, value, keys_known


def object_schema(properties, required=None, closed=None):
    out = {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
    return out | ({"additionalProperties": False} if closed else {})


def _told(rng, how, value):
    if isinstance(how, dict):
        return how[value]
    shown = words.listed(value) if isinstance(value, list) else value
    return rng.choice(how.split("|")).replace("{v}", str(shown))


def _details(rng, subject=None):
    """(name of the subject, [(key, schema, value, words)], the first of which names the thing)."""
    names = subject or rng.choice(list(SUBJECTS))
    fields = SUBJECTS[names]
    picked = [fields[0]] + rng.sample(fields[1:], rng.randint(1, min(4, len(fields) - 1)))
    out, keys = [], set()
    for key, schema, make, how in picked:
        key = rng.choice(key.split())
        if key not in keys:
            keys.add(key)
            value = make(rng)
            out.append((key, schema, value, _told(rng, how, value)))
    return rng.choice(names.split()), out


def _sentence(details):
    """`Anna lives in Rome and is 34 years old.`"""
    first, *rest = (told for _, _, _, told in details)
    return f"{first} {words.listed(rest)}.".replace(" ,", ",").replace(" and and ", " and ").replace(",,", ",").replace(",.", ".")


def extraction(rng):
    subject, details = _details(rng)
    text = _sentence(details)
    if rng.random() < 0.3:  # something that was not asked for
        text += " " + rng.choice([f"The {rng.choice(THINGS)} is {rng.choice(ADJECTIVES)}.", f"See you in {words.city(rng)}.", "Thank you!"])
    shown = details[:]
    if rng.random() < 0.3:
        rng.shuffle(shown)
    if rng.random() < 0.15 and len(shown) > 1:
        shown.pop()  # told and not asked for
    fill = rng.choice(["{t}", "{t}", "Extract the {s}: {t}", "Extract the {s} from this text: {t}", "Extract the details: {t}", "{t} Extract the {s}.",
                       "Extract: {t}", "Parse this: {t}", "Text: {t}", "What is the {s} in this text? {t}", "Get the {s} data: {t}",
                       'Extract the information from: "{t}"', "Extract the {s} information.\n\n{t}"])
    asked = fill.format(t=text, s=subject)
    return Answer(asked, object_schema({k: s for k, s, _, _ in shown}), {k: v for k, _, v, _ in shown})


def invention(rng):
    subject, details = _details(rng)
    fill = rng.choice(["Invent a {s}.", "Make up a {s}.", "Give me an example {s}.", "Generate a {s}.", "Describe a {s}.", "Create a fictional {s}.",
                       "Give me a {s}.", "Generate data of a {s}.", "Return a random {s}.", "Create a {s} profile."])
    return Answer(fill.format(s=subject), object_schema({k: s for k, s, _, _ in details}), {k: v for k, _, v, _ in details})


def several(rng):
    """An array of alike objects under one key."""
    names = rng.choice(list(SUBJECTS))
    subject = rng.choice(names.split())
    fields = rng.sample(SUBJECTS[names][1:], rng.randint(1, 2))
    fields = [(rng.choice(k.split()), s, m, h) for k, s, m, h in [SUBJECTS[names][0]] + fields]
    if len({k for k, *_ in fields}) < len(fields):
        return several(rng)
    count = rng.randint(1, 3)
    values = [{k: m(rng) for k, _, m, _ in fields} for _ in range(count)]
    key = rng.choice([subject + "s", "items", "results", "list", subject + "s"])
    item = object_schema({k: s for k, s, _, _ in fields})
    if rng.random() < 0.5:
        number = ["one", "two", "three"][count - 1]
        asked = rng.choice(["Invent {n} {s}.", "Give me {n} {s}.", "List {n} {s}.", "Make up {n} {s}."]).format(n=number, s=subject + "s" * (count > 1))
    else:
        told = [_sentence([(k, s, v[k], _told(rng, h, v[k])) for k, s, _, h in fields]) for v in values]
        asked = rng.choice(["", f"Extract the {subject}s: ", "Extract all of them: "]) + " ".join(told)
    return Answer(asked, object_schema({key: {"type": "array", "items": item}}), {key: values})


def nested(rng):
    """An object within an object."""
    outer, inner = rng.sample(list(SUBJECTS), 2)
    (_, first), (name, second) = _details(rng, outer), _details(rng, inner)
    second = second[:3]
    value = {k: v for k, _, v, _ in first[:3]} | {name: {k: v for k, _, v, _ in second}}
    schema = {k: s for k, s, _, _ in first[:3]} | {name: object_schema({k: s for k, s, _, _ in second})}
    return Answer(f"{_sentence(first[:3])} {_sentence(second)}", object_schema(schema), value)


def choice(rng):
    """One of an enum, mostly to be seen from the text."""
    thing = rng.choice(THINGS)
    if rng.random() < 0.6:
        good = rng.random() < 0.5
        word = rng.choice(GOOD if good else BAD)
        text = rng.choice([f"The {thing} is {word}.", f"I bought this {thing} and it is {word}!", f"What a {word} {thing}.", f"{word} {thing}, really.",
                           f"My {thing} was {word} and I {'will buy it again' if good else 'want my money back'}."])
        asked = rng.choice(["{t}", "Classify the review: {t}", "What is the sentiment? {t}", "Is this positive or negative? {t}",
                            "Sentiment of: {t}", 'Classify the sentiment of "{t}"'])
        asked = asked.format(t=words.capital(text))
        properties = {"sentiment": {"type": "string", "enum": ["positive", "negative"] + ["neutral"] * (rng.random() < 0.6)}}
        value = {"sentiment": "positive" if good else "negative"}
    else:
        options = rng.choice(CATEGORIES)
        right = rng.choice(options)
        asked = rng.choice([f"Is the {thing} a matter of {right}?", f"The {thing} is about {right}.", f"Choose: {', '.join(options)}. The {thing} is {right}."])
        properties, value = {"category": {"type": "string", "enum": options}}, {"category": right}
    extra = rng.random()
    if extra < 0.3:
        properties["confidence"], value["confidence"] = NUMBER, rng.choice([0.9, 0.8, 0.95, 0.7])
    elif extra < 0.45:
        properties["reason"], value["reason"] = STRING, f"The {thing} is {next(iter(value.values()))}."
    elif extra < 0.6:
        properties["score"], value["score"] = INTEGER | {"minimum": 1, "maximum": 5}, rng.randint(1, 5)
    return Answer(asked, object_schema(properties), value)


def listing(rng):
    """A list of plain values."""
    kind, pool = rng.choice([("colors", words.COLOURS), ("colours", words.COLOURS), ("cities", words.CITIES), ("names", words.PEOPLE), ("languages", words.LANGUAGES),
                             ("foods", FOODS), ("ingredients", FOODS), ("hobbies", HOBBIES), ("things", THINGS), ("countries", COUNTRIES), ("numbers", list(range(1, 60)))])
    count = rng.randint(2, 5)
    values = rng.sample(pool, count)
    number = rng.choice([str(count), ["two", "three", "four", "five"][count - 2]])
    asked = rng.choice(["List {n} {k}.", "Name {n} {k}.", "Give me {n} {k}.", "Name {n} {k}, please.", "Give me a list of {n} {k}.", "{n} {k}"]).format(n=number, k=kind)
    key = rng.choice([kind, kind, "items", "list", "values", "answer"])
    schema = {"type": "array", "items": INTEGER if kind == "numbers" else STRING}
    if rng.random() < 0.2:
        schema |= {"minItems": 1, "maxItems": 5}
    return Answer(asked, object_schema({key: schema}), {key: values})


def recipe(rng):
    thing = rng.choice("pancakes soup salad bread pizza pasta cake cookies sandwich omelette".split())
    some = rng.sample(FOODS, rng.randint(2, 4))
    asked = rng.choice(["Give me a recipe for {t}.", "A recipe for {t}, please.", "How do I make {t}?", "Write a short recipe for {t}.", "Recipe: {t}"]).format(t=thing)
    steps = [f"Mix the {some[0]} with the {some[1]}.", rng.choice(["Heat the pan.", "Wait ten minutes.", "Add water."]), f"Serve the {thing}."][: rng.randint(1, 3)]
    value = {rng.choice(["name", "title", "recipe_name", "dish"]): words.capital(thing), "ingredients": some}
    if rng.random() < 0.7:
        value[rng.choice(["steps", "instructions"])] = steps
    if rng.random() < 0.3:
        value[rng.choice(["minutes", "servings", "time_minutes"])] = rng.randint(2, 60)
    return Answer(asked, object_schema({k: STRINGS if isinstance(v, list) else STRING if isinstance(v, str) else INTEGER for k, v in value.items()}), value)


def joke(rng):
    thing, other = rng.sample(THINGS, 2)
    asked = rng.choice(["Tell me a joke about a {t}.", "Tell me a joke about {t}s", "A joke about a {t}, please.", "Make a joke about the {t}."]).format(t=thing)
    value = {"setup": f"Why did the {thing} meet the {other}?", "punchline": f"Because it was {rng.choice(ADJECTIVES)}!"}
    properties = {k: STRING for k in value}
    if rng.random() < 0.4:
        value["rating"] = rng.randint(1, 10)
        properties["rating"] = rng.choice([INTEGER, INTEGER | {"minimum": 1, "maximum": 10}, {"anyOf": [INTEGER, {"type": "null"}]}])
    return Answer(asked, object_schema(properties, required=["setup", "punchline"]), value)


def summed(rng, problem):
    """A sum or a word problem: `problem` is (question, worked answer, number)."""
    question, worked, number = problem
    steps = worked.split("\n")[:-1]
    form = rng.randrange(4)
    number = int(number)
    if form == 0:
        return Answer(question, object_schema({"answer": rng.choice([INTEGER, NUMBER])}), {"answer": number})
    if form == 1:
        return Answer(question, object_schema({"reasoning": STRING, "answer": INTEGER}), {"reasoning": ", ".join(steps), "answer": number})
    if form == 2:
        item = object_schema({"explanation": STRING, "output": STRING})
        value = {"steps": [{"explanation": "Calculate", "output": step} for step in steps], "final_answer": str(number)}
        return Answer(question, object_schema({"steps": {"type": "array", "items": item}, "final_answer": STRING}), value)
    return Answer(question, object_schema({"steps": STRINGS, "result": INTEGER}), {"steps": steps, "result": number})


ANY_KEYS = """id name title label text body content summary note comment description details topic subject kind type status state
code value amount total count size width height weight length depth level rank score rating grade year month day hour start end
first last next owner author editor source target path url link file folder language version format key token role team group
department company address street zip phone country region area map route distance speed unit active enabled visible public
done valid is_open has_errors needs_review options settings meta data entry record row column field parent child children
tags labels keywords aliases notes comments sections chapters points facts reasons causes effects""".split()


def _any_key(rng):
    key = rng.choice(ANY_KEYS)
    if rng.random() < 0.25:
        other = rng.choice(ANY_KEYS)
        key = rng.choice([f"{key}_{other}", key + words.capital(other)])
    return key


def _piece(rng, prompt):
    """A few words of the prompt, or some others."""
    found = [w for w in prompt.replace("`", " ").replace('"', " ").replace("\\", " ").split() if w.isascii()]
    if found and rng.random() < 0.65:
        start = rng.randrange(len(found))
        return " ".join(found[start : start + rng.randint(1, 4)]).strip(".,:;!?")
    return rng.choice([words.title, words.sentence, words.adjective_thing, words.person, words.city])(rng)


def _any_value(rng, prompt, depth):
    """(schema, value)."""
    kind = rng.random()
    if kind < 0.45:
        extra = {"description": words.title(rng)} if rng.random() < 0.2 else {}
        return STRING | extra, _piece(rng, prompt)
    if kind < 0.6:
        bounds = {"minimum": 0, "maximum": 100} if rng.random() < 0.2 else {}
        return INTEGER | bounds, rng.randint(0, 99)
    if kind < 0.67:
        return NUMBER, rng.choice([rng.randint(0, 50), rng.randint(0, 50) + 0.5])
    if kind < 0.75:
        return BOOLEAN, rng.random() < 0.5
    if kind < 0.81:
        options = rng.sample(words.TAGS + ADJECTIVES, rng.randint(2, 4))
        return {"type": "string", "enum": options}, rng.choice(options)
    if kind < 0.84:
        return rng.choice([{"type": "string", "format": "date"}, {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}]), words.date(rng)
    if kind < 0.94 or depth == 0:
        some = rng.randint(1, 3)
        if rng.random() < 0.8 or depth == 0:
            return (STRINGS, [_piece(rng, prompt) for _ in range(some)]) if rng.random() < 0.7 else (INTEGERS, [rng.randint(0, 99) for _ in range(some)])
        schema, value = _any_object(rng, prompt, 0, 2)
        values = [value] + [{k: _like(rng, prompt, s) for k, s in schema["properties"].items()} for _ in range(some - 1)]
        return {"type": "array", "items": schema}, values
    return _any_object(rng, prompt, depth - 1, 3)


def _like(rng, prompt, schema):
    """Another value of a schema that is no object."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema["type"]
    if kind == "array":
        return [_like(rng, prompt, schema["items"])]
    if kind == "string":
        return words.date(rng) if "format" in schema or "pattern" in schema else _piece(rng, prompt)
    return rng.random() < 0.5 if kind == "boolean" else rng.randint(0, 50)


def _any_object(rng, prompt, depth, most):
    pairs = {_any_key(rng): _any_value(rng, prompt, depth) for _ in range(rng.randint(1, most))}
    required = [k for k in pairs if rng.random() < 0.8]
    return object_schema({k: s for k, (s, _) in pairs.items()}, required, rng.random() < 0.5), {k: v for k, (_, v) in pairs.items()}


def anything(rng, prompt):
    """A schema that has nothing to do with the prompt."""
    schema, value = _any_object(rng, prompt, 2, 5)
    return Answer(prompt, schema, value, keys_known=False)


def answered(rng, exchange):
    """An ordinary exchange, its answer under one key."""
    user, said = exchange
    key = rng.choice(["answer", "answer", "answer", "response", "text", "message", "reply", "content"])
    return Answer(user, object_schema({key: STRING}), {key: said})


MAKERS = [extraction, extraction, extraction, extraction, invention, several, nested, choice, choice, listing, listing, recipe, joke]


def written(value, indent=None, separators=(", ", ": ")):
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)


def parts(rng, answer, begun):
    """The answer as it is learned. `begun`: the mask writes the first brace, as nothing else asks for JSON."""
    text = written(answer.value, separators=(",", ":") if rng.random() < 0.06 else (", ", ": "))
    out = [('{"' if text.startswith('{"') else "{", not begun)]
    rest = text[len(out[0][0]):]
    if answer.keys_known:
        return out + [(rest, True)] if rest else out
    # A key is given; it ends where its quotation mark is. Both ends are ends of tokens.
    last = 0
    for found in re.finditer(r'(?:(?<=^)|(?<=[{,]")|(?<=[{,] "))[A-Za-z_]+(?=":)', rest):
        if found.start() > last:
            out.append((rest[last : found.start()], True))
        out.append((found.group(), False))
        last = found.end()
    return out + [(rest[last:], True)]


def asked(rng, answer):
    """(the user's message, the system's or None, whether only the mask asks for JSON)."""
    text, system = answer.asked, rng.choice(PLAIN_SYSTEMS) if rng.random() < 0.15 else None
    form = rng.random()
    if form < 0.5:
        return text, system, True
    if form < 0.66:
        answer.keys_known = True
        keys = rng.choice(KEYED).format(k=words.listed(answer.value))
        return rng.choice([f"{text} {keys}", f"{text}\n{keys}", f"{keys} {text}"]), system, False
    if form < 0.8:
        wish = rng.choice(WISHES)
        return rng.choice([f"{text} {wish}", f"{wish} {text}", f"{text}\n\n{wish}"]), system, False
    if form < 0.88:
        return text, rng.choice(SYSTEMS), False
    answer.keys_known = True
    schema = json.dumps(answer.schema, indent=rng.choice([None, None, 2]))
    told = rng.choice(["Answer with JSON that matches this schema:\n{s}", "Return a JSON object that fits the schema {s}", "JSON schema:\n{s}",
                       "Always respond with a JSON object that's compatible with this schema:\n\n{s}\n\nDon't include any text before or after."]).format(s=schema)
    return (text, told, False) if rng.random() < 0.6 else (f"{text}\n\n{told}", None, False)
