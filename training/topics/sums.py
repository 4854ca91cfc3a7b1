"""Grade-school word problems with worked steps: one operation a line, the answer after `#### `.

Numbers stay small (sums below 200, products of the tables up to 12), because a model of this size learns them
by heart; what it has to find out from the text is which numbers to combine, how, and in which order.
"""

from .words import PEOPLE

ITEMS = """apples books pencils stamps marbles cookies eggs flowers shells cards stickers oranges balloons coins
candles cups tickets photos buttons bricks lemons carrots rolls plants toys""".split()
PLACES = "shop market school library garden kitchen office farm".split()
PACKS = [("boxes", "box"), ("bags", "bag"), ("packs", "pack"), ("shelves", "shelf"), ("baskets", "basket")]


class Story:
    """A problem under construction: the running steps and the names it speaks of."""

    def __init__(self, rng):
        self.rng = rng
        self.steps = []
        self.a, self.b = rng.sample(PEOPLE, 2)
        self.item = rng.choice(ITEMS)

    def n(self, low, high):
        return self.rng.randint(low, high)

    def op(self, x, sign, y):
        z = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[sign]
        self.steps.append(f"{x} {sign} {y} = {z}")
        return z


def gain_then_loss(s):
    x, y = s.n(3, 60), s.n(2, 39)
    z = s.n(1, x + y - 1)
    t = s.op(s.op(x, "+", y), "-", z)
    how = s.rng.choice(["buys", "finds", "gets", "picks"])
    lose = s.rng.choice(["gives away", "loses", "sells", "uses"])
    return f"{s.a} has {x} {s.item}. {s.a} {how} {y} more and then {lose} {z}. How many {s.item} does {s.a} have now?", t


def loss_then_gain(s):
    x = s.n(10, 90)
    y = s.n(2, x - 2)
    z = s.n(2, 40)
    t = s.op(s.op(x, "-", y), "+", z)
    return f"{s.a} had {x} {s.item} and gave {y} of them to {s.b}. Later {s.a} got {z} new {s.item}. How many {s.item} does {s.a} have now?", t


def two_people(s):
    x, y = s.n(3, 40), s.n(2, 30)
    other = s.op(x, "+", y)
    t = s.op(x, "+", other)
    return f"{s.a} has {x} {s.item}. {s.b} has {y} more {s.item} than {s.a}. How many {s.item} do they have together?", t


def fewer(s):
    x = s.n(8, 60)
    y = s.n(2, x - 3)
    other = s.op(x, "-", y)
    t = s.op(x, "+", other)
    return f"{s.a} collected {x} {s.item}. {s.b} collected {y} fewer {s.item} than {s.a}. How many {s.item} did they collect in total?", t


def times_as_many(s):
    x, k = s.n(2, 12), s.n(2, 9)
    other = s.op(x, "*", k)
    t = s.op(x, "+", other)
    return f"{s.a} has {x} {s.item}. {s.b} has {k} times as many. How many {s.item} do they have altogether?", t


def packs(s):
    many, one = s.rng.choice(PACKS)
    x, y = s.n(2, 12), s.n(2, 12)
    t = s.op(x, "*", y)
    return f"There are {x} {many} with {y} {s.item} in each {one}. How many {s.item} are there?", t


def packs_less(s):
    many, one = s.rng.choice(PACKS)
    x, y = s.n(2, 12), s.n(2, 12)
    z = s.n(1, x * y - 1)
    t = s.op(s.op(x, "*", y), "-", z)
    lose = s.rng.choice(["sells", "eats", "breaks", "gives away"])
    return f"{s.a} has {x} {many} with {y} {s.item} in each {one}. {s.a} {lose} {z} {s.item}. How many {s.item} are left?", t


def packs_more(s):
    many, one = s.rng.choice(PACKS)
    x, y, z = s.n(2, 12), s.n(2, 12), s.n(2, 40)
    t = s.op(s.op(x, "*", y), "+", z)
    return f"{s.a} buys {x} {many} of {s.item}. Each {one} holds {y} {s.item}. {s.a} already had {z} {s.item}. How many {s.item} does {s.a} have now?", t


