"""What config_keys.py changes: the base configs, and for every key the values that are tried in each family.

A trial is a text of JSON, or ABSENT, or a dict of several keys and such texts. OWN after it: the weights have the shapes that
the changed config asks for. REFUSED: Coxswain refuses the trial by the key's name (what transformers does is recorded). Keys
that change nothing share cases. Keys with a dot are entries of the RoPE dictionary, of quantization_config, or of
generation_config.json. In a trial of an end token `@i` stands for the i-th token that the base generates.
"""

import json

ABSENT = "absent"
FAMILIES = ("mixtral", "olmoe", "gpt_oss", "qwen3_moe")
COMMON = {"vocab_size": 31, "hidden_size": 24, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "max_position_embeddings": 128, "num_experts_per_tok": 2, "rms_norm_eps": 0.01,
          "rope_theta": 300.0, "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": False,
          "use_cache": True, "attention_dropout": 0.0, "output_router_logits": False, "router_aux_loss_coef": 0.01,
          "torch_dtype": "float32", "transformers_version": "4.51.0", "eos_token_id": None, "pad_token_id": None,
          "bos_token_id": None}
PLAIN = {
    "mixtral": {**COMMON, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
                "sliding_window": 5},
    "olmoe": {**COMMON, "model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "num_experts": 4, "clip_qkv": 0.9,
              "norm_topk_prob": False, "attention_bias": False},
    "gpt_oss": {**COMMON, "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_local_experts": 4,
                "head_dim": 6, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"],
                "swiglu_limit": 0.8, "attention_bias": True, "experts_per_token": 2, "initial_context_length": 32},
    "qwen3_moe": {**COMMON, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4,
                  "head_dim": 6, "num_hidden_layers": 3, "intermediate_size": 14, "moe_intermediate_size": 10,
                  "norm_topk_prob": False, "attention_bias": False, "mlp_only_layers": [1], "decoder_sparse_step": 1,
                  "use_sliding_window": False, "sliding_window": None, "max_window_layers": 3},
}
ROPE = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False,
             "original_max_position_embeddings": 32},
}


def bases():
    """Name -> config.json as a dict: plain ones, one for each RoPE type (in the newer spelling), and a few more."""
    found = {}
    for family in FAMILIES:
        plain = PLAIN[family]
        found[family] = plain
        # YaRN of transformers wants a head_dim of Mixtral
        rest = {**{k: v for k, v in plain.items() if k != "rope_theta"}, **({"head_dim": 6} if family == "mixtral" else {})}
        for kind, rope in ROPE.items():
            found[f"{family} {kind}"] = {**rest, "rope_parameters": {**rope, "rope_theta": 300.0}}
    found["qwen3_moe window"] = {**PLAIN["qwen3_moe"], "use_sliding_window": True, "sliding_window": 5}
    return found


class Case:
    def __init__(self, family, keys, set_=None, drop=(), on="", own=False, refused=False, generation=None):
        self.base = f"{family} {on}".strip()
        self.family, self.keys = family, [keys] if isinstance(keys, str) else keys
        self.set, self.drop = set_ or {}, list(drop)
        self.own, self.refused, self.generation = own, refused, generation


OWN, REFUSED = "own", "refused"
MXFP4 = "tests/golden/models/gpt_oss-mxfp4"
CASES = []


def case(key, families, *trials, on=""):
    """Each trial, or (trial, OWN and/or REFUSED), of one key in each family."""
    for family in families.split():
        for trial in trials:
            trial, *marks = trial if isinstance(trial, tuple) else (trial,)
            changes = {key: trial} if isinstance(trial, str) else dict(trial)
            drop = [k for k, v in changes.items() if v == ABSENT]
            CASES.append(Case(family, key, {k: v for k, v in changes.items() if v != ABSENT}, drop, on, OWN in marks,
                              REFUSED in marks))


