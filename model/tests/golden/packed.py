"""Make the tiny quantised checkpoints of packed/ and what their numbers are.

usage: python packed.py          (numpy 2.4, ml_dtypes 0.6; no arguments, no network)

Each checkpoint of packed/ is the same small network with random integers and scales, packed as one of the programs
packs them that people quantise with. The packing is written down here from those programs' formulas, an element at a
time; what the numbers mean is written down beside it, in float32, and packed.json holds of each checkpoint

- `sums`: of each matrix, FNV-1a (64 bits) over its numbers as little-endian float32, row by row,
- `logits`: what a forward pass in float32 makes of `ids` at the last position, from the same numbers.

Formulas: compressed-tensors `pack_to_int32` (signed integers shifted up by 2^(bits-1), first column lowest; zero points
packed along rows), AutoAWQ `WQLinear_GEMM.from_linear` (order 0, 2, 4, 6, 1, 3, 5, 7), GPTQ `QuantLinear.pack` (columns
lowest first, integers of 3 bits across words; zero points less one in format v1; `g_idx`), mlx.core `dequantize` (q *
scale + bias; streams of bits), OCP Microscaling 1.0 (E2M1),
ModelOpt's NVFP4 (E2M1 * (scale * scale_2)) and that of compressed-tensors, whose number divides: as in vLLM, by way of its
reciprocal; bitsandbytes `dequantize_4bit` (the sixteen times a block's factor, rounded to the type of the state) and
`int8_vectorwise_dequant` (q * SCB * (1 / 127), likewise). Where no blocks hold such numbers (act-order, zero points beside
8 bits, biases beside 6 or 8 bits) they are rounded once to the type of their scales.
"""

import hashlib
import json
import os
import shutil
import struct

import ml_dtypes
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
BF16, F16, F32, F8 = ml_dtypes.bfloat16, np.float16, np.float32, ml_dtypes.float8_e4m3fn
TYPES = {BF16: "BF16", F16: "F16", F32: "F32", F8: "F8_E4M3", np.uint8: "U8", np.int8: "I8", np.int32: "I32",
         np.uint32: "U32", np.int64: "I64"}
TYPES = {np.dtype(kind): name for kind, name in TYPES.items()}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], F32)

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, EXPERTS, TOP, VOCAB = 64, 96, 4, 2, 32, 3, 2, 96
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 1, "eos_token_id": 0, "head_dim": HEAD,
    "hidden_act": "silu", "hidden_size": HIDDEN, "intermediate_size": 128, "max_position_embeddings": 512,
    "mlp_only_layers": [], "moe_intermediate_size": INNER, "norm_topk_prob": True, "num_attention_heads": HEADS,
    "num_experts": EXPERTS, "num_experts_per_tok": TOP, "num_hidden_layers": 1, "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": VOCAB,
}
IDS = [5, 17, 80, 3, 41, 41, 9, 66]
LAYER = "model.layers.0."
ATTENTION = {"q_proj": (HEADS * HEAD, HIDDEN), "k_proj": (KV_HEADS * HEAD, HIDDEN), "v_proj": (KV_HEADS * HEAD, HIDDEN),
             "o_proj": (HIDDEN, HEADS * HEAD)}
EXPERT = {"gate_proj": lambda inner: (inner, HIDDEN), "up_proj": lambda inner: (inner, HIDDEN),
          "down_proj": lambda inner: (HIDDEN, inner)}


def rng(*names):
    return np.random.default_rng(int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8], "big"))


