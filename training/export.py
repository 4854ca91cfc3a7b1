"""Writes a checkpoint in the layout that Transformers reads: `python export.py checkpoint.pt [FOLDER]`.

The tokenizer's files and the chat template are there already; this adds the weights in BF16 (two shards and
their index), config.json and generation_config.json.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from model import MODEL_FOLDER, restored

SHARDS = 2


def config(shape, tokenizer):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "decoder_sparse_step": 1,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.moe_intermediate_size * shape.num_experts_per_tok,
        "max_position_embeddings": shape.max_position_embeddings,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": shape.moe_intermediate_size,
        "norm_topk_prob": True,
        "num_attention_heads": shape.num_attention_heads,
        "num_experts": shape.num_experts,
        "num_experts_per_tok": shape.num_experts_per_tok,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "output_router_logits": False,
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "router_aux_loss_coef": 0.01,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab_size,
    }


def generation_config(tokenizer):
    """Nearly greedy: a model of this size knows one good answer, and only that one."""
    return {
        "do_sample": True,
        "eos_token_id": [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")],
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "temperature": 0.1,
        "top_k": 1,
        "top_p": 1.0,
    }


def tensors(model):
    """The weights under their published names, in order."""
    out = {"model.embed_tokens.weight": model.embed}
    for n, layer in enumerate(model.layers):
        at = f"model.layers.{n}"
        out[f"{at}.input_layernorm.weight"] = layer.input_layernorm.weight
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            out[f"{at}.self_attn.{name}.weight"] = getattr(layer.self_attn, name)
        for name in ("q_norm", "k_norm"):
            out[f"{at}.self_attn.{name}.weight"] = getattr(layer.self_attn, name).weight
        out[f"{at}.post_attention_layernorm.weight"] = layer.post_attention_layernorm.weight
        out[f"{at}.mlp.gate.weight"] = layer.mlp.gate
        for e in range(model.shape.num_experts):
            gate, up = layer.mlp.gate_up[e].chunk(2)
            out[f"{at}.mlp.experts.{e}.gate_proj.weight"] = gate
            out[f"{at}.mlp.experts.{e}.up_proj.weight"] = up
            out[f"{at}.mlp.experts.{e}.down_proj.weight"] = layer.mlp.down[e]
    out["model.norm.weight"] = model.norm.weight
    return {k: v.detach().to(torch.bfloat16).contiguous().clone() for k, v in out.items()}


def main(checkpoint, folder):
    model, _ = restored(checkpoint)
    tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
    folder.mkdir(parents=True, exist_ok=True)
    named = tensors(model)
    total = sum(t.numel() * 2 for t in named.values())
    shards, size = [{}], 0
    for name, tensor in named.items():
        if size >= total / SHARDS and len(shards) < SHARDS:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.numel() * 2
    index = {}
    for n, shard in enumerate(shards, 1):
        file = f"model-{n:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
        index |= dict.fromkeys(shard, file)

    def write(name, value):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")

    write("model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))})
    write("config.json", config(model.shape, tokenizer))
    write("generation_config.json", generation_config(tokenizer))
    print(f"{total / 1e6:.1f} MB of weights, {total // 2} parameters")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else MODEL_FOLDER)
