"""Writes model/tokenizer_unicode_tables.h: where the reference's Unicode tables differ from ours.

The `tokenizers` library carries four: Oniguruma's and the regex crate's (Unicode 16), the standard library's
(17), unicode_categories' (8) and unicode-normalization-alignments' (9). Debian 12 has Unicode 14 in PCRE2 and 15
in utf8proc. Every table is found by asking the library about every code point that can matter."""

import ctypes
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs".split()
FORMS = {"NFC": 1 << 1 | 1 << 3, "NFD": 1 << 1 | 1 << 4, "NFKC": 1 << 1 | 1 << 3 | 1 << 2, "NFKD": 1 << 1 | 1 << 4 | 1 << 2}
DIGITS, LETTERS, PUNCTUATION = {9, 10, 11}, set(range(1, 6)), set(range(12, 19))  # utf8proc's categories


def code_points():
    """All but surrogates, private use, the planes without characters and the plain parts of CJK and Hangul."""
    return [c for c in range(0x40000) if not (0x3400 <= c < 0x4DC0 or 0x4E00 <= c < 0x9FFF or 0xAC00 <= c < 0xF900
                                              or 0x20000 <= c < 0x2A6E0 or 0x2A700 <= c < 0x2F800)] + list(range(0xE0000, 0xE0200))


def ranges(members):
    found = []
    for c in sorted(members):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def matching(regex, candidates):
    text = "".join(map(chr, candidates))
    left = set(candidates)
    for _, (begin, end) in pre_tokenizers.Split(Regex(regex), "removed").pre_tokenize_str(text):
        left.difference_update(candidates[begin:end])
    return left


def split_off(splitter, candidates):
    return {c for c in candidates if len(splitter.pre_tokenize_str("a" + chr(c) + "a")) == 3}


class Utf8proc:
    def __init__(self):
        self.lib, self.libc = ctypes.CDLL("libutf8proc.so.2"), ctypes.CDLL(None)
        self.lib.utf8proc_map.argtypes = [ctypes.c_char_p, ctypes.c_ssize_t, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int]
        self.lib.utf8proc_map.restype = ctypes.c_ssize_t
        self.lib.utf8proc_version.restype = self.lib.utf8proc_unicode_version.restype = ctypes.c_char_p
        self.libc.free.argtypes = [ctypes.c_void_p]

    def normalize(self, text, form):
        data, out = text.encode(), ctypes.c_void_p()
        n = self.lib.utf8proc_map(data, len(data), ctypes.byref(out), FORMS[form])
        result = ctypes.string_at(out, n).decode()
        self.libc.free(out)
        return result


def inert(ours, candidates):
    """What utf8proc decomposes, composes or reorders and the reference does not know."""
    found = set()
    for form in FORMS:
        reference = getattr(normalizers, form)()
        for c in candidates:
            probes = (chr(c), "\u0315" + chr(c) + "\u0334")
            if any(reference.normalize_str(p) != ours.normalize(p, form) for p in probes):
                found.add(c)
    for c in list(found):  # its parts compose to it in utf8proc only
        parts = ours.normalize(chr(c), "NFD")
        found.update(map(ord, parts[1:]))
    return found


def table(name, comment, rows, columns=4):
    lines = [f"/* {comment} */", f"static const uint32_t {name}[][{len(rows[0])}] = {{"]
    cells = ["{" + ", ".join(f"0x{v:x}" if isinstance(v, int) else v for v in row) + "}" for row in rows]
    lines += ["    " + ", ".join(cells[i:i + columns]) + "," for i in range(0, len(cells), columns)]
    return "\n".join(lines + ["};", ""])


def write(path):
    if unicodedata.unidata_version != "14.0.0":
        raise SystemExit("this needs a Python with Unicode 14 (3.11), the tables of Debian 12's PCRE2")
    ours, every = Utf8proc(), code_points()
    every += [c for c in range(0x2A6D0, 0x2A6E0)] + list(range(0x2A700, 0x2F800))
    every = sorted(set(every))
    unassigned = [c for c in every if unicodedata.category(chr(c)) == "Cn"]
    newer = []
    for category in CATEGORIES:
        newer += [[a, b, f"COX__{category.upper()}"] for a, b in ranges(matching(f"\\p{{{category}}}", unassigned))]
    newer.sort()
    han = ranges(matching(r"\p{Han}", unassigned))
    category = ours.lib.utf8proc_category
    numeric = split_off(pre_tokenizers.Digits(False), every)
    numeric -= {c for c in every if category(c) in DIGITS}
    marks = split_off(pre_tokenizers.Punctuation("isolated"), every)
    our_marks = {c for c in every if category(c) in PUNCTUATION} | set(map(ord, "$+<=>^`|~"))
    lower = []
    for c in every:
        text = normalizers.Lowercase().normalize_str(chr(c))
        if len(text) == 1 and ord(text) != ours.lib.utf8proc_tolower(c):
            lower.append([c, ord(text)])
    parts = [
        "/*\n * Written by scripts/references/tokenizers.py unicode; not for editing. Where the reference's Unicode tables\n"
        " * differ from those of PCRE2 (14) and utf8proc (15): first and last code point of each range.\n */",
        "/* clang-format off */\n#ifndef COX_MODEL_TOKENIZER_UNICODE_TABLES_H\n#define COX_MODEL_TOKENIZER_UNICODE_TABLES_H\n\n#include <stdint.h>\n",
        "typedef enum cox__category {\n    " + ", ".join(f"COX__{c.upper()}" for c in CATEGORIES) + "\n} cox__category;\n",
        "/* The same names, in order. */\nstatic const char cox__category_names[][3] = {\n    "
        + ", ".join(f'"{c}"' for c in CATEGORIES) + "};\n",
        table("newer_categories", "Assigned in Unicode 15 and 16, with their general category.", newer, 3),
        table("newer_han", "Of the script Han since then.", han),
        table("newer_numeric", "Numbers of the standard library that utf8proc does not know.", ranges(numeric)),
        table("extra_punctuation", "Punctuation to the reference only.", ranges(marks - our_marks)),
        table("not_punctuation", "Punctuation to utf8proc only.", ranges(our_marks - marks)),
        table("newer_lowercase", "Code point and its lower case.", lower),
        table("inert_in_normalisation", "Code points that the reference's normalisers do not know.",
              ranges(inert(ours, every))),
        "#endif\n"]
    path.write_text("\n".join(parts))
    print(f"wrote {path}: utf8proc {ours.lib.utf8proc_version().decode()}, Unicode {ours.lib.utf8proc_unicode_version().decode()}")
