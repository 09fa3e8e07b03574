"""Lines of text to try tokenizers on: real ones, in many scripts, and what no one would write."""

import random
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PHRASES", "lines", "real_lines"]

# What people write, with what tells tokenizers apart: contractions, digits, spaces, joined emoji.
PHRASES = (
    "The quick brown fox jumps over the lazy dog, doesn't it? We'LL see; I'd've SAID so, they're 'S.",
    "Le café était déjà fermé à Noël ; l'élève façonna un œuf près de l'île d'Oléron.",
    "Größe, Straße, Übermaß: die Würze läßt Äpfel schön süß riechen – für 12,50 €!",
    "El niño pequeño comió piñas; ¿cuándo volverá? ¡Mañana, quizá, a las 18:45!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак і ґава. Ћирилица њива.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ΟΔΟΣ ΣΟΦΟΣ Ἀρχὴ ἥμισυ παντός.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ١٢٣٤٥ وَمُغَلَّفٌ بِجِلْدٍ أَزْرَقَ",
    "دלועת, שָׁלוֹם עוֹלָם! עטלף אבק נס דרך מזגן שהתפוצץ כי חם.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश १२३ क्षत्रिय ज़िंदगी ड़",
    "অসমীয়া বাংলা ভাষা ১২৩ কোথায় যাও ড়ঢ়য়",
    "யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது எங்கும் காணோம் கௌ",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓ น้ำ",
    "ພາສາລາວ ခေတ်သစ် မြန်မာ ភាសាខ្មែរ ១២៣",
    "我能吞下玻璃而不伤身体。繁體中文與简体，１２３全角，㐀𠀀𪚥豈更",
    "いろはにほへと ちりぬるを。カタカナ ﾊﾝｶｸ ガギグゲゴ ヴ ㌔ ㍿ 東京で9時30分に会おう!",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 한글 ᄒ\u1161ᆫ 각\u11a8 가\u11a7 \u1100\u1161\u11a8\u11a8",
    "საქართველო ქართული ᲡᲐᲥ Հայերեն ԱԲԳ እንኳን ደህና መጡ ᚠᛇᚻ ᓀᐦᐃᔭᐍᐏᐣ 𐐷𐑌𐐰 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ①②⑳ Ⅷ ½ ² ₃ ㊄",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️ 😀😃 5️⃣ ☕︎ 🧑🏿‍🚀",
    "e\u0301 a\u0308\u0304 o\u0323\u0302 q\u0307\u0323 \u1e9b\u0323 \u0344 \u212b \u2126 ﬁ ﬂ ﬃ ſ ß ẞ İ ı ŉ ǆ \u0130\u0049",
    "def f(x):\n    return {'a': [1, 22, 333, 4444], \"b\": x**2}  # comment\r\n\r\n\tif x != 0x1F: pass\n",
    "http://example.com/a?b=c&d=%20e#f  user@host.org  C:\\dir\\file.txt  $1,234.56  10^-9  50%",
    "   leading, trailing   and      long   spaces\t\ttabs\u00a0nbsp\u3000wide\u2003em \u200b zero\ufeffbom   ",
    "<s> </s> <unk> <pad> <0x41> [CLS] [SEP] [MASK] ##ing ▁under ▁▁two <|endoftext|> <|im_start|>user",
    "é   é é  é 中  中 fox fox <|end|>  <|end|> <mask>  <mask> a<mask>b",
    "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ve 'ſ ’s do not isn't 'll'll n't ' ' '' \" \" ...",
)

# First and last code points of what random text is drawn from.
_RANGES = (
    *((0x20, 0x7E), (0x00, 0x1F), (0x7F, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x3FF)),
    *((0x400, 0x52F), (0x530, 0x5FF), (0x600, 0x6FF), (0x700, 0x8FF), (0x900, 0xDFF)),
    *((0xE00, 0xFFF), (0x1000, 0x11FF), (0x1200, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x2BFF)),
    *((0x2C00, 0x2FFF), (0x3000, 0x33FF), (0x3400, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7FF)),
    *((0xD780, 0xD7FF), (0xE000, 0xF8FF), (0xF900, 0xFAFF), (0xFB00, 0xFFFF), (0xFFF0, 0xFFFF)),
    *((0x10000, 0x10FFF), (0x11000, 0x12FFF), (0x13000, 0x1AFFF), (0x1B000, 0x1CFFF)),
    *((0x1D000, 0x1DFFF), (0x1E000, 0x1FFFF), (0x20000, 0x33FFF), (0x34000, 0xDFFFF)),
    *((0xE0000, 0xE01FF), (0xF0000, 0x10FFFF)),
)
_SPACES = (" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b", "▁")
_MARKS = "".join(map(chr, [*range(0x300, 0x362), 0x5B0, 0x64B, 0x93C, 0x1D165, 0x302E, 0x16FF0]))


