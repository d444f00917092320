"""Directions of experts by forcing the router in transformers, the paper's way (arXiv 2606.04160), for every organism in
models/: for each layer and expert, one forward pass of each prompt in which that expert's router logit is raised until its
gate weight is 1, so that the block's output is FFN_e(x); the direction is the difference of both classes' means of it.
`coxswain direction --site expert_out` must find the same in one clean pass over the prompts.

    .venv/bin/python scripts/references/expert_directions.py [--check]
    .venv/bin/python scripts/references/expert_directions.py --coxswain build/coxswain [--prompts 128] [MODEL...]

The first writes tests/golden/direction/experts-<model>: a.jsonl and b.jsonl (the first prompts of the organism's own lists)
and golden.safetensors with `directions` f32 [layers, n_experts, positions, d_model], `norms` f32 [layers, n_experts,
positions], the mean of |FFN_e(x)| over all prompts, and `positions` i32 from the end (tests/unit/test_expert_directions.c).
It also writes tests/golden/experts/<model>.safetensors for every recorded random model of tests/golden/models: `layer.<l>` f32
[2, n_experts, d_model], the forced block's output at the first and last token of its prompt (tests/unit/test_observe_experts.c).
The second runs the program over --prompts prompts of each class at the last five positions and compares: exit code 1 when a
direction differs by 1e-5 of its mean norm or more.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.pop(0)  # transformers must not take tokenizers.py of this folder for the package
import safetensors.torch
import torch
import transformers

sys.path.append(str(pathlib.Path(__file__).parent))
import checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "tests" / "golden" / "direction"
OUTPUTS = ROOT / "tests" / "golden" / "experts"
CLASSES, N_RECORDED, RECORDED = {"a": "topic-how", "b": "ordinary-how"}, 6, (1, 3)
PAPERS = (1, 2, 3, 4, 5)
TOLERANCE, RAISED = 1e-5, 1e4


def router_of(block):
    return getattr(block.mlp, "gate", None) or getattr(block.mlp, "router", None)


class Forced:
    """Context: the logit of one expert in one layer is raised before the router's own choice and weights."""

    def __init__(self, router, expert):
        self.router, self.expert = router, expert

    def __enter__(self):
        original, linear = self.router.forward, torch.nn.functional.linear

        def raised(*args, **kwargs):
            logits = linear(*args, **kwargs)
            logits[..., self.expert] += RAISED
            return logits

        def forward(*args, **kwargs):
            torch.nn.functional.linear = raised
            try:
                out = original(*args, **kwargs)
            finally:
                torch.nn.functional.linear = linear
            _, weights, chosen = out
            if not torch.equal(weights[chosen == self.expert], torch.ones(len(weights))):
                raise RuntimeError("the forced expert's gate weight is not 1")
            return out
        self.router.forward = forward

    def __exit__(self, *_):
        del self.router.forward


@torch.no_grad()
def forced_means(model, prompts, positions):
    """Means f64 [layers, n_experts, positions, d_model] of the forced block's output, sums of its norms, and the number of
    forward passes."""
    blocks = model.model.layers
    n_experts = n_experts_of(model.config)
    shape = (len(blocks), n_experts, len(positions))
    sums = torch.zeros(*shape, model.config.hidden_size, dtype=torch.float64)
    norms, n_passes = torch.zeros(shape, dtype=torch.float64), 0
    for l, block in enumerate(blocks):
        seen = {}
        hook = block.mlp.register_forward_hook(
            lambda _m, _a, out: seen.update(y=(out[0] if isinstance(out, tuple) else out)[0]))
        for e in range(n_experts):
            with Forced(router_of(block), e):
                for ids in prompts:
                    model.model(torch.tensor([ids]), use_cache=False)
                    rows = torch.stack([seen["y"][-k] for k in positions]).double()
                    sums[l, e] += rows
                    norms[l, e] += rows.norm(dim=1)
                    n_passes += 1
        hook.remove()
    return sums / len(prompts), norms, n_passes


def read_prompts(path, tokenizer):
    prompts = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
    return [tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True,
                                          return_dict=False) for p in prompts]


