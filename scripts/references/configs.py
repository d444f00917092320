"""Writes tests/golden/configs.json: what transformers makes of a set of config.json texts.

Each case is a config (or a golden model's folder) with the dimensions, the layers' kinds and windows and the table of
RoPE frequencies that transformers derives. tests/unit/test_config_golden.c compares model/configure.c with it.
Run from the project's root with the versions in requirements.txt:  python scripts/references/configs.py
"""

import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "head_dim": 16}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

CASES = {
    "olmoe defaults": {"model_type": "olmoe"},
    "mixtral defaults": {"model_type": "mixtral"},
    "gpt_oss defaults": {"model_type": "gpt_oss"},
    "qwen3_moe defaults": {"model_type": "qwen3_moe"},
    "OLMoE-1B-7B as on the hub": {
        "model_type": "olmoe", "attention_bias": False, "clip_qkv": None, "eos_token_id": 50279, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 1024, "max_position_embeddings": 4096, "norm_topk_prob": False,
        "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16,
        "num_key_value_heads": 16, "pad_token_id": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 50304},
    "Mixtral-8x7B as on the hub": {
        "model_type": "mixtral", "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 32000},
    "gpt-oss-20b as on the hub": {
        "model_type": "gpt_oss", "attention_bias": True, "eos_token_id": 200002, "experts_per_token": 4,
        "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
        "intermediate_size": 2880, "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072, "num_attention_heads": 64, "num_experts_per_tok": 4,
        "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32, "pad_token_id": 199999,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                         "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": False},
        "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": False,
        "vocab_size": 201088},
    "Qwen3-30B-A3B as on the hub": {
        "model_type": "qwen3_moe", "attention_bias": False, "bos_token_id": 151643, "decoder_sparse_step": 1,
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
        "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 151936},
    "yarn, old spelling with type": {
        "model_type": "qwen3_moe", "head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 1000000.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
    "yarn with mscale and mscale_all_dim": {
        "model_type": "qwen3_moe", **SMALL, "rope_parameters": {**YARN, "mscale": 1.3, "mscale_all_dim": 0.7}},
    "yarn with mscale alone": {"model_type": "qwen3_moe", **SMALL, "rope_parameters": {**YARN, "mscale": 1.3}},
    "yarn with attention_factor": {
        "model_type": "mixtral", **SMALL, "rope_parameters": {**YARN, "attention_factor": 1.25, "rope_theta": 5000.0}},
    "yarn with zero betas": {
        "model_type": "mixtral", **SMALL, "rope_parameters": {**YARN, "beta_fast": 0, "beta_slow": 0}},
    "yarn, factor null": {
        "model_type": "mixtral", **SMALL, "max_position_embeddings": 640, "rope_parameters": {**YARN, "factor": None}},
    "yarn, original positions on top": {
        "model_type": "mixtral", **SMALL, "original_max_position_embeddings": 256, "rope_parameters": YARN},
    "yarn without original positions": {
        "model_type": "mixtral", **SMALL, "max_position_embeddings": 4096,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
    "yarn whose ramp has no width": {
        "model_type": "mixtral", **SMALL,
        "rope_parameters": {**YARN, "original_max_position_embeddings": 2, "truncate": True}},
    "rope_scaling wins": {
        "model_type": "mixtral", **SMALL, "rope_scaling": {"rope_type": "linear", "factor": 2.5},
        "rope_parameters": {"rope_type": "linear", "factor": 7.0, "rope_theta": 77.0}},
    "empty rope_scaling does not": {
        "model_type": "mixtral", **SMALL, "rope_scaling": {},
        "rope_parameters": {"rope_type": "linear", "factor": 7.0, "rope_theta": 77.0}},
    "theta inside wins": {
        "model_type": "mixtral", **SMALL, "rope_theta": 10.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
    "linear, old spelling": {
        "model_type": "olmoe", "rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    "llama3": {
        "model_type": "qwen3_moe", "head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192}},
    "gpt_oss, empty RoPE dictionary": {"model_type": "gpt_oss", **SMALL, "rope_parameters": {}},
    "gpt_oss, null RoPE and theta on top": {
        "model_type": "gpt_oss", **SMALL, "rope_parameters": None, "rope_theta": 9000.0},
    "gpt_oss, layer types by default, window 5": {"model_type": "gpt_oss", **SMALL, "sliding_window": 5},
    "gpt_oss, full layers and a null window": {
        "model_type": "gpt_oss", **SMALL, "sliding_window": None, "layer_types": ["full_attention"] * 4},
    "gpt_oss without attention biases": {"model_type": "gpt_oss", **SMALL, "attention_bias": False},
    "qwen3_moe, window by default": {
        "model_type": "qwen3_moe", **SMALL, "use_sliding_window": True, "max_window_layers": 2},
    "qwen3_moe, window of null": {
        "model_type": "qwen3_moe", **SMALL, "use_sliding_window": True, "sliding_window": None},
    "qwen3_moe, dense layers": {
        "model_type": "qwen3_moe", **SMALL, "num_hidden_layers": 7, "decoder_sparse_step": 3, "mlp_only_layers": [5]},
    "qwen3_moe, experts under the other name": {"model_type": "qwen3_moe", **SMALL, "num_local_experts": 24},
    "mixtral with a window": {"model_type": "mixtral", **SMALL, "sliding_window": 33},
    "mixtral, experts under the other name": {"model_type": "mixtral", **SMALL, "num_experts": 6},
}


def rows(config, model, text):
    layers = model.model.layers
    sample = next((layer.mlp for layer in layers if hasattr(layer.mlp, "experts")), None)
    attention = layers[0].self_attn
    rope = model.model.rotary_emb
    return {
        "n_layers": len(layers),
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": attention.head_dim,
        "vocab_size": config.vocab_size,
        "max_positions": config.max_position_embeddings,
        "n_experts": config.num_local_experts,
        "top_k": config.num_experts_per_tok,
        "d_expert": sample.experts.down_proj.shape[1 if config.model_type == "gpt_oss" else 2],
        "rms_eps": config.rms_norm_eps,
        "is_tied": bool(config.tie_word_embeddings),
        "has_attention_bias": attention.q_proj.bias is not None,
        "normalize": bool(getattr(config, "norm_topk_prob", True)),
        "is_moe": [hasattr(layer.mlp, "experts") for layer in layers],
        "windows": [window(config, layer) for layer in layers],
        # generate() takes them from the file, not from the class: what is absent there is none
        "eos": text.get("eos_token_id"),
        "bos": text.get("bos_token_id"),
        "inv_freq_bits": rope.inv_freq.view(torch.int32).tolist(),
        "attention_factor": rope.attention_scaling,
    }


def window(config, layer):
    """The window that the eager mask of this family applies to a layer; 0 for none."""
    if config.model_type == "olmoe":
        return 0
    if config.model_type == "gpt_oss":
        return layer.self_attn.sliding_window or 0
    return config.sliding_window or 0


def resolve(config, text):
    small = dict(vocab_size=config.vocab_size)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.config.vocab_size == small["vocab_size"]
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # off the meta device
    return rows(config, model, text)


def main():
    cases = []
    for folder in sorted((ROOT / "tests/golden/models").iterdir()):
        if (folder / "config.json").exists():
            config = AutoConfig.from_pretrained(folder)
            config.quantization_config = None
            wanted = resolve(config, json.loads((folder / "config.json").read_text()))
            cases.append({"name": folder.name, "folder": str(folder.relative_to(ROOT)), "wanted": wanted})
    for name, text in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(text))
            try:
                config = AutoConfig.from_pretrained(folder)
                cases.append({"name": name, "config": text, "wanted": resolve(config, text)})
            except Exception as error:  # say which case transformers itself refuses
                sys.exit(f"{name}: {error}")
    lines = ",\n".join(json.dumps(case) for case in cases)
    (ROOT / "tests/golden/configs.json").write_text("[\n" + lines + "\n]\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
