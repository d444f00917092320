#!/usr/bin/env python3
"""Records what steering does to the tiny models, with hooks on transformers, or checks what is recorded.

    steering_models.py                    make every model's cases, under tests/golden/steering/
    steering_models.py NAME ...           only these
    steering_models.py --check [NAME ...] run the recorded plans again and compare
Exit code 0: all well; 1: a check failed; 2: bad arguments.
"""

import argparse
import collections
import json
import os
import pathlib
import sys
import zlib

sys.path.append(sys.path.pop(0))  # tokenizers.py beside this file is not the package that transformers needs
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

import checkpoint
import plain
import steering_hooks
import steering_plain
import steering_refused
from steering_cases import Cases

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
MODELS, HOME = ROOT / "models", ROOT / "steering"
NAMES = ("olmoe-clip-bf16", "mixtral-window-bf16", "gpt_oss-bf16", "gpt_oss-mxfp4", "qwen3_moe-dense-bf16")
PINNED = {"torch": "2.13.0", "transformers": "5.23.0"}
MATRIX_ONLY = ("gpt_oss-mxfp4",)   # the family's other cases are those of gpt_oss-bf16
N_CONTINUED, N_GREEDY, N_SHORT = 8, 24, 20
MARGIN, TOLERANCE, MAX_ATTEMPTS = 1e-3, 1e-4, 60
MIN_EFFECT = 20 * TOLERANCE
MAX_REFERENCE_ERROR, MAX_RERUN_DIFFERENCE = 1e-5, 1e-6
MAX_BYTES = 600_000


class Again(Exception):
    """The plan of this attempt does not do; the message is the reason."""


class Subject:
    """One model, its tokens and its vectors."""

    def __init__(self, name):
        self.name, folder = name, MODELS / name
        self.model = checkpoint.load(folder, torch.float32)
        self.plain = plain.Checkpoint(folder)
        for key in [k.removesuffix("_blocks") for k in self.plain.tensors if k.endswith("_blocks")]:
            decoded = self.plain.tensor(key)
            del self.plain.tensors[key + "_blocks"]
            self.plain.tensors[key] = decoded
        g = load_file(folder / "golden.safetensors")
        self.n_prompt = len(g["prompt"])
        self.prompt = [int(t) for t in g["prompt"]]
        self.tokens = self.prompt + [int(t) for t in g["greedy"][:N_CONTINUED]]
        self.greedy = [int(t) for t in g["greedy"]]
        # the matrix and the strengths are recorded at fewer positions than what has a scope
        n = self.n_prompt
        self.few, self.many = [n - 1, len(self.tokens) - 1], [9, n - 1, n, len(self.tokens) - 1]
        self.config = self.model.config
        self.sparse = [l for l, block in enumerate(self.model.model.layers) if hasattr(block.mlp, "experts")]
        self.range = float(g["logits"].max() - g["logits"].min())
        self.vectors, self.routes = self.draw_vectors(), {}
        run = self.hooked({"interventions": []})
        self.unsteered = run.run(self.tokens)
        error = float(np.abs(self.unsteered.numpy() - g["logits"][:len(self.tokens)]).max()) / self.range
        if not error <= MAX_RERUN_DIFFERENCE:
            raise RuntimeError(f"{name}: hooks without a plan move the logits by {error:.1e} of the range")
        self.acts, self.chosen = run.acts, run.chosen
        self.draw_routes()

    def rng(self, purpose):
        return np.random.Generator(np.random.PCG64([zlib.crc32(self.name.encode()), purpose]))

    def draw_vectors(self):
        rng, d = self.rng(1), self.config.hidden_size
        draw = lambda n, norm: (lambda x: (x * norm / np.linalg.norm(x)).astype(np.float32))(rng.standard_normal(n))
        return {"v": draw(d, 2.5), "v2": draw(d, 0.4), "reference": draw(d, 6.0), "cue": draw(d, 1.7),
                "cue_router": draw(self.config.num_local_experts, 1.3)}

    def draw_routes(self):
        """routes: of the unsteered run; routes_other: drawn, none as the run's; routes_short: its first tokens."""
        rng, k, n = self.rng(2), self.config.num_experts_per_tok, self.config.num_local_experts

        def another(natural):
            while True:
                drawn = rng.permutation(n)[:k]
                if set(drawn.tolist()) != set(natural.tolist()):
                    return drawn
        other = {l: np.stack([another(row) for row in self.chosen[l]]).astype(np.int32) for l in self.sparse}
        self.routes = {"routes.safetensors": {l: c.numpy().astype(np.int32) for l, c in self.chosen.items()},
                       "routes_other.safetensors": other,
                       "routes_short.safetensors": {l: t[:N_SHORT].copy() for l, t in other.items()}}

    def hooked(self, plan):
        return steering_hooks.Steered(self.model, plan, {k: torch.from_numpy(v) for k, v in self.vectors.items()},
                                      self.routes, self.n_prompt)

    def cases(self):
        cases = Cases(self.config, self.sparse, {k: v.numpy() for k, v in self.acts.items()}, self.chosen, self.vectors,
                      self.n_prompt, self.few)
        return cases.all() if self.name not in MATRIX_ONLY else cases.only_matrix()

    def positions_of(self, name):
        return self.many if name.split("/")[0] in ("scope", "when", "stack", "generate") else self.few

    # --- one case ---

    def hold_margins(self, run):
        if not run.router_margin > MARGIN:
            raise Again("router margin")
        if not run.condition_margin > MARGIN:
            raise Again("condition margin")

    def record(self, plan, wants):
        run = self.hooked(plan)
        logits = run.run(self.tokens)
        self.hold_margins(run)
        if not bool(torch.isfinite(logits).all()):
            raise Again("not finite")
        span = float(logits.max() - logits.min())
        exact = steering_plain.Run(self.plain, plan, self.vectors, self.routes, self.n_prompt)
        error = float(np.abs(exact.logits(self.tokens) - logits.numpy()).max()) / span
        if exact.hits != run.hits.at:
            raise RuntimeError(f"{plan['name']}: hits differ: hooks {run.hits.at}, float64 {exact.hits}")
        if not error <= MAX_REFERENCE_ERROR:
            raise RuntimeError(f"{plan['name']}: hooks and float64 differ by {error:.1e} of the range")
        positions = self.positions_of(plan["name"])
        effect = float((logits - self.unsteered)[positions].abs().max()) / self.range
        if "same" in wants:
            if not effect <= MAX_RERUN_DIFFERENCE:
                raise RuntimeError(f"{plan['name']}: moves the logits by {effect:.1e} of the range")
        elif not effect > MIN_EFFECT:
            raise Again("effect")
        if "effect" in wants and not all(run.hits.at):
            raise Again("an intervention touches no row")
        self.check_some(plan, wants, run.hits.at)
        case = {"plan": plan, "positions": positions, "hits": run.hits.measured(), "effect": effect, "error": error,
                "router_margin": run.router_margin, "condition_margin": run.condition_margin}
        if "greedy" in wants:
            case |= self.generate(plan)
        return case, logits[positions].numpy()

    def check_some(self, plan, wants, hits):
        """A condition holds for some of the rows that it could hold for, not for all."""
        if "some" in wants or "some last" in wants:
            without = {"name": plan["name"], "interventions": [
                {k: x for k, x in v.items() if k != "when"} for v in plan["interventions"]]}
            run = self.hooked(without)
            run.run(self.tokens)
            total = lambda at: np.sum(list(at[-1].values()), axis=0)
            some, every = total(hits), total(run.hits.at)
            if not 2 <= some.sum() <= every.sum() - 2:
                raise Again("the condition does not divide the rows")

    def generate(self, plan):
        ids, margin = list(self.prompt), float("inf")
        for _ in range(N_GREEDY):
            run = self.hooked(plan)
            logits = run.run(ids)
            self.hold_margins(run)
            top = torch.topk(logits[-1], 2).values
            margin = min(margin, float(top[0] - top[1]))
            if not margin > max(MARGIN, 2.5 * TOLERANCE * float(logits.max() - logits.min())):
                raise Again("greedy margin")
            ids.append(int(torch.argmax(logits[-1])))
        tokens = ids[self.n_prompt:]
        if tokens == self.greedy[:N_GREEDY]:
            raise Again("greedy tokens as unsteered")
        return {"greedy": tokens, "greedy_margin": margin}


