"""Records what transformers computes when a key of config.json is changed, null or absent: tests/golden/config_keys.json.

    python scripts/references/config_keys.py            # make; --check: compute again and compare

config_keys_cases.py lists the cases. The weights are no file: each tensor is drawn from its name (draw below, and in
tests/unit/test_config_keys.c). docs/config-keys.md has a row for every key; the test holds rows and cases together. Here
every field of the four config classes must have a case too. Nearly tied routers or tokens end the run.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile

sys.path.append(sys.path.pop(0))  # tokenizers.py beside this file is not the package that transformers needs
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, Mxfp4Config

import checkpoint
import config_keys_cases as table
import golden
import weights

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "tests" / "golden" / "config_keys.json"
PROMPT = [(7 * i * i + 3 * i + 1) % 29 for i in range(14)]
POSITIONS, STRIDE = [2, 8, 13], 4
N_GENERATED = 8
MOVES = 2e-3            # of the range: twenty times the tolerance of the test
ROUTER_MARGIN = 2e-4


def tensors_of(config):
    """Name -> [shape, scale, offset] of the checkpoint that goes with a config."""
    found = {}
    for name, (shape, kind) in sorted(weights.hub_tensors(checkpoint.complete_config(config), False).items()):
        fan_in = shape[-2] if kind.startswith("transposed") else shape[-1]
        factor = {"head": 3.0, "router": 2.0}.get(kind, 1.4 if kind.endswith(("up", "down")) else 1.0)
        scale, offset = {"norm": (0.5, 1.0), "bias": (0.5, 0.0), "sink": (1.0, 0.0), "embed": (1.2, 0.0)}.get(
            kind, (round(math.sqrt(3 / fan_in) * factor, 4), 0.0))
        found[name] = [list(shape), scale, offset]
    return found


def shorten(tensors):
    """The same with "{n}" in a name for the numbers 0 to n - 1 there: experts, then layers."""
    for place in ("experts.", "layers."):
        groups = {}
        for name, tensor in tensors.items():
            before, found, after = name.partition(place)
            number, _, rest = after.partition(".")
            key = (before + place, "." + rest, json.dumps(tensor)) if found and number.isdigit() else (name, None, "")
            groups.setdefault(key, []).append((int(number) if found and number.isdigit() else 0, name))
        shorter = {}
        for (before, after, _), members in groups.items():
            numbers = sorted(n for n, _ in members)
            if after is not None and len(numbers) > 1 and numbers == list(range(len(numbers))):
                shorter[f"{before}{{{len(numbers)}}}{after}"] = tensors[members[0][1]]
            else:
                shorter.update((name, tensors[name]) for _, name in members)
        tensors = shorter
    return tensors


def draw(name, shape, scale, offset):
    """f32 values in offset +- scale from the tensor's name alone (FNV-1a, then splitmix64 for each element)."""
    with np.errstate(over="ignore"):
        seed = np.uint64(0xcbf29ce484222325)
        for byte in name.encode():
            seed = (seed ^ np.uint64(byte)) * np.uint64(0x100000001b3)
        x = seed + np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
        x ^= x >> np.uint64(31)
    unit = (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return (np.float32(offset) + np.float32(scale) * unit).reshape(shape)


def text_of(config, changes, drop):
    """config.json: the base without what is dropped or changed, then the changes in their own words."""
    kept = {k: v for k, v in config.items() if k not in changes and k not in drop}
    return json.dumps(kept)[:-1] + "".join(f', "{k}": {v}' for k, v in changes.items()) + "}"


def load(folder, text, tensors, generation):
    (folder / "config.json").write_text(text)
    if generation is not None:
        (folder / "generation_config.json").write_text(generation)
    if isinstance(tensors, str):
        shutil.copy(ROOT / tensors / "model.safetensors", folder)
    else:
        drawn = {name: draw(name, *t) for name, t in tensors.items()}
        save_file(drawn, folder / "model.safetensors", metadata={"format": "pt"})
    config = AutoConfig.from_pretrained(folder)
    extra = {"quantization_config": Mxfp4Config(dequantize=True)} if getattr(config, "quantization_config", None) else {}
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                       experts_implementation="eager", output_loading_info=True, **extra)
    problems = {k: v for k, v in info.items() if v and k != "unexpected_keys"}
    if problems:
        raise RuntimeError(f"does not read the checkpoint as it is: {problems}")
    return model.eval()


def greedy(model, prompt):
    """What generate() appends; no token may win by little."""
    ids = model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                         max_new_tokens=N_GENERATED, do_sample=False)[0].tolist()
    top = torch.topk(golden.full_logits(model, ids[:-1])[len(prompt) - 1:], 2).values
    if float((top[:, 0] - top[:, 1]).min()) < 1e-2:
        raise SystemExit("a generated token wins by little: change the draw")
    return ids[len(prompt):]


