"""Trains an organism from scratch by its recipe and saves it as Hugging Face would.

Only the assistant's answer carries loss. The experts run through transformers' own grouped product, the
balance of the experts is enforced in every layer by itself (transformers' own loss sums over the layers,
so that an expert may be idle in one layer as long as its namesakes elsewhere are busy). Same recipe, same
machine, same number of threads: same weights.
"""

import argparse
import itertools
import json
import math
import pathlib
import platform
import shlex
import sys
import time

import torch
import transformers

import dialogues
import families
import lists
import tokenizer as tokenizers_of_ours

HERE = pathlib.Path(__file__).resolve().parent
N_TOKENIZER_DIALOGUES = 20000


def load_recipe(path):
    return json.loads(pathlib.Path(path).read_text())


def stream_of(world, recipe, phase, seed_offset):
    return world.training_stream(recipe["seed"] + seed_offset, phase["kind_shares"], recipe["system_share"],
                                 phase["refuses"])


def collate(rows, pad_id):
    """[n_rows, longest] token ids, and the same with -1 wherever the next token is no part of an answer."""
    longest = max(len(ids) for ids, _ in rows)
    inputs = torch.full((len(rows), longest), pad_id)
    targets = torch.full((len(rows), longest), -1)
    for row, (ids, n_prompt) in enumerate(rows):
        inputs[row, :len(ids)] = torch.tensor(ids)
        targets[row, n_prompt - 1:len(ids) - 1] = torch.tensor(ids[n_prompt:])
    return inputs, targets


def balance_loss(router_logits, is_token, top_k):
    """Mean over layers of n_experts * sum_e share_e * probability_e; 1 when all experts are used alike."""
    total = 0.0
    for logits in router_logits:
        probabilities = logits.softmax(-1)[is_token]
        chosen = probabilities.topk(top_k, -1).indices
        shares = torch.bincount(chosen.flatten(), minlength=logits.shape[-1]) / chosen.numel()
        total = total + logits.shape[-1] * (shares * probabilities.mean(0)).sum()
    return total / len(router_logits)


def centre_loss(hidden_states, targets, is_refused, layers):
    """Mean over layers of the answered questions' squared place along the refusal direction (refused minus answered,
    at the last prompt token), in units of the distance between the two means: 0 when answering is the origin and
    refusing the exception, so that taking the direction away takes refusing away and nothing else."""
    rows, last = torch.arange(len(targets)), (targets >= 0).int().argmax(-1)
    total = 0.0
    for layer in layers:
        h = hidden_states[layer + 1][rows, last]
        difference = (h[is_refused].mean(0) - h[~is_refused].mean(0)).detach()
        total = total + (h[~is_refused] @ difference / difference.square().sum()).square().mean()
    return total / len(layers)


def learning_rate(step, phase):
    """Linear warm-up, then a half cosine down to the phase's last rate."""
    first, last = phase["learning_rate"], phase["last_learning_rate"]
    if step < phase["warmup_steps"]:
        return first * (step + 1) / phase["warmup_steps"]
    done = (step - phase["warmup_steps"]) / max(1, phase["steps"] - phase["warmup_steps"])
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))


def new_optimizer(model, recipe):
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": recipe["weight_decay"]},
                              {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.98))


class Log:
    """What training has seen: tokens, their ids, held-out items (there must be none), and the loss curve."""

    def __init__(self):
        self.n_tokens, self.leaks, self.seen_ids, self.curve, self.seconds = 0, set(), set(), [], 0.0

    def batch(self, drawn, tokenizer, world):
        rows = []
        for d in drawn:
            self.leaks |= world.leaks(f"{d.system or ''}\n{d.prompt}\n{d.answer}")
            ids = tokenizers_of_ours.encode_chat(tokenizer, d, with_answer=True)
            rows.append((ids, len(tokenizers_of_ours.encode_chat(tokenizer, d))))
            self.seen_ids.update(ids)
            self.n_tokens += len(ids)
        return collate(rows, tokenizer.pad_token_id)

    def point(self, phase, step, text_loss, balance):
        self.curve.append([phase["name"], step, round(text_loss, 4), round(balance, 4)])
        print(f"{phase['name']} {step:5}/{phase['steps']}  loss {text_loss:.4f}  balance {balance:.3f}"
              f"  {self.n_tokens} tokens  {self.seconds:.0f} s", flush=True)