def lines(count: int, seed: int, real: list[str], special: list[str]) -> Iterator[str]:
    """Lines, the same ones for the same seed.

    Args:
        count: how many.
        seed: of the random generator.
        real: lines of real text, which are mixed in and changed.
        special: added tokens, which are put in between.
    """
    source = random.Random(seed)
    phrases = [*PHRASES, *real]
    yield from (*PHRASES[:count], "")[:count]
    for _ in range(count - len(PHRASES) - 1):
        kind = source.random()
        if kind < 0.3:
            text = source.choice(phrases)
        elif kind < 0.55:
            text = _mutated(source, source.choice(phrases), phrases)
        elif kind < 0.7:
            text = _words(source, phrases)
        elif kind < 0.9:
            text = _random(source, source.randrange(1, 60))
        else:
            text = _runs(source)
        if special and source.random() < 0.25:
            for _ in range(source.randrange(1, 4)):
                place = source.randrange(len(text) + 1)
                token = source.choice(special) + source.choice(["", "", " ", "  ", "\n"])
                text = text[:place] + source.choice(["", "", " ", "\t "]) + token + text[place:]
        yield text


def real_lines(folder: Path) -> list[str]:
    """Lines of the text files below a folder: stories, tables of requests."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".csv", ".json", ".md", ".1000", ".txt"):
            text = path.read_text(encoding="utf-8", errors="ignore")[:2_000_000]
            found += [line[:400] for line in text.splitlines(keepends=True) if line.strip()]
    return found


def _character(source: random.Random) -> str:
    point = source.randint(*source.choice(_RANGES))
    return chr(point) if not 0xD800 <= point <= 0xDFFF else "\ufffd"


def _random(source: random.Random, length: int) -> str:
    """Characters of one to three ranges, with spaces and marks among them."""
    ranges = [source.choice(_RANGES) for _ in range(source.randrange(1, 4))]
    parts = []
    for _ in range(length):
        kind = source.random()
        if kind < 0.1:
            parts.append(source.choice(_SPACES))
        elif kind < 0.2:
            parts.append(source.choice(_MARKS) * source.randrange(1, 3))
        else:
            point = source.randint(*source.choice(ranges))
            parts.append(chr(point) if not 0xD800 <= point <= 0xDFFF else "\ufffd")
    return "".join(parts)


def _mutated(source: random.Random, text: str, phrases: list[str]) -> str:
    """A text with some of it replaced, doubled, dropped, upper-cased, or another spliced in."""
    for _ in range(source.randrange(1, 6)):
        begin = source.randrange(len(text) + 1)
        end = min(len(text), begin + source.randrange(8))
        other = source.choice(phrases)
        piece = text[begin:end]
        start = source.randrange(len(other) + 1)
        changes = (
            "",
            piece * 2,
            piece.upper(),
            piece.lower(),
            _character(source),
            source.choice(_MARKS),
            source.choice(_SPACES) * source.randrange(1, 5),
            "'" + source.choice(["s", "S", "ll", "RE", "ſ", "d", "m", "t", "Ve"]),
            str(source.randrange(10 ** source.randrange(1, 9))),
            other[start : start + source.randrange(30)],
        )
        text = text[:begin] + source.choice(changes) + text[end:]
    return text


def _words(source: random.Random, phrases: list[str]) -> str:
    """Words of many texts, in any order."""
    parts = []
    for _ in range(source.randrange(1, 15)):
        words = source.choice(phrases).split() or [""]
        parts += [source.choice(words), source.choice(_SPACES) if source.random() < 0.3 else " "]
    return "".join(parts)


def _runs(source: random.Random) -> str:
    """Long runs: of one character, of spaces before something, of digits, of marks."""
    parts = []
    for _ in range(source.randrange(1, 5)):
        character = source.choice(
            [*_SPACES, "a", "A", "1", "٣", "中", "-", "'", "!", ".", "é", "🙂", _character(source)]
        )
        parts.append(character * source.randrange(1, 40))
    return "".join(parts)
