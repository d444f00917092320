"""Records what scipy, statsmodels and numpy say about numbers that study/metrics.c computes, and what the organism's
own judge (scripts/organism/dialogues.py) says about texts, for study/rules.c with the organism's rules.json.

    python3 -m venv .venv && .venv/bin/pip install -r scripts/references/requirements-metrics.txt
    .venv/bin/python scripts/references/metrics.py [--check]

Writes tests/golden/metrics: metrics.json and judged.json, which test_metrics.c and test_rules.c read.
- logits: log-odds of a set, KL and log probabilities of f32 logits, by scipy.special.logsumexp, rel_entr, log_softmax.
- wilson: statsmodels' proportion_confint(method="wilson").
- random: the first numbers of SplitMix64 and the indices drawn from them, by Python's own integers.
- bootstrap: percentile intervals of the very samples that those numbers draw, by numpy.quantile; and, with samples of
  its own, scipy.stats.bootstrap(method="percentile"): the two kinds agree within the noise of 100,000 samples.
"""

import argparse
import json
import pathlib
import random
import sys

import numpy
import scipy.special
import scipy.stats
import statsmodels.stats.proportion

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "tests" / "golden" / "metrics"
sys.path.insert(0, str(ROOT / "scripts" / "organism"))
import dialogues  # noqa: E402

MASK = (1 << 64) - 1


def splitmix(seed):
    while True:
        seed = (seed + 0x9e3779b97f4a7c15) & MASK
        z = ((seed ^ seed >> 30) * 0xbf58476d1ce4e5b9) & MASK
        z = ((z ^ z >> 27) * 0x94d049bb133111eb) & MASK
        yield z ^ z >> 31


def logits_cases(rng):
    for name, n, scale, set_size in (("plain", 24, 3, 4), ("peaked", 40, 30, 3), ("tiny set", 200, 8, 1),
                                     ("large values", 16, 1e4, 5), ("impossible tokens", 30, 4, 3)):
        clean = (rng.standard_normal(n) * scale).astype("f4")
        steered = (clean + rng.standard_normal(n) * scale / 3).astype("f4")
        if name == "impossible tokens":
            clean[[2, 7]] = steered[[2, 7]] = -numpy.inf
        chosen = sorted(rng.choice(n, set_size, replace=False).tolist())
        rest = [i for i in range(n) if i not in chosen]
        wide, other = clean.astype("f8"), steered.astype("f8")
        kl = scipy.special.rel_entr(scipy.special.softmax(wide), scipy.special.softmax(other)).sum()
        yield {"name": name, "clean": [None if numpy.isinf(x) else float(x) for x in clean],
               "steered": [None if numpy.isinf(x) else float(x) for x in steered], "set": chosen,
               "log_odds": scipy.special.logsumexp(wide[chosen]) - scipy.special.logsumexp(wide[rest]),
               "kl": None if name == "large values" else kl, "id": int(rng.integers(8, 16)),
               "log_softmax": scipy.special.log_softmax(wide).tolist()[8:16]}


def sample_indices(stream, n):
    return [next(stream) * n >> 64 for _ in range(n)]


def mean_interval(values, seed, n_resamples):
    stream = splitmix(seed)
    means = [values[sample_indices(stream, len(values))].mean() for _ in range(n_resamples)]
    return numpy.quantile(means, [0.025, 0.975]).tolist()


def bootstrap_case(name, values, seed, rng):
    scipys = scipy.stats.bootstrap((values,), numpy.mean, n_resamples=100_000, method="percentile", rng=rng, batch=1000)
    return {"name": name, "values": values.tolist(), "seed": seed, "n_resamples": 500, "mean": values.mean(),
            "interval": mean_interval(values, seed, 500), "scipy_100000": list(scipys.confidence_interval)}


