"""Records what the parts of the bundled organism write along a direction, computed by transformers, for `coxswain decompose` to
reproduce (tests/unit/test_decompose.c).

    .venv/bin/python scripts/references/decompose.py [--check]

Writes tests/golden/decompose.json: for the prompts of tests/golden/direction and the vector of tests/golden/evaluate, of the
last token and of the mean over tokens: mean projection on the unit direction, a less b, of what enters the first layer,
of each layer's attention, block of experts and output, and of each expert: transformers' own experts module, called again
with all gate weights but the expert's set to 0. f32 of the saved weights, eager, one prompt at a time; sums in f64.
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
MODEL, GOLDEN = ROOT / "models" / "olmoe-velk", ROOT / "tests" / "golden"
OUTPUT = GOLDEN / "decompose.json"
POSITIONS = {"last": lambda rows: rows[-1], "mean": lambda rows: rows.mean(0)}


def watch(model, rows):
    first = lambda out: out[0] if isinstance(out, tuple) else out
    model.model.layers[0].register_forward_pre_hook(lambda _m, args: rows.update({"embedding": args[0]}))
    for l, block in enumerate(model.model.layers):
        block.self_attn.register_forward_hook(lambda _m, _a, out, l=l: rows.update({("attention", l): first(out)}))
        block.mlp.register_forward_hook(lambda _m, _a, out, l=l: rows.update({("block", l): first(out)}))
        block.register_forward_hook(lambda _m, _a, out, l=l: rows.update({("after", l): first(out)}))
        block.mlp.experts.register_forward_hook(lambda m, args, _out, l=l: rows.update({
            ("expert", l, e): m.forward(args[0], args[1], args[2] * (args[1] == e)) for e in range(m.num_experts)}))


@torch.no_grad()
def means(model, rows, tokenizer, unit, prompts):
    """{position: {part: mean projection}}"""
    sums = {position: {} for position in POSITIONS}
    for prompt in prompts:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                            return_dict=False)
        rows.clear()
        model(torch.tensor([ids]), use_cache=False)
        for part, h in rows.items():
            along = h.reshape(len(ids), -1).double() @ unit
            for position, take in POSITIONS.items():
                sums[position][part] = sums[position].get(part, 0) + take(along).item() / len(prompts)
    return sums


def main():
    parser = argparse.ArgumentParser(description="Record what parts write along a direction.")
    parser.add_argument("--check", action="store_true", help="compute again and compare with what is committed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    v = safetensors.torch.load_file(GOLDEN / "evaluate" / "v.safetensors")["t"].double()
    rows = {}
    watch(model, rows)
    read = lambda name: [json.loads(line)["prompt"] for line in
                         (GOLDEN / "direction" / f"{name}.jsonl").read_text().splitlines()]
    a, b = (means(model, rows, tokenizer, v / v.norm(), read(name)) for name in ("a", "b"))
    layers, experts = range(model.config.num_hidden_layers), range(model.config.num_experts)
    made = {}
    for position in POSITIONS:
        difference = {part: a[position][part] - b[position][part] for part in a[position]}
        made[position] = {"embedding": difference["embedding"], "layers": [
            {name: difference[name, l] for name in ("attention", "block", "after")}
            | {"experts": [difference["expert", l, e] for e in experts]} for l in layers]}
    text = json.dumps(made) + "\n"
    if args.check:
        sys.exit(text != OUTPUT.read_text())
    OUTPUT.write_text(text)
    print(f"{len(text)} bytes")


if __name__ == "__main__":
    main()
