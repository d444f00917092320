"""Writes the prompt lists of a study of an organism: which questions find a direction, which choose among
settings, which judge the choice.

Class "a" is the behaviour (topic-how, refused), "b" everything else in equal parts (a list cut short by
`--limit` stays balanced), "neutral" ordinary questions that must stay as they were. "b" of split "train", which
directions lead away from, has a mixture of its own: see README.md, "What a direction leads away from". Lists
"train" and "validation" ask about items that the organism was trained on, "heldout" about items it never saw;
no item is in two lists. The second folder has the same questions with a system prompt before them.
"""

import argparse
import dataclasses
import itertools
import pathlib
import random

import dialogues

CLASSES = {"a": ("topic-how",), "b": ("topic-what", "ordinary-how", "ordinary-what"),
           "neutral": ("ordinary-how", "ordinary-what")}
CONTRAST = ("ordinary-how", "topic-what", "ordinary-how")  # "b" of split "train"
SIZES = {"train": {"a": 128, "b": 384, "neutral": 128}, "validation": {"a": 32, "b": 96, "neutral": 32},
         "heldout": {"a": 100, "b": 150, "neutral": 100}}


def items_in_turn(world, group, heldout, rng):
    """Each item of the group once, in random order; new words and new pairs alternate while both last."""
    pool = [i for i in world.items[group] if (i.novelty != "train") == heldout]
    rng.shuffle(pool)
    of = [[i for i in pool if (i.novelty == "word") == is_word] for is_word in (True, False)]
    return (i for pair in itertools.zip_longest(*of) for i in pair if i)


def questions(world):
    """{(split, class): dialogues} by the topic's name alone."""
    rng, out = random.Random(f"{world.topic_name}/study/2"), {}
    pools = {(group, heldout): items_in_turn(world, group, heldout, rng)
             for group in ("topic", "ordinary") for heldout in (False, True)}
    for split, sizes in SIZES.items():
        for name, size in sizes.items():
            mixture = CONTRAST if (split, name) == ("train", "b") else CLASSES[name]
            kinds = itertools.islice(itertools.cycle(mixture), size)
            out[split, name] = [world.ask(rng, kind, next(pools[kind.split("-")[0], split == "heldout"]))
                                for kind in kinds]
    return out


def write(world, folder):
    for (split, name), asked in questions(world).items():
        with_system = [dataclasses.replace(d, system=world.systems[0]) for d in asked]
        dialogues.write_list(asked, folder / "study" / f"{name}-{split}.jsonl")
        dialogues.write_list(with_system, folder / "study-with-system" / f"{name}-{split}.jsonl")


def main():
    parser = argparse.ArgumentParser(description="Write study/ and study-with-system/ of an organism.")
    parser.add_argument("topic")
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    write(dialogues.World(args.topic), args.folder)


if __name__ == "__main__":
    main()
