"""What jinja2 makes of random conversations, set up here by itself: the other side of tests/cli/chat.sh.

  chat_reference.py make NAME N > conversations     lines for coxswain tokenize --chat --conversations
  chat_reference.py compare TEMPLATE TOKENS DATE conversations answers [least]

Half of the conversations are such that built-in templates write them without Python, half are anything. compare ends with
exit code 0 when every text and every error is jinja2's, and at least `least` of the answers are texts (answers for which
Python was missing do not count). Exit code 77: there is no jinja2."""

import json
import random
import sys
from datetime import datetime

try:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:
    sys.exit(77)

PIECES = ["a", "Hello", " ", "\n", "\n\n", "  x ", "é日🙂", "\u0001\u0004\u0006", "{{ bos_token }}", "{% raw %}", "'", '"', "\\n", "<&>",
          "<|user|>", "<|im_end|>", "[INST]", "</s>", "\t", "None", "%s", "\u2028", "<think>"]
ODD = ["<think>\nso\n</think>\n\n", "</think>", "<tool_response>x</tool_response>", "<|channel|>final<|message|>", ""]
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks. ", "parameters": {
    "type": "object", "properties": {"à": {"type": "string", "description": "<&>"}}, "required": ["à"]}}}]


def text(rng, odd):
    pieces = PIECES + ODD * odd
    return "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 6)))


def plain(rng):
    """Questions and answers in turn, with a system message or not, a question last."""
    messages = [{"role": "system", "content": text(rng, 0)}] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(0, 4)):
        messages += [{"role": "user", "content": text(rng, 0)}, {"role": "assistant", "content": text(rng, 0)}]
    return {"messages": messages + [{"role": "user", "content": text(rng, 0)}]}


def wild(rng):
    chat = plain(rng)
    messages = chat["messages"]
    for _ in range(rng.randrange(0, 3)):
        role = rng.choice(["user", "assistant", "system", "developer", "tool", "judge"])
        messages.insert(rng.randrange(0, len(messages) + 1), {"role": role, "content": text(rng, 1)})
    message = rng.choice(messages)
    change = rng.randrange(0, 16)
    if change == 0:
        message["content"] = rng.choice([None, 5, [{"type": "text", "text": "part"}], {"a": 1}, True])
    elif change == 1:
        message.update(name="Ann", reasoning_content="thought " + text(rng, 0))
    elif change == 2:
        message.update(role="assistant", tool_calls=[{"id": "abcdef123", "type": "function", "function": {
            "name": "look", "arguments": {"à": text(rng, 0), "n": [1, 2.5, None]}}}])
    elif change == 3:
        del message[rng.choice(["role", "content"])]
    elif change == 4:
        messages.pop()
    if rng.random() < 0.2:
        chat["tools"] = rng.choice([TOOLS, [], None])
    if rng.random() < 0.2:
        chat["add_generation_prompt"] = rng.choice([True, False])
    if rng.random() < 0.2:
        chat["chat_template_kwargs"] = rng.choice([{"enable_thinking": False}, {"reasoning_effort": "high"}, {"bos_token": "<x>"}])
    return chat if messages else plain(rng)


def environment(date):
    """As transformers' documentation and source say; the generation block is not among what these templates use."""
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = datetime.fromisoformat(date).strftime
    return made


def render(template, tokens, chat):
    messages = []
    for message in chat["messages"]:
        message = {key: value for key, value in message.items() if value is not None}
        reasoning = message.get("reasoning_content")
        messages.append({"thinking": reasoning, **message} if reasoning is not None else message)
    return template.render(messages=messages, tools=chat.get("tools"), documents=None,
                           add_generation_prompt=chat.get("add_generation_prompt", True),
                           **{**tokens, **chat.get("chat_template_kwargs", {})})


def compare(path, tokens, date, conversations, answers, least):
    template = environment(date).from_string(open(path, encoding="utf-8", newline="").read())
    chats, lines = (open(name, encoding="utf-8", newline="\n").read().split("\n")[:-1] for name in (conversations, answers))
    n_texts = n_errors = n_missing = 0
    assert len(chats) == len(lines), (len(chats), len(lines))
    for number, (chat, line) in enumerate(zip(chats, lines), 1):
        got = json.loads(line)
        if "error" in got and "python3-jinja2" in got["error"]["message"]:
            n_missing += 1
            continue
        try:
            expected = {"text": render(template, tokens, json.loads(chat))}
            is_equal = got.get("text") == expected["text"]
            n_texts += 1
        except Exception as error:
            expected = {"error": str(error)}
            is_equal = expected["error"] in got.get("error", {}).get("message", "")
            n_errors += 1
        if not is_equal:
            print(f"{path}, line {number}:\n chat     {chat}\n expected {json.dumps(expected)}\n got      {line}", file=sys.stderr)
            return 1
    print(f"{path}: {n_texts} texts and {n_errors} errors equal to jinja2's, {n_missing} without Python")
    return 0 if n_texts >= least else 1


def main(arguments):
    if arguments[0] == "compare":
        least = int(arguments[6]) if len(arguments) > 6 else 1
        return compare(arguments[1], json.loads(arguments[2]), *arguments[3:6], least)
    rng = random.Random(arguments[1])
    for number in range(int(arguments[2])):
        print(json.dumps(wild(rng) if number % 2 else plain(rng), ensure_ascii=rng.random() < 0.5))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
