"""Make the tiny Qwen2 checkpoints of this folder and what transformers makes of them.

usage: python qwen2.py          (transformers 5.23.0, torch 2.15.0, CPU; no arguments, no network)

Writes NAME/ and NAME.safetensors as README.md describes them, for the token ids of the prompts in
tiny-dense.safetensors, and prints how far transformers' own bfloat16 is from its float32. Deterministic: each tensor
has its own seed, drawn from the names of the checkpoint and of the tensor.
"""

import hashlib
import json
import math
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
USED, VOCAB, STEPS, TOP = 2026, 2048, 64, 20

# The fields of Qwen2.5-Coder's config.json, with small numbers. The tied one is plain, the other stretched by YaRN in
# the words of the models' cards.
COMMON = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0, "bos_token_id": 2000,
    "eos_token_id": 2002, "hidden_act": "silu", "initializer_range": 0.02, "max_window_layers": 28,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 131072, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "vocab_size": VOCAB,
}
MODELS = {
    "tiny-qwen2": COMMON | {
        "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
        "intermediate_size": 288, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    },
    "tiny-qwen2-yarn": COMMON | {
        "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1,
        "intermediate_size": 160, "max_position_embeddings": 1024, "tie_word_embeddings": False,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 256, "type": "yarn"},
    },
}


def weights(model, config):
    """bf16, of about the size that keeps activations near 1; biases are large enough to matter."""
    tensors, hidden = {}, config["hidden_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    inner = config["intermediate_size"]

    def put(name, shape, scale, mid=0.0):
        seed = int.from_bytes(hashlib.sha256(f"{model}/{name}".encode()).digest()[:6], "big")
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        tensors[name] = (mid + scale * values).bfloat16()

    def matrix(name, rows, cols, gain=1.0):
        put(f"{name}.weight", (rows, cols), gain / math.sqrt(cols))

    def table(name, scale):
        put(f"{name}.weight", (VOCAB, hidden), scale)
        tensors[f"{name}.weight"][USED:] = 0

    tied = config["tie_word_embeddings"]
    table("model.embed_tokens", 0.35 if tied else 1.0)
    put("model.norm.weight", (hidden,), 0.2, 1.0)
    if not tied:
        table("lm_head", 3.0 / math.sqrt(hidden))
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        put(f"{at}.input_layernorm.weight", (hidden,), 0.2, 1.0)
        put(f"{at}.post_attention_layernorm.weight", (hidden,), 0.2, 1.0)
        for part, rows in (("q", hidden), ("k", kv), ("v", kv)):
            matrix(f"{at}.self_attn.{part}_proj", rows, hidden, 1.2)
            put(f"{at}.self_attn.{part}_proj.bias", (rows,), 0.5)
        matrix(f"{at}.self_attn.o_proj", hidden, hidden, 0.8)
        matrix(f"{at}.mlp.gate_proj", inner, hidden)
        matrix(f"{at}.mlp.up_proj", inner, hidden)
        matrix(f"{at}.mlp.down_proj", hidden, inner, 1.5)
    return tensors


def save(folder, config, tensors):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    save_file(dict(sorted(tensors.items())), f"{folder}/model.safetensors", metadata={"format": "pt"})
    generation = {"do_sample": True, "eos_token_id": [2002, 2000], "pad_token_id": 2000, "repetition_penalty": 1.05,
                  "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        with open(f"{folder}/{name}", "w") as file:
            file.write(json.dumps(dict(sorted(value.items())), indent=2) + "\n")


def prompts():
    with safe_open(f"{HERE}/tiny-dense.safetensors", "pt") as file:
        return {name.removesuffix(".ids"): file.get_tensor(name).tolist() for name in file.keys()
                if name.endswith(".ids") and not name.endswith(".greedy_ids")}


def greedy(model, ids):
    tokens, margins, past, current = [], [], None, torch.tensor([ids])
    for _ in range(STEPS):
        out = model(current, past_key_values=past, use_cache=True)
        past = out.past_key_values
        values, best = out.logits[0, -1].float().log_softmax(-1).topk(2)
        tokens.append(int(best[0]))
        margins.append(float(values[0] - values[1]))
        current = best[None, :1]
    return tokens, margins


@torch.no_grad()
def run(name, config):
    folder = f"{HERE}/{name}"
    save(folder, config, weights(name, config))
    load = lambda dtype: transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager").eval()
    exact, rounded = load(torch.float32), load(torch.bfloat16)
    goldens, apart, agree, least = {}, [], [], math.inf
    for prompt, ids in prompts().items():
        logits = exact(torch.tensor([ids]), use_cache=False).logits[0]
        other = rounded(torch.tensor([ids]), use_cache=False).logits[0].float()
        apart.append((logits - other).abs().amax(-1))
        agree.append((logits.argmax(-1) == other.argmax(-1)).float())
        values, best = logits.log_softmax(-1).topk(TOP, -1)
        tokens, margins = greedy(exact, ids)
        least = min(least, *margins)
        goldens |= {
            f"{prompt}.ids": torch.tensor(ids, dtype=torch.int32), f"{prompt}.last_logits": logits[-1].clone(),
            f"{prompt}.top_ids": best.int(), f"{prompt}.top_logprobs": values,
            f"{prompt}.greedy_ids": torch.tensor(tokens, dtype=torch.int32),
            f"{prompt}.greedy_margin": torch.tensor(margins),
        }
    with open(f"{folder}/model.safetensors", "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    header = {"command": "python qwen2.py", "transformers": transformers.__version__, "torch": torch.__version__,
              "weights_sha256": sha256}
    save_file({k: v.contiguous() for k, v in sorted(goldens.items())}, f"{HERE}/{name}.safetensors", metadata=header)
    median, share = float(torch.cat(apart).median()), float(torch.cat(agree).mean())
    print(f"{name}: bf16 median {median:.3f}, argmax {share:.3f}; smallest margin {least:.1e}; "
          f"distinct greedy tokens {len(set(t for k, v in goldens.items() if k.endswith('greedy_ids') for t in v.tolist()))}")


torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.utils.logging.disable_progress_bar()
for name, config in MODELS.items():
    run(name, config)
