"""The reference models: which family, which awkward shapes, which spelling of config.json.

`config` is the content of config.json; in the old spelling it is written as it stands, in the new spelling transformers
writes it. `expected_idle` names features (golden.py) that are known to change nothing for this model, with the reason
beside it; every other feature must move the logits. `bf16_act` asks for router margins so wide that rounding every matrix
product's input to bfloat16 turns no choice: those models can hold the tolerance of `--kernel bf16-act`. `original_format`
false: save_pretrained writes its own names and layout, all experts of a layer in two tensors.
"""

BASE = {
    "dtype": "bfloat16", "spelling": "new", "shard_size": "10MB", "min_shards": 1, "n_prompt": 28,
    "logit_std": 3.0, "embed_std": 0.7, "router_factor": 1.5, "up_factor": 1.5, "down_factor": 1.5,
    "expected_idle": (), "bf16_act": True, "original_format": True,
}


def _variant(name, features, config, **options):
    v = {**BASE, "name": name, "features": features, "config": config, **options}
    v["mxfp4"] = "quantization_config" in config
    v["tied"] = config.get("tie_word_embeddings", False)
    v["config"].setdefault("torch_dtype" if v["spelling"] == "old" else "dtype", v["dtype"])
    return v


# The keys that the released checkpoints carry and that change nothing here, in the words of their own config.json.
OLD_OLMOE = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "output_router_logits": False,
             "pad_token_id": 1, "router_aux_loss_coef": 0.01, "transformers_version": "4.45.0.dev0", "use_cache": True}
OLD_MIXTRAL = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "output_router_logits": False,
               "router_aux_loss_coef": 0.02, "transformers_version": "4.36.0.dev0", "use_cache": True}
OLD_GPT_OSS = {"attention_dropout": 0.0, "hidden_act": "silu", "initial_context_length": 64, "initializer_range": 0.02,
               "output_router_logits": False, "router_aux_loss_coef": 0.9, "transformers_version": "4.55.0.dev0",
               "use_cache": True}
OLD_QWEN3_MOE = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "max_window_layers": 1,
                 "output_router_logits": False, "router_aux_loss_coef": 0.001, "sliding_window": None,
                 "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False}
MXFP4 = {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
         "quant_method": "mxfp4"}
# gate and up must pass swiglu_limit in some rows, so their weights are larger, and the down weights smaller in return
CLAMPED = {"up_factor": 4.0, "down_factor": 0.25}

