#!/usr/bin/env python3
"""Compares the output of `coxswain logits` with a golden.

    compare.py --tokens NAME            the ids to feed, comma separated: prompt and greedy tokens
    compare.py NAME LOGITS.safetensors  largest difference (of the range; 1e-4 is the contract), its row, greedy tokens
Exit code 0 when the contract holds, 1 when not. Needs only numpy and safetensors.
"""

import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file

HOME = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "models"
TOLERANCE = 1e-4


def main(args):
    if len(args) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    name, output = (args[1], None) if args[0] == "--tokens" else args
    g = load_file(HOME / name / "golden.safetensors")
    if output is None:
        print(",".join(str(t) for t in [*g["prompt"], *g["greedy"]]))
        return 0
    tensors = load_file(output)
    if len(tensors) != 1:
        print(f"{output}: one tensor expected, found {sorted(tensors)}", file=sys.stderr)
        return 2
    ours, n = next(iter(tensors.values())), len(g["prompt"])
    if ours.shape != g["logits"].shape:
        print(f"{name}: shape {ours.shape}, golden {g['logits'].shape}")
        return 1
    error = np.abs(ours.astype(np.float64) - g["logits"]).max(axis=1) / float(g["logits"].max() - g["logits"].min())
    row = int(np.argmax(error))
    first = int(np.argmax(~(error <= TOLERANCE))) if not (error <= TOLERANCE).all() else None
    same = np.array_equal(ours[n - 1:n - 1 + len(g["greedy"])].argmax(axis=1), g["greedy"])
    print(f"{name}: largest difference {error[row]:.2e} of the range, in row {row} of {len(error)} (prompt {n}); "
          f"greedy tokens {'equal' if same else 'DIFFER'}"
          + (f"; first row beyond {TOLERANCE:g}: {first}" if first is not None else ""))
    return 0 if same and first is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