class Checkpoint:
    """Tensors as stored, and the numbers they stand for."""

    def __init__(self, name, quantization, field="quantization_config", dtype=BF16, plain=("model.embed_tokens", "lm_head",
                 LAYER + "mlp.gate"), inner=INNER):
        self.name, self.dtype, self.inner = name, dtype, inner
        self.config = CONFIG | {"moe_intermediate_size": inner, field: quantization}
        if dtype == F16:
            self.config["torch_dtype"] = "float16"
        self.tensors, self.numbers = {}, {}
        shapes = {"model.embed_tokens": (VOCAB, HIDDEN), "lm_head": (VOCAB, HIDDEN), LAYER + "mlp.gate": (EXPERTS, HIDDEN)}
        for module in plain:
            values = (rng(name, module).standard_normal(shapes[module]) / (1 if "embed" in module else 4)).astype(dtype)
            self.tensors[module + ".weight"] = values
            self.numbers[module] = values.astype(F32)
        for norm, size in (("model.norm", HIDDEN), (LAYER + "input_layernorm", HIDDEN),
                           (LAYER + "post_attention_layernorm", HIDDEN), (LAYER + "self_attn.q_norm", HEAD),
                           (LAYER + "self_attn.k_norm", HEAD)):
            self.tensors[norm + ".weight"] = (1 + 0.1 * rng(name, norm).standard_normal(size)).astype(dtype)

    def matrices(self):
        yield from ((LAYER + "self_attn." + part, shape) for part, shape in ATTENTION.items())
        for expert in range(EXPERTS):
            yield from ((f"{LAYER}mlp.experts.{expert}.{part}", shape(self.inner)) for part, shape in EXPERT.items())

    def random(self, module, rows, cols, bits, group, scale_type=None):
        """Integers, scales of groups, zero points: what the numbers of `module` are made of."""
        r, groups = rng(self.name, module), -(-cols // group)
        codes = r.integers(0, 1 << bits, (rows, cols))
        spread = 1 / (np.sqrt(cols) * (1 << bits) * 0.29)
        scales = (spread * r.uniform(0.5, 1.5, (rows, groups))).astype(scale_type or self.dtype)
        return codes, scales, r.integers(0, 1 << bits, (rows, groups))

    def mean(self, module, codes, scales, zeros, group, index=None, rounded=False):
        columns = np.arange(codes.shape[1]) // group if index is None else index
        numbers = (codes - zeros[:, columns]).astype(F32) * scales.astype(F32)[:, columns]
        self.numbers[module] = numbers.astype(scales.dtype).astype(F32) if rounded else numbers

    def write(self):
        folder = os.path.join(HERE, "packed", self.name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        with open(os.path.join(folder, "config.json"), "w") as f:
            f.write(json.dumps(self.config, indent=1) + "\n")
        header, blobs, at = {}, [], 0
        for name, tensor in sorted(self.tensors.items()):
            raw = np.ascontiguousarray(tensor).tobytes()
            shape = list(np.shape(tensor))
            header[name] = {"dtype": TYPES[tensor.dtype], "shape": shape, "data_offsets": [at, at + len(raw)]}
            at += len(raw)
            blobs.append(raw)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(folder, "model.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))
        sums = {module: fnv(values) for module, values in sorted(self.numbers.items())}
        return {"sums": sums, "logits": [float(x) for x in self.logits()]}

    def logits(self):
        w, t = self.numbers, {name[:-7]: tensor.astype(F32) for name, tensor in self.tensors.items() if "norm" in name}
        product = lambda x, name: (x @ w[name].T).astype(F32)
        norm = lambda x, name: x / np.sqrt((x * x).mean(-1, keepdims=True) + F32(1e-6)) * t[name]
        soft = lambda x: (lambda e: e / e.sum(-1, keepdims=True))(np.exp(x - x.max(-1, keepdims=True)))
        n = len(IDS)
        angles = np.arange(n)[:, None] * 10000.0 ** -(np.arange(0, HEAD, 2) / HEAD)
        cos, sin = np.cos(angles)[:, None].astype(F32), np.sin(angles)[:, None].astype(F32)
        half = HEAD // 2
        turn = lambda x: np.concatenate([x[..., :half] * cos - x[..., half:] * sin,
                                         x[..., half:] * cos + x[..., :half] * sin], -1)
        x = w["model.embed_tokens"][IDS]
        h = norm(x, LAYER + "input_layernorm")
        q = product(h, LAYER + "self_attn.q_proj").reshape(n, HEADS, HEAD)
        k, v = (product(h, f"{LAYER}self_attn.{part}_proj").reshape(n, KV_HEADS, HEAD) for part in "kv")
        q, k = turn(norm(q, LAYER + "self_attn.q_norm")), turn(norm(k, LAYER + "self_attn.k_norm"))
        k, v = np.repeat(k, HEADS // KV_HEADS, 1), np.repeat(v, HEADS // KV_HEADS, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(HEAD) + np.triu(np.full((n, n), -np.inf), 1)
        mixed = np.einsum("hqk,khd->qhd", soft(scores), v).reshape(n, -1).astype(F32)
        x = x + product(mixed, LAYER + "self_attn.o_proj")
        h = norm(x, LAYER + "post_attention_layernorm")
        gates, y = soft(product(h, LAYER + "mlp.gate")), np.zeros_like(x)
        for row in range(n):
            best = np.argsort(-gates[row], kind="stable")[:TOP]
            for expert in best:
                part = lambda name: f"{LAYER}mlp.experts.{expert}.{name}"
                g, u = product(h[row], part("gate_proj")), product(h[row], part("up_proj"))
                inner = g / (1 + np.exp(-g)) * u
                y[row] += gates[row, expert] / gates[row, best].sum() * product(inner, part("down_proj"))
        return product(norm((x + y)[-1], "model.norm"), "lm_head")


def fnv(values):
    total = 0xCBF29CE484222325
    for byte in np.ascontiguousarray(values, F32).tobytes():
        total = (total ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return f"{total:016x}"


def words(codes, bits, order=None):
    """Integers along the last axis into words, the first lowest; `order[i]` is which of them lies at place i."""
    per = 32 // bits
    codes = np.asarray(codes, np.uint32).reshape(*np.shape(codes)[:-1], -1, per)
    packed = np.zeros(codes.shape[:-1], np.uint32)
    for place in range(per):
        packed |= codes[..., order[place] if order else place] << np.uint32(bits * place)
    return packed


def stream(codes, bits):
    """Integers along the last axis, a multiple of 32 of them, as one stream of bits in words, the first lowest."""
    codes = np.asarray(codes, np.uint32).reshape(*np.shape(codes)[:-1], -1, 32)
    single = (codes[..., None] >> np.arange(bits, dtype=np.uint32) & 1).reshape(*codes.shape[:-1], bits, 32)
    packed = (single << np.arange(32, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    return packed.reshape(*packed.shape[:-2], -1)


def scattered(c, module, cols, group):
    """The group of each column, in an order of activations."""
    return rng(c.name, module, "order").permutation(np.arange(cols) // group)


def compressed(name, symmetric, bits, group, attention_bits=None, act_order=False):
    def group_config(bits, group, symmetric):
        weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel",
                   "group_size": group, "actorder": "group" if act_order else None, "dynamic": False}
        return {"targets": ["Linear"], "weights": weights, "input_activations": None}

    groups = {"group_0": group_config(bits, group, symmetric)}
    if attention_bits:
        groups["group_1"] = group_config(attention_bits, None, True)
    c = Checkpoint(name, {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups,
                          "ignore": ["lm_head", "re:.*mlp.gate$"]})
    for module, (rows, cols) in c.matrices():
        wide = attention_bits and "self_attn" in module
        b, g, even = (attention_bits, cols, True) if wide else (bits, group or cols, symmetric)
        codes, scales, zeros = c.random(module, rows, cols, b, g)
        zeros = np.full_like(zeros, 1 << b - 1) if even else zeros
        index = scattered(c, module, cols, g) if act_order else None
        c.mean(module, codes, scales, zeros, g, index, rounded=act_order or (b == 8 and not even))
        if act_order:
            c.tensors[module + ".weight_g_idx"] = index.astype(np.int32)
        c.tensors[module + ".weight_packed"] = words(codes, b).view(np.int32)
        c.tensors[module + ".weight_scale"] = scales
        c.tensors[module + ".weight_shape"] = np.array([rows, cols], np.int64)
        if not even:
            padded = np.pad(zeros.T, ((0, 0), (0, -rows % (32 // b))))
            c.tensors[module + ".weight_zero_point"] = np.ascontiguousarray(words(padded, b).T).view(np.int32)
    return c


def signed_bytes():
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
    c = Checkpoint("ct-w8a8", {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups})
    for module, (rows, cols) in c.matrices():
        codes, scales, zeros = c.random(module, rows, cols, 8, cols, F16)
        c.mean(module, codes, scales, np.full_like(zeros, 128), cols)
        c.tensors[module + ".weight"] = (codes - 128).astype(np.int8)
        c.tensors[module + ".weight_scale"] = scales.astype(F32)
    return c


def awq():
    c = Checkpoint("awq", {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True,
                           "modules_to_not_convert": ["mlp.gate"]}, dtype=F16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    for module, (rows, cols) in c.matrices():
        codes, scales, zeros = c.random(module, rows, cols, 4, 32)
        c.mean(module, codes, scales, zeros, 32)
        c.tensors[module + ".qweight"] = words(codes.T, 4, order).view(np.int32)
        c.tensors[module + ".qzeros"] = words(zeros.T, 4, order).view(np.int32)
        c.tensors[module + ".scales"] = np.ascontiguousarray(scales.T)
    return c


def gptq(name, bits, group, symmetric, less, quantization, index=False, act_order=False):
    c = Checkpoint(name, {"bits": bits, "group_size": group or -1, "sym": symmetric} | quantization, dtype=F16)
    for module, (rows, cols) in c.matrices():
        g = group or cols
        codes, scales, zeros = c.random(module, rows, cols, bits, g)
        zeros = np.full_like(zeros, 1 << bits - 1) if symmetric else zeros
        groups = scattered(c, module, cols, g) if act_order else np.arange(cols) // g
        c.mean(module, codes, scales, zeros, g, groups, rounded=act_order or (bits == 8 and not symmetric))
        c.tensors[module + ".qweight"] = np.ascontiguousarray(stream(codes, bits).T).view(np.int32)
        c.tensors[module + ".qzeros"] = stream((zeros.T - less) % (1 << bits), bits).view(np.int32)
        c.tensors[module + ".scales"] = np.ascontiguousarray(scales.T)
        if index or act_order:
            c.tensors[module + ".g_idx"] = groups.astype(np.int32)
        c.tensors[module + ".bias"] = np.zeros(rows, F16)
    return c


def mlx(name, bits, group, parts, inner=INNER):
    """`parts`: of modules whose names end so, the bits and group of their own."""
    gate = LAYER + "mlp.gate"
    parts = {gate: (8, 64)} | {LAYER + part: size for part, size in parts.items()}
    own = {module: {"group_size": group, "bits": bits} for module, (bits, group) in parts.items()}
    c = Checkpoint(name, {"group_size": group, "bits": bits, "mode": "affine"} | own, field="quantization", plain=(),
                   inner=inner)
    stacks = {part: [] for part in EXPERT}
    outside = [("model.embed_tokens", (VOCAB, HIDDEN)), ("lm_head", (VOCAB, HIDDEN)), (gate, (EXPERTS, HIDDEN))]
    for module, (rows, cols) in [*outside, *c.matrices()]:
        b, g = parts.get(module, (bits, group))
        codes, scales, zeros = c.random(module, rows, cols, b, g)
        biases = (-scales.astype(F32) * zeros).astype(BF16)
        columns = np.arange(cols) // g
        numbers = codes.astype(F32) * scales.astype(F32)[:, columns] + biases.astype(F32)[:, columns]
        c.numbers[module] = numbers.astype(BF16).astype(F32) if b > 5 and module != gate else numbers
        tensors = stream(codes, b), scales, biases
        if "experts" in module:
            stacks[module.rsplit(".", 1)[1]].append(tensors)
            continue
        c.tensors[module + ".weight"], c.tensors[module + ".scales"], c.tensors[module + ".biases"] = tensors
    for part, experts in stacks.items():
        for kind, tensors in zip(("weight", "scales", "biases"), zip(*experts)):
            c.tensors[f"{LAYER}mlp.switch_mlp.{part}.{kind}"] = np.stack(tensors)
    return c


def mxfp4():
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32,
               "dynamic": False, "scale_dtype": "torch.uint8"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    c = Checkpoint("ct-mxfp4", {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized",
                                "config_groups": groups})
    for module, (rows, cols) in c.matrices():
        r = rng(c.name, module)
        codes, exponents = r.integers(0, 16, (rows, cols)), r.integers(121, 124, (rows, cols // 32))
        scales = np.exp2(exponents.astype(F32) - 127)[:, np.arange(cols) // 32]
        c.numbers[module] = E2M1[codes] * scales
        # The kernels' codebook knows one zero.
        c.numbers[module][codes == 8] = 0
        c.tensors[module + ".weight_packed"] = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
        c.tensors[module + ".weight_scale"] = exponents.astype(np.uint8)
    return c


def nvfp4(name, quantization, codes_name, factor_name, divides):
    c = Checkpoint(name, quantization, inner=128)
    for module, (rows, cols) in c.matrices():
        r = rng(name, module)
        codes = r.integers(0, 16, (rows, cols))
        scales = r.uniform(0, 2, (rows, cols // 16)).astype(F8)
        size = F32(0.4 / np.sqrt(cols) * r.uniform(0.5, 1.5))
        stored = F32(1) / size if divides else size
        factor = F32(1) / stored if divides else stored
        c.numbers[module] = E2M1[codes] * (factor * scales.astype(F32))[:, np.arange(cols) // 16]
        # The kernels' codebook knows one zero.
        c.numbers[module][codes == 8] = 0
        c.tensors[f"{module}.{codes_name}"] = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
        c.tensors[module + ".weight_scale"] = scales
        c.tensors[f"{module}.{factor_name}"] = np.array([stored], F32) if divides else np.array(stored, F32)
        c.tensors[module + (".input_global_scale" if divides else ".input_scale")] = np.array(0.5, F32)
    return c


def nvfp4_groups():
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16,
               "dynamic": False}
    inputs = weights | {"dynamic": "local"}
    return {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}}


NF4 = np.array([-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
                0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1], F32)


# bitsandbytes `get_4bit_type("fp4")`.
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3], F32) / F32(12)


def nf4(name, nested, dtype, kind, quant_type="nf4"):
    table16 = NF4 if quant_type == "nf4" else FP4
    c = Checkpoint(name, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": quant_type,
                          "bnb_4bit_use_double_quant": nested}, dtype=dtype)
    for module, (rows, cols) in c.matrices():
        r, blocks = rng(name, module), rows * cols // 64
        codes, size = r.integers(0, 16, rows * cols), 1 / np.sqrt(cols)
        state = {"quant_type": quant_type, "blocksize": 64, "dtype": kind, "shape": [rows, cols]}
        weight = module + ".weight"
        if nested:
            places, outer = r.integers(0, 256, blocks), (size * r.uniform(0.5, 1, -(-blocks // 256))).astype(F32)
            table, offset = np.sort(r.uniform(-1, 1, 256)).astype(F32), F32(size * 1.1)
            factors = table[places] * outer[np.arange(blocks) // 256] + offset
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(offset)}
            c.tensors[weight + ".absmax"] = places.astype(np.uint8)
            c.tensors[weight + ".nested_absmax"], c.tensors[weight + ".nested_quant_map"] = outer, table
        else:
            factors = (size * r.uniform(0.5, 1.5, blocks)).astype(F32)
            c.tensors[weight + ".absmax"] = factors
        values = (table16[codes] * factors[np.arange(rows * cols) // 64]).astype(dtype)
        c.numbers[module] = values.astype(F32).reshape(rows, cols)
        c.tensors[weight] = (codes[::2] << 4 | codes[1::2]).astype(np.uint8)[:, None]
        c.tensors[weight + ".quant_map"] = table16
        c.tensors[weight + ".quant_state.bitsandbytes__" + quant_type] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return c


def int8_rows():
    c = Checkpoint("bnb-int8", {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0})
    for module, (rows, cols) in c.matrices():
        r = rng(c.name, module)
        codes = r.integers(-127, 128, (rows, cols)).astype(np.int8)
        largest = (r.uniform(0.5, 1.5, rows) * 1.7 / np.sqrt(cols)).astype(F32)
        numbers = codes.astype(F32) * largest[:, None] * F32(7.874015718698502e-3)
        c.numbers[module] = numbers.astype(BF16).astype(F32)
        c.tensors[module + ".weight"], c.tensors[module + ".SCB"] = codes, largest
        c.tensors[module + ".weight_format"] = np.array(0, np.uint8)
    return c


def fp8(name, quantization, scale_of, suffix="weight_scale", inner=INNER):
    c = Checkpoint(name, quantization, inner=inner)
    for module, (rows, cols) in c.matrices():
        r = rng(name, module)
        codes = (r.standard_normal((rows, cols)) * 60).astype(F8)
        stored = scale_of(r, rows, cols, 1 / (60 * np.sqrt(cols)))
        scales = np.asarray(stored, F32)
        if scales.ndim == 4:
            scales = scales[:, 0, :, 0].repeat(128, 0)[:rows].repeat(128, 1)[:, :cols]
        c.numbers[module] = codes.astype(F32) * scales
        c.tensors[module + ".weight"] = codes
        c.tensors[f"{module}.{suffix}"] = stored
        c.tensors[module + ".input_scale"] = np.array(0.5, F32)
    return c


def fp8_groups(strategy):
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, "dynamic": False}
    return {"quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


MADE = [
    compressed("ct-w4", True, 4, 32),
    compressed("ct-w4-asymmetric", False, 4, 32),
    compressed("ct-w4-channel-w8", True, 4, None, attention_bits=8),
    signed_bytes(),
    awq(),
    gptq("gptq-int4", 4, 64, True, 1, {"quant_method": "gptq", "desc_act": False, "checkpoint_format": "gptq"}, index=True),
    gptq("gptq-int8", 8, None, True, 1, {"quant_method": "gptq", "desc_act": True}),
    gptq("gptq-v2-asymmetric", 4, 32, False, 0, {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}),
    gptq("auto-round", 4, 32, False, 1, {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}),
    mlx("mlx", 4, 32, {}),
    mlx("mlx-mixed", 8, 64, {"self_attn.q_proj": (6, 32), "self_attn.k_proj": (5, 64), "self_attn.v_proj": (3, 64),
                             "self_attn.o_proj": (2, 128)}, inner=128),
    gptq("gptq-act-order", 4, 32, False, 1, {"quant_method": "gptq", "desc_act": True}, act_order=True),
    gptq("gptq-int3", 3, 32, False, 1, {"quant_method": "gptq", "desc_act": False}),
    gptq("auto-round-int2", 2, 32, True, 1, {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}),
    gptq("gptq-int8-asymmetric", 8, 32, False, 1, {"quant_method": "gptq"}),
    compressed("ct-w4-act-order", True, 4, 32, act_order=True),
    compressed("ct-w8-asymmetric", False, 8, 32),
    nf4("bnb-fp4", False, BF16, "bfloat16", "fp4"),
    int8_rows(),
    mxfp4(),
    fp8("fp8-tensor", {"quant_method": "fp8", "activation_scheme": "static"},
        lambda r, rows, cols, size: np.array(size * r.uniform(0.5, 1.5), F32)),
    fp8("fp8-row", fp8_groups("channel"),
        lambda r, rows, cols, size: (size * r.uniform(0.5, 1.5, (rows, 1))).astype(BF16)),
    nvfp4("modelopt-nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
          "weight", "weight_scale_2", False),
    nvfp4("ct-nvfp4", nvfp4_groups(), "weight_packed", "weight_global_scale", True),
    nf4("bnb-nf4", False, BF16, "bfloat16"),
    nf4("bnb-nf4-nested", True, F16, "float16"),
    # Matrices of several blocks: with one, every shape is one number.
    fp8("fp8-block", {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"},
        lambda r, rows, cols, size: (size * r.uniform(0.5, 1.5, (-(-rows // 128), 1, -(-cols // 128), 1))).astype(F32),
        inner=192),
]

if __name__ == "__main__":
    goldens = {"ids": IDS} | {checkpoint.name: checkpoint.write() for checkpoint in MADE}
    with open(os.path.join(HERE, "packed.json"), "w") as f:
        f.write(json.dumps(goldens, indent=1) + "\n")
