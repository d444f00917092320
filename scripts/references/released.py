"""What transformers makes of the small files of released models (a folder of them is the first argument).

  python scripts/references/released.py FOLDER tests/golden/released            # make all
  python scripts/references/released.py FOLDER tests/golden/released --check    # make again, compare with what is there
  python scripts/references/released.py FOLDER --answer CASE --date DATE < conversations.jsonl   # answer as the program does

Of the models themselves it keeps digests only: of each file it read, of every rendered text and of its ids, and of
error messages. The conversations are ours. tests/cli/released.sh holds the program against it."""

import argparse
import datetime
import hashlib
import json
import sys
import tempfile
from pathlib import Path

from released_conversations import CONVERSATIONS, DATE

sys.path.pop(0)  # transformers imports the library "tokenizers", not the script beside this one

# Folders as a user has them: the name of each file, and where it lies. All conversations are rendered and encoded.
MIXTRAL = {n: "Mixtral-8x7B-Instruct-v0.1/" + n for n in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")}
QWEN = {"config.json": "Qwen3-30B-A3B/config.json", "tokenizer.json": "Qwen3-30B-A3B/tokenizer.json"}
MODELS = {
    "gpt-oss-20b": {n: "gpt-oss-20b/" + n for n in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")},
    "Mixtral-8x7B-Instruct": MIXTRAL,
    "Qwen3-30B-A3B": QWEN | {"tokenizer_config.json": "Qwen3-30B-A3B/tokenizer_config.json"},
    "Qwen3-Coder": QWEN | {"tokenizer_config.json": "Qwen3-Coder/tokenizer_config.json", "config.json": "Qwen3-Coder-480B-A35B-Instruct/config.json"},
    "granite-3.1-1b-a400m": {n: "granite-3.1-1b-a400m-instruct/" + n for n in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")},
}
# Templates by themselves are rendered with Mixtral's special tokens: bos <s>, eos </s>, unk <unk>. "#" is a key of a JSON file.
TEMPLATES = ["GLM-4.5/chat_template.jinja", "Mixtral-8x7B-Instruct-v0.1/chat_template_v1_later.jinja", "gpt-oss-20b/chat_template.jinja"]
TEMPLATES += [f"{n}/tokenizer_config.json#chat_template" for n in ("DeepSeek-V3", "Qwen3-30B-A3B", "Qwen3-Coder", "granite-3.1-1b-a400m-instruct")]

FAMILIES = ("gpt_oss", "mixtral", "olmoe", "qwen3_moe")


def digest(text):
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def read_template(folder, source):
    name, _, key = source.partition("#")
    return json.loads((folder / name).read_text())[key] if key else (folder / name).read_text()


def cases(folder):
    for name, files in MODELS.items():
        yield {"name": name, "files": files, "template": None}
    for source in TEMPLATES + sorted(f"templates/{p.name}" for p in (folder / "templates").glob("*.jinja")):
        yield {"name": "template:" + source, "files": MIXTRAL, "template": source}


def load(folder, case):
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as own:
        for name, source in case["files"].items():
            (Path(own) / name).symlink_to((folder / source).resolve())
        tokenizer = AutoTokenizer.from_pretrained(own)
    if case["template"]:
        tokenizer.chat_template = read_template(folder, case["template"])
    return tokenizer


def fix_date(date):
    """strftime_now in templates: midnight of the date, as `--date` sets it."""
    from transformers.utils import chat_template_utils

    class fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromisoformat(date)

    chat_template_utils.datetime = fixed


def answer(tokenizer, body, encode):
    """One line of `coxswain tokenize --chat --conversations`; [kind] says what of an error message must be the same."""
    from jinja2.exceptions import TemplateError

    kwargs = {k: body[k] for k in ("tools", "documents") if k in body} | body.get("chat_template_kwargs", {})
    kwargs["add_generation_prompt"] = body.get("add_generation_prompt", True)
    try:
        text = tokenizer.apply_chat_template(body["messages"], tokenize=False, **kwargs)
    except TemplateError as error:
        kind = "raises" if type(error) is TemplateError else "fails"
        return kind, {"error": {"code": kind, "message": "the template says: " + str(error)}}
    except RecursionError:  # Python adds where it noticed
        return "fails", {"error": {"code": "fails", "message": "RecursionError: maximum recursion depth exceeded"}}
    except Exception as error:
        kind = "refused" if not body["messages"] else "fails"
        return kind, {"error": {"code": kind, "message": f"{type(error).__name__}: {error}"}}
    ids = tokenizer.apply_chat_template(body["messages"], tokenize=True, return_dict=False, **kwargs) if encode else []
    return "text", {"text": text, "ids": ids}


def as_golden(kind, line):
    if kind == "text":
        ids = f" ids {len(line['ids'])} {digest(','.join(map(str, line['ids'])))}" if line["ids"] else ""
        return f"text {len(line['text'].encode())} {digest(line['text'])}{ids}"
    own_words = line["error"]["message"].partition(": ")[2]
    return kind if kind == "refused" else f"{kind} {len(own_words.encode())} {digest(own_words)}"


def chats(folder):
    inputs, out = {}, []
    for case in cases(folder):
        tokenizer = load(folder, case)
        for source in [*case["files"].values(), case["template"]]:
            if source:
                path = source.partition("#")[0]
                inputs[path] = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        answers = [as_golden(*answer(tokenizer, body, not case["template"])) for _, body in CONVERSATIONS]
        out.append(case | {"answers": answers})
    import jinja2
    import transformers

    return {"made_by": "scripts/references/released.py", "transformers": transformers.__version__, "jinja2": jinja2.__version__,
            "date": DATE, "conversations": [name for name, _ in CONVERSATIONS], "inputs": inputs, "cases": out}


def count(folder, source):
    """Parameters of a config as transformers builds it, and the bytes of its tensors as released: bf16, or MXFP4 experts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = json.loads((folder / source).read_text())
    is_mxfp4 = (config.pop("quantization_config", None) or {}).get("quant_method") == "mxfp4"
    made = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    own = dict(model.named_parameters())
    experts = {n: p.numel() for n, p in own.items() if ".experts." in n}
    total, in_experts = sum(p.numel() for p in own.values()), sum(experts.values())
    biases = sum(n for name, n in experts.items() if name.endswith("bias"))
    n_experts, top_k = (getattr(made, k, None) for k in ("num_local_experts", "num_experts_per_tok"))
    n_experts = n_experts or made.num_experts
    vectors = sum(p.numel() for n, p in own.items() if p.dim() == 1)
    expert_bytes = (in_experts - biases) * 17 // 32 + 2 * biases if is_mxfp4 else 2 * in_experts
    return {"config": source, "sha256": hashlib.sha256((folder / source).read_bytes()).hexdigest(), "family": made.model_type,
            "n_layers": made.num_hidden_layers, "n_experts": n_experts, "top_k": top_k, "vocab_size": made.vocab_size,
            "parameters": total, "active_parameters": total - in_experts + in_experts * top_k // n_experts,
            "tensor_bytes": 2 * (total - in_experts) + expert_bytes, "expert_bytes": expert_bytes, "expert_bias_bytes": 2 * biases, "vector_bytes": 2 * vectors}


def configs(folder):
    """Supported ones are counted; of all others the name that a refusal has to say: the method of quantisation or the type."""
    counted, refused = [], []
    for path in sorted([*folder.glob("*/config.json"), *folder.glob("configs/*.json")]):
        source = str(path.relative_to(folder))
        config = json.loads(path.read_text())
        method = (config.get("quantization_config") or {}).get("quant_method")
        if config["model_type"] in FAMILIES and method in (None, "mxfp4"):
            counted.append(count(folder, source))
        else:
            refused.append({"config": source, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                            "names": [method] if config["model_type"] in FAMILIES else [n for n in (method, config["model_type"]) if n]})
    return {"counted": counted, "refused": refused}


def write(made, out, check):
    texts = {"chats.json": json.dumps(made["chats"], indent=1), "configs.json": json.dumps(made["configs"], indent=1),
             "conversations.jsonl": "\n".join(json.dumps(body) for _, body in CONVERSATIONS)}
    differing = 0
    for name, text in texts.items():
        path = out / name
        if not check:
            path.write_text(text + "\n")
        elif path.read_text() != text + "\n":
            print(f"{path} differs")
            differing += 1
    return differing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--answer", metavar="CASE")
    parser.add_argument("--date", default=DATE)
    args = parser.parse_args()
    fix_date(args.date)
    if args.answer:
        case = next(c for c in cases(args.folder) if c["name"] == args.answer)
        tokenizer = load(args.folder, case)
        for line in sys.stdin:
            print(json.dumps(answer(tokenizer, json.loads(line), not case["template"])[1], ensure_ascii=False))
        return 0
    return write({"chats": chats(args.folder), "configs": configs(args.folder)}, args.out, args.check) > 0


if __name__ == "__main__":
    sys.exit(main())