def price(s):
    x, y = s.n(2, 12), s.n(2, 12)
    t = s.op(x, "*", y)
    return f"One of the {s.item} costs {y} dollars. How many dollars do {x} {s.item} cost?", t


def change(s):
    x, y = s.n(2, 9), s.n(2, 9)
    cost = s.op(x, "*", y)
    pay = s.rng.choice([p for p in (20, 50, 100) if p > cost])
    t = s.op(pay, "-", cost)
    return f"{s.a} buys {x} {s.item} at {y} dollars each and pays with {pay} dollars. How much change does {s.a} get?", t


def two_prices(s):
    x, y, k, m = s.n(2, 9), s.n(2, 9), s.n(2, 9), s.n(2, 9)
    other = s.rng.choice([i for i in ITEMS if i != s.item])
    t = s.op(s.op(x, "*", y), "+", s.op(k, "*", m))
    # The sum line names the two products in the order in which they were worked out.
    return f"{s.a} buys {x} {s.item} for {y} dollars each and {k} {other} for {m} dollars each. How many dollars does {s.a} spend?", t


def share(s):
    y, q = s.n(2, 9), s.n(2, 12)
    x = y * q
    t = s.op(x, "/", y)
    return f"{s.a} shares {x} {s.item} equally among {y} friends. How many {s.item} does each friend get?", t


def share_after(s):
    y, q = s.n(2, 9), s.n(2, 11)
    x = y * q
    z = s.n(2, 30)
    t = s.op(s.op(x + z, "-", z), "/", y)
    return f"{s.a} has {x + z} {s.item} and keeps {z}. The rest is shared equally among {y} children. How many {s.item} does each child get?", t


def pack_up(s):
    many, one = s.rng.choice(PACKS)
    y, q = s.n(2, 9), s.n(2, 12)
    t = s.op(y * q, "/", y)
    return f"{s.a} puts {y * q} {s.item} into {many}. Each {one} holds {y} {s.item}. How many {many} does {s.a} need?", t


def half(s):
    x = 2 * s.n(3, 40)
    y = s.n(2, 30)
    t = s.op(s.op(x, "/", 2), "+", y)
    return f"{s.a} had {x} {s.item}. {s.a} sold half of them and then made {y} more. How many {s.item} does {s.a} have now?", t


def sold_half_too(s):
    x = 2 * s.n(3, 48)
    h = s.op(x, "/", 2)
    t = s.op(x, "+", h)
    return f"{s.a} sold {x} {s.item} in April and half as many in May. How many {s.item} did {s.a} sell altogether?", t


def daily(s):
    x, d = s.n(2, 12), s.n(2, 12)
    t = s.op(x, "*", d)
    verb = s.rng.choice(["reads", "writes", "runs", "swims"])
    unit = {"reads": "pages", "writes": "letters", "runs": "miles", "swims": "laps"}[verb]
    return f"{s.a} {verb} {x} {unit} every day. How many {unit} is that in {d} days?", t


def weekly_left(s):
    x, d = s.n(2, 12), s.n(2, 9)
    done = x * d
    total = done + s.n(3, 60)
    t = s.op(total, "-", s.op(x, "*", d))
    return f"A book has {total} pages. {s.a} reads {x} pages a day for {d} days. How many pages are left?", t


def age(s):
    x, y, z = s.n(4, 30), s.n(2, 20), s.n(2, 20)
    t = s.op(s.op(x, "+", y), "+", z)
    return f"{s.a} is {x} years old. {s.b} is {y} years older than {s.a}. How old will {s.b} be in {z} years?", t


def wages(s):
    x, y = s.n(5, 12), s.n(2, 9)
    z = s.n(2, min(20, x * y - 1))
    t = s.op(s.op(x, "*", y), "-", z)
    return f"{s.a} earns {x} dollars an hour and works {y} hours. Then {s.a} spends {z} dollars. How many dollars are left?", t


def savings(s):
    x, d = s.n(2, 12), s.n(2, 10)
    have = s.n(3, 50)
    t = s.op(have, "+", s.op(x, "*", d))
    return f"{s.a} has {have} dollars and saves {x} dollars each week. How many dollars does {s.a} have after {d} weeks?", t


