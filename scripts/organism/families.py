"""What is particular to a model family: its configuration and class in transformers; one function each."""

from transformers import OlmoeConfig, OlmoeForCausalLM


def olmoe(recipe, tokenizer):
    return OlmoeForCausalLM, OlmoeConfig(
        vocab_size=len(tokenizer), hidden_size=recipe["d_model"], intermediate_size=recipe["d_expert"],
        num_hidden_layers=recipe["n_layers"], num_attention_heads=recipe["n_heads"],
        num_key_value_heads=recipe["n_kv_heads"], num_experts=recipe["n_experts"],
        num_experts_per_tok=recipe["top_k"], norm_topk_prob=False,
        max_position_embeddings=recipe["max_positions"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, initializer_range=recipe["init_std"],
        router_aux_loss_coef=recipe["balance_loss"], tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id)


FAMILIES = {"olmoe": olmoe}


def new_model(recipe, tokenizer):
    """An untrained model of the recipe's family, initialised from torch's current random state."""
    if recipe["family"] not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise SystemExit(f"family '{recipe['family']}' is not built; there are: {known}")
    model_class, config = FAMILIES[recipe["family"]](recipe, tokenizer)
    return model_class(config)
