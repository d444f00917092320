"""Steering in transformers: hooks on the modules of a loaded model, f32, all rows of a layer at once.

Where each site is: resid_pre, the input of a decoder layer; attn_out, what self_attn returns; resid_mid, the tensor that
post_attention_layernorm is given, changed in place because it is also the residual; router_logits, inside the router
module; expert_out, inside the experts module, whose own code is asked for one expert at a time with gate weight 1;
moe_out, what mlp returns (dense or sparse); resid_post, what the decoder layer returns.
Positions are row numbers: a run is one sequence from position 0, without a cache.
"""

import torch


class Hits:
    """Rows that each intervention touched: {"layer" or "layer.expert": [prompt rows, generated rows]}, and sums over them:
    [norms of what was there, norms of what was added]."""

    def __init__(self, n, n_prompt):
        self.n_prompt, self.at, self.sums = n_prompt, [{} for _ in range(n)], [{} for _ in range(n)]

    def count(self, index, key, positions, there=None, added=None):
        """there, added: rows [n, width], or None for none."""
        if len(positions):
            slot = self.at[index].setdefault(key, [0, 0])
            slot[0] += sum(p < self.n_prompt for p in positions)
            slot[1] += sum(p >= self.n_prompt for p in positions)
            total = self.sums[index].setdefault(key, [0.0, 0.0])
            for i, rows in enumerate((there, added)):
                total[i] += 0.0 if rows is None else float(rows.double().norm(dim=1).sum())

    def measured(self):
        """{"layer" or "layer.expert": [prompt rows, generated rows, mean norm there, mean norm added]} of each."""
        return [{key: rows + [float(f"{x / sum(rows):.6g}") for x in sums[key]] for key, rows in at.items()}
                for at, sums in zip(self.at, self.sums)]


def unit(v):
    v = v.double()
    return (v / v.norm()).float()


def listed(value, n):
    return list(range(n)) if value == "all" else [value] if isinstance(value, int) else list(value)


