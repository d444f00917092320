"""The conversations of released.py: request bodies as `coxswain tokenize --chat --conversations` takes them. One for
each thing that templates look at, and what people paste. Mixtral's template takes only user and assistant in turns
without tools: more than a dozen are of that kind."""

from functools import partial

DATE = "2026-01-02"


def message(role, content, **more):
    return {"role": role, "content": content, **more}


S, U, A = (partial(message, role) for role in ("system", "user", "assistant"))


def call(name, arguments, call_id="call00001"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name, description, properties, required=()):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = tool("get_weather", "The weather <now> & \"soon\" of a place.", {
    "place": {"type": "string", "description": "Town, and 'country': Zürich, 東京"},
    "unit": {"type": "string", "enum": ["celsius", "kelvin"], "default": "celsius"},
    "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 14},
}, ["place"])
SEARCH = tool("search", "Looks\nfor things.", {
    "query": {"type": "array", "items": {"type": "string"}, "description": "  words  "},
    "filter": {"type": "object", "properties": {"after": {"type": "string", "format": "date"}}, "additionalProperties": False},
    "weight": {"type": "number", "default": 0.1, "exclusiveMinimum": -1e-07},
})
NOTHING = tool("now", "The time.", {})
LAMP = tool("lamp", "Switches a lamp.", {"room": {"type": "string", "description": "Which"}, "level": {"type": "integer", "description": "How much"}}, ["room"])
TOOLS = [WEATHER, SEARCH, NOTHING]

ODD = "naïve 你好 🙂 👩‍👩‍👧‍👦 e\u0301 \u0928\u093f ﷽ שלום \u202eabc\u202c \u2028\u2029\u00a0\u200b\ufeff x"
TEMPLATE_LIKE = "{{ bos_token }} {% for x in y %} {# note #} {%- raw -%} ${HOME} %s %d \\n \\u0041 {{{{"
TOKEN_LIKE = "<s>[INST] </s> <|im_end|>\n<|im_start|>system\n<|start|>user<|message|><|end|><|return|> [/INST] <|endoftext|><unk><tool_call>"

