"""The tokenizers that the unit tests carry: cut to a few hundred tokens, with the regexes, normalisers, decoders
and added tokens of the whole, and what the library makes of some hundred texts."""

import json

from tokenizers import Tokenizer

from tokenizer_texts import texts

MOST_CHARACTERS = 64


def some_texts(specials):
    """A few of the fixed corner cases, then generated ones, all short."""
    every = list(texts(300, 5, specials))
    return [t.replace("\0", "\x01")[:MOST_CHARACTERS] for t in every[:70:4] + every[120:150]]


def cut(data, n_merges, n_added):
    """Keeps characters, bytes, the first merges that are closed under merging, and some added tokens; ids are
    given anew, in the old order."""
    model = data["model"]
    added = data["added_tokens"]
    kept_added = added if len(added) <= n_added else added[:n_added - 2] + added[-2:]
    names = {t["content"] for t in kept_added}
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    inner = {a + b for a, b in merges}
    dropped = {t["content"] for t in added} - names
    base = [t for t in model["vocab"] if t not in inner and t not in dropped and t not in names]
    if len(base) > 700:
        base = [t for t in base if len(t) > 1] + [t for t in base if len(t) == 1][:400]
    vocab, kept = set(base), []
    for a, b in merges:
        if len(kept) < n_merges and a in vocab and b in vocab:
            vocab.add(a + b)
            kept.append([a, b])
    in_vocab = [t for t in sorted(model["vocab"], key=model["vocab"].get) if t in vocab or t in names]
    ids = {t: i for i, t in enumerate(in_vocab)}
    model["vocab"] = ids
    # Both spellings of merges are in use; half of the goldens have each.
    model["merges"] = kept if len(kept) % 2 else [f"{a} {b}" for a, b in kept]
    next_id = len(ids)
    for t in kept_added:
        if t["content"] in ids:
            t["id"] = ids[t["content"]]
        else:
            t["id"] = next_id
            next_id += 1
    data["added_tokens"] = sorted(kept_added, key=lambda t: t["id"])
    for processor in [data["post_processor"]] + ((data["post_processor"] or {}).get("processors") or []):
        for name, token in ((processor or {}).get("special_tokens") or {}).items():
            token["ids"] = [next(t["id"] for t in kept_added if t["content"] == name)]
    return data


def write_one(source, folder, n_merges):
    data = cut(json.loads((source / "tokenizer.json").read_text(encoding="utf-8")), n_merges, 24)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    reference = Tokenizer.from_str(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    lines = []
    for sample in some_texts([t["content"] for t in data["added_tokens"]]):
        plain = reference.encode(sample, add_special_tokens=False).ids
        full = reference.encode(sample, add_special_tokens=True).ids
        case = {"text": sample, "ids": plain, "decoded": reference.decode(plain, skip_special_tokens=False)}
        if full != plain:
            case["full"] = full
        skipped = reference.decode(full, skip_special_tokens=True)
        if skipped != case["decoded"]:
            case["skipped"] = skipped
        if "\0" not in case["decoded"]:
            lines.append(json.dumps(case, ensure_ascii=False, separators=(",", ":")))
    (folder / "cases.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{folder.name}: {len(data['model']['vocab'])} tokens, {len(lines)} texts")


def write_goldens(prepared, goldens):
    for source in sorted(prepared.iterdir()):
        if (source / "tokenizer.json").exists():
            write_one(source, goldens / source.name, 150 if source.name in ("qwen", "deepseek") else 120)