def ignored(families, trials):
    """Keys that change nothing: key -> trials. The first trials of all keys are one case, so are the second ones, ..."""
    for family in families.split():
        for turn in range(max(map(len, trials.values()))):
            chosen = {key: texts[turn] for key, texts in trials.items() if turn < len(texts)}
            CASES.append(Case(family, list(chosen), {k: v for k, v in chosen.items() if v != ABSENT},
                              [k for k, v in chosen.items() if v == ABSENT]))


def rope(entry, kind, *trials):
    """Each trial of one entry of the RoPE dictionary of `kind`, in every family."""
    for family in FAMILIES:
        for trial in trials:
            trial, *marks = trial if isinstance(trial, tuple) else (trial,)
            changes = {entry: trial} if isinstance(trial, str) else trial
            entries = {k: json.dumps(v) for k, v in bases()[f"{family} {kind}"]["rope_parameters"].items()}
            entries.update(changes)
            text = ", ".join(f"{json.dumps(k)}: {v}" for k, v in entries.items() if v != ABSENT)
            CASES.append(Case(family, f"rope_parameters.{entry}", {"rope_parameters": "{" + text + "}"}, (), kind, False,
                              REFUSED in marks))


ALL = " ".join(FAMILIES)
INFINITE = '{"__float__": "Infinity"}'

# --- what kind of file this is
case("model_type", ALL, (ABSENT, REFUSED), ("null", REFUSED), ('"x"', REFUSED))
for key in ("dtype", "torch_dtype"):
    case(key, ALL, ('"int8"', REFUSED))
case("transformers_weights", ALL, ('"other.safetensors"', REFUSED))

# --- dimensions
case("vocab_size", ALL, ("29", OWN))
case("hidden_size", "mixtral gpt_oss qwen3_moe", ({"hidden_size": "32", "head_dim": "6"}, OWN))
case("hidden_size", "olmoe", ("32", OWN))
case("intermediate_size", ALL, ("6", OWN))
case("moe_intermediate_size", "qwen3_moe", ("6", OWN))
case("num_hidden_layers", "mixtral olmoe", ("3", OWN), (ABSENT, OWN))
case("num_hidden_layers", "gpt_oss", ({"num_hidden_layers": "3", "layer_types": ABSENT}, OWN))
case("num_hidden_layers", "qwen3_moe", ("2", OWN), (ABSENT, OWN))
case("num_attention_heads", "olmoe", {"num_attention_heads": "2", "num_key_value_heads": "1"})
case("num_attention_heads", "mixtral gpt_oss qwen3_moe", ({"num_attention_heads": "2", "head_dim": "12"}, OWN))
case("num_key_value_heads", ALL, ("4", OWN), ("1", OWN))
case("num_key_value_heads", "olmoe", ("null", OWN), (ABSENT, OWN))
case("num_key_value_heads", "qwen3_moe", (ABSENT, OWN))
case("num_key_value_heads", "mixtral gpt_oss",
     ({"num_key_value_heads": ABSENT, "num_attention_heads": "8", "head_dim": "4"}, OWN))
case("head_dim", "mixtral", "null", ABSENT, ("8", OWN))
case("head_dim", "gpt_oss", (ABSENT, OWN), ("8", OWN))
case("head_dim", "qwen3_moe", ABSENT, ("8", OWN))
case("head_dim", "olmoe", "6", ("8", OWN, REFUSED))
case("max_position_embeddings", ALL, "64", ABSENT)
for family in FAMILIES:
    text = json.dumps({**ROPE["yarn"], "rope_theta": 300.0, "factor": None})
    CASES.append(Case(family, "max_position_embeddings", {"max_position_embeddings": "200", "rope_parameters": text}, (),
                      "yarn"))