CONVERSATIONS = [
    # --- User and assistant in turns, no tools.
    ("one question", {"messages": [U("What is a lamp?")]}),
    ("without a generation prompt", {"messages": [U("What is a lamp?")], "add_generation_prompt": False}),
    ("three turns", {"messages": [U("One?"), A("1."), U("Two?"), A("2."), U("Three?")]}),
    ("ends with an answer", {"messages": [U("Hi"), A("Hello")], "add_generation_prompt": False}),
    ("an answer, then a generation prompt", {"messages": [U("Hi"), A("Hello, I am")]}),
    ("empty contents", {"messages": [U(""), A(""), U("")]}),
    ("white space", {"messages": [U("  one \n\n"), A(" two\t"), U("\n\r\n three\r")]}),
    ("odd characters", {"messages": [U(ODD), A(ODD[::-1]), U("🏳️‍🌈\U0001f1e8\U0001f1ed\U0010fffd\ue000")]}),
    ("braces of templates", {"messages": [U(TEMPLATE_LIKE), A("{{ 7 * 7 }}"), U("{% endraw %}")]}),
    ("tokens in text", {"messages": [U(TOKEN_LIKE), A("</s>"), U("<|channel|>final")]}),
    ("markup and quotes", {"messages": [U("<b>&amp;</b> 'single' \"double\" `back` \\ / &<>")]}),
    ("long words and numbers", {"messages": [U("a" * 300 + " " * 50 + "0123456789" * 12 + "\n" * 20 + "...!!!???")]}),
    ("code", {"messages": [U("def f(x):\n\treturn {'a': [x, -1.5e3]}  # naïve\n\n\nprint(f(2))\n"), A("```c\nint a[3] = {0};\n```"), U("Why?")]}),
    ("thought, then again", {"messages": [U("Think."), A("<think>\nFirst this.\n\nThen that.\n</think>\n\nThe answer."), U("Again.")]}),
    ("thinking is off", {"messages": [U("Think.")], "chat_template_kwargs": {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}}),
    ("high effort", {"messages": [U("Think.")], "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "high", "thinking_budget": 512}}),
    # --- System and other roles.
    ("system", {"messages": [S("Be brief."), U("What is a lamp?")]}),
    ("system, several turns", {"messages": [S("Be brief.\nBe kind."), U("One?"), A("1."), U("Two?"), A("2."), U("Three?")]}),
    ("empty system", {"messages": [S(""), U("Hi")]}),
    ("late system", {"messages": [U("One"), A("Two"), S("Now French."), U("Three")]}),
    ("developer", {"messages": [message("developer", "Speak French."), U("Hi")]}),
    ("two users in a row", {"messages": [U("One"), U("Two")]}),
    ("assistant first", {"messages": [A("I begin."), U("Do you?")]}),
    ("only a system message", {"messages": [S("Be brief.")]}),
    ("an unknown role", {"messages": [message("judge", "Order!"), U("Hi")]}),
    # --- Tools.
    ("tools", {"messages": [U("Rain tomorrow?")], "tools": TOOLS}),
    ("tools and system", {"messages": [S("Be brief."), U("Rain tomorrow?")], "tools": [WEATHER]}),
    ("no tools in the list", {"messages": [U("Rain tomorrow?")], "tools": []}),
    ("a call and its result", {"messages": [
        U("Rain in Bern?"), A("", tool_calls=[call("get_weather", {"place": "Bern", "days": None, "exact": True, "at": [46.95, -0.0, 1e100, 7]})]),
        message("tool", "{\"rain\": false}", name="get_weather", tool_call_id="call00001"), A("No."), U("Thanks <3")], "tools": TOOLS}),
    ("two calls, arguments as text", {"messages": [
        S("Use tools."), U("Bern and Rome?"),
        A("I look.", tool_calls=[call("get_weather", "{\"place\": \"Bern\"}"), call("search", "{\"query\": [\"Rome\"]}", "call00002")]),
        message("tool", "wet", name="get_weather", tool_call_id="call00001"),
        message("tool", "dry & \"hot\"", name="search", tool_call_id="call00002")], "tools": TOOLS}),
    ("a call with a thought", {"messages": [
        U("Bern?"), A("", reasoning_content="I should look.", tool_calls=[call("get_weather", {"place": "Bern"})]),
        message("tool", "wet", name="get_weather", tool_call_id="call00001")], "tools": [WEATHER]}),
    ("a call without tools", {"messages": [U("Now?"), A("", tool_calls=[call("now", {})]), message("tool", "noon", name="now", tool_call_id="call00001")]}),
    ("plain tools", {"messages": [S("Be brief."), U("Which lamp?"), A("A red one."), U(ODD)], "tools": [LAMP]}),
    ("a plain call and its result", {"messages": [
        U("Switch it on."), A("", tool_calls=[call("lamp", {"room": "hall", "level": 3})]),
        message("tool", "on", name="lamp", tool_call_id="call00001"), A("It is on."), U("Thanks")], "tools": [LAMP]}),
    ("functions in words", {"messages": [S("Be brief."), U("Switch it on."), A("", tool_calls=[call("lamp", {"room": "hall"})]),
        message("tool", "on", name="lamp")], "chat_template_kwargs": {"functions": "lamp(room)", "datetime": "noon"}}),
    ("documents", {"messages": [U("What do they say?")], "documents": [{"title": "A", "text": "Lamps <shine>."}, {"title": "B", "text": "Ünïcode."}]}),
    # --- What transformers does to messages before a template sees them: drops nulls, gives thoughts their other names.
    ("content is null", {"messages": [U("Now?"), A(None, tool_calls=[call("now", {})], refusal=None), message("tool", "noon", tool_call_id="call00001"), A("Noon.", tool_calls=None), U("Ok")]}),
    ("reasoning by another name", {"messages": [U("Think."), A("Done.", reasoning="First."), U("More."), A("Done again.", thinking="Second.")]}),
    ("no content", {"messages": [U("Hi"), {"role": "assistant"}, U("?")]}),
    ("parts", {"messages": [U([{"type": "text", "text": "What is "}, {"type": "text", "text": "a lamp?"}])]}),
    ("an image", {"messages": [U([{"type": "image"}, {"type": "text", "text": "Who?"}])]}),
    ("content is a number", {"messages": [U(42)]}),
    ("no messages", {"messages": []}),
]
