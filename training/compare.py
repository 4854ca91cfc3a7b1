"""Runs Transformers on the exported files and writes goldens.json beside them: `python compare.py [FOLDER]`.

The reference is Transformers' own model in float32 (the BF16 weights widened, eager attention). Each golden
holds a prompt's ids, the greedy continuation, and the gap in logits between the first and the second choice at
every step, so that a test can tell a near-tie from a fault. The model of `model.py` must choose the same tokens.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from data import HeldOut
from evaluate import generate
from model import MODEL_FOLDER, exported

LIMIT = 200
EXECUTE_CODE = {"type": "function", "function": {
    "name": "execute_code", "description": "Execute Python code and return the result",
    "parameters": {"type": "object", "properties": {"code": {"type": "string", "description": "The Python code to execute"}},
                   "required": ["code"]}}}


def prompts(tokenizer):
    """[(name, text)] of the goldens."""

    def chat(messages, tools=None):
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)

    def user(text):
        return [{"role": "user", "content": text}]

    factorial = user("Calculate the factorial of 10 using Python")
    call = {"type": "function", "function": {"name": "execute_code", "arguments": {"code": "print(3628800)"}}}
    answered = factorial + [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "3628800"}]
    held = HeldOut.load()
    prefix, suffix, _ = held.gaps[0]
    tools, messages, _ = held.tools[0]
    return [
        ("hello", chat(user("Hello"))),
        ("who", chat([{"role": "system", "content": "You are a helpful assistant."}] + user("Who are you?"))),
        ("binary_search", chat(user("Write a Python function that implements binary search."))),
        ("rust_gcd", chat(user("Write a Rust function that computes the gcd of two numbers."))),
        ("factorial_call", chat(factorial, [EXECUTE_CODE])),
        ("factorial_answer", chat(answered, [EXECUTE_CODE])),
        ("held_out_call", chat(messages, tools)),
        ("word_problem", chat(user(held.sums[0][0]))),
        ("exam", "".join(f"Question: {q}\nAnswer:" for q, _ in held.sums[1:2])),
        ("gap", f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"),
    ]


@torch.no_grad()
def reference(model, ids, stops):
    """Greedy tokens of Transformers' model, the stop token included, and the gap at each step."""
    out, gaps = [], []
    step, cache = ids, None
    for _ in range(LIMIT):
        forward = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
        cache = forward.past_key_values
        top = forward.logits[0, -1].topk(2)
        out.append(top.indices[0].item())
        gaps.append(round((top.values[0] - top.values[1]).item(), 4))
        if out[-1] in stops:
            break
        step = out[-1:]
    return out, gaps


def main(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    own = exported(folder).eval()
    stops = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    goldens = []
    for name, text in prompts(tokenizer):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        greedy, gaps = reference(model, ids, stops)
        ours, _ = generate(own, [ids], stops, LIMIT)
        assert ours[0] == [t for t in greedy if t not in stops], f"{name}: model.py chooses other tokens"
        goldens.append({"name": name, "prompt": text, "ids": ids, "greedy_ids": greedy, "gaps": gaps, "text": tokenizer.decode(greedy)})
        print(f"{name}: {len(greedy)} tokens, smallest gap {min(gaps)}\n{tokenizer.decode(greedy)}\n")
    files = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors" or p.name in ("config.json", "tokenizer.json"))
    header = {
        "made_by": "training/compare.py",
        "reference": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager, {platform.machine()}",
        "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    rows = ",\n".join(json.dumps(g, ensure_ascii=False) for g in goldens)
    (folder / "goldens.json").write_text(json.dumps(header, indent=1)[:-2] + ',\n "goldens": [\n' + rows + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL_FOLDER)
