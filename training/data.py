"""Documents for training and the held-out sets, all generated.

A document is a list of (text, learned): the model is trained to write the learned parts. Held-out items come
from other seeds than the training stream, and the stream skips every item that is held out.
"""

import json
import random
from pathlib import Path

from topics import copies, gaps, programs, results, structured, sums, talk, tools

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
        self.assistant_parts([(text, True)])

    def assistant_parts(self, parts):
        self.parts += [*parts, (END, True), ("\n", False)]

    def results(self, texts):
        self.user("".join(f"<tool_response>\n{t}\n</tool_response>\n" for t in texts))


def prompt_text(messages, toolbox=()):
    """The prompt of a held-out chat item: one optional system message and one user message."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    text = _system_text(system, toolbox)
    head = f"<|im_start|>system\n{text}{END}\n" if text is not None else ""
    return f"{head}<|im_start|>user\n{messages[-1]['content']}{END}\n<|im_start|>assistant\n"


def result_prompt_text(messages, toolbox):
    """The prompt of a held-out result: a user's message, a call, and what it gave."""
    user, assistant, tool = messages
    calls = [{"name": c["function"]["name"], "arguments": json.loads(c["function"]["arguments"])} for c in assistant["tool_calls"]]
    chat = Chat(_system_text(None, toolbox))
    chat.user(user["content"])
    chat.assistant(call_text(calls))
    chat.results([tool["content"]])
    return "".join(text for text, _ in chat.parts)


# The streams of documents.

class Stream:
    """Endless documents of one seed, none of which holds a held-out item."""

    def __init__(self, seed, held_out=None):
        self.rng = random.Random(seed)
        held_out = held_out or HeldOut.empty()
        self.no_questions = {q for q, _ in held_out.sums}
        self.no_gaps = {(p, s) for p, s, _ in held_out.gaps}
        self.no_requests = {messages[-1]["content"] for _, messages, _ in held_out.tools}
        self.no_requests |= {messages[-1]["content"] for messages, _ in held_out.structured}
        self.no_requests |= {_asked(messages) for _, messages, _ in held_out.results}

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

    def results(self):
        """Calls whose results are plain text, each with its answer."""
        rng = self.rng
        box = results_box(rng)
        chat = Chat(rng.choice(talk.SYSTEMS) if rng.random() < 0.35 else None, box, lean=rng.random() < 0.8)
        for _ in range(rng.choice([1, 2, 2, 3])):
            if rng.random() < 0.08:
                chat_exchange(chat, *talk.exchange(rng))
                continue
            text, calls = tools.request(rng, box)
            if text in self.no_requests or len(calls) == 2 and calls[0][0] is calls[1][0]:
                continue
            chat.user(text)
            chat.assistant(call_text([c for _, c in calls]))
            answered = [results.plain_result(rng, t) for t, _ in calls]
            chat.results([shown for shown, _, _ in answered])
            chat.assistant(" ".join(said for _, said, _ in answered))
        return chat.parts

    def long_chat(self):
        """Short exchanges after a long system prompt."""
        rng = self.rng
        chat = Chat(talk.long_system(rng, rng.choice([10, 20, 40, 80])))
        for _ in range(rng.randint(3, 8)):
            kind = rng.random()
            if kind < 0.5:
                chat_exchange(chat, *talk.exchange(rng))
            elif kind < 0.75:
                chat_exchange(chat, *sums.fresh(rng, self.no_questions)[:2])
            else:
                chat_exchange(chat, *programs.request(rng))
        return chat.parts

    def forced(self):
        """A call that the server begins (`tool_choice` is `required` or a name), whether or not the request needs one."""
        rng = self.rng
        box = results_box(rng)
        chat = Chat(rng.choice(talk.SYSTEMS) if rng.random() < 0.35 else None, box, lean=rng.random() < 0.8)
        if rng.random() < 0.4:
            text, calls = tools.request(rng, box)
            calls = [call for _, call in calls]
        else:
            text = self.any_prompt()
            calls = [tools.forced_call(box[0].tool["function"], text)]
        if text in self.no_requests:
            return self.forced()
        chat.user(text)
        opening = "<tool_call>\n<function="
        chat.assistant_parts([(opening, False), (call_text(calls)[len(opening):], True)])
        return chat.parts

    def any_prompt(self):
        """What a user may say, of any subject."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.5:
            return talk.unknown_question(rng)
        if kind < 0.7:
            return talk.exchange(rng)[0]
        if kind < 0.8:
            return programs.request(rng)[0]
        if kind < 0.9:
            return sums.fresh(rng, self.no_questions)[0]
        return structured.extraction(rng).asked

    def structured(self):
        """A JSON answer; see `structured_item`."""
        while True:
            messages, answer, begun = self.structured_item()
            if messages[-1]["content"] not in self.no_requests:
                break
        chat = Chat(messages[0]["content"] if len(messages) > 1 else None)
        chat.user(messages[-1]["content"])
        chat.assistant_parts(structured.parts(self.rng, answer, begun))
        return chat.parts

    def structured_item(self):
        """(messages, answer, whether only the server's mask asks for JSON)."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.1:
            make = sums.drill if rng.random() < 0.4 else sums.problem
            answer = structured.summed(rng, sums.fresh(rng, self.no_questions, make))
        elif kind < 0.2:
            answer = structured.answered(rng, talk.exchange(rng))
        elif kind < 0.45:
            answer = structured.anything(rng, self.any_prompt())
        else:
            answer = rng.choice(structured.MAKERS)(rng)
        text, system, begun = structured.asked(rng, answer)
        return ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}], answer, begun

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


