"""Writes the table of the run into the model card: `python card.py LOG... ` (the log.jsonl files, in order)."""

import json
import sys

from model import MODEL_FOLDER

BEGIN, END = "<!-- run -->\n", "<!-- /run -->\n"


def table(paths):
    rows = {}
    for path in paths:
        for line in open(path):
            row = json.loads(line)
            if "tools" in row:
                rows[row["step"]] = row
    # A resumed run repeats steps; what came later stands.
    last = max(rows)
    steps = sorted({min(rows, key=lambda s: abs(s - last * i / 16)) for i in range(1, 17)})
    lines = ["| step | tokens | minutes | loss, tool conversations | loss, the rest |", "|---|---|---|---|---|"]
    for s in steps:
        r = rows[s]
        lines.append(f"| {s} | {r['tokens'] / 1e6:.2f} M | {r['seconds'] / 60:.0f} | {r['tools']:.3f} | {r['other']:.3f} |")
    return "\n".join(lines) + "\n"


def main(paths):
    card = MODEL_FOLDER / "README.md"
    before, rest = card.read_text().split(BEGIN)
    after = rest.split(END)[1]
    card.write_text(before + BEGIN + table(paths) + END + after)


if __name__ == "__main__":
    main(sys.argv[1:])
