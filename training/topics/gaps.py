"""Fill in the middle: a program with renamed variables and one piece of a line, or one line, taken out."""

import re

from .programs import PROGRAMS, SYNONYMS, renamed

CHANGEABLE = {name for names in SYNONYMS.values() for name in names}
SPAN = re.compile(r"[A-Za-z_]\w*|\d+|[^\sA-Za-z_\d]+")


def gap(rng):
    """(prefix, suffix, middle)."""
    while True:
        _, _, _, codes = rng.choice(PROGRAMS)
        lang = rng.choice(sorted(codes) + ["Python"] * (len(codes) > 1))
        code = renamed(rng, codes[lang].split("\n\n\nprint(")[0]) + "\n"
        lines = code.split("\n")
        candidates = [i for i, line in enumerate(lines[:-1]) if i > 0 and len(line.strip()) > 1]
        if not candidates:
            continue
        at = rng.choice(candidates)
        line = lines[at]
        indent = len(line) - len(line.lstrip())
        if '"""' in line:
            continue
        if rng.random() < 0.55:
            start, end = indent, len(line)
        else:
            # From some word to the end of the line, or a few words inside it.
            words = [m.span() for m in SPAN.finditer(line)]
            first = rng.randrange(len(words))
            last = len(words) - 1 if rng.random() < 0.5 else min(len(words) - 1, first + rng.randint(0, 3))
            start, end = words[first][0], words[last][1]
            if end - start < 2:
                continue
        before = "\n".join(lines[:at] + [line[:start]])
        after = "\n".join([line[end:]] + lines[at + 1:])
        # A changed name that stands nowhere else cannot be known.
        known = set(re.findall(r"[A-Za-z_]\w*", before + " " + after))
        if (set(re.findall(r"[A-Za-z_]\w*", line[start:end])) & CHANGEABLE) - known:
            continue
        return before, after, line[start:end]


def fresh(rng, avoid):
    """A gap whose (prefix, suffix) is not among the held-out ones."""
    while True:
        prefix, suffix, middle = gap(rng)
        if (prefix, suffix) not in avoid:
            return prefix, suffix, middle