def results_box(rng):
    """One to three tools, most of them of everyday use."""
    box = []
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
        made = results.Plain(rng) if rng.random() < 0.7 else rng.choice([*tools.NATURAL, tools.Made])(rng)
        names = {t.name.lower() for t in box}
        abouts = {t.tool["function"]["description"] for t in box}  # two that say the same cannot be told apart
        if made.name.lower() not in names and made.tool["function"]["description"] not in abouts:
            box.append(made)
    return box


def chat_exchange(chat, user, assistant):
    chat.user(user)
    chat.assistant(assistant)


# The held-out sets.

class HeldOut:
    """Tool prompts [(tools, messages, wanted calls)], word problems [(question, number)], gaps [(prefix, suffix, middle)],
    JSON answers [(messages, response_format)] and results of tools [(tools, messages, what the answer must hold)]."""

    def __init__(self, tool_items, sum_items, gap_items, structured_items, result_items):
        self.tools, self.sums, self.gaps = tool_items, sum_items, gap_items
        self.structured, self.results = structured_items, result_items

    @staticmethod
    def empty():
        return HeldOut([], [], [], [], [])

    @staticmethod
    def load(folder=HELD_OUT_FOLDER):
        """The sets of a folder, by default the committed ones: they stay as they are when the generators change."""

        def rows(name):
            return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").split("\n") if line]

        return HeldOut([(r["tools"], r["messages"], r["want"]) for r in rows("tools.jsonl")],
                       [(r["messages"][-1]["content"], r["want"]) for r in rows("arithmetic.jsonl")],
                       [(r["prefix"], r["suffix"], r["want"]) for r in rows("fim.jsonl")],
                       [(r["messages"], r["response_format"]) for r in rows("structured.jsonl")],
                       [(r["tools"], r["messages"], r["want"]) for r in rows("tool_results.jsonl")])

    def with_sets_of(self, other):
        return HeldOut(self.tools + other.tools, self.sums + other.sums, self.gaps + other.gaps,
                       self.structured + other.structured, self.results + other.results)

    @staticmethod
    def make(seed=HELD_OUT_SEED, counts=(200, 200, 100, 200, 200)):
        return HeldOut(_tool_items(seed, counts[0]), _sum_items(seed, counts[1]), _gap_items(seed, counts[2]),
                       _structured_items(seed, counts[3]), _result_items(seed, counts[4]))


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


def _structured_items(seed, count):
    """[(messages, response_format)], all different: every fourth under `json_object`, the others under a schema."""
    stream = Stream(seed + 4)
    seen = {}
    while len(seen) < count:
        messages, answer, _ = stream.structured_item()
        schema = {"name": "answer", "schema": answer.schema}
        loose = len(seen) % 4 == 3
        seen.setdefault(messages[-1]["content"], (messages, {"type": "json_object"} if loose else {"type": "json_schema", "json_schema": schema}))
    return list(seen.values())


def _result_items(seed, count):
    """[(tools, messages, the word or number to hold)]: a request, its call, and the result in plain text."""
    rng = random.Random(seed + 5)
    items = []
    while len(items) < count:
        box = results_box(rng)
        text, calls = tools.request(rng, box)
        if len(calls) > 1:
            continue
        tool, call = calls[0]
        shown, _, want = results.plain_result(rng, tool)
        called = {"id": "call_1", "type": "function", "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}}
        items.append(([t.tool for t in box], [{"role": "user", "content": text}, {"role": "assistant", "content": None, "tool_calls": [called]},
                                              {"role": "tool", "tool_call_id": "call_1", "content": shown}], want))
    return items


def _asked(messages):
    return next(m["content"] for m in messages if m["role"] == "user")
