"""Goldens of steering's pure functions: operations on a row, and edits of the router's choice.

    python scripts/references/steering_ops.py            writes tests/golden/steer_ops/{ops,routes}.json
    python scripts/references/steering_ops.py --check    compares with what is there

Operations are the formulas of docs/steering.md in numpy f64. Router rules are transformers' own gates (DeepSeek-V2 and
V3, Granite, Phi-3.5; tiny, with the logits as their input) where nothing is edited; the numpy rules below must agree with
them, and then carry out the edits, for which transformers has no words.
"""
import json
import math
import sys
from pathlib import Path

import numpy as np

sys.path.remove(str(Path(__file__).resolve().parent))  # tokenizers.py beside this file is not the package
OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "steer_ops"
WIDTH = 37


# --- Operations on a row ---

def unit(v):
    return v / math.sqrt(v @ v)


def change(case, rows, h):
    """D(h)."""
    op = case["op"]
    if op == "scale":
        return (case["factor"] - 1) * h
    v = rows[case["vector"]]
    u = unit(v)
    if op == "add":
        return v
    if op == "ablate":
        return -u * (u @ h)
    if op == "clamp":
        return (case["value"] - u @ h) * u
    if op == "affine":
        return -u * (u @ h) + u * (u @ rows[case["reference"]]) + case["alpha"] * v
    w = rows[case["vector2"]]
    w = unit(w - u * (u @ w))
    a, b = u @ h, w @ h
    angle = math.radians(case["degrees"])
    return math.hypot(a, b) * (math.cos(angle) * u + math.sin(angle) * w) - a * u - b * w


def steer(case, rows, h):
    when = case.get("when")
    if when and not unit(rows[when["vector"]]) @ unit(h) > when["cosine_above"]:
        return h
    out = h + case.get("strength", 1) * change(case, rows, h)
    if case.get("preserve_norm"):
        out = out * math.sqrt((h @ h) / (out @ out))
    return out


def f32(x):
    return np.asarray(x, dtype=np.float32).astype(np.float64)


def make_ops():
    rng = np.random.default_rng(20)
    rows = {name: f32(rng.normal(size=WIDTH) * size)
            for name, size in (("v", 1), ("v2", 0.3), ("reference", 4), ("cue", 1))}
    bases = [{"op": "add", "vector": "v"}, {"op": "ablate", "vector": "v"}, {"op": "clamp", "vector": "v", "value": 2.5},
             {"op": "affine", "vector": "v", "reference": "reference", "alpha": 0.75}, {"op": "scale", "factor": 0.25},
             {"op": "rotate", "vector": "v", "vector2": "v2", "degrees": 75}]
    cases = []
    for base in bases:
        for extra in ({}, {"strength": -0.5}, {"strength": 8}, {"preserve_norm": True, "strength": 1.5},
                      {"when": {"vector": "cue", "cosine_above": 0.1}}):
            inputs = [f32(rng.normal(size=WIDTH) * 3) for _ in range(2)]
            inputs = [h if i else f32(h + 2 * rows["cue"]) for i, h in enumerate(inputs)]  # one that meets the condition
            outputs = [steer(base | extra, rows, h) for h in inputs]
            if "when" in extra:
                cosines = [unit(rows["cue"]) @ unit(h) for h in inputs]
                assert all(abs(c - 0.1) > 1e-3 for c in cosines) and any(c > 0.1 for c in cosines), cosines
            cases.append({"intervention": base | extra, "inputs": inputs, "outputs": outputs})
    return {"width": WIDTH, "rows": rows, "cases": cases}


# --- Router rules ---

def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def best(scores, k):
    """The k largest, ties to the lowest index."""
    return sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:k]


def scores_of(config, z):
    rule = config["rule"]
    if rule in ("softmax_topk", "softmax_groups"):
        return softmax(z)
    return 1 / (1 + np.exp(-z)) if rule == "sigmoid_groups" else z


