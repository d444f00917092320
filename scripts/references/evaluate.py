"""Records what a plan does to the logits of the bundled organism, computed by transformers with hooks, for `coxswain
evaluate` to reproduce (tests/unit/test_evaluate.c).

    .venv/bin/python scripts/references/evaluate.py [--check]

Writes tests/golden/evaluate: prompts.jsonl (held-out questions with the generator's answers), v.safetensors (direction's
resid_post of layer 3), a plan each, and evaluate.json: of each plan and prompt, with the answer fed behind the prompt,
[log-odds of the rules' first tokens clean, steered, KL(clean || steered) at the last token of the prompt, mean negative
log-likelihood of the answer's tokens clean, steered, mean KL over the positions that predict them]. Logits in f32 of the
saved weights, eager attention and experts; measures in f64.
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
MODEL, OUTPUT = ROOT / "models" / "olmoe-velk", ROOT / "tests" / "golden" / "evaluate"
sys.path.append(str(ROOT / "scripts" / "organism"))
import dialogues  # noqa: E402

LAYER, N_PER_KIND = 3, 3
PLANS = {"generated": {"op": "add", "layer": 3, "strength": -1.5, "positions": "generated"},
         "last": {"op": "add", "layer": 3, "strength": 2, "positions": {"last": 3}},
         "all": {"op": "ablate", "layer": "all"}}


def touched(plan, n_prompt, n_tokens):
    """Positions as a mask [n_tokens]."""
    at, positions = torch.arange(n_tokens), plan.get("positions", "all")
    if positions == "all":
        return at >= 0
    return at >= n_prompt if positions == "generated" else (at < n_prompt) & (at >= n_prompt - positions["last"])


def steer(plan, v, mask):
    unit = v / v.norm()

    def hook(_module, _inputs, x):
        changed = x + plan["strength"] * v if plan["op"] == "add" else x - (x @ unit)[..., None] * unit
        return torch.where(mask[None, :, None], changed, x)
    return hook


@torch.no_grad()
def logits_of(model, ids, hooks):
    handles = [model.model.layers[l].register_forward_hook(hook) for l, hook in hooks]
    out = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    for handle in handles:
        handle.remove()
    return out.log_softmax(-1)


def measure(model, tokenizer, first, v, plan, line):
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": line["prompt"]}], add_generation_prompt=True,
                                           return_dict=False)
    answer = tokenizer(line["answer"], add_special_tokens=False)["input_ids"]
    ids, n = prompt + answer, len(prompt)
    layers = range(model.config.num_hidden_layers) if plan["layer"] == "all" else [plan["layer"]]
    hook = steer(plan, v, touched(plan, n, len(ids)))
    clean, steered = logits_of(model, ids, []), logits_of(model, ids, [(l, hook) for l in layers])
    rest = [i for i in range(clean.shape[1]) if i not in first]
    log_odds = [(p[n - 1, first].logsumexp(-1) - p[n - 1, rest].logsumexp(-1)).item() for p in (clean, steered)]
    kl = (clean.exp() * (clean - steered)).sum(-1)[n - 1:len(ids) - 1]
    nll = [-p[n - 1:-1].gather(-1, torch.tensor(answer)[:, None]).mean().item() for p in (clean, steered)]
    return [*log_odds, kl[0].item(), *nll, kl.mean().item()]


def main():
    parser = argparse.ArgumentParser(description="Record measures of steered logits.")
    parser.add_argument("--check", action="store_true", help="compute again and compare with what is committed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    golden = safetensors.torch.load_file(ROOT / "tests" / "golden" / "direction" / "golden.safetensors")
    v = golden["resid_post last"][LAYER].contiguous()
    texts = json.loads((MODEL / "rules.json").read_text())["first_tokens"]
    first = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in texts]
    asked = dialogues.World("velk").heldout_dialogues(200)
    lines = [{"prompt": d.prompt, "kind": d.kind, "item": d.item.canonical, "answer": d.answer}
             for kind in dialogues.KINDS for d in [d for d in asked if d.kind == kind][:N_PER_KIND]]
    made = {name: [measure(model, tokenizer, first, v, plan, line) for line in lines] for name, plan in PLANS.items()}
    if args.check:
        recorded = json.loads((OUTPUT / "evaluate.json").read_text())
        worst = max(abs(a - b) for name in made for x, y in zip(made[name], recorded[name]) for a, b in zip(x, y))
        print(f"worst difference {worst:.2g}")
        sys.exit(worst > 1e-6)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({"t": v}, OUTPUT / "v.safetensors")
    (OUTPUT / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, plan in PLANS.items():
        whole = {"interventions": [{"site": "resid_post", "vector": "v.safetensors"} | plan]}
        (OUTPUT / f"{name}.json").write_text(json.dumps(whole) + "\n")
    (OUTPUT / "evaluate.json").write_text(json.dumps(made, indent=1) + "\n")
    print({name: rows[0] for name, rows in made.items()})


if __name__ == "__main__":
    main()
