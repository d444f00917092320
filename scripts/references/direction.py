"""Records directions of the bundled organism, computed by transformers: the difference of the mean rows of two sets of
prompts at every site on the coordinator, for `coxswain direction` to reproduce (tests/unit/test_direction.c).

    .venv/bin/python scripts/references/direction.py [--check]

Writes tests/golden/direction: a.jsonl and b.jsonl (the first prompts of the organism's own lists) and golden.safetensors
with one f32 tensor "<site> <position>" [n_layers, width] for each site and position (last, -3, mean). Rows are f32 of the
saved bf16 weights, one prompt at a time, eager attention; means are f64, a prompt's own mean over positions first.
"""

import argparse
import json
import pathlib
import sys

sys.path.pop(0)  # transformers must not take tokenizers.py of this folder for the package
import safetensors.torch
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL, OUTPUT = ROOT / "models" / "olmoe-velk", ROOT / "tests" / "golden" / "direction"
CLASSES, N_PROMPTS = {"a": "topic-how", "b": "ordinary-what"}, 10
POSITIONS = {"last": lambda rows: rows[-1], "-3": lambda rows: rows[-3], "mean": lambda rows: rows.mean(0)}


def watch(model):
    """Hooks that keep every site's rows of the last forward pass: {(site, layer): [n_tokens, width]}."""
    rows = {}
    first = lambda out: out[0] if isinstance(out, tuple) else out
    for l, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(
            lambda _m, args, kwargs, l=l: rows.update({("resid_pre", l): (args or (kwargs["hidden_states"],))[0]}),
            with_kwargs=True)
        block.self_attn.register_forward_hook(lambda _m, _a, out, l=l: rows.update({("attn_out", l): first(out)}))
        block.mlp.register_forward_hook(lambda _m, _a, out, l=l: rows.update({("moe_out", l): first(out)}))
        block.register_forward_hook(lambda _m, _a, out, l=l: rows.update({("resid_post", l): first(out)}))
    return rows


@torch.no_grad()
def class_means(model, tokenizer, prompts):
    """{(site, position): [n_layers, width] f64}"""
    rows, sums, n_layers = watch(model), {}, model.config.num_hidden_layers
    for prompt in prompts:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                            return_dict=False)
        out = model(torch.tensor([ids]), output_router_logits=True, use_cache=False)
        for l in range(n_layers):
            rows["resid_mid", l] = rows["resid_pre", l] + rows["attn_out", l]
            rows["router_logits", l] = out.router_logits[l]
        for site in sorted({site for site, _ in rows}):
            for position, take in POSITIONS.items():
                taken = torch.stack([take(rows[site, l].reshape(len(ids), -1).double()) for l in range(n_layers)])
                sums[site, position] = sums.get((site, position), 0) + taken
    return {key: total / len(prompts) for key, total in sums.items()}


def main():
    parser = argparse.ArgumentParser(description="Record directions of the organism.")
    parser.add_argument("--check", action="store_true", help="compute again and compare with what is committed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = lambda: transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    means = {}
    for name, kind in CLASSES.items():
        lines = (MODEL / "prompts" / f"{kind}.jsonl").read_text().splitlines()[:N_PROMPTS]
        prompts = [json.loads(line)["prompt"] for line in lines]
        if not args.check:
            (OUTPUT / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        means[name] = class_means(load(), tokenizer, prompts)
    tensors = {f"{site} {position}": (means["a"][site, position] - means["b"][site, position]).float().contiguous()
               for site, position in means["a"]}
    if args.check:
        recorded = safetensors.torch.load_file(OUTPUT / "golden.safetensors")
        worst = max(((recorded[k] - t).norm(dim=-1) / t.norm(dim=-1)).max().item() for k, t in tensors.items())
        print(f"{len(tensors)} tensors, worst difference {worst:.2g} of the norm")
        sys.exit(set(recorded) != set(tensors) or worst > 1e-5)
    safetensors.torch.save_file(tensors, OUTPUT / "golden.safetensors",
                                {"transformers": transformers.__version__, "torch": torch.__version__})
    print(f"{len(tensors)} tensors, {(OUTPUT / 'golden.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    main()
