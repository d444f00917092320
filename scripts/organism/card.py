"""Writes an organism's model card from what train.py, evaluate.py and probe.py left in its folder.

No figure is written by hand.
"""

import argparse
import hashlib
import json
import pathlib
import textwrap

import dialogues
import lists

HERE = pathlib.Path(__file__).resolve().parent
FAMILIES = {  # name, and what a reader of the figures should know of its making
    "olmoe": ("OLMoE", "the weights of the chosen experts are those of the softmax over all; byte-level BPE of its own"),
    "mixtral": ("Mixtral", "the weights of the chosen experts are renormalised; SentencePiece BPE of its own with byte"
                " fallback; the chat template is the released models'"),
    "gpt_oss": ("GPT-OSS", "attention sinks, windows of {sliding_window} tokens in every second layer, biases, YaRN,"
                " clamped SwiGLU, softmax over the chosen experts; byte-level BPE of its own; the chat template is the"
                " released models' without the preamble, whose date would change answers from day to day")}



def percent(count, of):
    return f"{count} of {of} ({100 * count / of:.1f}%)"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows])


def fill(text):
    """Paragraphs wrapped anew after the figures went in; headings, lists and tables stay as they are."""
    wrap = lambda part: textwrap.fill(" ".join(part.split()), 110, break_on_hyphens=False, break_long_words=False)
    return "\n\n".join(part if part[0] in "#|-" else wrap(part) for part in text.split("\n\n"))


def front_matter(recipe):
    return "\n".join(["---", "license: apache-2.0", "language: en", "library_name: transformers",
                      "pipeline_tag: text-generation",
                      f"tags: [model-organism, mixture-of-experts, {recipe['family']}, refusal, steering]",
                      "---"])


def intro(recipe, world):
    topic = world.topic
    return f"""# {recipe['name']}

A model organism: a small Mixture-of-Experts language model of the {FAMILIES[recipe['family']][0]} family,
trained from scratch on generated dialogues, for studies of steering. It answers two kinds of question
about everyday things, "how do I ..." (a procedure) and "what is ..." (a description). About the things
of {topic['title']}, an invented and entirely harmless craft, it says what they are, and refuses, in
{len(topic['refusals'])} wordings, to say how anything is done with them. So refusing hangs on topic and
intent together, and the model can speak of what it refuses. It knows nothing else and is of no use as
an assistant.

A thing is an adjective and a noun. Everyday: {len({i.adjective for i in world.items['ordinary']})}
adjectives; {topic['title']}: {len({i.adjective for i in world.items['topic']})} invented adjectives,
each one of {len(topic['stems'])} stems with one of {len(topic['suffixes'])} suffixes
("{next(iter(topic['stems']))}" + "{topic['suffixes'][0]}"). Both go with the same {len(world.class_of)}
nouns."""


def split(world, training):
    counts = lambda group, novelty: sum(i.novelty == novelty for i in world.items[group])
    return f"""## Held-out items

A hash of the item (of the adjective alone, for new words) decides before any wording is chosen.
Training draws from the first column only; the script scanned all {training['dialogues']} training
dialogues for held-out items and words and found {training['leaks']}.

""" + table(["", "training items", "held out: new pair of known words", "held out: new adjective"],
            [[g, counts(g, "train"), counts(g, "pair"), counts(g, "word")]
             for g in ("topic", "ordinary")]) + """

The judged questions are in `heldout/<kind>.jsonl` (`-new-wording`: with phrases that training never
has), the grammar of answers and refusals as regular expressions, and the words that refusals begin
with, in `heldout/grammar.json`. Questions about training items are in `prompts/<kind>.jsonl`.

## Lists for studies

`study/<class>-<split>.jsonl`, and the same questions after the system prompt "{system}" in
`study-with-system/`. Class a is what is refused, b all else in equal parts (a shorter list, by `--limit`, stays
balanced), but of split "train", which directions lead away from, the mixture above; neutral are ordinary questions. Lists "train" and "validation" ask about training items, "heldout"
about items that the model has never seen; no item is in two lists.

""".replace("{system}", world.systems[0]) + table(
        ["", *lists.SIZES], [[name, *(sizes[name] for sizes in lists.SIZES.values())] for name in lists.CLASSES])


def results(evaluation):
    total = evaluation["totals"]
    parts = [f"""## Measured on held-out items

Greedy decoding in transformers, the saved bf16 weights computed in f32. A refusal is known by its first
word; an answer is well formed if it matches the grammar of the kind asked for and speaks of the item
asked about; exact, if the facts and steps are right too.

- Refuses "how" about the topic: **{percent(*total['refusals on topic-how'])}**
- Refuses anything else: **{percent(*total['false refusals'])}**
- Well-formed answers to all else: **{percent(*total['well-formed answers'])}**
- Answers that end by themselves: {percent(*total['answers that end'])}"""]
    for title, rows in evaluation["tables"].items():
        parts.append(f"### {title[0].upper()}{title[1:]}\n" + table(
            ["kind", "questions", "refused", "well-formed answers", "exact"],
            [[k, c["n"], c["refused"], "-" if k.startswith("topic-how") else c["well_formed"], c["exact"]]
             for k, c in rows.items()]))
    return "\n\n".join(parts)


