"""Writes the held-out sets as JSON lines: `python heldout.py`. Training then keeps clear of what is written.

A set that is there stays: it is compared with earlier models, and the generators have changed since."""

import json

from data import HELD_OUT_FOLDER, HeldOut


def write(path, rows):
    if path.exists():
        return
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main():
    folder = HELD_OUT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    held = HeldOut.make()
    write(folder / "tools.jsonl", ({"tools": t, "messages": m, "want": w} for t, m, w in held.tools))
    write(folder / "arithmetic.jsonl", ({"messages": [{"role": "user", "content": q}], "want": n} for q, n in held.sums))
    write(folder / "fim.jsonl", ({"prefix": p, "suffix": s, "want": m} for p, s, m in held.gaps))
    write(folder / "structured.jsonl", ({"messages": m, "response_format": f} for m, f in held.structured))
    write(folder / "tool_results.jsonl", ({"tools": t, "messages": m, "want": w} for t, m, w in held.results))


if __name__ == "__main__":
    main()
