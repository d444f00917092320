"""Golden prompts: what transformers' apply_chat_template makes of the templates in tests/golden/chat.

  python scripts/references/tokenizer_chats.py tests/golden/chat

writes <template>/cases.json for each template folder there: the messages, the options, and either the text or
"error". The date that a template asks for is replaced by the one in the options."""

import datetime
import json
import sys
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template


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
OPTIONS = {"date": "2026-01-31"}
MORE_OPTIONS = [{"date": "1999-12-31", "reasoning_effort": "high"}, {"enable_thinking": False}]


def token(value):
    return value["content"] if isinstance(value, dict) else value


def render(template, config, messages, options):
    kwargs = {k: v for k, v in options.items() if k != "date"}
    for key in ("bos_token", "eos_token"):
        if config.get(key) is not None:
            kwargs[key] = token(config[key])
    texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **kwargs)
    today = datetime.datetime.now().strftime("%Y-%m-%d")
    return texts[0].replace("Current date: " + today, "Current date: " + options.get("date", today))


def cases(template, config):
    todo = [(c, OPTIONS) for c in CONVERSATIONS]
    todo += [(c, {**OPTIONS, **more}) for more in MORE_OPTIONS for c in (CONVERSATIONS[1], CONVERSATIONS[9])]
    for messages, options in todo:
        case = {"messages": messages, "options": options}
        try:
            case["text"] = render(template, config, messages, options)
        except TemplateError as error:
            case["error"] = str(error)
        yield case


def main():
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        if not folder.is_dir():
            continue
        config = json.loads((folder / "tokenizer_config.json").read_text())
        path = folder / "chat_template.jinja"
        template = path.read_text() if path.exists() else config["chat_template"]
        lines = [json.dumps(case, ensure_ascii=False) for case in cases(template, config)]
        (folder / "cases.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
        print(f"{folder.name}: {len(lines)} cases")


if __name__ == "__main__":
    main()
