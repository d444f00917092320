"""The plans whose effect is recorded: every site with every operation and weighting that docs/steering.md allows, then
scopes, conditions, stacks and strengths. A case is (id, build, wants): build(attempt) gives the plan, a little different
at each attempt, so that an attempt whose margins are too small can be followed by another; wants says what the case must
show: "effect", "same" (as unsteered), and "greedy" (24 tokens are generated as well).
"""

import numpy as np

FILE = "vectors.safetensors#"
VECTOR_SITES = ("resid_pre", "attn_out", "resid_mid", "expert_out", "moe_out", "resid_post")
VECTOR_OPS = ("add", "ablate", "clamp", "affine", "scale", "rotate")
ROUTER_OPS = ("bias", "force_out", "force_in", "pin")
WEIGHTINGS = ("routed", "post_gate", "soft", "unweighted")


def short(x):
    """Three significant digits."""
    return float(f"{x:.3g}")


def wobble(attempt):
    """1, 1.05, 0.95, 1.1, 0.9, ..."""
    return 1 + 0.05 * ((attempt + 1) // 2) * (1 if attempt % 2 else -1)


class Cases:
    """Facts of the unsteered run, and the plans built from them."""

    def __init__(self, config, sparse, acts, chosen, vectors, n_prompt, recorded):
        self.n_layers, self.n_experts = config.num_hidden_layers, config.num_local_experts
        self.top_k, self.sparse, self.acts, self.chosen = config.num_experts_per_tok, sparse, acts, chosen
        self.vectors, self.n_prompt, self.recorded = vectors, n_prompt, recorded
        self.n_tokens = recorded[-1] + 1
        self.cases = []

    # --- facts ---

    def popularity(self, layer):
        return np.bincount(np.asarray(self.chosen[layer]).reshape(-1), minlength=self.n_experts) / self.n_tokens

    def some_expert(self, layer, nth=0, recorded=2):
        """Chosen in so many of the two positions that every case records, if there is one, and by about half of the rows."""
        seen = np.bincount(np.asarray(self.chosen[layer])[self.recorded].reshape(-1), minlength=self.n_experts)
        share = np.abs(self.popularity(layer) - 0.5)
        return sorted(range(self.n_experts), key=lambda e: (abs(int(seen[e]) - recorded), float(share[e])))[nth % self.n_experts]

    def act(self, site, layer, expert=None):
        return np.asarray(self.acts[(site, layer) if expert is None else (site, layer, expert)], dtype=np.float64)

    def size(self, site, layer, expert=None):
        return float(np.linalg.norm(self.act(site, layer, expert), axis=1).mean())

    def threshold(self, attempt, cue, site, layer, expert=None):
        """A cosine that about half of the rows exceed, in a wide gap between two rows."""
        h, v = self.act(site, layer, expert), self.vectors[cue]
        c = np.sort(h @ v / np.linalg.norm(h, axis=1) / np.linalg.norm(v))
        gaps = [i for i in range(len(c) - 1) if c[i + 1] - c[i] > 0.008] or [int(np.argmax(np.diff(c)))]
        gaps.sort(key=lambda i: abs(i - len(c) / 2))
        i = gaps[attempt % len(gaps)]
        return round(float(c[i] + c[i + 1]) / 2, 4)

    # --- parts of plans ---

    def place(self, site, layer, expert=None, weighting="routed"):
        out = {"site": site, "layer": layer}
        if site == "expert_out":
            out |= {"expert": self.some_expert(layer) if expert is None else expert, "weighting": weighting}
        return out

    def vector_op(self, op, site, layer, w=1.0, expert=None, weighting="routed", **more):
        """One intervention of a size that matters at its site. layer, expert: also lists and "all"."""
        first = lambda value, all_of: all_of[0] if value == "all" else value[0] if isinstance(value, list) else value
        l = first(layer, self.sparse if site == "expert_out" else [0])
        e = (self.some_expert(l) if expert is None else first(expert, [self.some_expert(l)])) if site == "expert_out" else None
        out = self.place(site, layer, expert if expert is not None else e, weighting) | {"op": op}
        size, norm = self.size(site, l, e), float(np.linalg.norm(self.vectors["v"]))
        if op != "scale":
            out["vector"] = FILE + "v"
        if op == "add":
            out["strength"] = short(0.8 * size / norm * w)
        elif op == "ablate":
            out["strength"] = short(w) if w != 1 else 1.0
        elif op == "clamp":
            out |= {"value": short(0.9 * size * w)}
        elif op == "affine":
            out |= {"reference": FILE + "reference", "alpha": short(0.5 * size / norm * w)}
        elif op == "scale":
            out |= {"factor": short(1.7 * w)}
        elif op == "rotate":
            out |= {"vector2": FILE + "v2", "degrees": short(70 * w)}
        return out | more

    def router_op(self, op, layer, attempt=0, **more):
        l = layer if isinstance(layer, int) else self.sparse[0]
        rare = np.argsort(self.popularity(l), kind="stable")
        e = int(rare[attempt % self.n_experts] if op == "force_in" else rare[-1 - (attempt + 1) % self.n_experts])
        out = {"site": "router_logits", "layer": layer, "op": op}
        if op == "pin":
            return out | {"routes": "routes_other.safetensors"} | more
        if op == "bias":
            z = self.act("router_logits", l)
            out |= {"value": short(-0.5 * z.std() * wobble(attempt)), "strength": 1.5}
        return out | {"expert": e} | more

    def when(self, attempt, site, layer, expert=None):
        cue = "cue_router" if site == "router_logits" else "cue"
        return {"vector": FILE + cue, "cosine_above": self.threshold(attempt, cue, site, layer, expert)}

    # --- the list ---

    def case(self, name, build, *wants):
        def plan(attempt):
            parts = build(attempt)
            return {"name": name, "interventions": parts if isinstance(parts, list) else [parts]}
        self.cases.append((name, plan, wants or ("effect",)))

    def matrix(self):
        first, last = self.sparse[0], self.n_layers - 1
        for site in VECTOR_SITES:
            far = self.sparse[-1] if site == "expert_out" else last
            for op in VECTOR_OPS:
                # of the weightings' expert, one recorded row is routed to it and one is not
                e = self.some_expert(first, 0, 1) if (site, op) == ("expert_out", "add") else None
                self.case(f"{site}/{op}", lambda a, s=site, o=op, e=e: self.vector_op(o, s, first, wobble(a), expert=e))
                # rotate keeps the norm by itself at strength 1, scale's only trace is the sign
                extra = {"rotate": {"strength": 0.7}, "scale": {"factor": -0.6}}.get(op, {})
                self.case(f"{site}/{op}/preserve_norm", lambda a, s=site, o=op, x=extra, l=far: self.vector_op(
                    o, s, l, wobble(a), expert=self.some_expert(l, a // 6) if s == "expert_out" else None) | x | ({"strength": short(0.7 * wobble(a))} if o in ("rotate", "scale") and a else {})
                    | {"preserve_norm": True})
        for weighting in WEIGHTINGS[1:]:
            self.case(f"expert_out/add/{weighting}", lambda a, w=weighting: self.vector_op(
                "add", "expert_out", first, wobble(a), expert=self.some_expert(first, 0, 1), weighting=w))
        for op in ROUTER_OPS:
            self.case(f"router_logits/{op}", lambda a, o=op: self.router_op(o, first, a) | (
                {"positions": {"from": a // 2, "to": self.n_tokens - a}} if o == "pin" and a else {}))

    def scopes(self):
        first, n = self.sparse[0], self.n_prompt
        layers = [0, self.n_layers - 1]
        experts = sorted({self.some_expert(first), int(np.argmin(self.popularity(first))), int(np.argmax(self.popularity(first)))})
        v = self.vector_op
        self.case("scope/layers listed, prompt", lambda a: v("add", "resid_post", layers, wobble(a), positions="prompt"))
        self.case("scope/all layers, generated", lambda a: v("affine", "resid_pre", "all", wobble(a), positions="generated"))
        self.case("scope/all layers, last 3", lambda a: v("clamp", "attn_out", "all", wobble(a), positions={"last": 3}))
        self.case("scope/last 1000", lambda a: v("rotate", "resid_mid", first, wobble(a), positions={"last": 1000}))
        self.case("scope/range across the prompt's end", lambda a: v("clamp", "resid_mid", first, wobble(a),
                                                                    positions={"from": 5, "to": n + 2}))
        self.case("scope/range to beyond the end", lambda a: v("scale", "moe_out", "all", wobble(a),
                                                              positions={"from": n + 1, "to": 250}))
        self.case("scope/all layers, one position", lambda a: v("add", "moe_out", "all", 3 * wobble(a),
                                                                 positions={"from": 7, "to": 8}))
        self.case("scope/experts listed, all layers", lambda a: v("add", "expert_out", "all", wobble(a), expert=experts,
                                                                 positions="all"))
        self.case("scope/all experts, layers listed, prompt", lambda a: v(
            "ablate", "expert_out", self.sparse, wobble(a), expert="all", positions="prompt"))
        self.case("scope/all experts, scale, generated", lambda a: v("scale", "expert_out", "all", wobble(a), expert="all",
                                                                    positions="generated"))
        self.case("scope/post_gate, experts listed, last 6", lambda a: v("add", "expert_out", first, wobble(a), expert=experts,
                                                                        weighting="post_gate", positions={"last": 6}))
        self.case("scope/soft, all experts, all layers, range", lambda a: v(
            "add", "expert_out", "all", 0.5 * wobble(a), expert="all", weighting="soft", positions={"from": 3, "to": n + 3}))
        self.case("scope/unweighted, experts listed, generated", lambda a: v(
            "add", "expert_out", first, wobble(a), expert=experts, weighting="unweighted", positions="generated"))
        self.case("scope/bias, experts listed, generated", lambda a: self.router_op(
            "bias", "all", a, positions="generated", expert=experts[:2]))
        self.case("scope/force_out, all layers, last 6", lambda a: self.router_op("force_out", "all", a, positions={"last": 6}))
        self.case("scope/force_in, all layers, range", lambda a: self.router_op(
            "force_in", "all", a, positions={"from": 4, "to": n + 4}))
        self.case("scope/force_in, as many as are chosen", lambda a: self.router_op("force_in", first, a) | {
            "expert": sorted(int((e + a) % self.n_experts) for e in np.argsort(self.popularity(first))[:self.top_k])})
        self.case("scope/force_out, all that may be", lambda a: self.router_op("force_out", first, a) | {
            "expert": sorted(int((e + a) % self.n_experts) for e in np.argsort(-self.popularity(first))[:self.n_experts - self.top_k])})
        self.case("scope/pin, all layers, generated", lambda a: self.router_op(
            "pin", "all", a, positions={"from": n + a // 2, "to": self.n_tokens + a % 2} if a else "generated"))
        self.case("scope/pin, a record of 20 tokens", lambda a: self.router_op(
            "pin", "all", routes="routes_short.safetensors") | ({"positions": {"from": a, "to": self.n_tokens}} if a else {}))

    def conditions(self):
        first, last, v = self.sparse[0], self.n_layers - 1, self.vector_op
        e, rule = self.some_expert(first), self.when
        for site, op, layer in (("resid_pre", "add", first), ("attn_out", "rotate", last), ("resid_mid", "ablate", first),
                                ("moe_out", "affine", last), ("resid_post", "clamp", first)):
            self.case(f"when/{site}/{op}", lambda a, s=site, o=op, l=layer: v(o, s, l, wobble(a), when=rule(a, s, l)), "effect", "some")
        self.case("when/expert_out/ablate", lambda a: v("ablate", "expert_out", first, wobble(a), when=rule(
            a, "expert_out", first, e)), "effect", "some")
        self.case("when/resid_pre/add/preserve_norm, prompt", lambda a: v(
            "add", "resid_pre", last, wobble(a), positions="prompt", preserve_norm=True, when=rule(a, "resid_pre", last)), "effect", "some")
        for op in ROUTER_OPS:
            self.case(f"when/router_logits/{op}", lambda a, o=op: self.router_op(o, first, a // 3, when=rule(
                a, "router_logits", first)), "effect", "some")
        self.case("when/never holds", lambda a: v("add", "moe_out", first, when={
            "vector": FILE + "cue", "cosine_above": 0.95}), "same")
        self.case("when/always holds", lambda a: v("add", "resid_post", first, wobble(a), when={
            "vector": FILE + "cue", "cosine_above": -0.95}))
        self.case("when/on the row as the intervention before left it", lambda a: [
            v("add", "resid_mid", first, 1.5 * wobble(a)) | {"vector": FILE + "cue"},
            v("scale", "resid_mid", first, 1.2, when={"vector": FILE + "cue", "cosine_above": round(
                0.5 + 0.02 * wobble(a) + 0.03 * (a % 7), 3)})], "effect", "some last")

    def stacks(self):
        first, last, v = self.sparse[0], self.n_layers - 1, self.vector_op
        e = self.some_expert(first)
        direct = {"site": "router_logits", "layer": "all", "op": "pin", "routes": "routes.safetensors"}
        add = lambda a: v("add", "resid_post", first, wobble(a))
        scale = lambda a: v("scale", "resid_post", first, 1.3)
        self.case("stack/add then scale", lambda a: [add(a), scale(a)])
        self.case("stack/scale then add", lambda a: [scale(a), add(a)])
        self.case("stack/every vector site", lambda a: [
            v(op, site, first if site == "expert_out" else i % self.n_layers, 0.5 * wobble(a))
            for i, (op, site) in enumerate(zip(VECTOR_OPS, VECTOR_SITES))])
        self.case("stack/every weighting of one expert", lambda a: [
            v("add", "expert_out", first, 0.4 * wobble(a), expert=e, weighting=w) for w in WEIGHTINGS])
        self.case("stack/four routed on one expert", lambda a: [
            v("ablate", "expert_out", first, expert=e), v("add", "expert_out", first, wobble(a), expert=e),
            v("rotate", "expert_out", first, wobble(a), expert=e, positions="prompt"),
            v("scale", "expert_out", first, wobble(a), expert="all", positions="generated")])
        self.case("stack/bias, and soft by the logits before it", lambda a: [
            self.router_op("bias", first, a) | {"expert": e}, v("add", "expert_out", first, 1.5, expert=e, weighting="soft")])
        self.case("stack/forced in, and steered", lambda a: [
            i := self.router_op("force_in", first, a),
            v("add", "expert_out", first, wobble(a), expert=e) | {"expert": i["expert"]}])
        self.case("stack/bias, force_out, force_in", lambda a: self.three_edits(first, a))
        self.case("stack/direct effect: resid_pre, routes pinned", lambda a: [
            direct, v("add", "resid_pre", 0, 1.5 * wobble(a // 2) * (1 + 0.2 * (a % 2)))])
        self.case("stack/total effect: resid_pre", lambda a: [v("add", "resid_pre", 0, 1.5 * wobble(a))])
        self.case("stack/pinned, and biased", lambda a: [
            direct, self.router_op("bias", first, a), v("add", "attn_out", first, wobble(a))])
        self.case("stack/one vector at two layers with two strengths", lambda a: [
            v("add", "resid_post", 0, wobble(a)), v("add", "resid_post", last, -wobble(a))])

    def three_edits(self, layer, attempt):
        order = [int(e) for e in np.argsort(-self.popularity(layer), kind="stable")]
        order = order[attempt % self.n_experts:] + order[:attempt % self.n_experts]
        bias = self.router_op("bias", layer, attempt) | {"expert": order[1:3]}
        return [bias, {"site": "router_logits", "layer": layer, "op": "force_out", "expert": order[0], "positions": "prompt"},
                {"site": "router_logits", "layer": layer, "op": "force_in", "expert": [order[-1]], "positions": {"from": 10, "to": 250}}]

    def strengths(self):
        first, v = self.sparse[0], self.vector_op
        self.case("strength/0", lambda a: [v(op, site, first) | {"strength": 0} for op, site in zip(VECTOR_OPS, VECTOR_SITES)]
                  + [self.router_op(op, first) | {"strength": 0} for op in ROUTER_OPS]
                  + [v("add", "expert_out", first, weighting=w) | {"strength": 0} for w in WEIGHTINGS[1:]], "same")
        self.case("strength/empty plan", lambda a: [], "same")
        self.case("strength/a pin to the same routes", lambda a: {
            "site": "router_logits", "layer": "all", "op": "pin", "routes": "routes.safetensors"}, "same")
        for site, op in zip(("expert_out", "resid_pre", "moe_out", "attn_out", "resid_mid", "expert_out"), VECTOR_OPS):
            self.case(f"strength/negative/{site}/{op}", lambda a, s=site, o=op: v(o, s, first) | {
                "strength": short(-(v(o, s, first).get("strength", 1)) * 0.6 * wobble(a))})
        for site in ("resid_pre", "expert_out", "moe_out"):
            self.case(f"strength/large/{site}", lambda a, s=site: v("add", s, first, 40 * wobble(a)))
        self.case("strength/large/bias", lambda a: self.router_op("bias", first, a) | {"strength": 50.0})

    def generations(self):
        first, v = self.sparse[0], self.vector_op
        w = lambda a: wobble(a)
        self.case("generate/resid_post add, all layers", lambda a: v("add", "resid_post", "all", 0.5 * w(a)), "effect", "greedy")
        self.case("generate/resid_pre ablate, all layers, generated", lambda a: v(
            "ablate", "resid_pre", "all", w(a), positions="generated"), "effect", "greedy")
        self.case("generate/expert_out routed", lambda a: v("add", "expert_out", first, 2 * w(a)), "effect", "greedy")
        self.case("generate/expert_out soft, all experts", lambda a: v(
            "add", "expert_out", first, w(a), expert="all", weighting="soft"), "effect", "greedy")
        self.case("generate/force_in, all layers, range", lambda a: self.router_op(
            "force_in", "all", a, positions={"from": 10 + a // self.n_experts, "to": 250}), "effect", "greedy")
        self.case("generate/when at moe_out", lambda a: v(
            "rotate", "moe_out", first, w(a) * 1.5, when=self.when(a, "moe_out", first)), "effect", "greedy", "some")

    def only_matrix(self):
        self.matrix()
        return self.cases

    def all(self):
        for part in (self.matrix, self.scopes, self.conditions, self.stacks, self.strengths, self.generations):
            part()
        return self.cases