class Steered:
    """model: of transformers. vectors: name -> f32 tensor. routes: file -> {layer: [n_tokens, top_k]}."""

    def __init__(self, model, plan, vectors, routes, n_prompt):
        self.model, self.config, self.plan = model, model.config, plan["interventions"]
        self.vectors, self.routes, self.n_prompt = vectors, routes, n_prompt
        self.family = self.config.model_type
        self.hits = Hits(len(self.plan), n_prompt)
        self.router_margin = self.condition_margin = float("inf")
        self.acts, self.chosen, self.handles, self.patched = {}, {}, [], []

    # --- scope ---

    def vector(self, text):
        return self.vectors[text.split("#")[1]]

    def at(self, site, layer, expert=None):
        """(index, intervention) in the plan's order."""
        for i, v in enumerate(self.plan):
            if v["site"] != site or layer not in listed(v["layer"], self.config.num_hidden_layers):
                continue
            if v.get("strength", 1) == 0:
                continue
            if expert is None or expert in listed(v["expert"], self.config.num_local_experts):
                yield i, v

    def in_positions(self, v, position):
        """position: i64 [n]; bool [n]."""
        p, n = v.get("positions", "all"), self.n_prompt
        if p == "all":
            return torch.ones_like(position, dtype=torch.bool)
        if p == "prompt":
            return position < n
        if p == "generated":
            return position >= n
        if "last" in p:
            return (position < n) & (position >= n - p["last"])
        return (position >= p["from"]) & (position < p["to"])

    def holds(self, v, h, rows):
        """Which of the rows meet the condition on h [n, width]."""
        if "when" not in v:
            return rows
        cosine = (h @ unit(self.vector(v["when"]["vector"]))) / h.norm(dim=1)
        gap = cosine - v["when"]["cosine_above"]
        if rows.any():
            self.condition_margin = min(self.condition_margin, float(gap[rows].abs().min()))
        return rows & (gap > 0)

    # --- operations on rows ---

    def change(self, v, h):
        op = v["op"]
        if op == "scale":
            return (v["factor"] - 1) * h
        vector = self.vector(v["vector"])
        u = unit(vector)
        along = (h @ u)[:, None]
        if op == "add":
            return vector.expand_as(h)
        if op == "ablate":
            return -along * u
        if op == "clamp":
            return (v["value"] - along) * u
        if op == "affine":
            return -along * u + u * (u @ self.vector(v["reference"])) + v["alpha"] * vector
        u64, w64 = u.double(), self.vector(v["vector2"]).double()
        w = unit(w64 - u64 * (u64 @ w64))
        across = (h @ w)[:, None]
        length = torch.sqrt(along ** 2 + across ** 2)
        angle = torch.deg2rad(torch.tensor(v["degrees"], dtype=torch.float64))
        return length * (torch.cos(angle).float() * u + torch.sin(angle).float() * w) - along * u - across * w

    def steer(self, h, site, layer, position, expert=None):
        """h [n, d_model] after the interventions at a site."""
        for i, v in self.at(site, layer, expert):
            if expert is not None and v["weighting"] != "routed":
                continue
            rows = self.holds(v, h, self.in_positions(v, position))
            new = h + v.get("strength", 1) * self.change(v, h)
            if v.get("preserve_norm"):
                new = new * (h.norm(dim=1) / new.norm(dim=1))[:, None]
            self.hits.count(i, str(layer) if expert is None else f"{layer}.{expert}", position[rows].tolist(), h[rows],
                            (new - h)[rows])
            h = torch.where(rows[:, None], new, h)
        return h

    def site(self, site, layer, x):
        """x [1, n, d_model]."""
        h = x[0]
        self.acts[site, layer] = h.clone()
        return self.steer(h, site, layer, torch.arange(len(h)))[None]

    # --- the router ---

    def weights(self, logits, chosen):
        """The family's gate weights of the chosen experts [n, k]."""
        if self.family == "gpt_oss":
            return torch.softmax(torch.gather(logits, 1, chosen), dim=1)
        p = torch.gather(torch.softmax(logits, dim=1), 1, chosen)
        if self.family == "mixtral" or getattr(self.config, "norm_topk_prob", False):
            p = p / p.sum(dim=1, keepdim=True)
        return p

    def route_row(self, layer, z, position, k):
        """(z after biases, chosen experts) of one row z [n_experts]."""
        excluded, forced, pinned = set(), [], None
        here = torch.tensor([position])
        for i, v in self.at("router_logits", layer):
            if not self.in_positions(v, here)[0] or not self.holds(v, z[None], torch.tensor([True]))[0]:
                continue
            there = added = None
            if v["op"] == "pin":
                table = self.routes[v["routes"]].get(layer)
                if table is None or position >= len(table):
                    continue
                pinned = table[position].tolist()
            elif v["op"] == "bias":
                there, z = z[None], z.clone()
                z[listed(v["expert"], len(z))] += v.get("strength", 1) * v["value"]
                added = z[None] - there
            elif v["op"] == "force_out":
                excluded |= set(listed(v["expert"], len(z)))
            else:
                forced += [e for e in listed(v["expert"], len(z)) if e not in forced]
            self.hits.count(i, str(layer), [position], there, added)
        if pinned is not None:
            return z, sorted(pinned, key=lambda e: -float(z[e]))
        free = sorted((e for e in range(len(z)) if e not in excluded and e not in forced), key=lambda e: -float(z[e]))
        n_free = k - len(forced)
        if 0 < n_free < len(free):
            self.router_margin = min(self.router_margin, float(z[free[n_free - 1]] - z[free[n_free]]))
        return z, sorted(forced + free[:n_free], key=lambda e: -float(z[e]))

    def router_hook(self, layer):
        def hook(_module, _inputs, output):
            logits, weights, chosen = output
            self.acts["router_logits", layer] = logits.clone()
            self.soft = torch.softmax(logits, dim=1)
            if not torch.allclose(self.weights(logits, chosen), weights, rtol=1e-6, atol=1e-7):
                raise RuntimeError(f"layer {layer}: our gate weights are not those of transformers")
            rows = [self.route_row(layer, z, i, chosen.shape[1]) for i, z in enumerate(logits)]
            edited = torch.stack([z for z, _ in rows])
            ours = torch.tensor([e for _, e in rows])
            if not list(self.at("router_logits", layer)) and not torch.equal(ours.sort().values, chosen.sort().values):
                raise RuntimeError(f"layer {layer}: our choice of experts is not that of transformers")
            self.chosen[layer] = ours
            return edited, self.weights(edited, ours), ours
        return hook

    # --- the experts ---

    def patch_experts(self, layer, module):
        original = module.forward

        def forward(hidden, chosen, weights):
            position, acc = torch.arange(len(hidden)), torch.zeros_like(hidden)
            for e in range(self.config.num_local_experts):
                rows, place = torch.where(chosen == e)
                if len(rows):
                    y = original(hidden[rows], torch.full((len(rows), 1), e), torch.ones(len(rows), 1))
                    self.acts["expert_out", layer, e] = y.clone()
                    y = self.steer(y, "expert_out", layer, rows, e)
                    acc[rows] += weights[rows, place, None] * y
                is_routed = (chosen == e).any(dim=1)
                for i, v in self.at("expert_out", layer, e):
                    share = {"post_gate": is_routed.float(), "soft": self.soft[:, e],
                             "unweighted": torch.ones(len(hidden))}.get(v["weighting"])
                    if share is None:
                        continue
                    touched = self.in_positions(v, position)
                    if v["weighting"] == "post_gate":
                        touched = touched & is_routed
                    term = v.get("strength", 1) * share[:, None] * self.vector(v["vector"])
                    term = torch.where(touched[:, None], term, torch.zeros_like(term))
                    self.hits.count(i, f"{layer}.{e}", position[touched].tolist(), acc[touched], term[touched])
                    acc = acc + term
            return acc
        module.forward = forward
        self.patched.append(module)

    # --- attaching ---

    def attach(self):
        add = self.handles.append
        for l, block in enumerate(self.model.model.layers):
            def pre(_module, args, kwargs, l=l):
                if args:
                    return (self.site("resid_pre", l, args[0]), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": self.site("resid_pre", l, kwargs["hidden_states"])}

            def first(_module, _inputs, output, site=None, l=l):
                if isinstance(output, tuple):
                    return (self.site(site, l, output[0]), *output[1:])
                return self.site(site, l, output)
            add(block.register_forward_pre_hook(pre, with_kwargs=True))
            add(block.self_attn.register_forward_hook(lambda m, i, o, f=first: f(m, i, o, "attn_out")))
            add(block.post_attention_layernorm.register_forward_pre_hook(
                lambda _m, args, l=l: self.in_place("resid_mid", l, args[0])))
            add(block.mlp.register_forward_hook(lambda m, i, o, f=first: f(m, i, o, "moe_out")))
            add(block.register_forward_hook(lambda m, i, o, f=first: f(m, i, o, "resid_post")))
            router = getattr(block.mlp, "gate", None) or getattr(block.mlp, "router", None)
            if hasattr(block.mlp, "experts"):
                add(router.register_forward_hook(self.router_hook(l)))
                self.patch_experts(l, block.mlp.experts)

    def in_place(self, site, layer, x):
        x.copy_(self.site(site, layer, x))

    def run(self, ids):
        """Logits [len(ids), vocab_size] f32."""
        self.attach()
        try:
            with torch.no_grad():
                return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        finally:
            for handle in self.handles:
                handle.remove()
            for module in self.patched:
                del module.forward
            self.handles, self.patched = [], []
