"""Plans that must be refused before any token is computed: tests/golden/steering/refused.json.

Generated, not a sample: every operation at every site and under every weighting that docs/steering.md does not allow.
Then what is out of range, of the wrong shape, unreachable or contradictory. Paths are relative to the folder of the model
that is named; `reason` is a word or two that the message must contain.
"""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from steering_cases import FILE, ROUTER_OPS, VECTOR_OPS, VECTOR_SITES, WEIGHTINGS

MODEL = "qwen3_moe-dense-bf16"     # layers 0 and 2 are dense, 1 has five experts, three of them chosen; width 36
SPARSE, DENSE, N_LAYERS, N_EXPERTS, TOP_K, WIDTH, MAX_POSITIONS = 1, 0, 3, 5, 3, 36, 256
BAD = "../refused/"
FIELDS = {"add": {"vector": FILE + "v"}, "ablate": {"vector": FILE + "v"}, "clamp": {"vector": FILE + "v", "value": 1.0},
          "affine": {"vector": FILE + "v", "reference": FILE + "reference", "alpha": 0.5}, "scale": {"factor": 2.0},
          "rotate": {"vector": FILE + "v", "vector2": FILE + "v2", "degrees": 30.0}, "bias": {"value": 1.0},
          "force_out": {}, "force_in": {}, "pin": {"routes": "routes.safetensors"}}


def one(site, op, **more):
    out = {"site": site, "layer": SPARSE, "op": op} | FIELDS[op]
    if site in ("expert_out", "router_logits") and op != "pin":
        out["expert"] = 2
    return out | more


def matrix():
    """(reason, intervention)."""
    for op in VECTOR_OPS:
        yield "router_logits", one("router_logits", op)
        yield "weighting", one("expert_out", op)
        for weighting in WEIGHTINGS[1:]:
            if op != "add":
                yield weighting, one("expert_out", op, weighting=weighting)
        for site in VECTOR_SITES:
            if site != "expert_out":
                for weighting in WEIGHTINGS:
                    yield "weighting", one(site, op, weighting=weighting)
    for op in ROUTER_OPS:
        for site in VECTOR_SITES:
            yield site, one(site, op)
        for weighting in WEIGHTINGS:
            yield "weighting", one("router_logits", op, weighting=weighting)
        yield "preserve_norm", one("router_logits", op, preserve_norm=True)
    for weighting in WEIGHTINGS[1:]:
        yield "preserve_norm", one("expert_out", "add", weighting=weighting, preserve_norm=True)
        yield "when", one("expert_out", "add", weighting=weighting, when={"vector": FILE + "cue", "cosine_above": 0.0})


def places():
    add = lambda **more: one("resid_post", "add") | more
    expert = lambda **more: one("expert_out", "add", weighting="routed") | more
    yield "unknown site", add(site="resid_past")
    yield "unknown op", add(op="melt")
    yield "unknown weighting", expert(weighting="hard")
    yield "unknown key", add(stength=2.0)
    for site in VECTOR_SITES:
        more = {"weighting": "routed"} if site == "expert_out" else {}
        for layer in (N_LAYERS, -1, [0, N_LAYERS]):
            yield "out of range", one(site, "add", **more) | {"layer": layer}
    for layer in ([], [1, 1], "every", 0.5):
        yield "layer", add(layer=layer)
    for value in (N_EXPERTS, -1, [1, N_EXPERTS]):
        yield "out of range", expert(expert=value)
        yield "out of range", one("router_logits", "bias", expert=value)
    for value in ([], [1, 1], "any"):
        yield "expert", expert(expert=value)
    yield "shared", expert(expert="shared")
    for layer in (DENSE, [SPARSE, DENSE]):
        for weighting in WEIGHTINGS:
            yield "no experts", expert(layer=layer, weighting=weighting)
        for op in ROUTER_OPS[:3]:
            yield "no experts", one("router_logits", op, layer=layer)
        yield "no experts", one("router_logits", "pin", layer=layer)
    for key in ("layer", "site", "op"):
        yield key, {k: v for k, v in add().items() if k != key}
    yield "expert", {k: v for k, v in expert().items() if k != "expert"}
    yield "expert", add(expert=2)
    for positions in ("late", 3, {"last": 0}, {"last": -1}, {"from": 4, "to": 4}, {"from": 9, "to": 4}, {"from": -1, "to": 4},
                      {"from": MAX_POSITIONS, "to": MAX_POSITIONS + 9}, {"from": 2}, {"last": 2, "to": 4}, {}):
        yield "", add(positions=positions)