def settle(subject, name, build, wants, log):
    """The first attempt that does."""
    reasons = collections.Counter()
    for attempt in range(MAX_ATTEMPTS):
        try:
            case, logits = subject.record(build(attempt), wants)
            if reasons:
                log(f"  {name}: attempt {attempt}, after {dict(reasons)}")
            return case | {"attempt": attempt, "redraws": dict(reasons)}, logits
        except Again as reason:
            reasons[str(reason)] += 1
    raise RuntimeError(f"{subject.name}: {name}: no attempt of {MAX_ATTEMPTS} does: {dict(reasons)}")


def check_differences(subject, cases, logits):
    """Cases that must not be the same."""
    at = {case["plan"]["name"]: i for i, case in enumerate(cases)}
    groups = [["expert_out/add"] + [f"expert_out/add/{w}" for w in ("post_gate", "soft", "unweighted")],
              ["stack/add then scale", "stack/scale then add"],
              ["stack/direct effect: resid_pre, routes pinned", "stack/total effect: resid_pre"]]
    for group in groups:
        group = [name for name in group if name in at]
        for i, a in enumerate(group):
            for b in group[i + 1:]:
                moved = float(np.abs(logits[at[a]] - logits[at[b]]).max()) / subject.range
                if not moved > MIN_EFFECT:
                    raise RuntimeError(f"{subject.name}: {a} and {b} differ by {moved:.1e} of the range only")


def rounded(case):
    """As it is written: measures with three digits, no infinities."""
    out = {key: case[key] for key in ("plan", "row", "positions", "hits")}
    for key in ("effect", "router_margin", "condition_margin", "greedy_margin"):
        if np.isfinite(case.get(key, np.inf)):
            out[key] = float(f"{case[key]:.1e}")
    for key in ("greedy", "attempt"):
        if case.get(key):
            out[key] = case[key]
    return out