case("rms_norm_eps", ALL, "1e-6", ABSENT)
case("hidden_act", "mixtral olmoe qwen3_moe", ABSENT, '"swish"', ('"gelu"', REFUSED))
case("hidden_act", "gpt_oss", ABSENT, '"gelu"')
case("tie_word_embeddings", ALL, ("true", OWN), "true", ABSENT)
case("attention_bias", "olmoe qwen3_moe", ("true", OWN), ABSENT)
case("attention_bias", "gpt_oss", ("false", OWN), ABSENT)
case("clip_qkv", "olmoe", "null", ABSENT, "0.3", INFINITE, "Infinity")

# --- experts
for family, key, alias in (("mixtral", "num_local_experts", "num_experts"), ("gpt_oss", "num_local_experts", "num_experts"),
                           ("olmoe", "num_experts", "num_local_experts"), ("qwen3_moe", "num_experts", "num_local_experts")):
    case(key, family, ("3", OWN), (ABSENT, OWN))
    case(alias, family, ("3", OWN), {key: ABSENT, alias: "4"}, {key: "7", alias: "4"})
case("num_experts_per_tok", ALL, "1", "3")
case("num_experts_per_tok", "mixtral gpt_oss", ({"num_experts_per_tok": ABSENT, "num_local_experts": "5"}, OWN))
case("num_experts_per_tok", "olmoe qwen3_moe", ({"num_experts_per_tok": ABSENT, "num_experts": "9"}, OWN))
case("norm_topk_prob", "olmoe qwen3_moe", "true", ABSENT)
case("decoder_sparse_step", "qwen3_moe", ("2", OWN), ABSENT)
case("mlp_only_layers", "qwen3_moe", ("[]", OWN), ("null", OWN), (ABSENT, OWN), ("[0, 7, -1]", OWN))
case("swiglu_limit", "gpt_oss", ABSENT, "1.5", INFINITE, "Infinity", "1e400")
case("swiglu_alpha", "gpt_oss", "1.0", ABSENT)

# --- attention
case("sliding_window", "mixtral", "null", ABSENT, "3", "100")
case("sliding_window", "gpt_oss", ABSENT, "3", ("null", REFUSED))
case("sliding_window", "qwen3_moe", "null", ABSENT, "3", on="window")
case("sliding_window", "qwen3_moe", "3", ABSENT)
case("use_sliding_window", "qwen3_moe", {"use_sliding_window": "true", "sliding_window": "5"}, ABSENT)
case("use_sliding_window", "qwen3_moe", "false", ABSENT, on="window")
case("layer_types", "gpt_oss", "null", ABSENT, '["full_attention", "sliding_attention"]',
     '["attention", "sliding_attention"]', ('["chunked_attention", "full_attention"]', REFUSED), ('["full_attention"]', REFUSED))
case("layer_types", "qwen3_moe", '["full_attention", "sliding_attention", "full_attention"]', "null")
case("layer_types", "qwen3_moe", '["full_attention", "full_attention", "full_attention"]', on="window")
case("is_causal", ALL, ("false", REFUSED), ("null", REFUSED))

# --- RoPE
case("rope_theta", ALL, "50.0", "50", ABSENT,
     {"rope_theta": "1.0", "rope_parameters": '{"rope_type": "default", "rope_theta": 300.0}'})
case("rope_scaling", ALL, "null", "{}", "false", '{"rope_type": "linear", "factor": 4.0}',
     '{"type": "linear", "factor": 4.0}',
     {"rope_scaling": '{"type": "linear", "factor": 4.0}', "rope_parameters": '{"rope_type": "linear", "factor": 7.0}'},
     {"rope_scaling": "{}", "rope_parameters": '{"rope_type": "linear", "factor": 7.0}'},
     {"rope_scaling": "{}", "rope_parameters": "{}"},
     {"rope_scaling": '{"rope_type": "default", "factor": 7.0}'}, ('{"rope_type": "dynamic", "factor": 4.0}', REFUSED))