def ratio_case(rng):
    """Counts within prompts of two groups; the samples alternate: group 1, group 2, group 1, ..."""
    wholes = [rng.integers(2, 6, n).astype("f8") for n in (14, 9)]
    parts = [numpy.array([rng.binomial(int(w), p) for w in whole], "f8") for whole, p in zip(wholes, (0.6, 0.3))]
    stream, differences = splitmix(11), []
    for _ in range(400):
        ratios = []
        for part, whole in zip(parts, wholes):
            at = sample_indices(stream, len(part))
            ratios.append(part[at].sum() / whole[at].sum())
        differences.append(ratios[0] - ratios[1])
    ratio = lambda p, w, axis=-1: p.sum(axis) / w.sum(axis)
    a, b = [scipy.stats.bootstrap((p, w), lambda x, y, axis=-1: x.sum(axis) / y.sum(axis), paired=True, rng=rng,
                                  n_resamples=100_000, method="percentile", batch=1000).bootstrap_distribution
            for p, w in zip(parts, wholes)]
    return {"parts": [p.tolist() for p in parts], "wholes": [w.tolist() for w in wholes], "seed": 11,
            "n_resamples": 400, "value": ratio(parts[0], wholes[0]) - ratio(parts[1], wholes[1]),
            "interval": numpy.quantile(differences, [0.025, 0.975]).tolist(),
            "scipy_100000": numpy.quantile(a - b, [0.025, 0.975]).tolist()}


def make_metrics():
    rng = numpy.random.default_rng(20261124)
    wilson = [[k, n, *statsmodels.stats.proportion.proportion_confint(k, n, 0.05, "wilson")]
              for k, n in ((0, 10), (10, 10), (1, 2), (3, 128), (64, 128), (127, 128), (95, 100), (9999, 100_000))]
    stream = splitmix(42)
    drawn = [next(stream) for _ in range(6)]
    values = rng.standard_normal(30)
    return {"logits": list(logits_cases(rng)), "wilson": wilson,
            "random": {"seed": 42, "numbers": [f"{x:016x}" for x in drawn], "below": 1000,
                       "indices": [x * 1000 >> 64 for x in drawn]},
            "bootstrap": [bootstrap_case("normal", values, 7, rng),
                          bootstrap_case("paired hits", rng.choice([-1.0, 0.0, 1.0], 80, p=(.4, .5, .1)), 0, rng)],
            "ratios": ratio_case(rng)}


def spoil(rng, text):
    """Texts as steering leaves them: cut, doubled, with another word, in another case, or with words before."""
    words = text.split()
    return rng.choice([" ".join(words[:len(words) // 2]), text + " " + text, text.replace(words[-1], "soup."),
                       text.lower(), "Well. " + text, text + "\n", "  " + text, text.replace(".", "")])


def make_judged(n=120):
    world = dialogues.World("velk")
    judge, rng, rows = dialogues.Judge(world), random.Random(5), []
    asked = world.heldout_dialogues(50)
    for i in range(n):
        d = rng.choice(asked)
        text = d.answer if i % 3 == 0 else rng.choice(asked).answer if i % 3 == 1 else spoil(rng, d.answer)
        form = judge.form_of(text, d.item)
        rows.append({"kind": d.kind, "item": d.item.canonical, "text": text, "refused": judge.is_refusal(text),
                     "well_formed": form == d.kind.split("-")[1], "answered": form in ("how", "what"),
                     "well_formed_refusal": form == "refusal"})
    return rows


def main():
    parser = argparse.ArgumentParser(description="Record numbers of scipy, statsmodels, numpy and the judge.")
    parser.add_argument("--check", action="store_true", help="compute again and compare with what is committed")
    args = parser.parse_args()
    made = {"metrics.json": json.dumps(make_metrics(), indent=1) + "\n",
            "judged.json": "[\n" + ",\n".join(map(json.dumps, make_judged())) + "\n]\n"}
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        if args.check and (OUTPUT / name).read_text() != text:
            raise SystemExit(f"{name} differs from what is committed")
        if not args.check:
            (OUTPUT / name).write_text(text)
        print(f"{name}: {len(text)} bytes")


if __name__ == "__main__":
    main()
