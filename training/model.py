"""Qwen3-MoE in plain PyTorch, equal to Transformers' Qwen3MoeForCausalLM.

The weights lie as training wants them (the experts of a layer stacked into two tensors); `export.py` takes
them apart into the published names.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

MODEL_FOLDER = Path(__file__).resolve().parent.parent / "models" / "quern-demo"


@dataclass(frozen=True)
class Shape:
    """The sizes of the demonstration model; the names are those of config.json."""

    vocab_size: int = 2560
    hidden_size: int = 256
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 96
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 8192

    def as_dict(self):
        return asdict(self)


class RmsNorm(nn.Module):
    def __init__(self, size, eps, gain=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), gain))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotate(x, cos, sin):
    """Rotary position embedding in the NeoX form: the halves of a head are the real and imaginary parts."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    """`cache`, where given, is a pair of tensors [batch, kv heads, positions, head_dim] to write to and read from."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        q_width = shape.num_attention_heads * shape.head_dim
        kv_width = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Parameter(torch.empty(q_width, shape.hidden_size))
        self.k_proj = nn.Parameter(torch.empty(kv_width, shape.hidden_size))
        self.v_proj = nn.Parameter(torch.empty(kv_width, shape.hidden_size))
        self.o_proj = nn.Parameter(torch.empty(shape.hidden_size, q_width))
        # Under a norm a head of 64 cannot look sharply (its logit is at most sqrt(64) = 8); a gain
        # above one lets copying heads form early.
        self.q_norm = RmsNorm(shape.head_dim, shape.rms_norm_eps, 1.6)
        self.k_norm = RmsNorm(shape.head_dim, shape.rms_norm_eps, 1.6)

    def forward(self, x, cos, sin, cache=None, start=None, mask=None):
        batch, length, _ = x.shape
        s = self.shape
        q = F.linear(x, self.q_proj).view(batch, length, s.num_attention_heads, s.head_dim)
        k = F.linear(x, self.k_proj).view(batch, length, s.num_key_value_heads, s.head_dim)
        v = F.linear(x, self.v_proj).view(batch, length, s.num_key_value_heads, s.head_dim).transpose(1, 2)
        q = rotate(self.q_norm(q).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(k).transpose(1, 2), cos, sin)
        if cache is not None:
            keys, values = cache
            keys[:, :, start : start + length] = k
            values[:, :, start : start + length] = v
            k, v = keys[:, :, : start + length], values[:, :, : start + length]
        groups = s.num_attention_heads // s.num_key_value_heads
        k = k.repeat_interleave(groups, dim=1)
        v = v.repeat_interleave(groups, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return F.linear(y.transpose(1, 2).reshape(batch, length, -1), self.o_proj)


class Experts(nn.Module):
    """Softmax over all experts, the best few kept and renormalised, each token through its own few."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        e, h, i = shape.num_experts, shape.hidden_size, shape.moe_intermediate_size
        self.gate = nn.Parameter(torch.empty(e, h))
        self.gate_up = nn.Parameter(torch.empty(e, 2 * i, h))
        self.down = nn.Parameter(torch.empty(e, h, i))
        self.balance = None  # the auxiliary loss of the last call

    def forward(self, x):
        s = self.shape
        flat = x.reshape(-1, s.hidden_size)
        with torch.autocast("cpu", enabled=False):
            probs = F.linear(flat.float(), self.gate.float()).softmax(-1)
        top, chosen = probs.topk(s.num_experts_per_tok, dim=-1)
        top = top / top.sum(-1, keepdim=True)
        chosen = chosen.reshape(-1)
        order = chosen.argsort(stable=True)
        counts = torch.bincount(chosen, minlength=s.num_experts)
        if self.training:
            share = counts.float() / chosen.numel()
            self.balance = s.num_experts * (share * probs.mean(0)).sum()
        rows = order // s.num_experts_per_tok
        gathered = flat.index_select(0, rows)
        pieces = []
        for e, part in enumerate(gathered.split(counts.tolist())):
            gate, up = F.linear(part, self.gate_up[e]).chunk(2, dim=-1)
            pieces.append(F.linear(F.silu(gate) * up, self.down[e]))
        mixed = torch.cat(pieces) * top.reshape(-1)[order].unsqueeze(-1).to(flat.dtype)
        out = torch.zeros_like(flat).index_add_(0, rows, mixed.to(flat.dtype))
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = Experts(shape)

    def forward(self, x, *where):
        x = x + self.self_attn(self.input_layernorm(x), *where)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """Token ids to hidden states; `logits` makes of these the scores, so that training can score few positions."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Parameter(torch.empty(shape.vocab_size, shape.hidden_size))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        half = shape.head_dim // 2
        freqs = shape.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(shape.max_position_embeddings, dtype=torch.float32)[:, None] * freqs
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def initialise(self, seed):
        """Writes into the residual stream start at zero, the rest as 1/sqrt(fan-in).

        Embeddings start at 1, the size that layers write: smaller ones drown in the stream, and then nothing can be
        copied. As they are the head too, the last norm starts small.
        """
        gen = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if name == "embed":
                nn.init.normal_(p, generator=gen)
            elif name.endswith(("o_proj", "down")):
                nn.init.zeros_(p)
            elif p.ndim >= 2:
                nn.init.normal_(p, std=p.shape[-1] ** -0.5, generator=gen)
        nn.init.constant_(self.norm.weight, self.shape.hidden_size ** -0.5)
        with torch.no_grad():
            self._start_copying(gen)
        return self

    def _start_copying(self, gen):
        """Sets up by hand what copying needs and what short runs find late or never.

        A head of layer 0 looks one token back (another two back) and writes down what it saw; two heads of layer 1
        look for a place whose predecessor is the present token, and say what stands there. Looking by position
        alone needs a direction that all embeddings share, since nothing here has a bias.
        """
        s, shared = self.shape, 16
        d, half = s.head_dim, s.head_dim // 2
        self.embed[:, :shared] = 2.0

        def projection(rows):
            """Orthonormal rows that do not see the shared direction."""
            free = torch.linalg.qr(torch.randn(s.hidden_size - shared, rows, generator=gen))[0].T
            return torch.cat((torch.zeros(rows, shared), free), dim=1)

        first, second = self.layers[0].self_attn, self.layers[1].self_attn
        fast = torch.arange(5)  # the frequencies that tell neighbours apart
        angle = self.shape.rope_theta ** (-fast.float() / half)
        first.k_proj[:d] = 0
        first.k_proj[fast, :shared] = 1.0
        for head, back in enumerate((1, 2)):
            rows = first.q_proj[head * d : (head + 1) * d]
            rows[:] = 0
            rows[fast, :shared] = (back * angle).cos()[:, None]
            rows[fast + half, :shared] = -(back * angle).sin()[:, None]
        first.v_proj[:d] = projection(d)
        first.o_proj[:, :d] = 4.0 * projection(d).T
        first.o_proj[:, d : 2 * d] = 1.5 * projection(d).T
        # Slow frequencies keep a match from turning away over some hundred tokens.
        slow = torch.arange(20, half)
        places = torch.cat((slow, slow + half))
        seen, written = first.v_proj[: len(places)].clone(), first.o_proj[:, : len(places)].T.clone()
        said = projection(2 * d)
        groups = s.num_attention_heads // s.num_key_value_heads
        for kv in range(2):
            head = kv * groups
            q, k = second.q_proj[head * d : (head + 1) * d], second.k_proj[kv * d : (kv + 1) * d]
            q[:], k[:] = 0, 0
            q[places], k[places] = seen, written
            second.v_proj[kv * d : (kv + 1) * d] = said[kv * d : (kv + 1) * d]
            second.o_proj[:, head * d : (head + 1) * d] = 4.0 * said[kv * d : (kv + 1) * d].T

    def forward(self, ids, caches=None, start=0, mask=None):
        x = F.embedding(ids, self.embed)
        cos = self.cos[start : start + ids.shape[1]]
        sin = self.sin[start : start + ids.shape[1]]
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, None if caches is None else caches[i], start, mask)
        return self.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.embed)

    def balance(self):
        return sum(layer.mlp.balance for layer in self.layers) / len(self.layers)


