"""Writes a variant's checkpoint as it lies on the hub, and proves that transformers reads and writes the same.

The tensors are drawn under their hub names, loaded by transformers (nothing missing, nothing unexpected) and saved again
by save_pretrained; names, shapes, dtypes and bytes must come back unchanged (or, with save_original_format=False, stacked
by layer). What save_pretrained wrote is kept, with config.json replaced where the variant asks for the old spelling. MXFP4 is written directly: on a CPU transformers only
reads it.
"""

import json
import pathlib
import shutil

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, Mxfp4Config

import mxfp4
import weights

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def complete_config(config):
    """The config with transformers' defaults filled in, a dict in the new spelling."""
    keys = dict(config)
    keys.pop("quantization_config", None)
    c = AutoConfig.for_model(keys.pop("model_type"), **keys)
    result = c.to_dict()
    for key in ("num_experts", "num_local_experts", "head_dim", "num_key_value_heads", "mlp_only_layers"):
        if getattr(c, key, None) is not None:
            result[key] = getattr(c, key)
    return result


def draw_tensors(variant, seed):
    c = complete_config(variant["config"])
    dtype = DTYPES[variant["dtype"]]
    tensors = {}
    for name, (shape, kind) in sorted(weights.hub_tensors(c, variant["mxfp4"]).items()):
        values = weights.draw(variant, seed, name, shape, kind)
        if kind.startswith("mxfp4"):
            blocks, scales = mxfp4.encode(values)
            tensors[name + "_blocks"], tensors[name + "_scales"] = torch.from_numpy(blocks), torch.from_numpy(scales)
        else:
            tensors[name] = torch.from_numpy(values).to(dtype)
    return tensors


def read_tensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name.startswith("model"):
            tensors.update(load_file(path))
    return tensors


def load(folder, dtype, config=None):
    """(model, config) from a folder, eager attention and eager experts."""
    config = AutoConfig.from_pretrained(folder) if config is None else config
    extra = {}
    if getattr(config, "quantization_config", None):
        extra["quantization_config"] = Mxfp4Config(dequantize=True)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True, **extra)
    problems = {k: v for k, v in info.items() if v}
    if problems:
        raise RuntimeError(f"{folder}: transformers did not read the checkpoint as it is: {problems}")
    return model.eval()


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write(variant, seed, folder):
    folder = pathlib.Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = draw_tensors(variant, seed)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", variant["config"])
    if not variant["mxfp4"]:
        model = load(folder, "auto")
        if variant["spelling"] == "old":
            ours = (folder / "config.json").read_text()
        shutil.rmtree(folder)
        model.save_pretrained(folder, max_shard_size=variant["shard_size"], save_original_format=variant["original_format"])
        if variant["spelling"] == "old":
            (folder / "config.json").write_text(ours)
    _check(variant, folder, tensors if variant["original_format"] else stack(tensors))


def stack(tensors):
    """The hub's tensors of Mixtral as transformers' own format has them: gate above up, experts along a new first axis."""
    result, experts = {}, {}
    for name, t in tensors.items():
        if ".experts." not in name:
            result[name.replace(".block_sparse_moe.", ".mlp.")] = t
            continue
        layer, rest = name.split(".block_sparse_moe.experts.")
        expert, part, _ = rest.split(".")
        experts.setdefault(layer, {}).setdefault(part, {})[int(expert)] = t
    for layer, parts in experts.items():
        gate, up, down = (torch.stack([parts[p][e] for e in range(len(parts[p]))]) for p in ("w1", "w3", "w2"))
        result[layer + ".mlp.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        result[layer + ".mlp.experts.down_proj"] = down
    return result


def _check(variant, folder, tensors):
    """The folder holds the drawn tensors under their hub names, in the shards and the spelling that were asked for."""
    stored = read_tensors(folder)
    if stored.keys() != tensors.keys():
        raise RuntimeError(f"{folder}: names differ from the hub's: {sorted(stored.keys() ^ tensors.keys())}")
    for name, t in tensors.items():
        s = stored[name]
        if s.dtype != t.dtype or s.shape != t.shape or not torch.equal(s.view(torch.uint8), t.view(torch.uint8)):
            raise RuntimeError(f"{folder}: {name} changed on its way through transformers")
    n_shards = len(list(folder.glob("model*.safetensors")))
    index = folder / "model.safetensors.index.json"
    if (n_shards > 1) != index.exists() or n_shards < variant["min_shards"]:
        raise RuntimeError(f"{folder}: {n_shards} shards, at least {variant['min_shards']} wanted")
    if index.exists():
        for name, shard in json.loads(index.read_text())["weight_map"].items():
            with safe_open(folder / shard, "pt") as f:
                if name not in f.keys():
                    raise RuntimeError(f"{folder}: the index puts {name} into {shard}, which lacks it")
    config = json.loads((folder / "config.json").read_text())
    old, new = {"rope_scaling", "rope_theta", "torch_dtype"}, {"rope_parameters", "dtype"}
    wanted, unwanted = (old, new) if variant["spelling"] == "old" else (new, old)
    if not wanted & config.keys() or unwanted & config.keys():
        raise RuntimeError(f"{folder}: config.json is not in the {variant['spelling']} spelling")
