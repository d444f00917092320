#!/usr/bin/env python3
"""Makes the reference models and their goldens, or checks the committed ones.

    make.py                    make every model, under tests/golden/models/
    make.py NAME ...           make only these
    make.py --check [NAME ...] draw them again from the recorded seeds and compare: files byte for byte, greedy tokens
                               equal, logits within 1e-6 of their range
    make.py --list             names and features
Exit code 0: all well; 1: a check failed; 2: bad arguments.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import sys
import tempfile
import zlib

sys.path.append(sys.path.pop(0))  # tokenizers.py beside this file is not the package that transformers needs
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import safetensors
import torch
import transformers
from safetensors.numpy import load_file, save_file

import checkpoint
import golden
import mxfp4
import plain
from variants import VARIANTS

HOME = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "models"
MAX_SEEDS = 400
MAX_RERUN_DIFFERENCE = 1e-6
MIN_EFFECT = 20 * golden.TOLERANCE
MAX_REFERENCE_ERROR = 1e-5
MAX_BF16_ACT = 1e-2     # half the tolerance of that kernel
PINNED = {"torch": "2.13.0", "transformers": "5.23.0"}


def prompt_of(variant, seed):
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(variant["name"].encode()), seed, 1]))
    return [int(t) for t in rng.integers(0, variant["config"]["vocab_size"], variant["n_prompt"])]


def check_mxfp4(folder):
    """Our decoder, transformers' own, and what transformers loads are the same numbers."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors
    stored = checkpoint.read_tensors(folder)
    loaded = dict(checkpoint.load(folder, torch.float32).named_parameters())
    for name in [n.removesuffix("_blocks") for n in stored if n.endswith("_blocks")]:
        blocks, scales = stored[name + "_blocks"], stored[name + "_scales"]
        ours = torch.from_numpy(mxfp4.decode(blocks.numpy(), scales.numpy())).transpose(1, 2)
        theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        if not torch.equal(ours, theirs) or not torch.equal(ours, loaded[name]):
            raise RuntimeError(f"{folder}: MXFP4 decoders disagree on {name}")
        if not torch.equal(theirs, convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16).float()):
            raise RuntimeError(f"{folder}: {name} is not exact in bfloat16")


def bf16_act(folder, ids, g):
    """How far activations rounded to bf16 move the logits: what `--kernel bf16-act` can be held to on this model."""
    rounded = plain.forward(folder, ids, plain.to_bf16)
    return {"difference_of_range": float(f"{np.abs(rounded - g['logits']).max() / g['range']:.2g}"),
            "mean_kl": float(f"{plain.mean_kl(g['logits'], rounded):.2g}")}


def draw_until_sharp(variant, folder, seeds, log):
    """(seed, prompt, golden) of the first seed whose every decision has its margin."""
    reasons = collections.Counter()
    for seed in seeds:
        checkpoint.write(variant, seed, folder)
        prompt = prompt_of(variant, seed)
        try:
            result = golden.record(folder, prompt)
            result["bf16_act"] = bf16_act(folder, prompt + result["tokens"], result)
            if variant["bf16_act"] and result["bf16_act"]["difference_of_range"] > MAX_BF16_ACT:
                raise golden.Redraw("activations in bf16 turn a router choice")
        except golden.Redraw as why:
            reasons[str(why)] += 1
            continue
        log(f"  seed {seed} after {sum(reasons.values())} redraws {dict(reasons)}")
        return seed, prompt, result, dict(reasons)
    raise RuntimeError(f"{variant['name']}: none of {len(seeds)} seeds has all its margins: {dict(reasons)}")


