"""Golden prompts: what transformers' apply_chat_template makes of the templates in tests/golden/chat.

  python scripts/references/tokenizer_chats.py tests/golden/chat

writes <template>/cases.json for each template folder there: what a request says ("chat"), the date and the kwargs, and
either the text, or "refusal" (the template's own words) or "error" (jinja2's, or Python's). tokens.json: which special
tokens templates see, for files beside the weights of many kinds."""

import datetime
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.pop(0)  # this folder's tokenizers.py is not the library
from jinja2.exceptions import TemplateError  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from transformers.utils import chat_template_utils  # noqa: E402

BUNDLED = Path(__file__).resolve().parents[2] / "models" / "olmoe-velk" / "tokenizer.json"


def message(role, content):
    return {"role": role, "content": content}


S, U, A = (lambda role: lambda content: message(role, content))("system"), lambda c: message("user", c), lambda c: message("assistant", c)
THOUGHT = "<think>\nFirst this.\n\nThen that.\n</think>\n\nThe answer."
CONVERSATIONS = [
    [U("What is a lamp?")],
    [S("Be brief."), U("What is a lamp?")],
    [S(""), U("Hi")],
    [U("")],
    [U("  one \n\n"), A(" two "), U("\nthree")],
    [S("Be brief.\nBe kind."), U("One?"), A("1."), U("Two?"), A("2."), U("Three?")],
    [U("Hi"), A("Hello")],
    [S("x"), U("Hi"), A("Hello, I am")],
    [U("naïve 你好 🙂 {{ bos_token }} <|user|> [INST] <|im_end|> \"quoted\" 'too'"), A("\t\\n"), U("&<>")],
    [U("Think."), A(THOUGHT), U("Again.")],
    [U("Think."), A(THOUGHT)],
    [U("Think."), A("</think>\n\nOnly this"), A("and <think>\n\n</think>\n\n\n\nmore\n")],
    [A("I begin."), U("Do you?")],
    [U("One"), U("Two")],
    [U("One"), S("Now French."), U("Two")],
    [U("One"), A("Two"), S("Late system")],
    [message("developer", "Speak French."), U("Hi")],
    [U("Call it."), message("tool", "42"), message("tool", "43"), U("Well?")],
    [U("Call it."), A("Calling"), U("<tool_response>\n42\n</tool_response>"), A(THOUGHT), A("Last")],
    [U("<tool_response></tool_response>"), A(THOUGHT)],
    [message("judge", "Order!"), U("Hi")],
    [S("only a system message")],
    [U("Hi"), A("<|channel|>final<|message|>No.")],
]
DATE = "2026-01-31"
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather of a città. ", "parameters": {
        "type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "Where, \"quoted\" <&>"}, "days": {"type": "integer", "enum": [1, 2]}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, id="abcdef123"):
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments}}


def told(**message):
    return message


# Chats that say more than roles and contents.
CHATS = [
    {"messages": [U("What is a lamp?")], "tools": TOOLS},
    {"messages": [S("Be brief."), U("What is a lamp?")], "tools": TOOLS[:1]},
    {"messages": [U("Weather?")], "tools": []},
    {"messages": [U("Weather?")], "tools": None, "documents": None, "chat_template_kwargs": None},
    {"messages": [U("Weather in Zürich?"),
                  told(role="assistant", content=None, tool_calls=[call("weather", {"place": "Zürich", "days": 2})]),
                  told(role="tool", tool_call_id="abcdef123", name="weather", content="Sunny & 20°"), A("Sunny."), U("Thanks.")],
     "tools": TOOLS},
    {"messages": [U("Both?"), told(role="assistant", content="One moment.", tool_calls=[
        call("weather", {"place": "Rome"}), call("now", {})]), told(role="tool", content="1"), told(role="tool", content="2")],
     "tools": TOOLS},
    {"messages": [U("Id?"), told(role="assistant", content="", tool_calls=[call("now", {}, id="x")])], "tools": TOOLS},
    {"messages": [told(role="user", content=[{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}])]},
    {"messages": [U("Why?"), told(role="assistant", content="So.", reasoning_content="Since."), U("And?")]},
    {"messages": [U("Why?"), told(role="assistant", content="So.", reasoning="Since.")], "add_generation_prompt": False},
    {"messages": [U("Hi"), A("Hello")], "add_generation_prompt": False},
    {"messages": [U("Hi")], "chat_template_kwargs": {"enable_thinking": False, "level": "über"}},
    {"messages": [U("Hi")], "chat_template_kwargs": {"reasoning_effort": "high", "bos_token": "<mine>"}},
    {"messages": [U("Hi")], "chat_template_kwargs": {"level": None}},
    {"messages": [U("Hi")], "documents": [{"title": "T1", "text": "x"}, {"title": "T2"}]},
    {"messages": [told(role="user", content=5)]},
    {"messages": [told(role="user")]},
    {"messages": [told(role="user", content=None)]},
    {"messages": [told(content="no role")]},
    {"messages": [told(role="user", content="named", name="Ann")]},
    {"messages": [U("one"), message("skip", "x"), A("two"), A(""), U("stop"), U("never")]},
] + [{"messages": [U(word)]} for word in ("refuse", "undefined", "type", "key", "secret", "change", "underscore",
                                           "divide", "include")]


