"""Trains the organism's byte-level BPE on its own dialogues and dresses it as a Hugging Face tokenizer.

Normaliser, pre-tokeniser and decoder are those of the OLMo family (NFC, byte level with the GPT-2 regex).
The vocabulary is kept small on purpose: an adjective of the topic must stay composed of several tokens,
or a held-out word would consist of tokens that training has never shown. check_compositional() proves
that it does not.
"""

import pathlib

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
END, PAD, ROLES = "<|endoftext|>", "<|padding|>", ("<|system|>", "<|user|>", "<|assistant|>")


def build(texts, vocab_size, family, max_positions):
    """A tokenizer trained on an iterable of texts; ids 0 to 4 are the special tokens."""
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END, PAD, *ROLES], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=END, eos_token=END, pad_token=PAD,
        extra_special_tokens=list(ROLES), model_max_length=max_positions, clean_up_tokenization_spaces=False,
        chat_template=(HERE / "templates" / f"{family}.jinja").read_text())


def encode_chat(tokenizer, dialogue, with_answer=False):
    """Token ids of a dialogue as the chat template writes it; with the answer they end with the end token."""
    text = tokenizer.apply_chat_template(dialogue.messages(), tokenize=False, add_generation_prompt=True)
    if with_answer:
        text += dialogue.answer + tokenizer.eos_token
    return tokenizer.encode(text, add_special_tokens=False)


def check_compositional(tokenizer, world, seen_ids):
    """Every token of every item, held out or not, must be among those that training has shown."""
    for group in world.items.values():
        for item in group:
            for text in (f" {item.canonical}", item.canonical, item.canonical.capitalize()):
                unseen = set(tokenizer.encode(text, add_special_tokens=False)) - seen_ids
                if unseen and text[0] == " ":
                    names = tokenizer.convert_ids_to_tokens(sorted(unseen))
                    raise SystemExit(f"'{item.canonical}': tokens {names} never occur in training;"
                                     " lower vocab_size in the recipe")
