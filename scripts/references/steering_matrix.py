#!/usr/bin/env python3
"""Every combination of site, operation, weighting, positions, condition and preserve_norm that docs/steering.md allows,
with real phases: the prompt is fed, a few tokens are generated, and the logits after the last of them are recorded. The
families take turns: each combination is recorded for one of the four. (steering_models.py has every site, operation and
weighting, with and without preserve_norm, for each of them.)

    steering_matrix.py                    make tests/golden/steering/NAME/matrix.{json,safetensors} for every family
    steering_matrix.py NAME ...           only these
    steering_matrix.py --check [NAME ...] run the recorded plans again and compare
"""

import itertools
import json
import sys

import steering_models as models
import numpy as np
import torch
from safetensors.numpy import load_file, save_file

import steering_plain
from steering_cases import FILE, ROUTER_OPS, VECTOR_OPS, VECTOR_SITES, WEIGHTINGS, Cases, short
from steering_models import HOME, MARGIN, MIN_EFFECT, PINNED, TOLERANCE, Again, Subject

NAMES = ("olmoe-clip-bf16", "mixtral-window-bf16", "gpt_oss-bf16", "qwen3_moe-dense-bf16")
MAX_ATTEMPTS = 800
SIZES = (1, 1.3, 0.8, 2, 4, 10, 25, 70)  # of the strength: a few rows must show in the logits after them


def table():
    """(site, op, weighting or None, takes "when" and "preserve_norm", takes "when"): what may stand together."""
    for site, op in itertools.product(VECTOR_SITES, VECTOR_OPS):
        yield site, op, "routed" if site == "expert_out" else None, True, True
    for weighting in WEIGHTINGS[1:]:
        yield "expert_out", "add", weighting, False, False
    for op in ROUTER_OPS:
        yield "router_logits", op, None, False, True


SCOPES = ("all", "prompt", "generated", "last", "range")


def scope(kind, n_prompt, turn):
    return {"last": {"last": 6 + turn % 5}, "range": {"from": 4 + turn % 5, "to": n_prompt + 2}}.get(kind, kind)


