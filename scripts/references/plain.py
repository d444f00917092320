"""The forward pass as FAMILIES.md writes it, in float64 numpy, from the files alone.

It knows nothing of transformers: it reads config.json in either spelling and the hub's tensor names. make.py compares
every golden with it, which proves the notes and tells how far the f32 reference itself is from exact arithmetic.
"""

import json
import math
import pathlib

import numpy as np
from safetensors.torch import load_file

import mxfp4

THETA = {"olmoe": 1e4, "mixtral": 1e6, "gpt_oss": 1.5e5, "qwen3_moe": 1e4}
GPT_OSS_ROPE = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                "original_max_position_embeddings": 4096}


class Checkpoint:
    def __init__(self, folder, rounding=lambda x: x):
        """rounding is applied to the input of every product with a weight matrix, except the router's."""
        self.rounding = rounding
        folder = pathlib.Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = {}
        for path in sorted(folder.glob("model*.safetensors")):
            for name, t in load_file(path).items():
                self.tensors[name] = t.numpy() if t.dtype.is_floating_point is False else t.double().numpy()
        if self.config["model_type"] != "gpt_oss":
            self.unstack()

    def unstack(self):
        """All experts of a layer in two tensors, as transformers' own format has them: by their names on the hub."""
        mixtral = self.config["model_type"] == "mixtral"
        gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        for name in [n for n in self.tensors if n.endswith(".mlp.experts.gate_up_proj")]:
            layer = name.removesuffix("mlp.experts.gate_up_proj")
            block = layer + ("block_sparse_moe." if mixtral else "mlp.")
            both, out = self.tensors.pop(name), self.tensors.pop(layer + "mlp.experts.down_proj")
            self.tensors[block + "gate.weight"] = self.tensors.pop(layer + "mlp.gate.weight")
            for e in range(len(both)):
                width = both.shape[1] // 2
                for part, matrix in ((gate, both[e][:width]), (up, both[e][width:]), (down, out[e])):
                    self.tensors[f"{block}experts.{e}.{part}.weight"] = matrix

    def get(self, key, default=None):
        value = self.config.get(key)
        return default if value is None else value

    def has(self, name):
        return name in self.tensors

    def tensor(self, name):
        if name + "_blocks" in self.tensors:
            values = mxfp4.decode(self.tensors[name + "_blocks"], self.tensors[name + "_scales"])
            return np.swapaxes(values.astype(np.float64), 1, 2)
        return self.tensors[name]

    def linear(self, name, x, exact=False):
        y = (x if exact else self.rounding(x)) @ self.tensor(name + ".weight").T
        return y + self.tensor(name + ".bias") if self.has(name + ".bias") else y


def rope_parameters(c):
    given = c.get("rope_scaling") or c.config.get("rope_parameters")
    family = c.get("model_type")
    if given is None:
        given = GPT_OSS_ROPE if family == "gpt_oss" else {}
    p = dict(given)
    p.setdefault("rope_theta", c.get("rope_theta", THETA[family]))
    p.setdefault("rope_type", p.get("type", "default"))
    outer = c.get("original_max_position_embeddings")
    p["original"] = outer or p.get("original_max_position_embeddings") or c.get("max_position_embeddings")
    return p


def inverse_frequencies(c, d):
    """(inv_freq [d/2], attention factor)."""
    p = rope_parameters(c)
    base, kind, j = p["rope_theta"], p["rope_type"], np.arange(d // 2, dtype=np.float64)
    f = base ** (-2 * j / d)
    if kind == "default":
        return f, 1.0
    s, length = p["factor"], p["original"]
    if kind == "linear":
        return f / s, 1.0
    if kind == "llama3":
        low, high = p["low_freq_factor"], p["high_freq_factor"]
        w = 2 * math.pi / f
        t = (length / w - low) / (high - low)
        return np.where(w < length / high, f, np.where(w > length / low, f / s, (1 - t) * f / s + t * f)), 1.0
    if kind != "yarn":
        raise ValueError(f"rope type {kind} has no reference")
    c_of = lambda r: d * math.log(length / (2 * math.pi * r)) / (2 * math.log(base))
    low, high = c_of(p.get("beta_fast") or 32), c_of(p.get("beta_slow") or 1)
    if p.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((j - low) / (high - low), 0, 1)
    grow = lambda a: 1.0 if s <= 1 else 0.1 * a * math.log(s) + 1
    m = p.get("attention_factor")
    if m is None:
        both = p.get("mscale") and p.get("mscale_all_dim")
        m = grow(p["mscale"]) / grow(p["mscale_all_dim"]) if both else grow(1)
    return f / s * ramp + f * (1 - ramp), m


def rmsnorm(x, w, eps):
    return w * (x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps))


def silu(x):
    return x / (1 + np.exp(-x))


def window_of(c, layer):
    family = c.get("model_type")
    if family == "mixtral":
        return c.get("sliding_window")
    if family == "qwen3_moe":
        return c.get("sliding_window", 4096) if c.get("use_sliding_window") else None
    if family == "gpt_oss":
        types = c.get("layer_types")
        sliding = types[layer] == "sliding_attention" if types else layer % 2 == 0
        return c.get("sliding_window", 128) if sliding else None
    return None


