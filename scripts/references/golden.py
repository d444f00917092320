"""Records what transformers computes on a checkpoint: greedy tokens, logits, margins, and the effect of every feature.

f32 arithmetic on the stored weights, eager attention and experts, one thread. The greedy tokens come from decoding with a
KV cache, the logits from one forward pass without a cache over prompt and greedy tokens; both must agree.
"""

import copy

import numpy as np
import torch
from transformers import AutoConfig, DynamicCache

import checkpoint

N_GREEDY = 64
MARGIN = 1e-3
TOLERANCE = 1e-4        # the contract: of the range of the logits


class Redraw(Exception):
    """This seed does not do; the message is the reason, counted in the log."""


class RouterTap:
    """Collects the router logits and choices of every sparse layer, rows in token order."""

    def __init__(self, model):
        self.layers, self.handles = {}, []
        for name, module in model.named_modules():
            if type(module).__name__.endswith("TopKRouter"):
                layer = int(name.split(".")[2])
                self.layers[layer] = []
                self.handles.append(module.register_forward_hook(self._hook(layer)))

    def _hook(self, layer):
        def hook(_module, _inputs, output):
            logits, weights, chosen = output
            self.layers[layer].append((logits.detach().clone(), weights.detach().clone(), chosen.detach().clone()))
        return hook

    def close(self):
        """Layer -> (logits [n, n_experts], weights [n, k], chosen [n, k])."""
        for handle in self.handles:
            handle.remove()
        return {i: tuple(torch.cat(part) for part in zip(*calls)) for i, calls in sorted(self.layers.items())}


def full_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def greedy(model, prompt):
    """(tokens, logits of every row fed, [n + 64, vocab]): decoding with a cache, one token at a time."""
    rows, tokens = [], []
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        out = model(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True).logits[0]
        rows.append(out)
        for _ in range(N_GREEDY):
            top = torch.topk(out[-1], 2).values
            if float(top[0] - top[1]) <= MARGIN:
                raise Redraw("greedy margin")
            tokens.append(int(torch.argmax(out[-1])))
            out = model(input_ids=torch.tensor([tokens[-1:]]), past_key_values=cache, use_cache=True).logits[0]
            rows.append(out)
    return tokens, torch.cat(rows)


def router_margins(routers, top_k):
    """(smallest margin between the last chosen and the first refused router logit, its layer and row)."""
    smallest = (float("inf"), -1, -1)
    for layer, (logits, _weights, chosen) in routers.items():
        ordered = torch.sort(logits, dim=1, descending=True)
        if not torch.equal(torch.sort(ordered.indices[:, :top_k], dim=1).values, torch.sort(chosen, dim=1).values):
            raise Redraw("chosen experts are not the largest logits (probabilities tie)")
        if logits.shape[1] == top_k:
            continue
        gap = ordered.values[:, top_k - 1] - ordered.values[:, top_k]
        row = int(torch.argmin(gap))
        smallest = min(smallest, (float(gap[row]), layer, row))
    return smallest


def record(folder, prompt):
    """The golden of one checkpoint; raises Redraw when a margin is too small or the run says too little."""
    model = checkpoint.load(folder, torch.float32)
    n, top_k = len(prompt), model.config.num_experts_per_tok
    tokens, stepped = greedy(model, prompt)
    hidden = []
    handles = [layer.register_forward_pre_hook(lambda _m, args, kw: hidden.append(
        (args[0] if args else kw["hidden_states"])[0].clone()), with_kwargs=True) for layer in model.model.layers]
    handles.append(model.model.norm.register_forward_pre_hook(lambda _m, args: hidden.append(args[0][0].clone())))
    tap = RouterTap(model)
    logits = full_logits(model, prompt + tokens)
    routers = tap.close()
    for handle in handles:
        handle.remove()
    span = float(logits.max() - logits.min())
    margin, layer, row = router_margins(routers, top_k)
    if margin <= MARGIN:
        raise Redraw("router margin")
    deciding = torch.topk(logits[n - 1:n - 1 + N_GREEDY], 2).values
    greedy_margin = float((deciding[:, 0] - deciding[:, 1]).min())
    # wide enough that logits within the tolerance cannot change a token
    if greedy_margin <= max(MARGIN, 2.5 * TOLERANCE * span):
        raise Redraw("greedy margin")
    if len(set(tokens)) < 8:
        raise Redraw("fewer than 8 distinct tokens")
    for _, _, chosen in routers.values():
        if len(set(chosen.reshape(-1).tolist())) < model.config.num_local_experts:
            raise Redraw("an expert is never chosen")
    drift = float((stepped - logits).abs().max()) / span
    if torch.argmax(logits[n - 1:n - 1 + N_GREEDY], dim=1).tolist() != tokens or drift > 1e-5:
        raise RuntimeError(f"{folder}: decoding with a cache differs from the full pass by {drift} of the range")
    rows = [0, n - 1]
    return {
        "tokens": tokens, "logits": logits.numpy(), "range": span,
        "router_margin": margin, "router_margin_at": [layer, row], "greedy_margin": greedy_margin,
        "cache_drift": drift, "n_distinct_tokens": len(set(tokens)),
        "debug": {
            "debug.rows": np.array(rows, dtype=np.int32),
            "debug.hidden": torch.stack([h[rows] for h in hidden]).numpy(),
            "debug.router_logits": torch.stack([r[0][rows] for r in routers.values()]).numpy(),
        },
    }