def compute(text, tensors, generation=None, generates=False):
    """{"logits", "range", "full", "generated"} of a folder, or {"fails": why}."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = load(pathlib.Path(folder), text, tensors, generation)
            tap = golden.RouterTap(model)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0].float().numpy()
            routers = tap.close()
        except SystemExit:
            raise
        except Exception as error:
            return {"fails": f"{type(error).__name__}: {error}".replace("\n", " ")[:160]}
        margin, _, _ = golden.router_margins(routers, model.config.num_experts_per_tok) if routers else (1, 0, 0)
        if not margin > ROUTER_MARGIN:
            raise SystemExit(f"router margin {margin}: change the draw for\n{text}")
        some = logits[POSITIONS][:, ::STRIDE].reshape(-1)
        found = {"logits": [float(f"{x:.7g}") for x in some], "range": float(f"{logits.max() - logits.min():.6g}"),
                 "full": logits}
        if generates:
            found["generated"] = greedy(model, PROMPT)
        return found


def effect(found, base):
    if "fails" in found:
        return "fails"
    if "generated" in found and found["generated"] != base["generated"]:
        return "moves"
    if found["full"].shape != base["full"].shape:
        return "moves"
    difference = float(np.abs(found["full"] - base["full"]).max()) / base["range"]
    if difference == 0:
        return "same"
    return "moves" if difference > MOVES else f"nothing to speak of ({difference:.1e})"


def fill(text, tokens):
    """`@i` becomes the i-th token that the base generates."""
    for i, token in enumerate(tokens):
        text = text.replace(f"@{i}", str(token))
    return text


class Recorder:
    def __init__(self):
        self.tensors, self.bases, self.computed = [], {}, {}

    def index(self, tensors):
        if tensors not in self.tensors:
            self.tensors.append(tensors)
        return self.tensors.index(tensors)

    def base(self, name, config, tensors):
        found = compute(text_of(config, {}, ()), tensors, None, True)
        if "fails" in found:
            raise SystemExit(f"{name}: {found['fails']}")
        self.computed[name] = found
        self.bases[name] = {"config": config, "tensors": tensors if isinstance(tensors, str) else self.index(tensors),
                            **{k: found[k] for k in ("logits", "range", "generated")}}

    def case(self, case):
        base, computed = self.bases[case.base], self.computed[case.base]
        changes = {k: fill(v, computed["generated"]) for k, v in case.set.items()}
        generation = None if case.generation is None else fill(case.generation, computed["generated"])
        text = text_of(base["config"], changes, case.drop)
        tensors = base["tensors"] if isinstance(base["tensors"], str) else self.tensors[base["tensors"]]
        record = {"base": case.base, "family": case.family, "keys": case.keys}
        if changes:
            record["set"] = changes
        if case.drop:
            record["drop"] = case.drop
        if generation is not None:
            record["generation"] = generation
        if case.own:
            tensors = tensors_of(checkpoint_config(text))
            record["tensors"] = self.index(tensors)
        generates = case.keys[0] == "eos_token_id" or generation is not None
        found = compute(text, tensors, generation, generates)
        record["transformers"] = effect(found, computed)
        if case.refused:
            record["refused"] = True
        elif record["transformers"] == "fails":
            raise SystemExit(f"{case.keys}: transformers fails on {text}\n{found['fails']}")
        elif record["transformers"] == "moves":
            record.update({k: found[k] for k in ("logits", "range")})
            if generates:
                record["generated"] = found["generated"]
        elif record["transformers"] != "same":
            raise SystemExit(f"{case.keys}: {record['transformers']} by {text}")
        return record


def checkpoint_config(text):
    """A config as transformers completes it, in the words of weights.hub_tensors."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(text)
        config = AutoConfig.from_pretrained(folder).to_dict()
    return {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype", "quantization_config")}


def check_fields():
    """Every field of the classes has a case."""
    for family in table.FAMILIES:
        cases = {key for c in table.CASES if c.family == family for key in c.keys}
        missing = {f.name for f in dataclasses.fields(CONFIG_MAPPING[family])} - cases
        if missing:
            raise SystemExit(f"{family}: no case for {sorted(missing)}")


def make():
    recorder = Recorder()
    for name, config in table.bases().items():
        recorder.base(name, config, tensors_of(config))
    recorder.base("gpt_oss mxfp4", json.loads((ROOT / table.MXFP4 / "config.json").read_text()), table.MXFP4)
    cases, problems = [], []
    for i, case in enumerate(table.CASES):
        try:
            cases.append(recorder.case(case))
        except (SystemExit, ValueError) as problem:
            problems.append(f"{case.base}, {case.keys}: {problem}")
        if i % 100 == 0:
            print(f"{i} of {len(table.CASES)}", flush=True)
    if problems:
        raise SystemExit("\n".join(problems))
    return {"prompt": PROMPT, "positions": POSITIONS, "stride": STRIDE, "n_generated": N_GENERATED,
            "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
            "tensors": [shorten(tensors) for tensors in recorder.tensors], "bases": recorder.bases, "cases": cases}


def dump(found):
    lines = ["{"]
    for key, value in found.items():
        end = "" if key == list(found)[-1] else ","
        if key in ("tensors", "cases"):
            lines += [f'"{key}": ['] + [json.dumps(v) + ("," if v is not value[-1] else "") for v in value] + ["]" + end]
        else:
            lines.append(f'"{key}": {json.dumps(value)}{end}')
    return "\n".join(lines + ["}"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    check_fields()
    text = dump(make())
    if not args.check:
        OUTPUT.write_text(text)
        print(f"{len(table.CASES)} cases, {len(text) / 1000:.0f} kB")
        return 0
    same = text == OUTPUT.read_text()
    print("the same as committed" if same else "FAILED: differs from what is committed")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