def attention(c, layer, h):
    p, family, n = f"model.layers.{layer}.self_attn.", c.get("model_type"), len(h)
    heads = c.get("num_attention_heads")
    kv_heads = c.get("num_key_value_heads", heads if family == "olmoe" else {"qwen3_moe": 4}.get(family, 8))
    d = c.get("head_dim", 64 if family == "gpt_oss" else c.get("hidden_size") // heads)
    eps = c.get("rms_norm_eps", 1e-6 if family == "qwen3_moe" else 1e-5)
    q, k, v = (c.linear(p + f"{x}_proj", h) for x in "qkv")
    if family == "olmoe":
        q, k = (rmsnorm(x, c.tensor(p + f"{y}_norm.weight"), eps) for x, y in ((q, "q"), (k, "k")))
        if c.get("clip_qkv") is not None:
            q, k, v = (np.clip(x, -c.get("clip_qkv"), c.get("clip_qkv")) for x in (q, k, v))
    q, k, v = q.reshape(n, heads, d), k.reshape(n, kv_heads, d), v.reshape(n, kv_heads, d)
    if family == "qwen3_moe":
        q, k = (rmsnorm(x, c.tensor(p + f"{y}_norm.weight"), eps) for x, y in ((q, "q"), (k, "k")))
    inv_freq, m = inverse_frequencies(c, d)
    angle = np.arange(n)[:, None] * inv_freq
    cos, sin = np.cos(angle)[:, None] * m, np.sin(angle)[:, None] * m
    rotate = lambda x: np.concatenate([x[..., :d // 2] * cos - x[..., d // 2:] * sin,
                                       x[..., d // 2:] * cos + x[..., :d // 2] * sin], axis=-1)
    q, k = rotate(q), rotate(k)
    i, j = np.arange(n)[:, None], np.arange(n)[None]
    window = window_of(c, layer)
    hidden = (j > i) | ((j <= i - window) if window is not None else False)
    out = np.empty((n, heads, d))
    for head in range(heads):
        shared = head // (heads // kv_heads)
        s = np.where(hidden, -np.inf, q[:, head] @ k[:, shared].T * d ** -0.5)
        if family == "gpt_oss":
            s = np.concatenate([s, np.full((n, 1), c.tensor(p + "sinks")[head])], axis=1)
        e = np.exp(s - s.max(axis=1, keepdims=True))
        out[:, head] = (e / e.sum(axis=1, keepdims=True))[:, :n] @ v[:, shared]
    return c.linear(p + "o_proj", out.reshape(n, heads * d))


def ffn(c, layer, h):
    p, family = f"model.layers.{layer}.", c.get("model_type")
    k = c.get("num_experts_per_tok", {"olmoe": 8, "mixtral": 2, "gpt_oss": 4, "qwen3_moe": 8}[family])
    if family == "gpt_oss":
        logits = c.linear(p + "mlp.router", h, exact=True)
    elif family == "mixtral":
        logits = c.linear(p + "block_sparse_moe.gate", h, exact=True)
    elif c.has(p + "mlp.gate.weight"):
        logits = c.linear(p + "mlp.gate", h, exact=True)
    else:
        return c.linear(p + "mlp.down_proj", silu(c.linear(p + "mlp.gate_proj", h)) * c.linear(p + "mlp.up_proj", h))
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    weight = np.take_along_axis(e / e.sum(axis=1, keepdims=True), chosen, axis=1)
    if family in ("mixtral", "gpt_oss") or c.get("norm_topk_prob"):
        weight = weight / weight.sum(axis=1, keepdims=True)
    y = np.zeros_like(h)
    for expert in range(logits.shape[1]):
        rows, place = np.nonzero(chosen == expert)
        y[rows] += weight[rows, place, None] * expert_ffn(c, p, expert, h[rows])
    return y


def expert_ffn(c, p, e, x):
    family = c.get("model_type")
    if family == "gpt_oss":
        q = p + "mlp.experts."
        both = c.rounding(x) @ c.tensor(q + "gate_up_proj")[e] + c.tensor(q + "gate_up_proj_bias")[e]
        limit, alpha = c.get("swiglu_limit", 7.0), c.get("swiglu_alpha", 1.702)
        gate, up = np.minimum(both[:, 0::2], limit), np.clip(both[:, 1::2], -limit, limit)
        a = (up + 1) * gate / (1 + np.exp(-alpha * gate))
        return c.rounding(a) @ c.tensor(q + "down_proj")[e] + c.tensor(q + "down_proj_bias")[e]
    q, gate, up, down = (p + "block_sparse_moe.", "w1", "w3", "w2") if family == "mixtral" else (
        p + "mlp.", "gate_proj", "up_proj", "down_proj")
    q += f"experts.{e}."
    return c.linear(q + down, silu(c.linear(q + gate, x)) * c.linear(q + up, x))


def to_bf16(x):
    """Rounded to bfloat16, ties to even, as float64."""
    bits = x.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def mean_kl(p_logits, q_logits):
    """Mean over rows of KL(softmax(p) || softmax(q)), in nats."""
    log_softmax = lambda z: z - z.max(axis=1, keepdims=True) - np.log(
        np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    p, q = log_softmax(p_logits.astype(np.float64)), log_softmax(q_logits.astype(np.float64))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def forward(folder, ids, rounding=lambda x: x):
    """Logits [len(ids), vocab], float64."""
    c = Checkpoint(folder, rounding)
    eps = c.get("rms_norm_eps", 1e-6 if c.get("model_type") == "qwen3_moe" else 1e-5)
    x = c.tensor("model.embed_tokens.weight")[ids]
    for layer in range(c.get("num_hidden_layers")):
        p = f"model.layers.{layer}."
        x = x + attention(c, layer, rmsnorm(x, c.tensor(p + "input_layernorm.weight"), eps))
        x = x + ffn(c, layer, rmsnorm(x, c.tensor(p + "post_attention_layernorm.weight"), eps))
    head = "lm_head.weight" if c.has("lm_head.weight") else "model.embed_tokens.weight"
    return c.rounding(rmsnorm(x, c.tensor("model.norm.weight"), eps)) @ c.tensor(head).T
