#!/usr/bin/env python3
"""Control vectors as llama.cpp applies them, in transformers: tests/golden/steering/NAME/control.{gguf,safetensors}.

    steering_gguf.py            make them
    steering_gguf.py --check    compare with what is committed

control.gguf is written by the gguf package in repeng's layout, one direction for each block from 1 on. The reference shares
nothing with steering_hooks.py but the model: it reads the file again with gguf and follows llama.cpp's two steps
(llama-adapter.cpp, llama_control_vector_load and llama_adapter_cvec::apply), whose two offsets by one cancel.
"""

import pathlib
import sys
import tempfile

from steering_models import HOME, MARGIN, MAX_RERUN_DIFFERENCE, MIN_EFFECT, Again, Subject
import gguf
import numpy as np
import torch
from safetensors.numpy import load_file, save_file

NAMES = ("olmoe-clip-bf16", "mixtral-window-bf16", "gpt_oss-bf16", "qwen3_moe-dense-bf16")
STRENGTH, MAX_ATTEMPTS = 0.75, 60


def write_control(path, subject, attempt):
    """repeng's export_gguf. Norms of two thirds of the rows that they are added to, so that the next norm cannot hide them."""
    rng = subject.rng(100 + attempt)
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", subject.config.model_type)
    writer.add_uint32("controlvector.layer_count", subject.config.num_hidden_layers - 1)
    for layer in range(1, subject.config.num_hidden_layers):
        row = rng.standard_normal(subject.config.hidden_size)
        size = float(subject.acts["resid_post", layer].norm(dim=1).mean()) / 1.5
        writer.add_tensor(f"direction.{layer}", (row * size / np.linalg.norm(row)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_control(path, n_embd, n_layer, strength, only):
    """llama.cpp's loader, then its apply: [block] of a row or None. The data begin with block 1."""
    data = np.zeros(n_embd * (n_layer - 1), dtype=np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        layer = int(tensor.name.split(".")[1])
        if only in (None, layer):
            data[n_embd * (layer - 1):n_embd * layer] += np.asarray(tensor.data) * np.float32(strength)
    tensors = [None] * n_layer  # tensors[0] stays null there
    for il in range(1, n_layer):
        tensors[il] = torch.from_numpy(data[n_embd * (il - 1):n_embd * il].copy())
    return tensors


def run(subject, tensors, shift=0):
    """build_cvec(cur, il) at the end of every block il: [n, vocab_size]. shift: what a reader who is off by so many does."""
    handles = []
    blocks = subject.model.model.layers
    for il, tensor in enumerate(tensors):
        if tensor is not None and 0 <= il + shift < len(blocks):
            handles.append(blocks[il + shift].register_forward_hook(
                lambda _m, _i, out, t=tensor: (out[0] + t, *out[1:]) if isinstance(out, tuple) else out + t))
    try:
        with torch.no_grad():
            return subject.model(input_ids=torch.tensor([subject.tokens]), use_cache=False).logits[0].float().numpy()
    finally:
        for handle in handles:
            handle.remove()


def record(subject, path):
    """f32 [n_layers, vocab_size]: the last token's logits with all directions, then with each alone."""
    n, width, rows = subject.config.num_hidden_layers, subject.config.hidden_size, []
    for only in (None, *range(1, n)):
        tensors = load_control(path, width, n, STRENGTH, only)
        at = [l for l in range(1, n) if only in (None, l)]
        ours = subject.hooked({"interventions": [{"site": "resid_post", "layer": l, "op": "add", "vector": f"#{l}"} for l in at]})
        ours.vectors = {str(l): tensors[l] for l in at}
        hooked, logits = ours.run(subject.tokens).numpy(), run(subject, tensors)
        if not ours.router_margin > MARGIN:
            raise Again("router margin")
        if not float(np.abs(hooked - logits).max()) / subject.range <= MAX_RERUN_DIFFERENCE:
            raise RuntimeError(f"{subject.name}: llama.cpp's steps and add at resid_post differ")
        for shift in (-1, 1):
            wrong = run(subject, tensors, shift)
            if not float(np.abs(wrong[-1] - logits[-1]).max()) / subject.range > MIN_EFFECT:
                raise Again("one block off shows too little")
        rows.append(logits[-1])
    return np.stack(rows)


def make(subject, folder):
    for attempt in range(MAX_ATTEMPTS):
        try:
            write_control(folder / "control.gguf", subject, attempt)
            logits = record(subject, folder / "control.gguf")
            save_file({"tokens": np.array(subject.tokens, dtype=np.int32), "logits": logits}, folder / "control.safetensors")
            (folder / "control.safetensors").chmod(0o644)
            return attempt
        except Again:
            continue
    raise RuntimeError(f"{subject.name}: no attempt does")


def check(subject, folder):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        make(subject, scratch)
        old, new = (load_file(place / "control.safetensors")["logits"] for place in (folder, scratch))
        return (scratch / "control.gguf").read_bytes() == (folder / "control.gguf").read_bytes() and \
            bool(float(np.abs(old - new).max()) / subject.range <= MAX_RERUN_DIFFERENCE)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    failed = 0
    for name in NAMES:
        subject = Subject(name)
        if "--check" in sys.argv:
            same = check(subject, HOME / name)
            failed += not same
            print(f"{name}: " + ("the same as committed" if same else "FAILED"), flush=True)
        else:
            print(f"{name}: attempt {make(subject, HOME / name)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