VARIANTS = [
    _variant(
        "olmoe-plain-f32", "f32, GQA 4:2, norm_topk_prob false, head_dim 6, expert width 10, top-2 of 4",
        {
            "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "vocab_size": 43, "hidden_size": 24,
            "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False,
            "eos_token_id": None, "pad_token_id": None, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        }, dtype="float32"),
    _variant(
        "olmoe-clip-bf16", "clip_qkv, one KV head, norm_topk_prob true, tied, d_model 40, head_dim 10, top-3 of 6, old spelling",
        {
            "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "vocab_size": 47, "hidden_size": 40,
            "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
            "max_position_embeddings": 256, "num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": True,
            "clip_qkv": 0.9, "attention_bias": False, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 700.0,
            "tie_word_embeddings": True, "eos_token_id": None, **OLD_OLMOE,
        }, spelling="old"),
    _variant(
        "olmoe-linear-shards-bf16", "three shards, linear RoPE scaling, attention biases, no GQA, eps 1e-2, top-4 of 7",
        {
            "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "vocab_size": 43, "hidden_size": 32,
            "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": None,
            "max_position_embeddings": 256, "num_experts": 7, "num_experts_per_tok": 4, "norm_topk_prob": False,
            "attention_bias": True, "rms_norm_eps": 1e-2, "eos_token_id": None, "pad_token_id": None,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
        }, shard_size="18KB", min_shards=3),
    _variant(
        "mixtral-window-bf16", "sliding window 7, head_dim 12 (not 32/4), one KV head, top-2 of 5, old spelling",
        {
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 47, "hidden_size": 32,
            "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 12,
            "max_position_embeddings": 256, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 7,
            "rms_norm_eps": 1e-05, "rope_theta": 2000.0, "tie_word_embeddings": False,
            "bos_token_id": 1, "eos_token_id": None, **OLD_MIXTRAL,
        }, spelling="old"),
    _variant(
        "mixtral-llama3-f16", "f16, three shards, llama3 RoPE, GQA 4:2, tied, top-1 of 4, d_model 40, expert width 10",
        {
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 53, "hidden_size": 40,
            "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "num_local_experts": 4, "num_experts_per_tok": 1, "sliding_window": None,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None,
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 400.0, "factor": 8.0, "low_freq_factor": 1.0,
                                "high_freq_factor": 4.0, "original_max_position_embeddings": 48},
        }, dtype="float16", shard_size="22KB", min_shards=3),
    _variant(
        "mixtral-stacked-bf16", "transformers' own format: the experts of a layer stacked in two tensors, mlp.gate; four shards, "
        "top-2 of 5, expert width 10 (not half of d_model 24)",
        {
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 43, "hidden_size": 24,
            "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None,
            "bos_token_id": None, "eos_token_id": None, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        }, shard_size="10KB", min_shards=4, original_format=False),
    _variant(
        "gpt_oss-mxfp4", "MXFP4 experts, sinks, sliding 9 and full layers, YaRN truncate false, head_dim 12, top-3 of 5, "
        "old spelling",
        {
            "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "vocab_size": 41, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
            "max_position_embeddings": 512, "num_local_experts": 5, "num_experts_per_tok": 3, "experts_per_token": 3,
            "attention_bias": True, "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"],
            "swiglu_limit": 7.0, "rms_norm_eps": 1e-05, "rope_theta": 150000, "tie_word_embeddings": False,
            "rope_scaling": {"beta_fast": 4.0, "beta_slow": 1.0, "factor": 8.0, "original_max_position_embeddings": 64,
                             "rope_type": "yarn", "truncate": False},
            "eos_token_id": None, "pad_token_id": None, "quantization_config": MXFP4, **OLD_GPT_OSS,
        }, spelling="old", **CLAMPED),
    _variant(
        "gpt_oss-bf16", "bf16 experts (fused, transposed), sinks, three layers, YaRN truncate false, d_model 36, expert width 8, "
        "head_dim 14, one KV head, top-4 of 5, swiglu_limit 3",
        {
            "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "vocab_size": 37, "hidden_size": 36,
            "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 14,
            "max_position_embeddings": 512, "num_local_experts": 5, "num_experts_per_tok": 4, "attention_bias": True,
            "sliding_window": 6, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "swiglu_limit": 3.0, "eos_token_id": None, "pad_token_id": None,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "beta_fast": 3.0, "beta_slow": 0.5,
                                "original_max_position_embeddings": 64, "truncate": False},
        }, up_factor=2.5, down_factor=0.5),
    _variant(
        "gpt_oss-plain-f32", "f32, default RoPE, no attention biases, tied, no GQA, top-1 of 4",
        {
            "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "vocab_size": 41, "hidden_size": 24,
            "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 10,
            "max_position_embeddings": 512, "num_local_experts": 4, "num_experts_per_tok": 1, "attention_bias": False,
            "sliding_window": 5, "tie_word_embeddings": True, "eos_token_id": None, "pad_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        }, dtype="float32", n_prompt=24, **CLAMPED),
    _variant(
        "qwen3_moe-yarn-bf16", "YaRN (truncate true), head_dim 20 (not 32/2), one KV head, norm_topk_prob true, top-4 of 12, "
        "old spelling",
        {
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 43, "hidden_size": 32,
            "intermediate_size": 60, "moe_intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 20, "max_position_embeddings": 512, "num_experts": 12,
            "num_experts_per_tok": 4, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "attention_bias": False, "rms_norm_eps": 1e-06, "rope_theta": 1000.0, "tie_word_embeddings": False,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 96, "beta_fast": 5.0},
            "eos_token_id": None, **OLD_QWEN3_MOE,
        }, spelling="old"),
    _variant(
        "qwen3_moe-dense-bf16", "dense layers among the sparse (decoder_sparse_step 2), norm_topk_prob false, GQA 6:2, "
        "head_dim absent (36/6), expert width 12, top-3 of 5",
        {
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 47, "hidden_size": 36,
            "intermediate_size": 20, "moe_intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "max_position_embeddings": 256, "num_experts": 5,
            "num_experts_per_tok": 3, "norm_topk_prob": False, "decoder_sparse_step": 2, "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 600.0},
        }),
    _variant(
        "qwen3_moe-window-shards-bf16", "sliding window 6 on every layer, attention biases, mlp_only_layers [1], tied, three shards, "
        "top-2 of 4, YaRN attention_factor",
        {
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 43, "hidden_size": 32,
            "intermediate_size": 20, "moe_intermediate_size": 10, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 10, "max_position_embeddings": 512, "num_experts": 4,
            "num_experts_per_tok": 2, "norm_topk_prob": True, "mlp_only_layers": [1], "attention_bias": True,
            "use_sliding_window": True, "sliding_window": 6, "tie_word_embeddings": True, "eos_token_id": None,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 60.0, "factor": 4.0, "beta_fast": 3.0,
                                "attention_factor": 1.3, "original_max_position_embeddings": 64},
        }, shard_size="16KB", min_shards=3),
]