class Clock(datetime.datetime):
    day = DATE

    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(cls.day)


def cases(tokenizer):
    texts = json.dumps(tokenizer.chat_template)
    plain = (CONVERSATIONS[1], CONVERSATIONS[9]) if "strftime_now" in texts or "enable_thinking" in texts else ()
    todo = [({"messages": c}, DATE, {}) for c in CONVERSATIONS] + [(c, DATE, {}) for c in CHATS]
    todo += [({"messages": c}, "1999-12-31", {"reasoning_effort": "high"}) for c in plain]
    todo += [({"messages": c}, "1999-12-31", {"enable_thinking": False}) for c in plain]
    for chat, date, kwargs in todo:
        case = {"chat": chat, "date": date, "kwargs": kwargs}
        Clock.day = date
        try:
            case["text"] = tokenizer.apply_chat_template(
                chat["messages"], tools=chat.get("tools"), documents=chat.get("documents"), tokenize=False,
                add_generation_prompt=chat.get("add_generation_prompt", True),
                **{**kwargs, **(chat.get("chat_template_kwargs") or {})})
        except Exception as error:
            case["refusal" if type(error) is TemplateError else "error"] = str(error)
        yield case


# Files beside the weights: what tokenizer_config.json, special_tokens_map.json and config.json say.
TYPED = {"__type": "AddedToken", "content": "<typed>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
PLAIN = {key: value for key, value in TYPED.items() if key != "__type"}
BASE = {"tokenizer_class": "PreTrainedTokenizerFast"}
FOLDERS = [
    {"tokenizer_config.json": {**BASE, "bos_token": "<a>", "eos_token": "<b>"},
     "special_tokens_map.json": {"bos_token": PLAIN, "pad_token": "<d>", "eos_token": None}},
    {"tokenizer_config.json": {**BASE, "bos_token": "<a>", "added_tokens_decoder": {}},
     "special_tokens_map.json": {"bos_token": "<c>", "pad_token": "<d>"}},
    {"tokenizer_config.json": {**BASE, "bos_token": TYPED, "image_token": TYPED, "video_token": "<v>", "unk_token": None}},
    {"tokenizer_config.json": {**BASE, "extra_special_tokens": {"image_token": "<i>", "odd": "<o>"}, "add_bos_token": True}},
    {"tokenizer_config.json": BASE, "special_tokens_map.json": {"extra_special_tokens": {"odd": "<o>"}, "x_token": "<x>"}},
    {"special_tokens_map.json": {"bos_token": "<only here>"}},
] + [{"config.json": {"model_type": family}, **({"tokenizer_config.json": {"tokenizer_class": name}} if name else {})}
     for family, name in (("olmoe", None), ("olmoe", "GPT2Tokenizer"), ("olmoe", "PreTrainedTokenizerFast"), ("mixtral", None),
                          ("mixtral", "GPTNeoXTokenizer"), ("gpt_oss", None), ("gpt_oss", "Qwen2TokenizerFast"), ("qwen3_moe", None))]


def load(folder, files):
    """The tokenizer of a folder with these files and the bundled tokenizer.json, which has nothing to do with templates."""
    shutil.copy(BUNDLED, folder)
    for name, content in files.items():
        (Path(folder) / name).write_text(json.dumps(content))
    return AutoTokenizer.from_pretrained(folder)


def dump(path, items):
    lines = [json.dumps(item, ensure_ascii=False) for item in items]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{path}: {len(lines)} cases")


def main():
    chat_template_utils.datetime = Clock
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        if not folder.is_dir():
            continue
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            dump(folder / "cases.json", cases(load(copy, {})))
    found = []
    for files in FOLDERS:
        with tempfile.TemporaryDirectory() as folder:
            found.append({"files": files, "tokens": load(folder, files).special_tokens_map})
    dump(Path(sys.argv[1]) / "tokens.json", found)


if __name__ == "__main__":
    main()
