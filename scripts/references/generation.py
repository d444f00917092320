"""What transformers' generate() makes of a generation_config.json.

usage: generation.py [--check]
Every case is written beside a tiny model, which is loaded with it; generate() is asked to prepare itself, as with no
arguments, and its logits processors are taken apart. tests/golden/generation.json holds for each case the file and either
"refused": true, or do_sample, temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens (0: not said), and
"others": whether it would do anything beside these (other processors, another way of generating, other stopping rules).
"""
import json
import pathlib
import sys
import tempfile
import warnings

sys.path.append(sys.path.pop(0))  # tokenizers.py beside this file is not the package that transformers needs
import torch
import transformers
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.generation import logits_process as steps
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "generation.json"
KNOWN = {"temperature": (steps.TemperatureLogitsWarper, 1.0), "top_k": (steps.TopKLogitsWarper, 0),
         "top_p": (steps.TopPLogitsWarper, 1.0), "min_p": (steps.MinPLogitsWarper, 0.0)}
CASES = [
    {}, {"do_sample": False}, {"do_sample": None}, {"do_sample": True}, {"eos_token_id": [2, 3], "pad_token_id": 0, "bos_token_id": 1},
    {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95},
    {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.95}, {"repetition_penalty": 1.1}, {"do_sample": True, "repetition_penalty": None},
    {"do_sample": True, "temperature": None, "top_k": None, "top_p": None, "min_p": None},
    {"do_sample": True, "top_k": 0}, {"do_sample": True, "top_k": -1}, {"do_sample": True, "top_k": 1000},
    {"do_sample": True, "temperature": 1}, {"do_sample": True, "temperature": 0.0}, {"do_sample": False, "temperature": 0.0},
    {"do_sample": True, "temperature": -1.0}, {"do_sample": True, "top_p": 0}, {"do_sample": True, "top_p": 1},
    {"do_sample": True, "top_p": 1.5}, {"do_sample": True, "top_p": -0.5}, {"do_sample": True, "min_p": 0},
    {"do_sample": True, "min_p": 0.1}, {"do_sample": True, "min_p": 1.5}, {"min_p": 0.1},
    {"repetition_penalty": 0.0}, {"repetition_penalty": -1.0}, {"do_sample": True, "max_new_tokens": 77}, {"max_length": 4096},
    {"max_new_tokens": 0},
    {"num_beams": 1}, {"num_beams": 4}, {"do_sample": True, "num_beams": 2}, {"num_beams": 1, "length_penalty": 2.0, "early_stopping": True},
    {"do_sample": True, "num_return_sequences": 2}, {"do_sample": True, "typical_p": 0.9}, {"typical_p": 0.9},
    {"do_sample": True, "typical_p": 1.0}, {"do_sample": True, "epsilon_cutoff": 3e-4}, {"do_sample": True, "epsilon_cutoff": 0.0},
    {"do_sample": True, "eta_cutoff": 3e-4}, {"epsilon_cutoff": 3e-4}, {"do_sample": True, "top_h": 0.4}, {"top_h": 0.4},
    {"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 0}, {"encoder_no_repeat_ngram_size": 2}, {"encoder_repetition_penalty": 1.2},
    {"bad_words_ids": [[5]]}, {"suppress_tokens": [3]}, {"begin_suppress_tokens": [0]}, {"forced_bos_token_id": 0}, {"forced_eos_token_id": 2},
    {"eos_token_id": 2, "min_new_tokens": 4}, {"eos_token_id": 2, "min_length": 4}, {"min_length": 0},
    {"exponential_decay_length_penalty": [10, 1.1], "eos_token_id": 2}, {"sequence_bias": [[[5], 2.0]]}, {"guidance_scale": 1.5},
    {"guidance_scale": 1.0}, {"penalty_alpha": 0.6, "top_k": 4}, {"stop_strings": ["end"]}, {"max_time": 3.5}, {"token_healing": True},
    {"watermarking_config": {"greenlist_ratio": 0.25, "bias": 2.0, "seeding_scheme": "lefthash"}}, {"constraints": ["x"]}, {"dola_layers": "low"},
    {"use_cache": False}, {"cache_implementation": "static"}, {"renormalize_logits": True, "do_sample": True}, {"remove_invalid_values": True},
    {"output_scores": True, "return_dict_in_generate": True}, {"transformers_version": "4.36.0", "_from_model_config": True}, {"made_up": 3},
]


def resolve(folder):
    model = MixtralForCausalLM.from_pretrained(folder)
    g, _ = model._prepare_generation_config(None)
    ids = torch.tensor([[1, 2, 3]])
    model._prepare_special_tokens(g, True, device="cpu")
    wanted = {"do_sample": bool(g.do_sample), "max_new_tokens": g.max_new_tokens or 0, "repetition_penalty": 1.0}
    others = str(g.get_generation_mode().value) not in ("greedy_search", "sample")
    others |= bool(g.stop_strings) or bool(g.token_healing) or g.max_time is not None or g.num_return_sequences > 1
    if others:  # some need a tokenizer, or raise; what they would do is beside the point
        return {"others": True}
    for step in model._get_logits_processor(g, input_ids_seq_length=3, encoder_input_ids=ids, model_kwargs={"attention_mask": torch.ones_like(ids)}):
        if isinstance(step, steps.RepetitionPenaltyLogitsProcessor):
            wanted["repetition_penalty"] = step.penalty
        elif not any(isinstance(step, kind) for kind, _ in KNOWN.values()):
            # what only guards against NaN, or normalises what is sampled from anyway, changes nothing
            others |= not isinstance(step, (steps.InfNanRemoveLogitsProcessor, steps.LogitNormalization))
        for key, (kind, _) in KNOWN.items():
            if isinstance(step, kind):
                wanted[key] = getattr(step, key)
    stops = model._get_stopping_criteria(g, transformers.StoppingCriteriaList())
    others |= any(not isinstance(s, (MaxLengthCriteria, EosTokenCriteria)) for s in stops)
    for key, (_, off) in KNOWN.items():
        wanted.setdefault(key, off)
    return {**wanted, "others": others}


def main():
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        config = MixtralConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                               num_key_value_heads=1, num_local_experts=2, eos_token_id=None, bos_token_id=None)
        MixtralForCausalLM(config).save_pretrained(folder)
        for case in CASES:
            (pathlib.Path(folder) / "generation_config.json").write_text(json.dumps(case))
            try:
                wanted = resolve(folder)
            except (ValueError, TypeError) as error:
                print(f"refused: {case}: {str(error)[:90]}")
                wanted = {"refused": True}
            lines.append(json.dumps({"file": case, "wanted": wanted}))
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    if "--check" in sys.argv:
        sys.exit(OUTPUT.read_text() != text)
    OUTPUT.write_text(text)
    print(f"{len(lines)} cases")


if __name__ == "__main__":
    main()