def choice_of(config, p, correction, excluded):
    choice = p + correction if correction is not None else p.copy()
    choice[excluded] = -np.inf
    n_groups = config.get("n_groups", 1)
    if n_groups > 1:
        grouped = np.sort(choice.reshape(n_groups, -1))
        sigmoid = config["rule"] == "sigmoid_groups"
        kept = best(grouped[:, -2:].sum(1) if sigmoid else grouped[:, -1], config["topk_groups"])
        outside = ~np.isin(np.arange(len(p)) // (len(p) // n_groups), kept)
        outside[excluded] = False
        choice[outside] = -np.inf if sigmoid else 0
    return choice


def weights_of(config, z, p, chosen):
    rule = config["rule"]
    if rule == "topk_softmax":
        return softmax(z[chosen])
    if rule == "sparsemixer":
        left, weights = list(range(len(z))), []
        for e in chosen:
            near = [i for i in left if not (z[e] - z[i]) / max(abs(z[i]), z[e]) > 2 * config["jitter"]]
            top = max(z[near])
            weights.append(math.exp(z[e] - top) / sum(math.exp(z[i] - top) for i in near))
            left.remove(e)
        return np.array(weights)
    w = p[chosen]
    if config.get("normalize"):
        w = w / (w.sum() + (1e-20 if rule == "sigmoid_groups" else 0))
    return w * config.get("scaling", 1)


def route(config, z, correction=None, edits=()):
    """Experts in descending score, and their weights."""
    z, excluded, forced, pinned = z.copy(), [], [], None
    for edit in edits:
        if edit["op"] == "bias":
            z[edit["expert"]] += edit.get("strength", 1) * edit["value"]
        elif edit["op"] == "force_out":
            excluded += edit["expert"]
        elif edit["op"] == "force_in":
            forced += [e for e in edit["expert"] if e not in forced]
        else:
            pinned = edit["experts"]
    p = scores_of(config, z)
    choice = choice_of(config, p, correction, excluded)
    allowed = [e for e in range(len(z)) if e not in excluded]
    chosen = [allowed[i] for i in best(choice[allowed], config["top_k"])]
    for e in forced:
        if e not in chosen:
            place = max(i for i, c in enumerate(chosen) if c not in forced)
            chosen[place] = e
            chosen.sort(key=lambda c: (-choice[c], c))
    if pinned:
        chosen = sorted(pinned, key=lambda c: (-choice[c], c))
    return chosen, weights_of(config, z, p, np.array(chosen))


def gate_of(config, n, correction):
    """transformers' router whose logits are its input."""
    import torch
    from transformers.models.deepseek_v2 import configuration_deepseek_v2 as c2, modeling_deepseek_v2 as m2
    from transformers.models.deepseek_v3 import configuration_deepseek_v3 as c3, modeling_deepseek_v3 as m3
    from transformers.models.granitemoe import configuration_granitemoe as cg, modeling_granitemoe as mg
    from transformers.models.phimoe import modeling_phimoe as mp

    k, rule = config["top_k"], config["rule"]
    if rule == "softmax_groups":
        gate = m2.DeepseekV2TopkRouter(c2.DeepseekV2Config(
            hidden_size=n, num_attention_heads=1, num_key_value_heads=1, n_routed_experts=n, num_experts_per_tok=k, n_group=config["n_groups"],
            topk_group=config["topk_groups"], routed_scaling_factor=config["scaling"],
            topk_method="group_limited_greedy" if config["n_groups"] > 1 else "greedy"))
    elif rule == "sigmoid_groups":
        gate = m3.DeepseekV3TopkRouter(c3.DeepseekV3Config(
            hidden_size=n, num_attention_heads=1, num_key_value_heads=1, n_routed_experts=n, num_experts_per_tok=k, n_group=config["n_groups"],
            topk_group=config["topk_groups"], routed_scaling_factor=config["scaling"], norm_topk_prob=config["normalize"]))
        gate.e_score_correction_bias.copy_(torch.tensor(correction))
    elif rule == "topk_softmax":
        gate = mg.GraniteMoeTopKRouter(cg.GraniteMoeConfig(hidden_size=n, num_attention_heads=1, num_key_value_heads=1, num_local_experts=n, num_experts_per_tok=k))
    else:
        return lambda z: mp.sparsemixer(z, jitter_eps=config["jitter"], training=False, top_k=k)
    with torch.no_grad():
        gate.weight.copy_(torch.eye(n))
    return lambda z: gate(z)[1:]


def transformers_routes(config, z, correction):
    import torch

    with torch.no_grad():
        weights, experts = gate_of(config, len(z), correction)(torch.tensor(z, dtype=torch.float32)[None])
    return dict(zip(experts[0].tolist(), weights[0].tolist()))


CONFIGS = [
    {"rule": "softmax_topk", "top_k": 4, "normalize": False},
    {"rule": "softmax_topk", "top_k": 2, "normalize": True},
    {"rule": "topk_softmax", "top_k": 4},
    {"rule": "softmax_groups", "top_k": 4, "n_groups": 1, "topk_groups": 1, "scaling": 1.0},
    {"rule": "softmax_groups", "top_k": 4, "n_groups": 4, "topk_groups": 2, "scaling": 16.0},
    {"rule": "sigmoid_groups", "top_k": 4, "n_groups": 4, "topk_groups": 2, "normalize": True, "scaling": 2.5},
    {"rule": "sigmoid_groups", "top_k": 3, "n_groups": 1, "topk_groups": 1, "normalize": False, "scaling": 1.0},
    {"rule": "sparsemixer", "top_k": 2, "jitter": 0.01},
    {"rule": "sparsemixer", "top_k": 2, "jitter": 0.3},
]


def edits_of(rng, n, k, natural):
    """One list of edits of each kind, and mixtures. `natural`: what the rule chooses."""
    other = [int(e) for e in rng.permutation(n) if e not in natural]
    pinned = [int(e) for e in rng.permutation(n)[:k]]
    bias = {"op": "bias", "expert": [other[0], natural[0]], "value": 1.25, "strength": -2}
    out = {"op": "force_out", "expert": [natural[0]]}
    into = {"op": "force_in", "expert": sorted(other[:2])}
    return [[], [bias], [out], [into], [{"op": "force_in", "expert": [natural[-1]]}], [{"op": "pin", "experts": pinned}],
            [{"op": "pin", "experts": natural[::-1]}], [bias, out, {"op": "force_in", "expert": [other[1]]}]]


def make_routes():
    rng = np.random.default_rng(21)
    n, cases = 12, []
    for config in CONFIGS:
        correction = f32(rng.normal(size=n) * 0.2) if config["rule"] == "sigmoid_groups" else None
        for _ in range(2):
            z = f32(rng.normal(size=n) * (1 if config["rule"] == "sparsemixer" else 2))
            natural, weights = route(config, z, correction)
            if config["rule"] != "softmax_topk":  # the families at hand test that rule through their logits
                theirs = transformers_routes(config, z, correction)
                assert sorted(theirs) == sorted(natural), (config, theirs, natural)
                assert all(abs(theirs[e] - w) < 1e-5 * config.get("scaling", 1) for e, w in zip(natural, weights)), (config, theirs)
            for edits in edits_of(rng, n, config["top_k"], natural):
                experts, weights = route(config, z, correction, edits)
                cases.append({"config": config, "logits": z, "correction": correction, "edits": edits, "experts": experts,
                              "weights": weights})
    return {"n_experts": n, "cases": cases}


def plain(value):
    if isinstance(value, np.ndarray):
        return [float(f"{x:.9g}") for x in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def main():
    check = sys.argv[1:] == ["--check"]
    OUT.mkdir(parents=True, exist_ok=True)
    for name, made in (("ops", make_ops()), ("routes", make_routes())):
        path, text = OUT / f"{name}.json", json.dumps(plain(made), separators=(",", ":")) + "\n"
        if check and path.read_text() != text:
            sys.exit(f"{path} is not what this script makes")
        path.write_text(text)
        print(path.name, len(made["cases"]), "cases,", len(text), "bytes")


if __name__ == "__main__":
    main()
