"""Short benchmarks of guidellm over chat completions, completions and Responses: python guidellm_client.py BASE_URL.

Its package asks for torch, which brings 5.7 GB, for the classes that hand its rows on one by one. Those below do that, and
the rest of it is as published; its processes begin with this file too.
"""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import typing

# Other packages would look for more in it.
os.environ["USE_TORCH"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
Row = typing.TypeVar("Row")


class IterableDataset(typing.Generic[Row]):
    """Rows one after the other."""


class DataLoader(typing.Generic[Row]):
    """What `collate_fn` makes of each row, in this process."""

    def __init__(self, dataset, collate_fn, shuffle, **_):
        assert not shuffle
        self.dataset, self.collate_fn = dataset, collate_fn

    def __iter__(self):
        return (self.collate_fn([row]) for row in self.dataset)


class Generator:
    """Randomness for what is shuffled, and nothing is."""

    def manual_seed(self, _):
        pass


def provide(name, **members):
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None, is_package=True))
    vars(module).update(members)
    sys.modules[name] = module
    return module


datasets = {"IterableDataset": IterableDataset, "get_worker_info": lambda: None}
provide("torch.utils.data.dataloader", DataLoader=DataLoader)
provide("torch.utils.data.dataset", **datasets)
data = provide("torch.utils.data", DataLoader=DataLoader, **datasets)
provide("torch", Generator=Generator, utils=provide("torch.utils", data=data), __version__="0")

BASE = sys.argv[1]
TOKENIZER = pathlib.Path(__file__).parents[2] / "models/quern-demo"
REQUESTS = 8


def benchmark(folder, path, data):
    """Two streams of requests, greedy so that a run is as the last; the metrics of the report."""
    from guidellm.cli import cli

    report = folder / "report.json"
    backend = {"kind": "openai_http", "target": BASE, "request_format": path, "extras": {"body": {"temperature": 0}}}
    words = {
        "--backend": backend,
        "--profile": {"kind": "concurrent", "streams": 2},
        "--constraint": {"kind": "max_requests", "count": REQUESTS},
        "--data": {"kind": "synthetic_text", **data},
        "--tokenizer": {"kind": "huggingface_auto", "model": str(TOKENIZER)},
        "--output": {"kind": "json", "path": str(report)},
    }
    arguments = [word for key, value in words.items() for word in (key, json.dumps(value))]
    cli(["run", *arguments, "--disable-console"], standalone_mode=False)
    [found] = json.loads(report.read_text())["benchmarks"]
    return found["metrics"]


def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    text = {"prompt_tokens": 48, "output_tokens": 12}
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        metrics = benchmark(folder, path, text)
        totals = metrics["request_totals"]
        assert (totals["successful"], totals["errored"]) == (REQUESTS, 0), (path, totals)
        written = metrics["output_token_count"]["successful"]
        assert written["min"] == written["max"] == text["output_tokens"], (path, written)
        first = metrics["time_to_first_token_ms"]["successful"]
        assert first["median"] > 0, (path, first)
        print(f"{path}: {totals['successful']} requests, {first['median']:.0f} ms to the first token in the middle")
    # Each second request answers a call that the first, by `required`, had to make.
    totals = benchmark(folder, "/v1/chat/completions", {**text, "turns": 2, "tool_call_turns": 1})["request_totals"]
    assert totals["successful"] >= REQUESTS and totals["errored"] == 0, totals
    print("passed: guidellm", importlib.metadata.version("guidellm"))


if __name__ == "__main__":
    main()