case("rope_parameters", ALL, "null", "{}", '{"rope_type": "linear", "factor": 4.0}',
     {"rope_parameters": "null", "rope_theta": ABSENT}, ('{"full_attention": {"rope_type": "default"}}', REFUSED))
rope("rope_type", "yarn", '"default"', '"linear"', ABSENT, {"rope_type": ABSENT, "type": '"yarn"'}, {"type": '"linear"'},
     ('"longrope"', REFUSED), ('"proportional"', REFUSED), ('"x"', REFUSED))
rope("type", "yarn", {"rope_type": ABSENT, "type": '"linear"'}, '"linear"', "null")
rope("rope_theta", "yarn", "50.0", ABSENT)
rope("factor", "linear", "2.0", "3", (ABSENT, REFUSED), ("null", REFUSED))
rope("factor", "llama3", "2.0")
rope("factor", "yarn", "2.0", "null", "0.5", (ABSENT, REFUSED))
rope("original_max_position_embeddings", "llama3", "16", ABSENT)
rope("original_max_position_embeddings", "yarn", "16", ABSENT)
rope("low_freq_factor", "llama3", "2.0", "4.0", "6.0", (ABSENT, REFUSED))
rope("high_freq_factor", "llama3", "8.0", "1.0", (ABSENT, REFUSED))
rope("beta_fast", "yarn", "2.0", "null", "0", ABSENT)
rope("beta_slow", "yarn", "0.2", "null", "0", ABSENT)
rope("truncate", "yarn", "true", "null", "false", ABSENT, "0", "1")
rope("attention_factor", "yarn", "1.5", "null", "0.0", "2")
rope("mscale", "yarn", "0.7", "null", {"mscale": "0.7", "mscale_all_dim": "1.3"}, {"mscale": "0", "mscale_all_dim": "1.3"})
rope("mscale_all_dim", "yarn", "0.7", "null", {"mscale": "1.3", "mscale_all_dim": "0.7"},
     {"mscale": "1.3", "mscale_all_dim": "null"})
rope("partial_rotary_factor", "yarn", "1.0", ("0.5", REFUSED))
rope("partial_rotary_factor", "linear", ("0.5", REFUSED))
case("original_max_position_embeddings", ALL, "16", on="yarn")
case("original_max_position_embeddings", ALL, "16", on="llama3")
case("original_max_position_embeddings", "mixtral olmoe qwen3_moe", "16", "null", '"x"')
case("partial_rotary_factor", ALL, ("0.5", REFUSED))

# --- tokens
case("eos_token_id", ALL, "@3", "[30, @2]", "null", ABSENT, "-1", "[-1, @2]")
for family in FAMILIES:
    for text in ('{"eos_token_id": @2}', '{"eos_token_id": [30, @1]}', '{"eos_token_id": null}', "{}",
                 '{"eos_token_id": -1}'):
        CASES.append(Case(family, "generation_config.eos_token_id", {"eos_token_id": "@3"}, generation=text))
    for name in ("bos_token_id", "pad_token_id"):
        for text in ("3", "null"):
            CASES.append(Case(family, f"generation_config.{name}", {}, generation='{"%s": %s}' % (name, text)))

# --- quantised weights
case("quantization_config", ALL, ('{"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}', REFUSED),
     ('{"quant_method": "gptq", "bits": 4}', REFUSED))
case("quantization_config", "mixtral olmoe qwen3_moe", ('{"quant_method": "mxfp4"}', REFUSED))
case("quantization_config", "gpt_oss", '{"quant_method": "mxfp4"}', (ABSENT, REFUSED), ("null", REFUSED), on="mxfp4")
case("quantization_config.modules_to_not_convert", "gpt_oss",
     {"quantization_config": '{"quant_method": "mxfp4", "modules_to_not_convert": null}'},
     {"quantization_config": '{"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}'}, on="mxfp4")

