"""Exercises in looking back: a sequence that repeats, and values to be found by their keys.

Calls are made of names and values that stand somewhere in the conversation. A model that sees only calls finds
out late how to copy; one that sees these lines as well finds out within some hundred steps.
"""

from . import words

WORDS = words.THINGS + words.ADJECTIVES + words.VERBS + words.TAGS + words.COLOURS
VALUES = WORDS + words.PEOPLE + words.CITIES + words.LANGUAGES


def repeated(rng, vocabulary):
    """(ids given, ids learned): random tokens, then the same again once to three times."""
    ids = [rng.randrange(vocabulary) for _ in range(rng.randint(5, 40))]
    return ids, ids * rng.randint(1, 3)


def looked_up(rng):
    """Parts of a document: pairs of a key and a value, then the keys in another order with their values."""
    pairs = [(_key(rng), _value(rng)) for _ in range(rng.randint(2, 7))]
    said, sign = rng.choice([(" is ", "="), (": ", "="), (" = ", ":"), (" ", ">"), (" with ", "=")])
    parts = [(rng.choice([", ", "\n", " and "]).join(f"{k}{said}{v}" for k, v in pairs) + "\n", False)]
    for key, value in rng.sample(pairs * 2, rng.randint(len(pairs), 2 * len(pairs))):
        parts += [(f"<{key}{sign}" + "\n", False), (f"{value}\n", True)]
    return parts


def _key(rng):
    one = rng.choice(WORDS)
    return one if rng.random() < 0.6 else f"{one}_{rng.choice(WORDS)}"


def _value(rng):
    kind = rng.randrange(4)
    if kind == 0:
        return str(rng.randint(1, 999))
    if kind == 1:
        return words.title(rng)
    return rng.choice(VALUES)
