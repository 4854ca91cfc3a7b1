"""Documents for training and the held-out sets, all generated.

A document is a list of (text, learned): the model is trained to write the learned parts. Held-out items come
from other seeds than the training stream, and the stream skips every item that is held out.
"""

import json
import random
from pathlib import Path

from topics import copies, gaps, programs, sums, talk, tools

HELD_OUT_FOLDER = Path(__file__).resolve().parent.parent / "models" / "quern-demo" / "heldout"
HELD_OUT_SEED = 77_000_000
VALIDATION_SEED = 55_000_000  # for the scores during training, so that these do not steer by the held-out sets
END = "<|im_end|>"


# Rendering.

def _system_text(system, toolbox, lean=False):
    """What stands in the system turn, or None; `lean` leaves out the description of the format."""
    if not toolbox:
        return system
    lines = [system or "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks.",
             "\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>"]

    def shown(value):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)

    def rest(mapping, but):
        return "".join(f"\n<{k}>{shown(v)}</{k}>" for k, v in mapping.items() if k not in but)

    for item in toolbox:
        fn = item["function"]
        lines.append(f"\n<function>\n<name>{fn['name']}</name>\n<description>{str(fn['description']).strip()}</description>\n<parameters>")
        for name, field in fn["parameters"]["properties"].items():
            lines.append(f"\n<parameter>\n<name>{name}</name>\n<type>{field['type']}</type>")
            if "description" in field:
                lines.append(f"\n<description>{field['description'].strip()}</description>")
            lines.append(rest(field, ("name", "type", "description")) + "\n</parameter>")
        lines.append(rest(fn["parameters"], ("type", "properties")) + "\n</parameters>")
        lines.append(rest(fn, ("type", "name", "description", "parameters")) + "\n</function>")
    lines.append("\n</tools>" if lean else "\n</tools>\n\n" + FORMAT)
    return "".join(lines)


FORMAT = """If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell the user about function calls
</IMPORTANT>"""


def call_text(calls):
    """Calls as the model writes them after `<|im_start|>assistant\\n`."""
    out = []
    for call in calls:
        out.append(f"<tool_call>\n<function={call['name']}>\n")
        for key, value in call["arguments"].items():
            shown = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            out.append(f"<parameter={key}>\n{shown}\n</parameter>\n")
        out.append("</function>\n</tool_call>\n")
    return "".join(out)[:-1]


class Chat:
    """A conversation being written down, as the chat template of the model would render it."""

    def __init__(self, system=None, toolbox=(), lean=False):
        text = _system_text(system, [t.tool for t in toolbox], lean)
        self.parts = [(f"<|im_start|>system\n{text}{END}\n", False)] if text is not None else []

    def user(self, text):
        self.parts.append((f"<|im_start|>user\n{text}{END}\n<|im_start|>assistant\n", False))

    def assistant(self, text):
        self.parts.append((text + END, True))
        self.parts.append(("\n", False))

    def results(self, texts):
        self.user("".join(f"<tool_response>\n{t}\n</tool_response>\n" for t in texts))


