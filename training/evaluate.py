"""Greedy answers in batches, and the scores on held-out items: `python evaluate.py checkpoint.pt`."""

import json
import re
import sys

import torch

from data import HeldOut, prompt_text, result_prompt_text
from model import MODEL_FOLDER, restored


@torch.no_grad()
def generate(model, prompts, stops, limit):
    """Greedy continuations of the prompts (lists of ids), each up to a stop token or `limit` tokens.

    Prompts of a batch are padded on the left; positions under rotary embedding are relative, so this shifts nothing.
    """
    s = model.shape
    batch, width = len(prompts), max(map(len, prompts))
    ids = torch.zeros(batch, width, dtype=torch.long)
    seen = torch.zeros(batch, width + limit, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt):] = torch.tensor(prompt)
        seen[row, width - len(prompt):] = True
    caches = [[torch.zeros(batch, s.num_key_value_heads, width + limit, s.head_dim) for _ in "kv"] for _ in model.layers]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    # A padded row sees at least itself, so that its softmax is defined.
    mask = (causal & seen[:, None, None, :width]) | torch.eye(width, dtype=torch.bool)
    token = model.logits(model(ids, caches, 0, mask)[:, -1]).argmax(-1)
    out = [[] for _ in prompts]
    alive = set(range(batch))
    for at in range(width, width + limit):
        for row in list(alive):
            if token[row].item() in stops:
                alive.discard(row)
            else:
                out[row].append(token[row].item())
        if not alive or at == width + limit - 1:
            break
        hidden = model(token[:, None], caches, at, seen[:, None, None, : at + 1])
        token = model.logits(hidden[:, -1]).argmax(-1)
    return out, [row not in alive for row in range(batch)]


def answers(model, tokenizer, texts, limit, batch=50):
    """[(text, whether it stopped by itself)] in the order of `texts`."""
    model.eval()
    stops = {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    prompts = [tokenizer.encode(t).ids for t in texts]
    order = sorted(range(len(texts)), key=lambda i: len(prompts[i]))
    out = [None] * len(texts)
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        ids, stopped = generate(model, [prompts[i] for i in some], stops, limit)
        for i, tokens, end in zip(some, ids, stopped):
            out[i] = (tokenizer.decode(tokens, skip_special_tokens=False), end)
    return out


def parsed_calls(text, tools):
    """The calls in an answer, their values read by the schema's types."""
    calls = []
    kinds = {t["function"]["name"]: t["function"]["parameters"]["properties"] for t in tools}
    for name, body in re.findall(r"<tool_call>\n<function=([^>]*)>\n(.*?)</function>\n</tool_call>", text, re.S):
        arguments = {}
        for key, value in re.findall(r"<parameter=([^>]*)>\n(.*?)\n</parameter>\n", body, re.S):
            kind = kinds.get(name, {}).get(key, {}).get("type", "string")
            try:
                if kind in ("integer", "number", "array", "object"):
                    value = json.loads(value)
                elif kind == "boolean":
                    value = value.lower() == "true"
            except ValueError:
                pass
            arguments[key] = value
        calls.append({"name": name, "arguments": arguments})
    return calls


def final_number(text):
    found = re.search(r"#### (-?\d+)\s*$", text)
    return found and found.group(1)


def scores(model, tokenizer, held, show=0):
    """The share of right answers by subject, and the share of answers that stopped by themselves."""
    result, stopped, total = {}, 0, 0

    def tally(name, texts, limit, right):
        nonlocal stopped, total
        got = answers(model, tokenizer, texts, limit)
        marks = [end and right(i, text) for i, (text, end) in enumerate(got)]
        stopped += sum(end for _, end in got)
        total += len(got)
        result[name] = sum(marks) / len(marks)
        for i in [i for i, mark in enumerate(marks) if not mark][:show]:
            print(f"--- {name}\n{texts[i][-300:]}\n>>> {got[i][0]}")

    tally("tools", [prompt_text(m, t) for t, m, _ in held.tools], 200,
          lambda i, text: parsed_calls(text, held.tools[i][0]) == held.tools[i][2] and ("<tool_call>" in text) == bool(held.tools[i][2]))
    tally("sums", [prompt_text([{"role": "user", "content": q}]) for q, _ in held.sums], 80,
          lambda i, text: final_number(text) == held.sums[i][1])
    tally("gaps", [f"<|fim_prefix|>{p}<|fim_suffix|>{s}<|fim_middle|>" for p, s, _ in held.gaps], 60,
          lambda i, text: text == held.gaps[i][2])
    tally("results", [result_prompt_text(m, t) for t, m, _ in held.results], 80,
          lambda i, text: held.results[i][2].lower() in text.lower() and "<tool_call>" not in text)
    result["stopped"] = stopped / total
    return result


def main(path):
    from tokenizers import Tokenizer

    model, _ = restored(path)
    tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
    # The shipped weights are BF16, so these are what is scored.
    for p in model.parameters():
        p.data = p.data.to(torch.bfloat16).float()
    print(scores(model, tokenizer, HeldOut.load(), show=int(sys.argv[2]) if len(sys.argv) > 2 else 0))


if __name__ == "__main__":
    main(sys.argv[1])