def make(variant, folder, seeds, log):
    seed, prompt, g, redraws = draw_until_sharp(variant, folder, seeds, log)
    if variant["mxfp4"]:
        check_mxfp4(folder)
    ids = prompt + g["tokens"]
    error = float(np.abs(plain.forward(folder, ids) - g["logits"]).max()) / g["range"]
    if error > MAX_REFERENCE_ERROR:
        raise RuntimeError(f"{folder}: the notes' forward pass differs from transformers by {error} of the range")
    effects = golden.feature_effects(folder, ids, g["logits"], g["range"])
    for name, effect in sorted(effects.items(), key=lambda e: e[1]):
        idle = name in variant["expected_idle"]
        if idle != (effect < MIN_EFFECT):
            raise RuntimeError(f"{folder}: {name} moves the logits by {effect:.2e} of the range; "
                               f"{'expected to change nothing' if idle else f'{MIN_EFFECT:.0e} wanted'}")
    log(f"  range {g['range']:.2f}, router margin {g['router_margin']:.2e}, greedy margin {g['greedy_margin']:.2e}, "
        f"{g['n_distinct_tokens']} distinct tokens, f64 error {error:.1e}, cache drift {g['cache_drift']:.1e}, "
        f"bf16 activations {g['bf16_act']['difference_of_range']:.1e}, KL {g['bf16_act']['mean_kl']:.1e}")
    weakest = sorted(effects.items(), key=lambda e: e[1])[:4]
    log("  weakest features: " + ", ".join(f"{n} {e:.1e}" for n, e in weakest))
    margins = {"router_margin": g["router_margin"], "greedy_margin": g["greedy_margin"], "logit_range": g["range"]}
    # one metadata key: safetensors does not keep the order of several
    save_file({"prompt": np.array(prompt, dtype=np.int32), "greedy": np.array(g["tokens"], dtype=np.int32),
               "logits": g["logits"].astype(np.float32), **g["debug"]},
              folder / "golden.safetensors", metadata={"margins": json.dumps(margins, sort_keys=True)})
    config = variant["config"]
    summary = {
        "name": variant["name"], "family": config["model_type"], "features": variant["features"],
        "weights_dtype": "mxfp4 experts, " + variant["dtype"] if variant["mxfp4"] else variant["dtype"],
        "config_spelling": variant["spelling"], "n_prompt": len(prompt), "n_greedy": golden.N_GREEDY,
        "vocab_size": config["vocab_size"], "seed": seed, "redraws": redraws, **margins,
        "router_margin_layer_and_row": g["router_margin_at"], "n_distinct_tokens": g["n_distinct_tokens"],
        "logit_min": float(g["logits"].min()), "logit_max": float(g["logits"].max()),
        "f64_error_of_range": float(f"{error:.1e}"), "cache_drift_of_range": float(f"{g['cache_drift']:.1e}"),
        "bf16_act": g["bf16_act"],
        "feature_effects": {k: float(f"{v:.3g}") for k, v in sorted(effects.items())},
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
                     "numpy": np.__version__, "safetensors": safetensors.__version__},
    }
    (folder / "golden.json").write_text(json.dumps(summary, indent=2) + "\n")


def compare(fresh, committed):
    """What differs between two folders, a list of sentences."""
    problems = []
    names = {p.name for p in fresh.iterdir()} | {p.name for p in committed.iterdir()}
    for name in sorted(names - {"golden.safetensors", "golden.json"}):
        a, b = fresh / name, committed / name
        if not a.exists() or not b.exists() or a.read_bytes() != b.read_bytes():
            problems.append(f"{name} differs")
    a, b = load_file(fresh / "golden.safetensors"), load_file(committed / "golden.safetensors")
    if a.keys() != b.keys():
        return problems + [f"golden.safetensors holds other tensors: {sorted(a.keys() ^ b.keys())}"]
    for key in sorted(a):
        if a[key].dtype != b[key].dtype or a[key].shape != b[key].shape:
            problems.append(f"{key} has another dtype or shape")
        elif a[key].dtype == np.int32:
            if not np.array_equal(a[key], b[key]):
                problems.append(f"{key} differs")
        else:
            difference = float(np.abs(a[key] - b[key]).max()) / float(b[key].max() - b[key].min())
            # written so that a NaN fails
            if not difference <= MAX_RERUN_DIFFERENCE:
                problems.append(f"{key} differs by {difference:.1e} of its range")
    old, new = (json.loads((p / "golden.json").read_text()) for p in (committed, fresh))
    for key in ("name", "family", "features", "seed", "n_prompt", "weights_dtype", "versions"):
        if old[key] != new[key]:
            problems.append(f"golden.json: {key} differs")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    known = {v["name"]: v for v in VARIANTS}
    unknown = [n for n in args.names if n not in known]
    if unknown:
        parser.error(f"unknown models {unknown}; known: {', '.join(known)}")
    chosen = [known[n] for n in args.names] or VARIANTS
    if args.list:
        for v in chosen:
            print(f"{v['name']:24} {v['features']}")
        return 0
    found = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if found != PINNED:
        parser.error(f"the goldens are pinned to {PINNED}, this Python has {found}: use requirements.txt")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    log = lambda text: print(text, flush=True)
    failed = 0
    for variant in chosen:
        log(f"{variant['name']}: {variant['features']}")
        with tempfile.TemporaryDirectory() as scratch:
            folder, committed = pathlib.Path(scratch) / variant["name"], HOME / variant["name"]
            if args.check:
                seed = json.loads((committed / "golden.json").read_text())["seed"]
                make(variant, folder, [seed], log)
                problems = compare(folder, committed)
                log("  the same as committed" if not problems else "  FAILED: " + "; ".join(problems))
                failed += bool(problems)
            else:
                make(variant, folder, range(MAX_SEEDS), log)
                shutil.rmtree(committed, ignore_errors=True)
                shutil.copytree(folder, committed)
                for path in committed.iterdir():
                    path.chmod(0o644)
                log(f"  {sum(p.stat().st_size for p in committed.iterdir()) / 1000:.1f} kB")
    if args.check:
        log(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