def prompt_text(messages, toolbox=()):
    """The prompt of a held-out chat item: one optional system message and one user message."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    text = _system_text(system, toolbox)
    head = f"<|im_start|>system\n{text}{END}\n" if text is not None else ""
    return f"{head}<|im_start|>user\n{messages[-1]['content']}{END}\n<|im_start|>assistant\n"


# The streams of documents.

class Stream:
    """Endless documents of one seed, none of which holds a held-out item."""

    def __init__(self, seed, held_out=None):
        self.rng = random.Random(seed)
        held_out = held_out or HeldOut.empty()
        self.no_questions = {q for q, _ in held_out.sums}
        self.no_gaps = {(p, s) for p, s, _ in held_out.gaps}
        self.no_requests = {messages[-1]["content"] for _, messages, _ in held_out.tools}

    def tools(self, turns=(3, 6), lean=False, crowded=False):
        """`lean` leaves out the description of the format, the same 258 tokens everywhere: more to learn per token.
        `crowded`: more tools that are alike."""
        rng = self.rng
        box = tools.toolbox(rng, crowded)
        chat = Chat(rng.choice(talk.SYSTEMS) if rng.random() < 0.35 else None, box, lean)
        for _ in range(rng.randint(*turns)):
            if rng.random() < 0.12:
                chat_exchange(chat, *self.without_call(box))
                continue
            text, calls = tools.request(rng, box)
            if text in self.no_requests:
                continue
            chat.user(text)
            chat.assistant(call_text([c for _, c in calls]))
            if rng.random() < 0.5:
                # The result belongs to the request that the tool saw last.
                if len(calls) == 2 and calls[0][0] is calls[1][0]:
                    continue
                pairs = [t.result(rng) for t, _ in calls]
                chat.results([shown for shown, _ in pairs])
                chat.assistant(" ".join(said for _, said in pairs))
        return chat.parts

    def without_call(self, box):
        """An exchange that needs none of these tools."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.5:
            return talk.exchange(rng)
        if kind < 0.75 and all(isinstance(t, tools.Made) for t in box):
            question, answer, _ = sums.fresh(rng, self.no_questions)
            return question, answer
        return programs.request(rng)

    def sums_chat(self):
        rng = self.rng
        chat = Chat(rng.choice(talk.SYSTEMS) if rng.random() < 0.2 else None)
        for _ in range(rng.choice([1, 1, 2, 3])):
            question, answer, _ = sums.fresh(rng, self.no_questions)
            chat.user(sums.asked(rng, question))
            chat.assistant(answer)
        return chat.parts

    def sums_raw(self):
        parts = []
        for question, answer in sums.raw_exam(self.rng, self.no_questions):
            parts += [(f"Question: {question}\nAnswer:", False), (f" {answer}\n\n", True)]
        return parts

    def drills(self):
        rng = self.rng
        chat = Chat()
        for _ in range(rng.choice([2, 4, 6])):
            question, answer, _ = sums.fresh(rng, self.no_questions, sums.drill)
            chat.user(question)
            chat.assistant(answer)
        return chat.parts

    def tables(self):
        """Bare sums, a line each: the densest way to learn them."""
        parts = []
        for _ in range(self.rng.randint(10, 30)):
            asked, answer = sums.drill(self.rng)[1].split("\n")[0].split(" =")
            parts += [(asked + " =", False), (answer + "\n", True)]
        return parts

    def programs(self):
        rng = self.rng
        chat = Chat(rng.choice(talk.SYSTEMS) if rng.random() < 0.3 else None)
        for _ in range(rng.choice([1, 1, 2])):
            chat_exchange(chat, *(programs.request(rng) if rng.random() < 0.8 else programs.explanation(rng)))
        return chat.parts

    def gaps(self):
        """In half of them the code around the gap is learned as well: it is what fills other gaps."""
        prefix, suffix, middle = gaps.fresh(self.rng, self.no_gaps)
        around = self.rng.random() < 0.5
        return [("<|fim_prefix|>", False), (prefix, around), ("<|fim_suffix|>", False), (suffix, around),
                ("<|fim_middle|>", False), (middle + "<|endoftext|>", True)]

    def copies(self):
        return copies.looked_up(self.rng)

    def talk(self):
        rng = self.rng
        chat = Chat(rng.choice(talk.SYSTEMS) if rng.random() < 0.3 else None)
        for _ in range(rng.choice([1, 2, 3])):
            chat_exchange(chat, *talk.exchange(rng))
        return chat.parts


def chat_exchange(chat, user, assistant):
    chat.user(user)
    chat.assistant(assistant)


# The held-out sets.

class HeldOut:
    """Tool prompts [(tools, messages, wanted calls)], word problems [(question, number)] and gaps [(prefix, suffix, middle)]."""

    def __init__(self, tool_items, sum_items, gap_items):
        self.tools, self.sums, self.gaps = tool_items, sum_items, gap_items

    @staticmethod
    def empty():
        return HeldOut([], [], [])

    @staticmethod
    def load():
        """The committed sets: they stay as they are when the generators change."""

        def rows(name):
            return [json.loads(line) for line in (HELD_OUT_FOLDER / name).read_text(encoding="utf-8").splitlines()]

        return HeldOut([(r["tools"], r["messages"], r["want"]) for r in rows("tools.jsonl")],
                       [(r["messages"][-1]["content"], r["want"]) for r in rows("arithmetic.jsonl")],
                       [(r["prefix"], r["suffix"], r["want"]) for r in rows("fim.jsonl")])

    @staticmethod
    def make(seed=HELD_OUT_SEED, counts=(200, 200, 100)):
        return HeldOut(_tool_items(seed, counts[0]), _sum_items(seed, counts[1]), _gap_items(seed, counts[2]))


def _tool_items(seed, count):
    """[(tools, messages, wanted calls)]; about one in ten needs no call."""
    rng = random.Random(seed)
    stream = Stream(seed + 1)
    items = []
    while len(items) < count:
        box = tools.toolbox(rng)
        if len(items) % 10 == 9:
            text, _ = stream.without_call(box)
            calls = []
        else:
            text, calls = tools.request(rng, box)
        messages = [{"role": "user", "content": text}]
        if rng.random() < 0.35:
            messages.insert(0, {"role": "system", "content": rng.choice(talk.SYSTEMS)})
        items.append(([t.tool for t in box], messages, [c for _, c in calls]))
    return items


def _sum_items(seed, count):
    """[(question, number)], all different."""
    rng = random.Random(seed + 2)
    seen = {}
    while len(seen) < count:
        question, _, number = sums.problem(rng)
        seen[question] = number
    return list(seen.items())


def _gap_items(seed, count):
    """[(prefix, suffix, middle)], all different."""
    rng = random.Random(seed + 3)
    seen = {}
    while len(seen) < count:
        prefix, suffix, middle = gaps.gap(rng)
        seen[prefix, suffix] = middle
    return [(p, s, m) for (p, s), m in seen.items()]
