"""What is particular to a model family: its configuration and class in transformers; one function each."""

from transformers import (GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM, OlmoeConfig,
                          OlmoeForCausalLM)


def common(recipe, tokenizer):
    """What all families call by the same name."""
    return {"vocab_size": len(tokenizer), "hidden_size": recipe["d_model"], "intermediate_size": recipe["d_expert"],
            "num_hidden_layers": recipe["n_layers"], "num_attention_heads": recipe["n_heads"],
            "num_key_value_heads": recipe["n_kv_heads"], "num_experts_per_tok": recipe["top_k"],
            "max_position_embeddings": recipe["max_positions"], "initializer_range": recipe["init_std"],
            "router_aux_loss_coef": recipe["balance_loss"], "tie_word_embeddings": False,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}


def olmoe(recipe, tokenizer):
    return OlmoeForCausalLM, OlmoeConfig(
        **common(recipe, tokenizer), num_experts=recipe["n_experts"], norm_topk_prob=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})


def mixtral(recipe, tokenizer):
    return MixtralForCausalLM, MixtralConfig(
        **common(recipe, tokenizer), num_local_experts=recipe["n_experts"], sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})


def gpt_oss(recipe, tokenizer):
    """Windows shorter than a dialogue, so that they matter; YaRN from an eighth of the positions."""
    return GptOssForCausalLM, GptOssConfig(
        **common(recipe, tokenizer), num_local_experts=recipe["n_experts"], head_dim=recipe["head_dim"],
        sliding_window=recipe["sliding_window"], attention_bias=True,
        rope_parameters={"rope_type": "yarn", "rope_theta": 150000.0, "factor": 8.0, "beta_fast": 32.0,
                         "beta_slow": 1.0, "truncate": False,
                         "original_max_position_embeddings": recipe["max_positions"] // 8})


FAMILIES = {"olmoe": olmoe, "mixtral": mixtral, "gpt_oss": gpt_oss}


def new_model(recipe, tokenizer):
    """An untrained model of the recipe's family, initialised from torch's current random state."""
    if recipe["family"] not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise SystemExit(f"family '{recipe['family']}' is not built; there are: {known}")
    model_class, config = FAMILIES[recipe["family"]](recipe, tokenizer)
    return model_class(config)