# --- layers of their own, and what other models have; neutral values are taken
case("per_layer_config", ALL, ('{"0": {"rms_norm_eps": 0.5}}', REFUSED))
NEUTRAL_0 = ("n_shared_experts", "num_shared_experts", "shared_expert_intermediate_size", "kv_lora_rank",
             "attn_logit_softcapping", "final_logit_softcapping", "router_logit_softcapping", "attention_chunk_size", "mlp_bias",
             "alibi", "attention_multiplier")
NEUTRAL_1 = ("n_group", "routed_scaling_factor", "embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale")
for key in NEUTRAL_0 + NEUTRAL_1:
    case(key, ALL, ("2", REFUSED))

# --- read by nobody for these families: names, training, what transformers returns and how it runs
ignored(ALL, {
    "architectures": ["null", ABSENT, '["X"]'],
    "transformers_version": ["null", ABSENT, '"x"'],
    "_name_or_path": ["null", '"x/y"'],
    "name_or_path": ["null", '"x/y"'],
    "auto_map": ['{"AutoConfig": "configuration_x.X"}'],
    "qkv_bias": ["true", "null"],
    "use_qk_norm": ["false", "true", "null"],
    "experts_per_token": ["1", "null"],
    "router_jitter_noise": ["0.5"],
    "router_aux_loss_coef": ["0.5", ABSENT],
    "output_router_logits": ["true", ABSENT],
    "max_window_layers": ["0", "null"],
    "attention_dropout": ["0.5", ABSENT],
    "initial_context_length": ["16", "null"],
    "pad_token_id": ["3", "null", ABSENT],
    "bos_token_id": ["3", "null", ABSENT],
    "initializer_range": ["0.5", ABSENT],
    "use_cache": ["false", ABSENT],
    "attn_implementation": ['"eager"', "null"],
    "experts_implementation": ['"batched_mm"', "null"],
    "output_hidden_states": ["true", "null"],
    "output_attentions": ["true", "null"],
    "return_dict": ["true"],
    "chunk_size_feed_forward": ["3"],
    "is_encoder_decoder": ["true"],
    "id2label": ['{"0": "a", "1": "b", "2": "c"}', "null"],
    "label2id": ['{"a": 0}', "null"],
    "num_labels": ["5"],
    "problem_type": ['"regression"', "null"],
    "tie_last_hidden_states": ["true", "null"],
    "gradient_checkpointing": ["true", "null"],
    "pretraining_tp": ["2", "null"],
})
ignored("mixtral gpt_oss qwen3_moe", {
    "clip_qkv": ["null", "0.3"],
})
ignored("mixtral gpt_oss", {
    "norm_topk_prob": ["true", "false", "null"],
})
ignored("mixtral olmoe gpt_oss", {
    "moe_intermediate_size": ["6", "null"],
    "decoder_sparse_step": ["2", "null"],
    "mlp_only_layers": ["[0]", "null"],
    "use_sliding_window": ["true", "false", "null"],
})
ignored("mixtral olmoe qwen3_moe", {
    "swiglu_limit": ["1.5", "null"],
    "swiglu_alpha": ["1.5", "null"],
})
ignored("mixtral olmoe", {
    "layer_types": ['["full_attention", "sliding_attention"]', "null"],
})
ignored("mixtral", {
    "attention_bias": ["true", "null"],
})
ignored("olmoe", {
    "sliding_window": ["3", "null"],
})

ignored(ALL, {"per_layer_config": ["{}"]})

# --- neutral values of keys that are refused otherwise
ignored(ALL, {"dtype": ["null", '"bfloat16"', '"float16"', ABSENT], "torch_dtype": ["null", ABSENT, '"bfloat16"', '"float16"'],
              "transformers_weights": ["null"], "is_causal": ["true"], "partial_rotary_factor": ["null", "1.0"],
              "quantization_config": ["null"], "per_layer_config": ["null"],
              **{key: ["null", "0"] for key in NEUTRAL_0},
              **{key: ["null", "1"] for key in NEUTRAL_1}})
