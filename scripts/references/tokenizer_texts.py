"""Texts that are hard on tokenizers, from a seed: scripts, emoji, marks, control characters, odd spaces,
digits, contractions, special tokens in the text, rare and unassigned code points."""

import random

WORDS = """the a cat sat on mat Hello World don't DON'T it's IT'S we'll We'LL I'd i'D they've you're 'tis rock'n'roll
antidisestablishmentarianism foo_bar snake_case CamelCase HTTPServer2 x86-64 3.14159 1,000,000 0xDEADBEEF 1e-9
naïve café résumé Zürich Ångström Łódź Ørsted straße ſtatt İstanbul ılık ŒUVRE ﬁne ﬂow ﬀ Ⅻ ½ ² ₃ ™ ℃ ㎏ K Å Ω
Привет мир Ёлка ёж Україна Здравствуйте Ελληνικά Σίσυφος ς ΣΑΣ Ἀθῆναι
你好世界 漢字 中文分词 日本語テスト カタカナ ひらがな ｶﾀｶﾅ ー 한국어 안녕하세요 가각 ㄱㅏ 龍龘 𠀀𠮷 々〆
שלום עוֹלָם مرحبا بالعالم العربية ١٢٣ ۴۵۶ ٱلسَّلَامُ فارسی‌ها اردو
नमस्ते हिन्दी क्षत्रिय বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ไทยภาษา ลาวລາວ မြန်မာ ខ្មែរ བོད་ཡིག ქართული հայերեն አማርኛ
ᏣᎳᎩ ᚠᚢᚦ ⠓⠑⠇⠇⠕ 𐍈𐌰 𓀀𓁀 𝔘𝔫𝔦 𝟘𝟙𝟚 Ａｂｃ１２３ ｈｔｔｐ https://example.org/a?b=c&d=%20#e user@example.com
def f(x): return {"a": [1, 2, None]} <div class="x">&nbsp;</div> $x^2$ \\frac{1}{2} /* c */ // -- == != <= => ... … —""".split()

EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "1️⃣", "❤️", "☎︎", "🧑🏿‍🚀", "🫠", "🀄", "⌚️", "©️", "👩‍❤️‍💋‍👨"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u200b",
          "\u2028", "\u2029", "\u0085", "\u000b", "\u000c", "\u1680", "\u180e", "\u202f", "\ufeff", "\u205f", "\u001c"]
MARKS = ["\u0301", "\u0308", "\u0323", "\u20dd", "\u0345", "\u093c", "\u05b0", "\u3099", "\ufe0f", "\u200d", "\u1ab0",
         "\u0330", "\u031b", "\u0f71", "\u0f72", "\u302a"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["—", "“", "”", "«", "»", "、", "。", "！", "？", "…", "€", "×", "°"]
CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'Re", "'ve", "'m", "'M", "'ll", "'LL", "'lL", "'d", "'D",
                "’s", "'ſ", "'K", "'", "''", "'sx", "' s"]


def any_code_point(rng):
    while True:
        c = rng.choice([rng.randrange(0x110000), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x300),
                        rng.randrange(0x1F000, 0x1FB00), rng.randrange(0xA000, 0xAC00)])
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def latin_word(rng):
    return "".join(rng.choice("etaoinshrdlucmfwypvbgkjqxzETAOIN") for _ in range(rng.randint(1, 14)))


def fragment(rng, specials):
    kind = rng.randrange(18)
    if kind <= 3:
        return rng.choice(["", " ", " "]) + rng.choice(WORDS)
    if kind <= 5:
        return " " + latin_word(rng)
    if kind == 6:
        return rng.choice(EMOJI) * rng.randint(1, 3)
    if kind == 7:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 5)))
    if kind == 8:
        return rng.choice([" ", "\n", "\t", "\r\n", "\u3000", "  \n"]) * rng.randint(1, 60)
    if kind == 9:
        return rng.choice(WORDS) + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 4)))
    if kind == 10:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 22)))
    if kind == 11:
        return "".join(rng.choice(PUNCTUATION) for _ in range(rng.randint(1, 8)))
    if kind == 12:
        return rng.choice(WORDS) + rng.choice(CONTRACTIONS)
    if kind == 13 and specials:
        s = rng.choice(specials)
        return rng.choice(["", " ", "  ", "\n", "x"]) + rng.choice([s, s, s, s[:-1], s[1:], s + s, s.upper()]) + rng.choice(["", " ", "\n", "y"])
    if kind == 14:
        return "".join(any_code_point(rng) for _ in range(rng.randint(1, 12)))
    if kind == 15:
        return chr(rng.randrange(32)) * rng.randint(1, 3)
    if kind == 16:
        return rng.choice(latin_word(rng) + "字é🙂 ▁Ġ<0x41>") * rng.randint(2, 40)
    return rng.choice(["<0x0A>", "▁", "▁▁ ▁", "Ġ", "Ċ", "<unk>", "\u0000", "\ufffd", "\U0010ffff", "\ufffe", "\u0130I", "ß", "\u1e9b\u0323"])


def texts(n, seed, specials):
    """n strings; the first ones are fixed corner cases."""
    rng = random.Random(seed)
    fixed = ["", " ", "a", " a", "a ", "\n", "  ", "\u0000", "▁", "'", "é", "e\u0301", "🙂"] + list(specials)[:200]
    fixed += [s + s for s in list(specials)[:20]] + [" " + s + " x" for s in list(specials)[:20]]
    fixed = fixed[:n]
    for text in fixed:
        yield text
    for i in range(n - len(fixed)):
        if i % 50 == 0:
            yield "".join(fragment(rng, specials) for _ in range(200))
        else:
            yield "".join(fragment(rng, specials) for _ in range(rng.randint(1, 14)))


def every_code_point(per_text=40):
    """Each code point (private use and empty planes thinned out), between a letter, a digit and a mark."""
    members = []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000 or (0xE000 <= c < 0xF900 or c >= 0x40000) and c % 64:
            continue
        members.append(chr(c))
    for i in range(0, len(members), per_text):
        part = members[i:i + per_text]
        yield "".join(part)
        yield "".join("a" + c + "1" + c + "\u0301" + c + " " for c in part)
