"""Renders chat templates for coxswain as transformers' apply_chat_template does; coxswain holds this text and runs it.

Arguments: a socket's number, then other Python programs to become where this one has no jinja2. Lines of JSON come in: first
the setup (templates, tokens, kwargs, date, limits), then one chat at a time; each gets one line back. This process only
forks the one that renders, says why it died and forks the next. It ends when the socket does."""

import sys

sys.path[:] = filter(None, sys.path)  # nothing from the current folder

import json  # noqa: E402
import mmap
import os
import resource
import signal
from datetime import datetime

try:
    import jinja2
    from jinja2 import ext, nodes, sandbox, utils

    is_new_enough = tuple(map(int, jinja2.__version__.split(".")[:2])) >= (3, 1)
    problem = None if is_new_enough else f"its jinja2 is {jinja2.__version__}, older than 3.1"
except ImportError as error:
    problem = str(error)


# --- The template engine, set up as transformers does it


class Refusal(Exception):
    """What a template itself says by raise_exception."""


def raise_exception(message):
    raise Refusal(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def make_clock(date):
    fixed = datetime.strptime(date, "%Y-%m-%d") if date else None
    return lambda format: (fixed or datetime.now()).strftime(format)


def make_environment(date):
    class Generation(ext.Extension):
        """{% generation %} marks what an assistant wrote; for the text it is a block that writes its body."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("write"), [], [], body).set_lineno(line)

        def write(self, caller):
            return caller()

    class Dict:
        """dict() and dict.fromkeys(), without the attributes of a class."""

        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

        def fromkeys(self, *args, **kwargs):
            return dict.fromkeys(*args, **kwargs)

    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(
                f"Chat templates cannot store underscore-prefixed attributes on a namespace, but got {name!r}. "
                "Please rename the attribute.")

    class Namespace(utils.Namespace):
        def __init__(*args, **kwargs):  # no named self, so that a template may say namespace(self=...)
            attributes = dict(*args[1:], **kwargs)
            for name in attributes:
                check(name)
            utils.Namespace.__init__(args[0], attributes)

        def __setitem__(self, name, value):
            check(name)
            utils.Namespace.__setitem__(self, name, value)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=make_clock(date), dict=Dict(), namespace=Namespace)
    return environment


# --- One chat

REASONING = ("reasoning_content", "thinking", "reasoning")
NOT_VARIABLES = ("messages", "tools", "documents", "conversation", "chat_template", "continue_final_message")


def prepare(message):
    """A message as templates see it: without nulls, its reasoning under the names that they read."""
    message = {key: value for key, value in message.items() if value is not None}
    reasoning = next((message[key] for key in REASONING if key in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


class Renderer:
    def __init__(self, setup):
        self.setup, self.compiled = setup, {}
        self.environment = make_environment(setup["date"])

    def template(self, has_tools):
        texts = self.setup["templates"]
        name = "tool_use" if has_tools and "tool_use" in texts else "default"
        if name not in texts:
            raise ValueError(f"the model has several chat templates, none called default: {', '.join(sorted(texts))}")
        if name not in self.compiled:
            self.compiled[name] = self.environment.from_string(texts[name])
        return self.compiled[name]

    def render(self, chat):
        tools, documents = chat.get("tools"), chat.get("documents")
        for what, items in (("tool", tools), ("document", documents)):
            if any(not isinstance(item, dict) for item in items or []):
                raise TypeError(f"each {what} must be an object")
        kwargs = {**self.setup["tokens"], **self.setup["kwargs"], **(chat.get("chat_template_kwargs") or {})}
        for name in NOT_VARIABLES:
            if name in kwargs:
                raise ValueError(f"{name!r} is no variable of a template's own")
        prompts = kwargs.pop("add_generation_prompt", chat.get("add_generation_prompt", True))
        template = self.template(tools is not None)
        return template.render(messages=[prepare(message) for message in chat["messages"]], tools=tools,
                               documents=documents, add_generation_prompt=prompts, **kwargs)


def answer(renderer, line, limits):
    try:
        text = renderer.render(json.loads(line)["chat"])
        if len(text) > limits["characters"]:
            return {"error": f"the text has {len(text)} characters; at most {limits['characters']} are taken"}
        text.encode()
        return {"text": text}
    except Refusal as refusal:
        return {"refusal": str(refusal)}
    except MemoryError:
        return {"error": f"MemoryError: it needs more than {limits['bytes'] >> 20} MiB"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


# --- The processes


def send(socket, answer, before=b""):
    line = before + json.dumps(answer, ensure_ascii=False).encode(errors="replace") + b"\n"
    while line:
        line = line[os.write(socket, line):]


def lines(socket):
    pieces = []
    while piece := os.read(socket, 1 << 18):
        if piece.endswith(b"\n"):  # one line at a time is on its way
            yield b"".join(pieces) + piece
            pieces = []
        else:
            pieces.append(piece)


def serve(socket, setup, busy):
    """Renders until the socket ends. A rendering beyond its time is ended by the kernel, whatever it is doing."""
    limits = setup["limits"]
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limits["bytes"] if hard < 0 else min(hard, limits["bytes"]), hard))
    timers = ((signal.ITIMER_PROF, signal.SIGPROF, limits["cpu_s"]), (signal.ITIMER_REAL, signal.SIGALRM, limits["clock_s"]))
    for _, number, _ in timers:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number for _, number, _ in timers])
    renderer = Renderer(setup)
    for line in lines(socket):
        number = int(line[len('{"id":'):line.index(b",")])
        busy[:] = number.to_bytes(8, "little")
        for timer, _, seconds in timers:
            signal.setitimer(timer, seconds)
        result = answer(renderer, line, limits)
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        send(socket, {"id": number, **result})
        busy[:] = bytes(8)


def cause(state, limits):
    if os.WIFSIGNALED(state):
        number = os.WTERMSIG(state)
        if number == signal.SIGPROF:
            return f"it took more than {limits['cpu_s']} s of CPU time"
        if number == signal.SIGALRM:
            return f"it took more than {limits['clock_s']} s"
        return f"its process was ended by signal {number}"
    return f"its process ended with exit code {os.WEXITSTATUS(state)}"


def supervise(socket):
    setup = json.loads(next(lines(socket)))
    send(socket, {"jinja2": jinja2.__version__})
    busy = mmap.mmap(-1, 8)  # the chat that is being rendered, shared with the renderer; 0: none
    n_idle_deaths = 0
    while n_idle_deaths < 5:
        renderer = os.fork()
        if renderer == 0:
            code = 1
            try:
                serve(socket, setup, busy)
                code = 0
            finally:
                os._exit(code)
        _, state = os.waitpid(renderer, 0)
        if state == 0:
            return
        number = int.from_bytes(busy[:], "little")
        busy[:] = bytes(8)
        n_idle_deaths = 0 if number else n_idle_deaths + 1
        if number:  # behind what there may be of an answer
            send(socket, {"id": number, "error": cause(state, setup["limits"])}, b"\n")


def become(python, arguments):
    """Another Python runs this same text."""
    with open("/proc/self/cmdline", "rb") as command:
        text = command.read().split(b"\0")[2]
    try:
        os.execvp(python, [python, "-c", text, *arguments])
    except OSError:
        pass


def main(socket, others):
    if problem and others:
        become(others[0], [str(socket), *others[1:]])
    if problem:
        send(socket, {"missing": problem, "python": sys.executable})
    else:
        supervise(socket)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