# --- what every feature changes -----------------------------------------------------------------------------------------

def _rope(config, **changes):
    config.rope_parameters = {**config.rope_parameters, **changes}


def _plain_rope(config):
    config.rope_parameters = {"rope_type": "default", "rope_theta": config.rope_parameters["rope_theta"]}


def _fill(model, ending, value):
    found = 0
    for name, parameter in model.named_parameters():
        if name.endswith(ending):
            parameter.data.fill_(value)
            found += 1
    if not found:
        raise RuntimeError(f"no parameter ends in {ending}")


def _experts(model, change):
    for layer in model.model.layers:
        if hasattr(layer.mlp, "experts"):
            change(layer.mlp.experts)


def _halves(experts):
    """Gate and up as two halves instead of interleaved columns: what a reader that ignores the interleaving sees."""
    for p in (experts.gate_up_proj, experts.gate_up_proj_bias):
        width = p.shape[-1] // 2
        p.data = torch.stack([p.data[..., :width], p.data[..., width:]], dim=-1).flatten(-2)


def _swap_nibbles(experts):
    p = experts.down_proj
    p.data = p.data.reshape(p.shape[0], -1, 2, p.shape[2]).flip(2).reshape(p.shape).contiguous()


def features(config):
    """Name -> (change of the config or None, change of the model or None), for what this checkpoint uses."""
    family, f = config.model_type, {}
    set_to = lambda **keys: lambda c: [setattr(c, k, v) for k, v in keys.items()]
    f["top_k + 1"] = (set_to(num_experts_per_tok=config.num_experts_per_tok + 1), None)
    f["rope_theta / 2"] = (lambda c: _rope(c, rope_theta=c.rope_parameters["rope_theta"] / 2), None)
    if config.rope_parameters["rope_theta"] != type(config).default_theta:
        f["rope_theta of the class"] = (lambda c: _rope(c, rope_theta=type(c).default_theta), None)
    f["layer norms of 1"] = (None, lambda m: _fill(m, "layernorm.weight", 1))
    f["final norm of 1"] = (None, lambda m: _fill(m, "model.norm.weight", 1))
    if config.rms_norm_eps > 1e-4:
        f["rms_norm_eps 1e-5"] = (set_to(rms_norm_eps=1e-5), None)
    if family in ("olmoe", "qwen3_moe"):
        f["norm_topk_prob flipped"] = (set_to(norm_topk_prob=not config.norm_topk_prob), None)
        f["q_norm of 1"] = (None, lambda m: _fill(m, "q_norm.weight", 1))
        f["k_norm of 1"] = (None, lambda m: _fill(m, "k_norm.weight", 1))
    if getattr(config, "clip_qkv", None) is not None:
        f["clip_qkv off"] = (set_to(clip_qkv=None), None)
    if getattr(config, "attention_bias", False):
        for part in "qkvo":
            f[f"{part} bias of 0"] = (None, lambda m, part=part: _fill(m, f"{part}_proj.bias", 0))
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        w = config.sliding_window
        f["window off"] = (set_to(sliding_window=100000), None)
        f["window - 1"] = (set_to(sliding_window=w - 1), None)
        f["window + 1"] = (set_to(sliding_window=w + 1), None)
    if family == "gpt_oss":
        other = {"sliding_attention": "full_attention", "full_attention": "sliding_attention"}
        f["layer_types swapped"] = (set_to(layer_types=[other[t] for t in config.layer_types]), None)
        f["swiglu_limit off"] = (set_to(swiglu_limit=1e9), None)
        f["sinks off"] = (None, lambda m: _fill(m, "sinks", -1e30))
        f["router bias of 0"] = (None, lambda m: _fill(m, "router.bias", 0))
        f["gate_up bias of 0"] = (None, lambda m: _fill(m, "gate_up_proj_bias", 0))
        f["down bias of 0"] = (None, lambda m: _fill(m, "down_proj_bias", 0))
        f["gate and up not interleaved"] = (None, lambda m: _experts(m, _halves))
        if getattr(config, "quantization_config", None):
            f["MXFP4 nibbles swapped"] = (None, lambda m: _experts(m, _swap_nibbles))
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        f["rope scaling off"] = (_plain_rope, None)
    if rope["rope_type"] == "yarn":
        f["yarn truncate flipped"] = (lambda c: _rope(c, truncate=not c.rope_parameters.get("truncate", True)), None)
        f["yarn attention factor 1"] = (lambda c: _rope(c, attention_factor=1.0), None)
        f["yarn betas of 32 and 1"] = (lambda c: _rope(c, beta_fast=32.0, beta_slow=1.0), None)
    return f


def feature_effects(folder, ids, logits, span):
    """Name -> max |logit difference| / range over prompt and greedy tokens when the feature is changed."""
    effects = {}
    for name, (change_config, change_model) in features(AutoConfig.from_pretrained(folder)).items():
        config = copy.deepcopy(AutoConfig.from_pretrained(folder))
        if change_config:
            change_config(config)
        model = checkpoint.load(folder, torch.float32, config)
        if change_model:
            with torch.no_grad():
                change_model(model)
        changed = full_logits(model, ids).numpy()
        effects[name] = float(np.abs(changed - logits).max()) / span
    return effects