def write_cases(path, subject, cases):
    text = lambda value: json.dumps(value, separators=(",", ":"))
    redraws = sum((collections.Counter(case["redraws"]) for case in cases), collections.Counter())
    head = {"model": subject.name, "n_prompt": subject.n_prompt, "range": float(f"{subject.range:.6g}"),
            "f64_error_of_range": float(f"{max(case['error'] for case in cases):.1e}"), "redraws": dict(redraws),
            "versions": PINNED}
    lines = ",\n".join(text(rounded(case)) for case in cases)
    path.write_text(text(head)[:-1] + ',"cases":[\n' + lines + "\n]}\n")


def write_inputs(folder, subject):
    save_file(subject.vectors, folder / "vectors.safetensors")
    for name, layers in subject.routes.items():
        save_file({f"layer.{l}": np.ascontiguousarray(t) for l, t in layers.items()}, folder / name)


def make(name, log):
    subject = Subject(name)
    cases, logits = [], []
    for case in subject.cases():
        made, rows = settle(subject, *case, log)
        made["row"] = sum(map(len, logits))
        cases.append(made)
        logits.append(rows)
    check_differences(subject, cases, logits)
    folder = HOME / name
    folder.mkdir(parents=True, exist_ok=True)
    write_inputs(folder, subject)
    save_file({"tokens": np.array(subject.tokens, dtype=np.int32), "unsteered": subject.unsteered[subject.many].numpy(),
               "logits": np.concatenate(logits)}, folder / "logits.safetensors")
    write_cases(folder / "cases.json", subject, cases)
    for path in folder.iterdir():
        path.chmod(0o644)
    worst = lambda key, choose: choose((c[key] for c in cases if key in c), default=float("nan"))
    size = sum(p.stat().st_size for p in folder.iterdir())
    log(f"  {len(cases)} cases, {size / 1000:.1f} kB; smallest margins: router {worst('router_margin', min):.1e}, condition "
        f"{worst('condition_margin', min):.1e}, greedy {worst('greedy_margin', min):.1e}; smallest effect "
        f"{min(c['effect'] for c in cases if c['effect'] > 1e-6):.1e}; largest difference from float64 {worst('error', max):.1e}")


def check(name):
    """What differs from what is committed, a list of sentences."""
    subject, folder, problems = Subject(name), HOME / name, []
    for file, ours in (("vectors.safetensors", subject.vectors),
                       *((f, {f"layer.{l}": t for l, t in r.items()}) for f, r in subject.routes.items())):
        theirs = load_file(folder / file)
        if theirs.keys() != ours.keys() or not all(np.array_equal(theirs[k], ours[k]) for k in ours):
            problems.append(f"{file} differs")
    committed = json.loads((folder / "cases.json").read_text())
    stored = load_file(folder / "logits.safetensors")
    cases = subject.cases()
    if [c[0] for c in cases] != [c["plan"]["name"] for c in committed["cases"]]:
        return problems + ["the list of cases differs"]
    for (case_name, build, wants), old in zip(cases, committed["cases"]):
        rows = stored["logits"][old["row"]:old["row"] + len(old["positions"])]
        plan = build(old.get("attempt", 0))
        if plan != old["plan"]:
            problems.append(f"{case_name}: another plan")
        try:
            new, logits = subject.record(old["plan"], wants)
        except (Again, RuntimeError) as reason:
            problems.append(f"{case_name}: {reason}")
            continue
        if new["positions"] != old["positions"] or new["hits"] != old["hits"] or new.get("greedy") != old.get("greedy"):
            problems.append(f"{case_name}: other hits or greedy tokens")
        difference = float(np.abs(logits - rows).max()) / subject.range
        # written so that a NaN fails
        if not difference <= MAX_RERUN_DIFFERENCE:
            problems.append(f"{case_name}: logits differ by {difference:.1e} of the range")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    unknown = [n for n in args.names if n not in NAMES]
    if unknown:
        parser.error(f"unknown models {unknown}; known: {', '.join(NAMES)}")
    found = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if found != PINNED:
        parser.error(f"the goldens are pinned to {PINNED}, this Python has {found}: use requirements.txt")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    log = lambda text: print(text, flush=True)
    failed = 0
    for name in args.names or NAMES:
        log(name)
        if not args.check:
            make(name, log)
            continue
        problems = check(name)
        log("  the same as committed" if not problems else "  FAILED: " + "; ".join(problems))
        failed += bool(problems)
    if args.check:
        log(f"{len(args.names or NAMES) - failed} passed, {failed} failed")
        problems = steering_refused.check(HOME)
        log("refused.json: " + ("the same as committed" if not problems else "FAILED: " + "; ".join(problems)))
        failed += bool(problems)
    else:
        steering_refused.write(HOME, log)
        size = sum(p.stat().st_size for p in HOME.rglob("*") if p.is_file() and p.stem not in ("matrix", "control"))
        log(f"{size / 1000:.1f} kB without matrix.* and control.*")
        failed += size > MAX_BYTES
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
