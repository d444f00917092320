"""What transformers makes of tests/golden/released_traits, a folder of our own with the traits of released ones.

  python scripts/references/released_traits.py build/tests/cli/stand_in_driver tests/golden/released_traits [--check]

The tokenizer is the bundled organism's, the weights are stand_in_driver's, experts in one tensor a layer. Records digests of
the texts and ids of the conversations there (chats.json, as released.py), with the templates of tokenizer_config.json and with
own_template.jinja, and what is generated greedily (greedy.json), whose every token leads by more than 1e-3. --show prints the
texts."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(sys.path.pop(0))  # tokenizers.py beside this file is not the package that transformers needs

import torch  # noqa: E402
from released import DATE, answer, as_golden, fix_date  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SEED, N_TOKENS, MARGIN = "11", 12, 1e-3


def assemble(folder, own):
    for name in ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(folder / name, own)
    shutil.copy(ROOT / "models/olmoe-velk/tokenizer.json", own)


def case(name, own, bodies):
    tokenizer = AutoTokenizer.from_pretrained(own)
    answers = [answer(tokenizer, body, True) for body in bodies]
    if "--show" in sys.argv:
        print(name, *(json.dumps(line, ensure_ascii=False) for _, line in answers), sep="\n")
    return {"name": name, "answers": [as_golden(*one) for one in answers]}, answers[0][1]["ids"]


def generate(own, ids):
    """Greedy decoding without a cache: ids up to one of generation_config's end tokens, which is no special one; nor is it text."""
    model = AutoModelForCausalLM.from_pretrained(own, dtype=torch.float32, attn_implementation="eager")
    ends, made = model.generation_config.eos_token_id, []
    while len(made) < N_TOKENS and not (made and made[-1] in ends):
        with torch.no_grad():
            logits = model(torch.tensor([ids + made])).logits[0, -1]
        best = logits.topk(2).values
        assert best[0] - best[1] > MARGIN, "another seed, please"
        made.append(int(logits.argmax()))
    assert made[-1] in ends, "an end token in time, please"
    return made, sum(p.numel() for p in model.parameters())


def main():
    driver, folder, check = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), "--check" in sys.argv
    fix_date(DATE)
    bodies = [json.loads(line) for line in (folder / "conversations.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as own:
        assemble(folder, own)
        listed, first = case("templates of tokenizer_config.json", own, bodies)
        subprocess.run([driver, own, "fused", SEED], check=True, stdout=subprocess.DEVNULL)
        ids, n_parameters = generate(own, first)
        text = AutoTokenizer.from_pretrained(own).decode(ids[:-1], skip_special_tokens=True)
        shutil.copy(folder / "own_template.jinja", Path(own) / "chat_template.jinja")
        beside, _ = case("chat_template.jinja", own, bodies)
    names = [f"line {i + 1}" for i in range(len(bodies))]
    made = {"chats.json": {"date": DATE, "conversations": names, "cases": [listed, beside]},
            "greedy.json": {"seed": int(SEED), "parameters": n_parameters, "n_tokens": len(ids), "text": text}}
    differing = 0
    for name, value in made.items():
        text = json.dumps(value, indent=1) + "\n"
        if not check:
            (folder / name).write_text(text)
        elif (folder / name).read_text() != text:
            print(f"{folder / name} differs")
            differing += 1
    return differing > 0


if __name__ == "__main__":
    sys.exit(main())
