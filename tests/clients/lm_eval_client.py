"""lm-eval's two clients of OpenAI-compatible servers on a task of its own, without the hub: python lm_eval_client.py BASE_URL.

One is asked which of two texts is likelier, both are asked to answer.
"""

import json
import os
import pathlib
import sys
import tempfile

os.environ["OPENAI_API_KEY"] = "EMPTY"
import lm_eval
from lm_eval.tasks import TaskManager

BASE = sys.argv[1]
folder = pathlib.Path(tempfile.mkdtemp())
rows = [
    {"text": "def binary_search(items, target):\n    low = 0\n    high = ", "choices": ["len(items) - 1", "banana"], "label": 0},
    {"text": "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = ", "choices": ["(((", "b, a + b"], "label": 1},
]
(folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
os.environ["HF_HOME"] = str(folder / "cache")
data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}, "test_split": "test"}
choose = {
    **data,
    "task": "choose",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "label",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
write = {
    **data,
    "task": "write",
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "{{choices[label]}}",
    "target_delimiter": "",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}


def scores(model, path, tasks, **more):
    arguments = {"model": "m", "base_url": BASE + path, "num_concurrent": 2, "max_retries": 1, **more}
    found = lm_eval.simple_evaluate(
        model, model_args=arguments, tasks=tasks, task_manager=TaskManager(), bootstrap_iters=0, log_samples=True, **chat(model)
    )
    return found


def chat(model):
    return {"apply_chat_template": True} if model == "local-chat-completions" else {}


completions = scores("local-completions", "/v1/completions", [choose, write], tokenizer_backend="remote")
assert completions["results"]["choose"]["acc,none"] == 1.0, completions["results"]
answers = scores("local-chat-completions", "/v1/chat/completions", [write])
for found in (completions, answers):
    written = [sample["resps"][0][0] for sample in found["samples"]["write"]]
    assert len(written) == len(rows) and all(written), written

print("passed: lm-eval", lm_eval.__version__)
