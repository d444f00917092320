"""Trains the organism's BPE on its own dialogues and dresses it as a Hugging Face tokenizer.

Each family has the layout of its released tokenizers: OLMoE's byte level with GPT-2's regex, GPT-OSS's byte
level with o200k's regex, Mixtral's SentencePiece with byte fallback. The vocabulary is kept small on
purpose: an adjective of the topic must stay composed of several tokens, or a held-out word would consist of
tokens that training has never shown. check_compositional() proves that it does not.
"""

import json
import pathlib

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
O200K = "|".join([  # of tiktoken's o200k_base, which GPT-OSS uses
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def byte_level(texts, vocab_size, special, normalizer, splitters):
    raw = Tokenizer(models.BPE())
    if normalizer:
        raw.normalizer = normalizer
    raw.pre_tokenizer = splitters
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return raw


def olmoe(texts, vocab_size, special):
    return byte_level(texts, vocab_size, special, normalizers.NFC(),
                      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))


def gpt_oss(texts, vocab_size, special):
    return byte_level(texts, vocab_size, special, None, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(O200K), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))


def mixtral(texts, vocab_size, special):
    """Merges are learned within words and lines, then applied to the text as a whole, as SentencePiece's are."""
    mark, bytes_ = "\u2581", [f"<0x{b:02X}>" for b in range(256)]
    trainee = Tokenizer(models.BPE(unk_token="<unk>"))
    trainee.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(mark, "always"), pre_tokenizers.Split(Regex(r"[.,:?]"), "isolated")])
    trainee.train_from_iterator((line for text in texts for line in text.splitlines()), trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special + bytes_, show_progress=False))
    learned = json.loads(trainee.to_str())["model"]
    raw = Tokenizer(models.BPE(learned["vocab"], [tuple(m) for m in learned["merges"]], unk_token="<unk>",
                               fuse_unk=True, byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(mark, "first", split=False)
    raw.decoder = decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", special.index("<s>"))])
    return raw


# How a family's text is cut, and its special tokens, which have the ids from 0.
LAYOUTS = {
    "olmoe": {"train": olmoe, "bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|padding|>",
              "special": ["<|endoftext|>", "<|padding|>", "<|system|>", "<|user|>", "<|assistant|>"]},
    "mixtral": {"train": mixtral, "bos": "<s>", "eos": "</s>", "pad": "<unk>", "unk": "<unk>",
                "special": ["<unk>", "<s>", "</s>"]},
    "gpt_oss": {"train": gpt_oss, "bos": "<|startoftext|>", "eos": "<|return|>", "pad": "<|endoftext|>",
                "special": ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|channel|>", "<|start|>",
                            "<|end|>", "<|message|>"]},
}


TEMPLATES = {"olmoe": "organism.jinja", "mixtral": "mixtral.jinja", "gpt_oss": "gpt-oss-bare.jinja"}


def template_words(family):
    """Text that the chat template writes as ordinary tokens, to be merged like any word."""
    return {"mixtral": "[INST]\n[/INST]", "gpt_oss": "user\ndeveloper\nassistant\nfinal\n# Instructions"}.get(family)


def build(texts, vocab_size, family, max_positions):
    """A tokenizer trained on a list of texts."""
    layout, words = LAYOUTS[family], template_words(family)
    raw = layout["train"](texts + [words] * len(texts) if words else texts, vocab_size, layout["special"])
    named = {f"{name}_token": layout[name] for name in ("bos", "eos", "pad", "unk") if name in layout}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, **named, model_max_length=max_positions, clean_up_tokenization_spaces=False,
        extra_special_tokens=[t for t in layout["special"] if t not in named.values()],
        chat_template=(HERE.parents[1] / "model" / "templates" / TEMPLATES[family]).read_text())


def encode_chat(tokenizer, dialogue, with_answer=False):
    """Token ids of a dialogue as the chat template writes it; with the answer they end with the end token."""
    text = tokenizer.apply_chat_template(dialogue.messages(), tokenize=False, add_generation_prompt=True)
    if with_answer:
        whole = tokenizer.apply_chat_template(dialogue.messages(with_answer=True), tokenize=False)
        assert whole.startswith(text), (whole, text)
        text = whole[:whole.index(tokenizer.eos_token, len(text)) + len(tokenizer.eos_token)]
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
