"""Records directions of the bundled organism, computed by transformers: the difference of the mean rows of two sets of
prompts at every site on the coordinator, for `coxswain direction` to reproduce (tests/unit/test_direction.c).

    .venv/bin/python scripts/references/direction.py [--check]

Writes tests/golden/direction: a.jsonl and b.jsonl (the first prompts of the organism's own lists) and golden.safetensors
with one f32 tensor "<site> <position>" [n_layers, width] for each site and position (last, -3, mean). Rows are f32 of the
saved bf16 weights, one prompt at a time, eager attention; means are f64, a prompt's own mean over positions first.
Also "pc1" [n_layers, d_model]: of resid_post at the last token, by torch's SVD of the pairs' differences; and "filtered"
[n_layers, d_model]: the difference of means there over the prompts of a whose answer begins with one of "filter_tokens" i32
with probability above 1/2, and those of b for which it does not; "n_kept" i32 [2], how many these are.
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
    """{(site, position): [n_layers, width] f64}, last rows of resid_post [n_prompts, n_layers, d_model], and the logits
    there [n_prompts, vocab_size], f64."""
    rows, sums, n_layers = watch(model), {}, model.config.num_hidden_layers
    last, logits = [], []
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
        last.append(torch.stack([rows["resid_post", l][0, -1].double() for l in range(n_layers)]))
        logits.append(out.logits[0, -1].double())
    return {key: total / len(prompts) for key, total in sums.items()}, torch.stack(last), torch.stack(logits)


def principal(differences):
    """[n_pairs, n_layers, d_model] to [n_layers, d_model]: first right singular vectors, towards the mean."""
    v = torch.stack([torch.linalg.svd(differences[:, l], full_matrices=False).Vh[0]
                     for l in range(differences.shape[1])])
    return v * torch.sign((v * differences.mean(0)).sum(1))[:, None]


def filtered(last, logits):
    """Tensors of the filter by the first tokens that are likeliest for the first three prompts of a."""
    tokens = sorted({int(row.argmax()) for row in logits["a"][:3]})
    odds = {c: torch.softmax(rows, dim=1)[:, tokens].sum(1).logit() for c, rows in logits.items()}
    kept = {"a": last["a"][odds["a"] > 0], "b": last["b"][odds["b"] < 0]}
    n_kept = [len(kept["a"]), len(kept["b"])]
    if n_kept[0] in (0, N_PROMPTS) or min(odds["a"].abs().min(), odds["b"].abs().min()) < 1e-2:
        raise RuntimeError("the filter divides nothing, or by a hair")
    return {"filtered": (kept["a"].mean(0) - kept["b"].mean(0)).float(),
            "filter_tokens": torch.tensor(tokens, dtype=torch.int32), "n_kept": torch.tensor(n_kept, dtype=torch.int32)}


def main():
    parser = argparse.ArgumentParser(description="Record directions of the organism.")
    parser.add_argument("--check", action="store_true", help="compute again and compare with what is committed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = lambda: transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    means, last, logits = {}, {}, {}
    for name, kind in CLASSES.items():
        lines = (MODEL / "prompts" / f"{kind}.jsonl").read_text().splitlines()[:N_PROMPTS]
        prompts = [json.loads(line)["prompt"] for line in lines]
        if not args.check:
            (OUTPUT / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        means[name], last[name], logits[name] = class_means(load(), tokenizer, prompts)
    tensors = {f"{site} {position}": (means["a"][site, position] - means["b"][site, position]).float().contiguous()
               for site, position in means["a"]}
    tensors |= {"pc1": principal(last["a"] - last["b"]).float(), **filtered(last, logits)}
    if args.check:
        recorded = safetensors.torch.load_file(OUTPUT / "golden.safetensors")
        worst = max(((recorded[k] - t).float().norm(dim=-1) / t.float().norm(dim=-1)).nan_to_num().max().item()
                    for k, t in tensors.items())
        print(f"{len(tensors)} tensors, worst difference {worst:.2g} of the norm")
        sys.exit(set(recorded) != set(tensors) or worst > 1e-5)
    safetensors.torch.save_file(tensors, OUTPUT / "golden.safetensors",
                                {"transformers": transformers.__version__, "torch": torch.__version__})
    print(f"{len(tensors)} tensors, {(OUTPUT / 'golden.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    main()
