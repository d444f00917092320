#!/usr/bin/env python3
"""Records what transformers computes on the bundled model organisms, in f32, or checks what is committed.

    organisms.py [NAME ...]          make tests/golden/models/organism-NAME for every folder of models/
    organisms.py --check [NAME ...]  run the recorded prompts again: tokens equal, logits within 1e-6 of their range
The weights stay where they are: golden.json names the checkpoint's folder, relative to the project's root, by the key
"model" and holds the SHA-256 of its weights. To stay small, golden.safetensors holds the logits of some rows only
(tensor "rows"). The prompt is a held-out question in the model's own chat template, the first whose every router choice
and greedy token has its margin (golden.py). To be run again whenever an organism is trained anew.
Exit code 0: all well; 1: a check failed; 2: bad arguments.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import sys

sys.path.append(sys.path.pop(0))  # tokenizers.py beside this file is not the package that transformers needs
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

import golden
import plain
from make import HOME, MAX_BF16_ACT, MAX_REFERENCE_ERROR, MAX_RERUN_DIFFERENCE, PINNED, bf16_act

ROOT = HOME.parents[2]
N_ROWS = 20             # recorded: the first, the last, those around the end of the prompt, and some between


def weights_sha256(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.glob("model*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def prompts(folder):
    """Held-out questions of all kinds in turn, as (text, ids)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kinds = [[json.loads(line)["prompt"] for line in path.read_text().splitlines()]
             for path in sorted((folder / "heldout").glob("*.jsonl"))]
    for i in range(max(map(len, kinds))):
        for questions in kinds:
            if i < len(questions):
                chat = tokenizer.apply_chat_template([{"role": "user", "content": questions[i]}], tokenize=False,
                                                     add_generation_prompt=True)
                yield questions[i], tokenizer(chat, add_special_tokens=False)["input_ids"]


def recorded_rows(n_prompt):
    last = n_prompt + golden.N_GREEDY - 1
    around = {0, n_prompt - 2, n_prompt - 1, n_prompt, last}
    between = np.linspace(1, last - 1, 4 * N_ROWS).round().astype(int)
    for row in np.random.Generator(np.random.PCG64(n_prompt)).permutation(between):
        if len(around) < N_ROWS:
            around.add(int(row))
    return sorted(around)


def run(folder, prompt):
    """The golden of one prompt; raises golden.Redraw when a margin is too small."""
    g = golden.record(folder, prompt)
    ids = prompt + g["tokens"]
    g["error"] = float(np.abs(plain.forward(folder, ids) - g["logits"]).max()) / g["range"]
    if g["error"] > MAX_REFERENCE_ERROR:
        raise RuntimeError(f"{folder}: plain.py differs from transformers by {g['error']} of the range")
    g["bf16_act"] = bf16_act(folder, ids, g)
    if g["bf16_act"]["difference_of_range"] > MAX_BF16_ACT:
        raise golden.Redraw("activations in bf16 turn a router choice")
    return g


def make(name, log):
    folder, reasons = ROOT / "models" / name, collections.Counter()
    for text, prompt in prompts(folder):
        try:
            g = run(folder, prompt)
            break
        except golden.Redraw as why:
            reasons[str(why)] += 1
    else:
        raise RuntimeError(f"{name}: no held-out question has all its margins: {dict(reasons)}")
    rows = recorded_rows(len(prompt))
    home = HOME / f"organism-{name}"
    home.mkdir(exist_ok=True)
    save_file({"prompt": np.array(prompt, dtype=np.int32), "greedy": np.array(g["tokens"], dtype=np.int32),
               "rows": np.array(rows, dtype=np.int32), "logits": g["logits"][rows].astype(np.float32)},
              home / "golden.safetensors")
    summary = {
        "name": home.name, "model": f"models/{name}", "weights_sha256": weights_sha256(folder), "prompt": text,
        "n_prompt": len(prompt), "n_greedy": golden.N_GREEDY, "vocab_size": g["logits"].shape[1],
        "redraws": dict(reasons), "router_margin": g["router_margin"], "greedy_margin": g["greedy_margin"],
        "logit_range": g["range"], "n_distinct_tokens": g["n_distinct_tokens"],
        "f64_error_of_range": float(f"{g['error']:.1e}"), "cache_drift_of_range": float(f"{g['cache_drift']:.1e}"),
        "bf16_act": g["bf16_act"], "versions": PINNED,
    }
    (home / "golden.json").write_text(json.dumps(summary, indent=2) + "\n")
    (home / "golden.safetensors").chmod(0o644)
    log(f"{home.name}: {text!r}, {dict(reasons)}; range {g['range']:.2f}, router margin {g['router_margin']:.2e}, "
        f"greedy margin {g['greedy_margin']:.2e}, f64 error {g['error']:.1e}, bf16 activations {g['bf16_act']}")


def check(name, log):
    folder, home = ROOT / "models" / name, HOME / f"organism-{name}"
    old, summary = load_file(home / "golden.safetensors"), json.loads((home / "golden.json").read_text())
    problems = []
    if weights_sha256(folder) != summary["weights_sha256"]:
        problems.append("the weights are others than when this was recorded")
    g = run(folder, old["prompt"].tolist())
    if g["tokens"] != old["greedy"].tolist():
        problems.append("other greedy tokens")
    difference = float(np.abs(g["logits"][old["rows"]] - old["logits"]).max()) / g["range"]
    if not difference <= MAX_RERUN_DIFFERENCE:  # written so that a NaN fails
        problems.append(f"logits differ by {difference:.1e} of their range")
    log(f"{home.name}: " + ("the same as committed" if not problems else "FAILED: " + "; ".join(problems)))
    return not problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    known = sorted(p.parent.name for p in (ROOT / "models").glob("*/config.json"))
    if set(args.names) - set(known):
        parser.error(f"unknown organisms {sorted(set(args.names) - set(known))}; known: {', '.join(known)}")
    found = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    if found != PINNED:
        parser.error(f"the goldens are pinned to {PINNED}, this Python has {found}: use requirements.txt")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    log = lambda text: print(text, flush=True)
    failed = 0
    for name in args.names or known:
        if args.check:
            failed += not check(name, log)
        else:
            make(name, log)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