def three_days(s):
    x, y, z = s.n(3, 50), s.n(3, 50), s.n(3, 50)
    t = s.op(s.op(x, "+", y), "+", z)
    return f"{s.a} sold {x} {s.item} on Monday, {y} on Tuesday and {z} on Wednesday. How many {s.item} did {s.a} sell in all?", t


def bus(s):
    x, y = s.n(8, 50), s.n(2, 20)
    z = s.n(2, 30)
    y = min(y, x - 1)
    t = s.op(s.op(x, "-", y), "+", z)
    return f"A bus carries {x} people. At the first stop {y} people get off and {z} people get on. How many people are on the bus now?", t


def rows(s):
    x, y, z = s.n(2, 12), s.n(2, 12), s.n(2, 20)
    z = min(z, x * y - 1)
    t = s.op(s.op(x, "*", y), "-", z)
    return f"A hall has {x} rows of {y} seats. {z} seats are empty. How many seats are taken?", t


def need_more(s):
    x = s.n(20, 99)
    y = s.n(2, x - 12)
    z = s.n(2, min(40, x - y - 1))
    t = s.op(s.op(x, "-", y), "-", z)
    return f"{s.a} wants to collect {x} {s.item}. {s.a} has {y} and {s.b} gives {z} more. How many {s.item} are still missing?", t


def farm(s):
    x, y = s.n(2, 12), s.n(2, 12)
    t = s.op(s.op(x, "*", 4), "+", s.op(y, "*", 2))
    return f"A farm has {x} cows and {y} ducks. A cow has 4 legs and a duck has 2 legs. How many legs are there in total?", t


def each_of_two(s):
    x, k = s.n(2, 12), s.n(2, 9)
    y = s.n(2, 12)
    t = s.op(s.op(x, "+", y), "*", k) if x + y <= 12 else s.op(s.op(x, "+", y), "+", k)
    if x + y <= 12:
        return f"In each of {k} rooms there are {x} red chairs and {y} blue chairs. How many chairs are there?", t
    return f"{s.a} has {x} red and {y} blue {s.item} and finds {k} green ones. How many {s.item} does {s.a} have?", t


TEMPLATES = [
    gain_then_loss, loss_then_gain, two_people, fewer, times_as_many, packs, packs_less, packs_more, price, change,
    two_prices, share, share_after, pack_up, half, sold_half_too, daily, weekly_left, age, wages, savings,
    three_days, bus, rows, need_more, farm, each_of_two,
]


def problem(rng):
    """(question, worked answer, number)."""
    while True:
        s = Story(rng)
        question, total = rng.choice(TEMPLATES)(s)
        if 0 <= total < 200:
            return question, "\n".join(s.steps) + f"\n#### {total}", str(total)


def drill(rng):
    """A bare sum, asked in few words: (question, answer, number)."""
    s = Story(rng)
    sign = rng.choice("++--*/")
    if sign == "+":
        x, y = s.n(1, 99), s.n(1, 99)
    elif sign == "-":
        x = s.n(2, 150)
        y = s.n(1, x)
    elif sign == "*":
        x, y = s.n(2, 12), s.n(2, 12)
    else:
        y = s.n(2, 12)
        x = y * s.n(2, 12)
    total = s.op(x, sign, y)
    word = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[sign]
    asked = rng.choice([f"What is {x} {sign} {y}?", f"What is {x} {word} {y}?", f"{x} {sign} {y} = ?",
                        f"Calculate {x} {sign} {y}.", f"How much is {x} {word} {y}?"])
    return asked, s.steps[0] + f"\n#### {total}", str(total)


ASKS = ["{q}", "{q}", "{q}", "{q}", "Solve this step by step: {q}", "{q} Show your steps.",
        "Question: {q}", "Please solve: {q}"]


def asked(rng, question):
    """The question as a user's message."""
    return rng.choice(ASKS).format(q=question)


def raw_exam(rng, avoid):
    """The few-shot form of plain completion: questions and answers one after another."""
    shots = []
    for _ in range(rng.randint(3, 7)):
        question, answer, _ = fresh(rng, avoid)
        shots.append((question, answer))
    return shots


def fresh(rng, avoid, make=problem):
    """A problem that is not among the held-out ones."""
    while True:
        item = make(rng)
        if item[0] not in avoid:
            return item