def force(folder, files, positions):
    """Directions f32, mean norms f32, forward passes."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = {c: read_prompts(path, tokenizer) for c, path in files.items()}
    (a, norms_a, n_a), (b, norms_b, n_b) = (forced_means(model, prompts[c], positions) for c in "ab")
    norms = (norms_a + norms_b) / sum(map(len, prompts.values()))
    return a - b, norms, n_a + n_b


def put_prompts(folder, target, n):
    """The first n prompts of both classes: {class: path}."""
    target.mkdir(parents=True, exist_ok=True)
    files = {c: target / f"{c}.jsonl" for c in CLASSES}
    for c, kind in CLASSES.items():
        lines = (folder / "prompts" / f"{kind}.jsonl").read_text().splitlines()[:n]
        files[c].write_text("\n".join(lines) + "\n")
    return files


def record(folder, check):
    target = OUTPUT / f"experts-{folder.name}"
    files = {c: target / f"{c}.jsonl" for c in CLASSES} if check else put_prompts(folder, target, N_RECORDED)
    directions, norms, n_passes = force(folder, files, RECORDED)
    golden = target / "golden.safetensors"
    if check:
        recorded = safetensors.torch.load_file(golden)
        worst = ((recorded["directions"] - directions).norm(dim=-1) / norms).max().item()
        print(f"{folder.name}: {n_passes} forward passes, worst difference {worst:.2g} of the mean norm")
        return worst < TOLERANCE
    tensors = {"directions": directions.float().contiguous(), "norms": norms.float().contiguous(),
               "positions": torch.tensor(RECORDED, dtype=torch.int32)}
    safetensors.torch.save_file(tensors, golden, {"transformers": transformers.__version__, "torch": torch.__version__})
    print(f"{folder.name}: {n_passes} forward passes, {golden.stat().st_size} bytes")
    return True


def n_experts_of(config):
    return config.num_local_experts if hasattr(config, "num_local_experts") else config.num_experts


@torch.no_grad()
def record_outputs(folder, check):
    """Of a random model: every expert's output at the first and last token of its recorded prompt."""
    model = checkpoint.load(folder, torch.float32)
    ids = safetensors.torch.load_file(folder / "golden.safetensors")["prompt"].reshape(1, -1).long()
    tensors = {}
    for l, block in enumerate(model.model.layers):
        if not hasattr(block.mlp, "experts"):
            continue
        rows, seen = [], {}
        hook = block.mlp.register_forward_hook(
            lambda _m, _a, out: seen.update(y=(out[0] if isinstance(out, tuple) else out)))
        for e in range(n_experts_of(model.config)):
            with Forced(router_of(block), e):
                model.model(ids, use_cache=False)
            rows.append(seen["y"].reshape(ids.shape[1], -1)[[0, -1]])
        hook.remove()
        tensors[f"layer.{l}"] = torch.stack(rows, dim=1).contiguous()
    golden = OUTPUTS / f"{folder.name}.safetensors"
    if check:
        recorded = safetensors.torch.load_file(golden)
        worst = max(((recorded[k] - t).norm(dim=-1) / t.norm(dim=-1)).max().item() for k, t in tensors.items())
        print(f"{folder.name}: worst difference {worst:.2g} of the norm")
        return set(recorded) == set(tensors) and worst < TOLERANCE
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, golden, {"transformers": transformers.__version__, "torch": torch.__version__})
    print(f"{folder.name}: {golden.stat().st_size} bytes")
    return True


def compare(folder, coxswain, n):
    with tempfile.TemporaryDirectory() as place:
        files = put_prompts(folder, pathlib.Path(place), n)
        output = pathlib.Path(place) / "v.safetensors"
        told = subprocess.run([coxswain, "direction", "--model", folder, "--a", files["a"], "--b", files["b"], "--site",
                               "expert_out", "--position", ",".join(f"-{k}" for k in PAPERS), "--output", output],
                              check=True, capture_output=True, text=True).stdout
        ours = safetensors.torch.load_file(output)
        directions, norms, n_passes = force(folder, files, PAPERS)
    worst, n_absent = 0.0, 0
    for l in range(norms.shape[0]):
        for e in range(norms.shape[1]):
            for i, k in enumerate(PAPERS):
                found = ours.get(f"expert_out.{l}.{e}@-{k}")
                n_absent += found is None  # both classes' means are equal there
                off = (directions[l, e, i] - (0 if found is None else found.double())).norm()
                worst = max(worst, (off / norms[l, e, i]).item())
    print(f"{folder.name}: {norms.numel()} directions ({n_absent} absent), worst difference {worst:.3g} of the mean norm of "
          f"FFN_e(x); {n_passes} forced forward passes in transformers\n  coxswain: {told.splitlines()[-1]}")
    return worst < TOLERANCE and f"forward passes: {sum(1 for _ in CLASSES) * n}," in told and str(n_passes) in told


def main():
    parser = argparse.ArgumentParser(description="Directions of experts by forcing the router in transformers.")
    parser.add_argument("models", nargs="*", help="names in models/ (default: all)")
    parser.add_argument("--check", action="store_true", help="compute again and compare with what is committed")
    parser.add_argument("--coxswain", type=pathlib.Path, help="compare with this program")
    parser.add_argument("--prompts", type=int, default=16, help="of each class, with --coxswain")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folders = [p.parent for p in sorted((ROOT / "models").glob("*/config.json")) if not args.models or p.parent.name in args.models]
    run = (lambda f: compare(f, args.coxswain.resolve(), args.prompts)) if args.coxswain else (lambda f: record(f, args.check))
    results = [run(folder) for folder in folders]
    if not args.coxswain and not args.models:
        recordings = sorted((ROOT / "tests" / "golden" / "models").glob("*/config.json"))
        results += [record_outputs(path.parent, args.check) for path in recordings]
    sys.exit(not results or not all(results))


if __name__ == "__main__":
    main()
