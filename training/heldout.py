"""Writes the held-out sets as JSON lines: `python heldout.py [--seed S --folder DIR]`. Training then keeps clear of what is written.

A set that is there stays: it is compared with earlier models, and the generators have changed since. Sets of another seed
judge weights whose training was steered by the scores on the committed ones."""

import argparse
import json
from pathlib import Path

from data import HELD_OUT_FOLDER, HELD_OUT_SEED, HeldOut


def write(path, rows):
    if path.exists():
        return
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--folder", type=Path, default=HELD_OUT_FOLDER)
    args = parser.parse_args()
    folder = args.folder
    folder.mkdir(parents=True, exist_ok=True)
    held = HeldOut.make(args.seed)
    write(folder / "tools.jsonl", ({"tools": t, "messages": m, "want": w} for t, m, w in held.tools))
    write(folder / "arithmetic.jsonl", ({"messages": [{"role": "user", "content": q}], "want": n} for q, n in held.sums))
    write(folder / "fim.jsonl", ({"prefix": p, "suffix": s, "want": m} for p, s, m in held.gaps))
    write(folder / "structured.jsonl", ({"messages": m, "response_format": f} for m, f in held.structured))
    write(folder / "tool_results.jsonl", ({"tools": t, "messages": m, "want": w} for t, m, w in held.results))


if __name__ == "__main__":
    main()
