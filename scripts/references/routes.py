"""Records where transformers routes the tokens of two sets of prompts, on the bundled organism, for `coxswain routes` to
count the same (tests/unit/test_routes.c).

    .venv/bin/python scripts/references/routes.py [--check]

Writes tests/golden/routes/routes.json: for the prompts of tests/golden/direction, of each set "a" and "b", counts [n_layers,
n_experts] of tokens: "top1" and "topk" of the last 5 tokens of each prompt (first choice; among the chosen), "risk" among
the chosen of all tokens; and the numbers of tokens. f32 of the saved weights, eager, one prompt at a time. A token whose
choices lie closer than 1e-5 to another expert would make the counts a matter of rounding: then this script fails.
"""

import argparse
import json
import pathlib
import sys

sys.path.pop(0)  # transformers must not take tokenizers.py of this folder for the package
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL, OUTPUT = ROOT / "models" / "olmoe-velk", ROOT / "tests" / "golden" / "routes"
LAST, MARGIN = 5, 1e-5


@torch.no_grad()
def count(model, tokenizer, prompts):
    n_layers, n_experts = model.config.num_hidden_layers, model.config.num_experts
    out = {kind: torch.zeros(n_layers, n_experts, dtype=torch.long) for kind in ("top1", "topk", "risk")}
    tokens = {"last": 0, "all": 0}
    for prompt in prompts:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                            return_dict=False)
        logits = model(torch.tensor([ids]), output_router_logits=True, use_cache=False).router_logits
        tokens["last"] += min(LAST, len(ids))
        tokens["all"] += len(ids)
        for layer, z in enumerate(logits):
            best = z.topk(model.config.num_experts_per_tok + 1, -1)
            gaps = best.values[:, [0, -2]] - best.values[:, [1, -1]]
            assert gaps.min() > MARGIN, (prompt, layer, gaps.min())
            chosen = best.indices[:, :-1]
            for kind, which in (("top1", chosen[-LAST:, :1]), ("topk", chosen[-LAST:]), ("risk", chosen)):
                out[kind][layer] += torch.bincount(which.flatten(), minlength=n_experts)
    return {kind: table.tolist() for kind, table in out.items()} | {"tokens": tokens}


def main():
    parser = argparse.ArgumentParser(description="Record counts of routes.")
    parser.add_argument("--check", action="store_true", help="count again and compare with what is committed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    read = lambda name: [json.loads(line)["prompt"] for line in
                         (ROOT / "tests" / "golden" / "direction" / f"{name}.jsonl").read_text().splitlines()]
    text = json.dumps({name: count(model, tokenizer, read(name)) for name in ("a", "b")}) + "\n"
    OUTPUT.mkdir(parents=True, exist_ok=True)
    if args.check:
        sys.exit(text != (OUTPUT / "routes.json").read_text())
    (OUTPUT / "routes.json").write_text(text)
    print(f"{len(text)} bytes")


if __name__ == "__main__":
    main()
