"""The words that all subjects draw from, and small ways of writing them."""

PEOPLE = """Anna Ben Clara David Emma Felix Grace Henry Iris Jonas Karla Leo Maria Noah Olga Paul Rosa Sam Tara
Victor Wendy Yusuf Zoe Amir Bella Carlos Dina Elena Frank Gina Hugo Ivan Julia Kofi Laura Mina Nina Oscar Priya
Tom""".split()
CITIES = """Paris Rome Berlin Madrid London Oslo Vienna Tokyo Lima Cairo Dublin Prague Lisbon Athens Boston Chicago
Denver Toronto Sydney Delhi Seoul Nairobi Zurich Geneva Helsinki Warsaw Milan Munich""".split()
COLOURS = "red blue green yellow black white orange purple grey brown pink silver".split()
LANGUAGES = "French German Spanish Italian Dutch Polish Greek Turkish Swedish English".split()
CURRENCIES = "EUR USD GBP JPY CHF CAD NOK PLN".split()
ADJECTIVES = """new old big small quick slow warm cold open closed bright dark early late free full broken clean quiet
loud simple sharp soft heavy light sweet plain round daily weekly urgent short long""".split()
THINGS = """door window lamp chair table garden kitchen bottle ticket letter picture bridge river mountain forest
market school office station harbour engine printer server database screen keyboard camera bicycle train boat
sandwich coffee bread cheese apple lemon carrot budget plan summary meeting lesson concert holiday contract design
test release backup update password account project team customer supplier""".split()
VERBS = "fix buy call check clean send review paint move open close write read plan test order repair water".split()
TAGS = """home work travel food music sport health school family money garden winter summer spring autumn news ideas
code design shop""".split()
EXTENSIONS = "txt md py rs js json csv html".split()
FOLDERS = "src docs data notes home tmp logs tests images".split()


def person(rng):
    return rng.choice(PEOPLE)


def city(rng):
    return rng.choice(CITIES)


def title(rng):
    """A short title such as `Fix the broken lamp`."""
    kind = rng.randrange(4)
    adjective, thing = rng.choice(ADJECTIVES), rng.choice(THINGS)
    if kind == 0:
        text = f"{rng.choice(VERBS)} the {thing}"
    elif kind == 1:
        text = f"{adjective} {thing}"
    elif kind == 2:
        text = f"{rng.choice(VERBS)} the {adjective} {thing}"
    else:
        text = f"{thing} for {person(rng)}"
    return text[0].upper() + text[1:]


def sentence(rng):
    """A short message such as `The printer is broken again`."""
    kind = rng.randrange(5)
    thing = rng.choice(THINGS)
    if kind == 0:
        return f"The {thing} is {rng.choice(ADJECTIVES)}"
    if kind == 1:
        return f"Please {rng.choice(VERBS)} the {thing}"
    if kind == 2:
        return f"I will {rng.choice(VERBS)} the {thing} in {city(rng)}"
    if kind == 3:
        return f"{person(rng)} needs the {adjective_thing(rng)}"
    return f"See you in {city(rng)}"


def adjective_thing(rng):
    return f"{rng.choice(ADJECTIVES)} {rng.choice(THINGS)}"


def date(rng):
    return f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def time(rng):
    return f"{rng.randint(7, 20):02}:{rng.choice(['00', '15', '30', '45'])}"


def email(rng):
    return f"{person(rng).lower()}@{rng.choice(['example', 'mail', 'school', 'office'])}.{rng.choice(['com', 'org', 'net'])}"


def path(rng):
    return f"{rng.choice(FOLDERS)}/{rng.choice(THINGS)}.{rng.choice(EXTENSIONS)}"


def listed(parts):
    """`a`, `a and b`, `a, b and c`."""
    parts = [str(p) for p in parts]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def article(noun):
    return "an" if noun[0] in "aeiou" else "a"


def capital(text):
    return text[0].upper() + text[1:]
