"""Goldens of the sampler: what transformers' logits processors keep, and with which probabilities.

usage: sampler.py OUTPUT.json
Random logits (with ties, in half of the cases) over a small vocabulary, and settings that exercise every processor
alone and together; presence and frequency penalty, which transformers has not, are written out below as vLLM's
model_executor/layers/utils.py applies them (apply_penalties: over generated tokens, behind the repetition penalty). Each
case stores the kept ids and their probabilities; of the history the first half is the prompt. Cases in which a boundary of top-p or min-p
is so close that f32 rounding could decide it are drawn again.
"""
import json
import sys

import torch
from transformers import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
                          SequenceBiasLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

VOCABULARY = 37
N_HISTORY = 12
N_PROMPT = 6
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.9},
    {"top_p": 0.5},
    {"top_p": 0.01},
    {"top_p": 0.0},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"temperature": 0.8, "top_k": 10, "top_p": 0.8},
    {"temperature": 1.2, "top_k": 20, "min_p": 0.05},
    {"temperature": 0.6, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.1},
    {"temperature": 1.5, "top_k": 12, "top_p": 0.7, "min_p": 0.1, "repetition_penalty": 1.5},
    {"presence_penalty": 1.5},
    {"presence_penalty": -2.0},
    {"frequency_penalty": 0.9},
    {"frequency_penalty": -0.7},
    {"logit_bias": {"3": -100, "17": 2.5, "36": 100}},
    {"logit_bias": {"0": 4, "5": -3}, "repetition_penalty": 1.4, "frequency_penalty": 0.5, "presence_penalty": 0.25},
    {"logit_bias": {"1": 2, "20": -8}, "repetition_penalty": 0.8, "frequency_penalty": 1.5, "presence_penalty": -1,
     "temperature": 0.7, "top_k": 9, "top_p": 0.8, "min_p": 0.02},
]


class OpenAIPenalties:
    def __init__(self, presence, frequency):
        self.presence, self.frequency = presence, frequency

    def __call__(self, input_ids, scores):
        counts = torch.bincount(input_ids[0, N_PROMPT:], minlength=VOCABULARY)[None]
        scores = scores - self.frequency * counts
        return scores - self.presence * (counts > 0)


def processors(setting):
    chain = LogitsProcessorList()
    if "logit_bias" in setting:
        chain.append(SequenceBiasLogitsProcessor({(int(i),): float(b) for i, b in setting["logit_bias"].items()}))
    if "repetition_penalty" in setting:
        chain.append(RepetitionPenaltyLogitsProcessor(setting["repetition_penalty"]))
    if "presence_penalty" in setting or "frequency_penalty" in setting:
        chain.append(OpenAIPenalties(setting.get("presence_penalty", 0), setting.get("frequency_penalty", 0)))
    if "temperature" in setting:
        chain.append(TemperatureLogitsWarper(setting["temperature"]))
    if "top_k" in setting:
        chain.append(TopKLogitsWarper(setting["top_k"]))
    if "top_p" in setting:
        chain.append(TopPLogitsWarper(setting["top_p"]))
    if "min_p" in setting:
        chain.append(MinPLogitsWarper(setting["min_p"]))
    return chain


def kept(logits, history, setting):
    scores = processors(setting)(torch.tensor([history]), logits.clone()[None])[0]
    probabilities = torch.softmax(scores.double(), -1)
    return [i for i in range(VOCABULARY) if scores[i] > -float("inf")], probabilities


def is_clear(logits, history, setting):
    """No boundary within 1e-4: settings a little to either side keep the same ids."""
    reference = kept(logits, history, setting)[0]
    for key in ("top_p", "min_p"):
        if 0.0 < setting.get(key, 0.0) < 1.0:
            for factor in (1 - 1e-4, 1 + 1e-4):
                if kept(logits, history, {**setting, key: setting[key] * factor})[0] != reference:
                    return False
    return True


def draw(generator, has_ties):
    logits = torch.randn(VOCABULARY, generator=generator) * 2
    return (logits * 4).round() / 4 if has_ties else logits


def main():
    generator = torch.Generator().manual_seed(20)
    cases = []
    for index, setting in enumerate(SETTINGS):
        for has_ties in (False, True):
            # Ties at top-p's boundary are left open by torch.sort: only settings without it are tried with ties.
            has_ties = has_ties and "top_p" not in setting
            while True:
                logits = draw(generator, has_ties)
                history = torch.randint(VOCABULARY, (N_HISTORY,), generator=generator).tolist()
                if "logit_bias" in setting or "presence_penalty" in setting or "frequency_penalty" in setting:
                    history[-2:] = history[N_PROMPT:N_PROMPT + 1] * 2  # generated three times
                if is_clear(logits, history, setting):
                    break
            ids, probabilities = kept(logits, history, setting)
            cases.append({"setting": setting, "logits": logits.tolist(), "history": history, "kept": ids,
                          "probabilities": [float(probabilities[i]) for i in ids]})
    with open(sys.argv[1], "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