def values():
    add = lambda **more: one("resid_post", "add", **more)
    for op, key in (("add", "vector"), ("ablate", "vector"), ("clamp", "value"), ("affine", "reference"), ("affine", "alpha"),
                    ("scale", "factor"), ("rotate", "vector2"), ("rotate", "degrees")):
        yield key, {k: v for k, v in one("resid_post", op).items() if k != key}
    for op, key in (("bias", "value"), ("pin", "routes"), ("force_in", "expert")):
        yield key, {k: v for k, v in one("router_logits", op).items() if k != key}
    for op in VECTOR_OPS:
        if op != "scale":
            yield "width", one("moe_out", op, vector=BAD + "shapes.safetensors#wide")
            yield "width", one("moe_out", op, vector=FILE + "cue_router")
            yield "nan.safetensors", one("moe_out", op, vector=BAD + "nan.safetensors")
            yield "infinite.safetensors", one("moe_out", op, vector=BAD + "infinite.safetensors")
        if op not in ("add", "scale"):
            yield "zero", one("moe_out", op, vector=BAD + "shapes.safetensors#zero")
    yield "width", one("resid_mid", "affine", reference=BAD + "shapes.safetensors#wide")
    yield "width", one("resid_mid", "rotate", vector2=BAD + "shapes.safetensors#wide")
    yield "vector2", one("resid_mid", "rotate", vector2=FILE + "v")
    yield "vector", add(vector="none.safetensors")
    yield "missing", add(vector=FILE + "missing")
    yield "strength", add(strength=1e39)
    yield "value", one("resid_post", "clamp", value=1e39)
    yield "alpha", one("resid_post", "affine", alpha=-1e39)
    yield "factor", one("resid_post", "scale", factor=1e39)
    yield "value", one("router_logits", "bias", value=1e39)
    when = lambda **more: {"when": {"vector": FILE + "cue", "cosine_above": 0.0} | more}
    for threshold in (1.0, 2.0, -1.5):
        yield "cosine_above", add(**when(cosine_above=threshold))
    yield "width", add(**when(vector=FILE + "cue_router"))
    yield "width", one("router_logits", "bias", **when())
    yield "zero", add(**when(vector=BAD + "shapes.safetensors#zero"))
    yield "when", add(when={"vector": FILE + "cue"})


def contradictions():
    """(reason, interventions): what the router cannot do."""
    router = lambda op, **more: one("router_logits", op, **more)
    yield "forced in", [router("force_in", expert=list(range(TOP_K + 1)))]
    yield "forced in", [router("force_in", expert=[0, 1]), router("force_in", expert=[2, 3])]
    yield "forced out", [router("force_out", expert=list(range(N_EXPERTS - TOP_K + 1)))]
    yield "forced out", [router("force_out", expert="all")]
    yield "both", [router("force_in"), router("force_out")]
    for op in ("force_in", "force_out"):
        yield "pins", [router("pin"), router(op)]
    for op in ROUTER_OPS[1:]:
        yield "strength", [router(op, strength=2.0)]
    yield "layer 2", [router("pin", layer=2, routes=BAD + "shapes.safetensors")]
    yield "I32", [router("pin", routes=BAD + "routes_narrow.safetensors")]
    yield "expert 9", [router("pin", routes=BAD + "routes_out_of_range.safetensors")]
    yield "twice", [router("pin", routes=BAD + "routes_twice.safetensors")]
    yield "routes of", [router("pin", routes="routes_short.safetensors", positions={"from": 20, "to": 30})]
    yield "stacked", [one("expert_out", "add", weighting="routed")] * 5


def plans():
    for part in (matrix(), places(), values()):
        for reason, intervention in part:
            yield reason, [intervention]
    yield from contradictions()


def bad_files():
    row = np.arange(1, WIDTH + 1, dtype=np.float32)
    nan, infinite = row.copy(), row.copy()
    nan[3], infinite[5] = np.nan, np.inf
    table = np.tile(np.arange(TOP_K, dtype=np.int32), (40, 1))
    far, twin = table.copy(), table.copy()
    far[7, 1], twin[7, 1] = 9, 0
    layer = lambda t: {f"layer.{SPARSE}": np.ascontiguousarray(t)}
    return {"nan": {"v": nan}, "infinite": {"v": infinite},
            "shapes": {"wide": np.append(row, np.float32(1)), "zero": np.zeros(WIDTH, dtype=np.float32)},
            "routes_narrow": layer(table[:, :2]), "routes_out_of_range": layer(far), "routes_twice": layer(twin)}


def text():
    """refused.json as it is written."""
    lines, seen = [], set()
    for reason, interventions in plans():
        plan = json.dumps({"interventions": interventions}, separators=(",", ":"))
        if plan not in seen:
            seen.add(plan)
            lines.append('{"reason":' + json.dumps(reason) + ',"plan":' + plan + "}")
    return f'{{"model":"{MODEL}","plans":[\n' + ",\n".join(lines) + "\n]}\n"


def write(home, log):
    folder = home / "refused"
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in bad_files().items():
        save_file(tensors, folder / f"{name}.safetensors")
        (folder / f"{name}.safetensors").chmod(0o644)
    (home / "refused.json").write_text(text())
    log(f"refused.json: {text().count(chr(10)) - 2} plans, {len(text()) / 1000:.1f} kB")


def check(home):
    """What differs from what is committed, a list of sentences."""
    problems = [] if (home / "refused.json").read_text() == text() else ["refused.json differs"]
    for name, tensors in bad_files().items():
        theirs = load_file(home / "refused" / f"{name}.safetensors")
        if theirs.keys() != tensors.keys() or any(theirs[k].tobytes() != t.tobytes() for k, t in tensors.items()):
            problems.append(f"refused/{name}.safetensors differs")
    return problems