def combinations(name):
    """(site, op, weighting, positions, has a condition, keeps the norm), those of one family."""
    for i, (site, op, weighting, norm, when) in enumerate(table()):
        for j, (positions, has_when, keeps) in enumerate(itertools.product(SCOPES, (False, True), (False, True))):
            if (when or not has_when) and (norm or not keeps) and NAMES[(i + j + j // 4) % len(NAMES)] == name:
                yield site, op, weighting, positions, has_when, keeps


class Matrix:
    def __init__(self, subject):
        self.s = subject
        self.cases = Cases(subject.config, subject.sparse, {k: v.numpy() for k, v in subject.acts.items()}, subject.chosen,
                           subject.vectors, subject.n_prompt, subject.few)
        self.plain_logits = {}

    def in_scope(self, positions):
        n, last = self.s.n_prompt, len(self.s.tokens)
        low, high = {"all": (0, last), "prompt": (0, n), "generated": (n, last), "last": (n - 6, n), "range": (4, n + 2)}[positions]
        return range(low, high)

    def threshold(self, site, layer, expert, rows, attempt):
        """A cosine between two rows of the unsteered run: of those that the intervention could touch, later of all."""
        visitors = list(range(len(self.s.tokens)))
        if expert is not None:
            visitors = [p for p in visitors if expert in self.s.chosen[layer][p].tolist()]
        cue = "cue_router" if site == "router_logits" else "cue"
        h, v = self.cases.act(site, layer, expert), self.s.vectors[cue]
        c = h @ v / np.linalg.norm(h, axis=1) / np.linalg.norm(v)
        middles = []
        for some in ([i for i, p in enumerate(visitors) if p in rows], range(len(visitors))):
            near = np.sort(c[list(some)])
            order = sorted(range(len(near) - 1), key=lambda i: (near[i + 1] - near[i] < 0.005, abs(i + 1 - len(near) / 2)))
            middles += [round(float(near[i] + near[i + 1]) / 2, 4) for i in order]
        if not middles:
            raise Again("too few rows for a condition")
        return {"vector": FILE + cue, "cosine_above": middles[attempt % len(middles)]}

    def build(self, site, op, weighting, positions, has_when, keeps, attempt):
        """The plan, and how many tokens to generate. From attempt to attempt strength changes first, then layer, then the
        number of tokens, expert, condition and positions. A prompt's rows may show in its own last logits only."""
        size, turn = attempt % len(SIZES), attempt // len(SIZES)
        layers = self.s.sparse if site in ("expert_out", "router_logits") else range(self.s.config.num_hidden_layers)
        layer, turn = layers[turn % len(layers)], turn // len(layers)
        if site == "router_logits":
            v = self.cases.router_op(op, layer, turn)
        else:
            expert = None
            if site == "expert_out":
                share = np.abs(self.cases.popularity(layer) - 0.5)
                expert = int(np.argsort(share, kind="stable")[turn % self.cases.n_experts])
            v = self.cases.vector_op(op, site, layer, 1.0, expert=expert, weighting=weighting or "routed")
        if op == "scale":  # a positive factor vanishes in the next norm, and where the norm is kept only the sign is left
            v |= {"factor": -0.6 - turn % 3} if keeps or turn % 2 else {}
        if keeps and op == "rotate":  # which keeps the norm by itself at strength 1
            v |= {"strength": 0.7}
        if size and op not in ROUTER_OPS[1:]:
            v["strength"] = short(v.get("strength", 1) * SIZES[size])
        if positions != "all":
            v["positions"] = scope(positions, self.s.n_prompt, turn)
        if has_when:
            v["when"] = self.threshold(site, layer, v.get("expert") if site == "expert_out" else None,
                                       self.in_scope(positions), turn)
        if keeps:
            v["preserve_norm"] = True
        lengths = (9, 7, 8, 6) if positions == "generated" else (5, 1, 4, 2)
        return {"interventions": [v]}, lengths[turn % 4]

    def unsteered(self, ids):
        key = tuple(ids)
        if key not in self.plain_logits:
            self.plain_logits[key] = self.s.hooked({"interventions": []}).run(ids)[-1]
        return self.plain_logits[key]

    def record(self, plan, n_generated):
        s = self.s
        ids = list(s.prompt)
        for _ in range(n_generated):
            run = s.hooked(plan)
            fed, logits = list(ids), run.run(ids)
            s.hold_margins(run)
            top = torch.topk(logits[-1], 2).values
            if not float(top[0] - top[1]) > max(MARGIN, 2.5 * TOLERANCE * float(logits.max() - logits.min())):
                raise Again("greedy margin")
            ids.append(int(torch.argmax(logits[-1])))
        if not run.hits.at[0]:
            raise Again("touches no row")
        if not float((logits[-1] - self.unsteered(fed)).abs().max()) / s.range > MIN_EFFECT:
            raise Again("effect")
        self.check_condition(plan, fed, run.hits.at)
        exact = steering_plain.Run(s.plain, plan, s.vectors, s.routes, s.n_prompt)
        error = float(np.abs(exact.logits(fed) - logits.numpy()).max()) / s.range
        if exact.hits != run.hits.at or not error <= models.MAX_REFERENCE_ERROR:
            raise RuntimeError(f"{plan}: hooks and float64 differ by {error:.1e}, hits {run.hits.at} and {exact.hits}")
        return {"tokens": ids[s.n_prompt:], "hits": run.hits.measured()[0]}, logits[-1].numpy()

    def check_condition(self, plan, fed, hits):
        """It keeps some row out that is in reach."""
        v = plan["interventions"][0]
        if "when" in v:
            run = self.s.hooked({"interventions": [{k: x for k, x in v.items() if k != "when"}]})
            run.run(fed)
            if not np.sum(list(hits[0].values())) < np.sum(list(run.hits.at[0].values())):
                raise Again("the condition keeps no row out")

    def settle(self, combination):
        reasons = {}
        for attempt in range(MAX_ATTEMPTS):
            try:
                plan, n_generated = self.build(*combination, attempt)
                made, row = self.record(plan, n_generated)
                return {"intervention": plan["interventions"][0]} | made, row
            except Again as reason:
                reasons[str(reason)] = reasons.get(str(reason), 0) + 1
        raise RuntimeError(f"{self.s.name}: {combination}: no attempt does: {reasons}")


def make(name):
    subject = Subject(name)
    matrix = Matrix(subject)
    cells, rows = zip(*(matrix.settle(c) for c in combinations(name)))
    text = lambda value: json.dumps(value, separators=(",", ":"))
    head = {"model": name, "n_prompt": subject.n_prompt, "range": float(f"{subject.range:.6g}"), "versions": PINNED}
    folder = HOME / name
    (folder / "matrix.json").write_text(text(head)[:-1] + ',"cells":[\n' + ",\n".join(map(text, cells)) + "\n]}\n")
    save_file({"prompt": np.array(subject.prompt, dtype=np.int32), "logits": np.stack(rows)}, folder / "matrix.safetensors")
    (folder / "matrix.safetensors").chmod(0o644)
    size = sum((folder / f"matrix.{kind}").stat().st_size for kind in ("json", "safetensors"))
    print(f"{name}: {len(cells)} combinations, {size / 1000:.1f} kB", flush=True)


def check(name):
    """What differs from what is committed, a list of sentences."""
    subject, folder, problems = Subject(name), HOME / name, []
    matrix = Matrix(subject)
    cells = json.loads((folder / "matrix.json").read_text())["cells"]
    stored = load_file(folder / "matrix.safetensors")["logits"]
    for cell, old in zip(cells, stored, strict=True):
        try:
            new, row = matrix.record({"interventions": [cell["intervention"]]}, len(cell["tokens"]))
        except (Again, RuntimeError) as reason:
            problems.append(f"{cell['intervention']}: {reason}")
            continue
        difference = float(np.abs(row - old).max()) / subject.range
        if new != {k: cell[k] for k in new} or not difference <= models.MAX_RERUN_DIFFERENCE:
            problems.append(f"{cell['intervention']}: logits differ by {difference:.1e}, or other tokens or hits")
    wanted = list(combinations(name))
    if len(cells) != len(wanted):
        problems.append(f"{len(cells)} combinations, not {len(wanted)}")
    return problems


def main():
    names = [a for a in sys.argv[1:] if a != "--check"] or NAMES
    if not set(names) <= set(NAMES):
        sys.exit(f"known: {', '.join(NAMES)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    failed = 0
    for name in names:
        if "--check" not in sys.argv:
            make(name)
            continue
        problems = check(name)
        print(f"{name}: " + ("the same as committed" if not problems else "FAILED: " + "; ".join(problems)), flush=True)
        failed += bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
