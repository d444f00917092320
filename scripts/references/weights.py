"""Which tensors a checkpoint of each family holds on the hub, and how their random values are drawn.

Every tensor has a random stream of its own, seeded by (variant, seed, tensor name), so that a draw depends neither on
the order of the tensors nor on the machine (numpy's PCG64 and ziggurat are the same everywhere; torch.randn is not).
Matrices have standard deviation 1/sqrt(fan_in) times the variant's factor; norms, biases and sinks stay away from
0 and 1, so that a reader that drops or doubles one of them is noticed.
"""

import math
import zlib

import numpy as np


def hub_tensors(c, quantised):
    """Name -> (shape, kind) for config c (a dict in the new spelling, complete with defaults)."""
    d, vocab, family = c["hidden_size"], c["vocab_size"], c["model_type"]
    head_dim = c.get("head_dim") or d // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    t = {"model.embed_tokens.weight": ((vocab, d), "embed"), "model.norm.weight": ((d,), "norm")}
    if not c["tie_word_embeddings"]:
        t["lm_head.weight"] = ((vocab, d), "head")
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        t[p + "input_layernorm.weight"] = ((d,), "norm")
        t[p + "post_attention_layernorm.weight"] = ((d,), "norm")
        for name, n_out, n_in in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q)):
            t[f"{p}self_attn.{name}_proj.weight"] = ((n_out, n_in), "matrix")
            if c.get("attention_bias"):
                t[f"{p}self_attn.{name}_proj.bias"] = ((n_out,), "bias")
        if family == "olmoe":
            t[p + "self_attn.q_norm.weight"] = ((q,), "norm")
            t[p + "self_attn.k_norm.weight"] = ((kv,), "norm")
        if family == "qwen3_moe":
            t[p + "self_attn.q_norm.weight"] = ((head_dim,), "norm")
            t[p + "self_attn.k_norm.weight"] = ((head_dim,), "norm")
        if family == "gpt_oss":
            t[p + "self_attn.sinks"] = ((c["num_attention_heads"],), "sink")
        t.update(_ffn_tensors(c, i, p, quantised))
    return t


def _ffn_tensors(c, layer, p, quantised):
    d, family = c["hidden_size"], c["model_type"]
    experts = c.get("num_local_experts") or c.get("num_experts")
    t = {}
    if family == "gpt_oss":
        width = c["intermediate_size"]
        t[p + "mlp.router.weight"] = ((experts, d), "router")
        t[p + "mlp.router.bias"] = ((experts,), "bias")
        e = p + "mlp.experts."
        t[e + "gate_up_proj_bias"] = ((experts, 2 * width), "bias")
        t[e + "down_proj_bias"] = ((experts, d), "bias")
        # drawn as [out, in] for MXFP4 (the layout of the blocks), as [in, out] otherwise (the layout on the hub)
        if quantised:
            t[e + "gate_up_proj"] = ((experts, 2 * width, d), "mxfp4 up")
            t[e + "down_proj"] = ((experts, d, width), "mxfp4 down")
        else:
            t[e + "gate_up_proj"] = ((experts, d, 2 * width), "transposed up")
            t[e + "down_proj"] = ((experts, width, d), "transposed down")
        return t
    if family == "mixtral":
        block, gate, up, down, width = "block_sparse_moe.", "w1", "w3", "w2", c["intermediate_size"]
    else:
        block, gate, up, down = "mlp.", "gate_proj", "up_proj", "down_proj"
        width = c["moe_intermediate_size"] if family == "qwen3_moe" else c["intermediate_size"]
    if family == "qwen3_moe" and (layer in c["mlp_only_layers"] or (layer + 1) % c["decoder_sparse_step"]):
        places, width = [p + "mlp."], c["intermediate_size"]
    else:
        places = [f"{p}{block}experts.{e}." for e in range(experts)]
        t[f"{p}{block}gate.weight"] = ((experts, d), "router")
    for place in places:
        t[f"{place}{gate}.weight"] = ((width, d), "matrix up")
        t[f"{place}{up}.weight"] = ((width, d), "matrix up")
        t[f"{place}{down}.weight"] = ((d, width), "matrix down")
    return t


def draw(variant, seed, name, shape, kind):
    """One tensor, float32, of the given shape."""
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(variant["name"].encode()), seed, zlib.crc32(name.encode())]))
    if kind == "norm":
        sides = rng.integers(0, 2, shape)
        values = np.where(sides == 0, rng.uniform(0.5, 0.94, shape), rng.uniform(1.06, 1.6, shape))
    elif kind in ("bias", "sink"):
        sign = rng.integers(0, 2, shape) * 2 - 1
        values = sign * rng.uniform(0.05, 0.6, shape) if kind == "bias" else rng.uniform(0.2, 0.9, shape) * sign * 2
    else:
        fan_in = shape[-2] if kind.startswith("transposed") else shape[-1]
        std = 1 / math.sqrt(fan_in)
        if kind == "embed":
            # tied: the same matrix is the head, so its scale sets the logits' range
            std = variant["logit_std"] / math.sqrt(shape[-1]) if variant["tied"] else variant["embed_std"]
        elif kind == "head":
            std *= variant["logit_std"]
        elif kind == "router":
            std *= variant["router_factor"]
        elif kind.endswith("up"):
            std *= variant["up_factor"]
        elif kind.endswith("down"):
            std *= variant["down_factor"]
        values = rng.standard_normal(shape) * std
    return values.astype(np.float32)
