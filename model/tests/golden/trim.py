"""Trim an oracle golden file to the tensors that the tests read.

usage: trim.py FULL.safetensors TRIMMED.safetensors   (standard library only)
"""

import json
import struct
import sys

KEEP = (".ids", ".greedy_ids", ".last_logits", ".top_ids", ".top_logprobs", ".greedy_margin")


def main(source, target):
    with open(source, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        data = f.read()
    kept, blob = {}, b""
    for name in sorted(header):
        if name.endswith(KEEP):
            begin, end = header[name]["data_offsets"]
            kept[name] = {**header[name], "data_offsets": [len(blob), len(blob) + end - begin]}
            blob += data[begin:end]
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


if __name__ == "__main__":
    main(*sys.argv[1:])