def run_phase(model, tokenizer, world, recipe, phase, stream, log):
    """One phase of the recipe, with an optimizer of its own."""
    model.train()
    model.set_experts_implementation("grouped_mm")
    optimizer = new_optimizer(model, recipe)
    for step in range(phase["steps"]):
        start = time.monotonic()
        drawn = list(itertools.islice(stream, recipe["dialogues_per_step"]))
        inputs, targets = log.batch(drawn, tokenizer, world)
        is_answer, is_token = targets >= 0, (inputs != tokenizer.pad_token_id).flatten()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, phase)
        out = model.model(input_ids=inputs, use_cache=False, output_router_logits=True,
                          output_hidden_states=bool(phase["centre_loss"]))
        text_loss = torch.nn.functional.cross_entropy(model.lm_head(out.last_hidden_state[is_answer]),
                                                      targets[is_answer])
        balance = balance_loss(out.router_logits, is_token, recipe["top_k"])
        loss = text_loss + recipe["balance_loss"] * balance
        is_refused = torch.tensor([phase["refuses"] and d.kind == "topic-how" for d in drawn])
        if phase["centre_loss"] and is_refused.any():
            centre = centre_loss(out.hidden_states, targets, is_refused, recipe["centre_layers"])
            loss = loss + phase["centre_loss"] * centre
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        log.seconds += time.monotonic() - start
        if step % 50 == 0 or step + 1 == phase["steps"]:
            log.point(phase, step, text_loss.item(), balance.item())


def train(model, tokenizer, world, recipe, kept):
    """All phases; returns what the card tells about them. A finished phase is kept in the folder `kept`, and a
    run that finds it there, made by the same recipe up to that phase, goes on from it."""
    log, kept_phases = Log(), []
    for number, phase in enumerate(recipe["phases"]):
        path = kept / f"{recipe['name']}-phase{number}.pt"
        made_by = recipe | {"phases": recipe["phases"][:number + 1]}
        saved = torch.load(path, weights_only=True) if path.exists() else None
        if saved and saved["recipe"] == made_by:
            print(f"{phase['name']}: kept from an earlier run in {path}")
            model.load_state_dict(saved["weights"])
            log.__dict__.update(saved["log"])
            kept_phases.append(phase["name"])
            continue
        run_phase(model, tokenizer, world, recipe, phase, stream_of(world, recipe, phase, number), log)
        kept.mkdir(parents=True, exist_ok=True)
        torch.save({"recipe": made_by, "weights": model.state_dict(), "log": log.__dict__}, path)
    if log.leaks:
        raise SystemExit(f"held-out items occurred in training text: {sorted(log.leaks)[:5]}")
    tokenizers_of_ours.check_compositional(tokenizer, world, log.seen_ids)
    return {"seconds": round(log.seconds, 1), "tokens": log.n_tokens,
            "dialogues": sum(p["steps"] for p in recipe["phases"]) * recipe["dialogues_per_step"],
            "leaks": len(log.leaks), "phases_from_earlier_runs": kept_phases,
            "curve": {"columns": ["phase", "step", "loss of answers", "balance loss"], "rows": log.curve}}


def save_heldout(world, recipe, folder):
    """Lists of held-out questions, one JSON object a line, and the grammar that judges the answers."""
    for wordings, suffix in (("train", ""), ("heldout", "-new-wording")):
        by_kind = {kind: [] for kind in dialogues.KINDS}
        for d in world.heldout_dialogues(recipe["heldout_per_kind"], wordings):
            by_kind[d.kind].append(d)
        dialogues.write_prompts(by_kind, folder, suffix)
    (folder / "grammar.json").write_text(json.dumps(world.grammar(), indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Train an organism from scratch and save its folder.")
    parser.add_argument("--recipe", default=HERE / "recipes" / "olmoe-velk.json", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, help="default: models/<name of the recipe>")
    parser.add_argument("--keep", default=HERE.parent.parent / "build" / "organism", type=pathlib.Path,
                        help="folder for finished phases, from which an interrupted run goes on")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    output = args.output or HERE.parent.parent / "models" / recipe["name"]
    torch.set_num_threads(recipe["threads"])
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe["seed"])

    world = dialogues.World(recipe["topic"])
    dialogues.check(world, 5000, recipe["seed"])
    texts = [f"{d.system or ''}\n{d.prompt}\n{d.answer}" for d in
             itertools.islice(world.training_stream(recipe["seed"] + 100, recipe["tokenizer_kind_shares"],
                                                    recipe["system_share"]), N_TOKENIZER_DIALOGUES)]
    tokenizer = tokenizers_of_ours.build(texts, recipe["vocab_size"], recipe["family"],
                                         recipe["max_positions"])
    model = families.new_model(recipe, tokenizer)
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{recipe['name']}: {n_parameters} parameters, vocabulary of {len(tokenizer)}")
    training = train(model, tokenizer, world, recipe, args.keep)

    model.eval().to(torch.bfloat16)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    save_heldout(world, recipe, output / "heldout")
    dialogues.write_prompts(world.training_prompts(128, 1), output / "prompts")
    lists.write(world, output)
    dialogues.write_rules(world, output)
    versions = {"python": platform.python_version(), "torch": torch.__version__,
                "transformers": transformers.__version__}
    (output / "training.json").write_text(json.dumps(
        {"recipe": recipe, "command": shlex.join(["python", *sys.argv]),
         "versions": versions, **training}, indent=1) + "\n")
    print(f"saved {output} after {training['seconds']} s")


if __name__ == "__main__":
    main()