def restored(path):
    state = torch.load(path, weights_only=False)
    model = Model(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    return model, state


def exported(folder):
    """The model of an exported folder, its BF16 weights widened."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    model = Model(Shape(**{k: config[k] for k in Shape().as_dict()}))
    stored = {}
    for file in folder.glob("*.safetensors"):
        stored |= {k: v.float() for k, v in load_file(file).items()}
    with torch.no_grad():
        model.embed.copy_(stored["model.embed_tokens.weight"])
        model.norm.weight.copy_(stored["model.norm.weight"])
        for n, layer in enumerate(model.layers):
            at = f"model.layers.{n}"
            for name in ("input_layernorm", "post_attention_layernorm"):
                getattr(layer, name).weight.copy_(stored[f"{at}.{name}.weight"])
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(layer.self_attn, name).copy_(stored[f"{at}.self_attn.{name}.weight"])
            for name in ("q_norm", "k_norm"):
                getattr(layer.self_attn, name).weight.copy_(stored[f"{at}.self_attn.{name}.weight"])
            layer.mlp.gate.copy_(stored[f"{at}.mlp.gate.weight"])
            for e in range(model.shape.num_experts):
                parts = [stored[f"{at}.mlp.experts.{e}.{name}_proj.weight"] for name in ("gate", "up", "down")]
                layer.mlp.gate_up[e].copy_(torch.cat(parts[:2]))
                layer.mlp.down[e].copy_(parts[2])
    return model
