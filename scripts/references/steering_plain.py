"""A steered forward pass in float64 numpy, row by row, from the files alone: plain.py with interventions.

It shares nothing with steering_hooks.py, so that a mistake in one shows as a difference between the two.
"""

import math

import numpy as np

import plain


def _holds_position(scope, position, n_prompt):
    if isinstance(scope, str):
        return {"all": True, "prompt": position < n_prompt, "generated": position >= n_prompt}[scope]
    if "last" in scope:
        return n_prompt - scope["last"] <= position < n_prompt
    return scope["from"] <= position < scope["to"]


def _has(value, index):
    return value == "all" or value == index or (isinstance(value, list) and index in value)


class Run:
    def __init__(self, checkpoint, plan, vectors, routes, n_prompt):
        self.c, self.plan, self.routes, self.n_prompt = checkpoint, plan["interventions"], routes, n_prompt
        self.vectors = {k: np.asarray(v, dtype=np.float64) for k, v in vectors.items()}
        self.hits = [{} for _ in self.plan]

    def _vector(self, text):
        return self.vectors[text.partition("#")[2]]

    def _applies(self, i, site, layer, position, h, expert=None, weightings=("routed",)):
        v = self.plan[i]
        if v["site"] != site or not _has(v["layer"], layer) or v.get("strength", 1) == 0:
            return False
        if expert is not None and (not _has(v["expert"], expert) or v["weighting"] not in weightings):
            return False
        if not _holds_position(v.get("positions", "all"), position, self.n_prompt):
            return False
        if "when" in v:
            cue = self._vector(v["when"]["vector"])
            if not cue @ h / math.sqrt((cue @ cue) * (h @ h)) > v["when"]["cosine_above"]:
                return False
        return True

    def _count(self, i, layer, position, expert=None):
        key = str(layer) if expert is None else f"{layer}.{expert}"
        self.hits[i].setdefault(key, [0, 0])[position >= self.n_prompt] += 1

    def _operate(self, v, h):
        s, op = v.get("strength", 1), v["op"]
        if op == "scale":
            new = h * (1 + s * (v["factor"] - 1))
        else:
            a = self._vector(v["vector"])
            projection = a * (a @ h) / (a @ a)
            length = math.sqrt(a @ a)
            if op == "add":
                new = h + s * a
            elif op == "ablate":
                new = h - s * projection
            elif op == "clamp":
                new = h + s * (v["value"] * a / length - projection)
            elif op == "affine":
                new = h + s * (a * (a @ self._vector(v["reference"])) / (a @ a) - projection + v["alpha"] * a)
            else:
                b = self._vector(v["vector2"])
                b = b - a * (a @ b) / (a @ a)
                in_plane = projection + b * (b @ h) / (b @ b)
                angle, radius = math.radians(v["degrees"]), math.sqrt(in_plane @ in_plane)
                turned = radius * (math.cos(angle) * a / length + math.sin(angle) * b / math.sqrt(b @ b))
                new = h + s * (turned - in_plane)
        return new * math.sqrt((h @ h) / (new @ new)) if v.get("preserve_norm") else new

    def _steer(self, site, layer, position, h, expert=None):
        for i, v in enumerate(self.plan):
            if self._applies(i, site, layer, position, h, expert):
                h = self._operate(v, h)
                self._count(i, layer, position, expert)
        return h

    def _rows(self, site, layer, x):
        return np.stack([self._steer(site, layer, p, h) for p, h in enumerate(x)])

    def _route(self, layer, position, z, k):
        """(experts, gate weights) of a row."""
        z, out, into, pinned = z.copy(), [], [], None
        for i, v in enumerate(self.plan):
            if not self._applies(i, "router_logits", layer, position, z):
                continue
            names = [e for e in range(len(z)) if _has(v.get("expert"), e)]
            if v["op"] == "pin":
                record = self.routes[v["routes"]].get(layer)
                if record is None or position >= len(record):
                    continue
                pinned = [int(e) for e in record[position]]
            elif v["op"] == "bias":
                z[names] += v.get("strength", 1) * v["value"]
            elif v["op"] == "force_out":
                out += names
            else:
                into += [e for e in names if e not in into]
            self._count(i, layer, position)
        # the choice as docs/steering.md says it: the rule's, then one place after the other taken by a forced expert
        chosen = [e for e in np.argsort(-z, kind="stable") if e not in out][:k]
        for e in into:
            if e not in chosen:
                chosen.remove(min((c for c in chosen if c not in into), key=lambda c: z[c]))
                chosen.append(e)
        chosen = np.array(pinned if pinned is not None else chosen)
        p = np.exp(z - z.max())
        weight = (p / p.sum())[chosen]
        if self.c.get("model_type") in ("mixtral", "gpt_oss") or self.c.get("norm_topk_prob"):
            weight = weight / weight.sum()
        return chosen, weight

    def _ffn(self, layer, h):
        c, p, family = self.c, f"model.layers.{layer}.", self.c.get("model_type")
        router = p + {"gpt_oss": "mlp.router", "mixtral": "block_sparse_moe.gate"}.get(family, "mlp.gate")
        if not c.has(router + ".weight"):
            return plain.ffn(c, layer, h)
        k = c.get("num_experts_per_tok")
        logits = c.linear(router, h)
        y = np.zeros_like(h)
        for position, z in enumerate(logits):
            chosen, weight = self._route(layer, position, z, k)
            full = np.exp(z - z.max())
            full /= full.sum()
            for e in range(len(z)):
                if e in chosen:
                    out = plain.expert_ffn(c, p, e, h[position][None])[0]
                    y[position] += weight[list(chosen).index(e)] * self._steer("expert_out", layer, position, out, e)
                for i, v in enumerate(self.plan):
                    kinds = ("post_gate", "soft", "unweighted") if e in chosen else ("soft", "unweighted")
                    if self._applies(i, "expert_out", layer, position, None, e, kinds):
                        share = full[e] if v["weighting"] == "soft" else 1
                        y[position] += v.get("strength", 1) * share * self._vector(v["vector"])
                        self._count(i, layer, position, e)
        return y

    def logits(self, ids):
        c = self.c
        eps = c.get("rms_norm_eps", 1e-6 if c.get("model_type") == "qwen3_moe" else 1e-5)
        norm = lambda x, name: plain.rmsnorm(x, c.tensor(name + ".weight"), eps)
        x = c.tensor("model.embed_tokens.weight")[ids]
        for l in range(c.get("num_hidden_layers")):
            p = f"model.layers.{l}."
            x = self._rows("resid_pre", l, x)
            x = x + self._rows("attn_out", l, plain.attention(c, l, norm(x, p + "input_layernorm")))
            x = self._rows("resid_mid", l, x)
            x = x + self._rows("moe_out", l, self._ffn(l, norm(x, p + "post_attention_layernorm")))
            x = self._rows("resid_post", l, x)
        head = "lm_head.weight" if c.has("lm_head.weight") else "model.embed_tokens.weight"
        return norm(x, "model.norm") @ c.tensor(head).T