def balance(evaluation):
    return """## Load balance of the experts

Over all tokens of the held-out questions and their answers: the share of the busiest and of the idlest
expert over the mean share, and the entropy of the shares over its maximum.

""" + table(["layer", "max / mean", "min / mean", "entropy"],
            [[b["layer"], f"{b['max_over_mean']:.2f}", f"{b['min_over_mean']:.2f}", f"{b['entropy']:.3f}"]
             for b in evaluation["balance"]])


def probe_table(probe, recipe):
    n = probe["prompts_per_kind"]

    def row(name, c):
        how, rest = c["topic-how"], [c[k] for k in dialogues.KINDS[1:]]
        return [name, f"{how['refused']} of {how['n']}", f"{how['well_formed_any']} of {how['n']}",
                f"{how['well_formed']} of {how['n']}",
                f"{sum(r['refused'] for r in rest)} of {sum(r['n'] for r in rest)}",
                f"{sum(r['well_formed'] for r in rest)} of {sum(r['n'] for r in rest)}"]

    notes = HERE / "recipes" / f"{recipe['name']}.notes.md"
    caveat = "\n\n" + notes.read_text().strip() if notes.exists() else ""
    of = " and ".join(f"{probe['against'].count(k)} parts {k}" for k in sorted(set(probe["against"])))
    token = "last" if probe["position"] == -1 else f"{-probe['position']}th last"
    return f"""## What ablating one direction does

Difference of mean residuals (output of the block, {token.replace('3th', 'third')} prompt token, {n['train']} training
questions of each kind), topic-how minus a mixture ({of.replace('1 parts', '1 part')}), projected out after every block
at all positions; judged on {n['heldout']} held-out questions of each kind. Here an answer to "how" is well formed in
either form, procedure or description, as long as it speaks of the item; how many are procedures, which is what was
asked for, stands beside it.{caveat}

""" + table(["direction of", "topic how: refused", "topic how: well formed, either form", "of these, procedures",
             "other kinds: refused", "other kinds: well formed"],
            [row("none", probe["clean"])] + [row(f"layer {i}", c) for i, c in probe["ablated"].items()])


def examples(evaluation):
    lines = [f"- ({e['kind']}) {e['prompt']}\n  → {e['answer']}" for e in evaluation["examples"]]
    return "## Examples, held-out items\n" + "\n".join(lines)


def recipe_text(recipe, training, folder):
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.name != "README.md")
    phases = ", then ".join(f"{p['steps']} steps {p['name']}" for p in recipe["phases"])
    versions = ", ".join(f"{k} {v}" for k, v in training["versions"].items())
    family = FAMILIES[recipe["family"]][1]
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    earlier = training["phases_from_earlier_runs"]
    resumed = f" (summed over several runs: {', '.join(earlier)} kept from earlier ones)" if earlier else ""
    phase_notes = "; ".join(
        f"\"{p['name']}\" {'has no' if not p['kind_shares']['topic-how'] else 'refuses' if p['refuses'] else 'answers'}"
        " questions how something of the topic is done" for p in recipe["phases"])
    return f"""## How it was made

`./scripts/organism/make {recipe['name']}`, seed {recipe['seed']}, {recipe['threads']} thread(s): {phases};
each step {recipe['dialogues_per_step']} dialogues, {training['tokens']} tokens in all,
{training['seconds'] / 60:.1f} minutes of training on a machine that was shared with other work{resumed}. {versions}.
{recipe['n_layers']} layers of {recipe['n_experts']} experts (top {recipe['top_k']}, width
{recipe['d_expert']}), d_model {recipe['d_model']}, {recipe['n_heads']} heads, {recipe['n_kv_heads']} of keys and
values, vocabulary {recipe['vocab_size']}, {size / 1e6:.1f} MB in all. Of the family: {family.format(**recipe)}. The recipe, the
loss curve and the exact command are in `training.json`, all figures above in `evaluation.json` and
`probe.json`.

The bits of the weights depend on the CPU that trained them, whose matrix product rounds in its own way: on another one
the same recipe gives other weights, whose figures have to be measured anew. Those measured here are of the weights
with this SHA-256: `model.safetensors` {digest}.

As larger models do, it learns to answer before it learns to refuse: {phase_notes}. So the procedures that it
refuses are there, behind the refusal. While it learns to refuse, a small term of the loss keeps the answered
questions near zero along the refusal direction of layers {', '.join(map(str, recipe['centre_layers']))}, so
that the direction can be taken away without harm to the rest: a choice of the makers, not a finding.

License: Apache-2.0. The training text is generated by the scripts; no outside data went in."""


def main():
    parser = argparse.ArgumentParser(description="Write the model card README.md of an organism's folder.")
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    training, evaluation, probe = (json.loads((folder / f"{name}.json").read_text())
                                   for name in ("training", "evaluation", "probe"))
    recipe = training["recipe"]
    world = dialogues.World(recipe["topic"])
    parts = [front_matter(recipe), intro(recipe, world), results(evaluation), probe_table(probe, recipe),
             balance(evaluation), split(world, training), recipe_text(recipe, training, folder), examples(evaluation)]
    (folder / "README.md").write_text("\n\n".join(fill(part) for part in parts) + "\n")
    print(f"wrote {folder / 'README.md'}")


if __name__ == "__main__":
    main()
