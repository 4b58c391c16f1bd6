"""Texts for the tests of the segmenter and what it is made of: atoms of many scripts, random mixtures, and every way to cut them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from hypothesis import strategies as st

# No border may fall inside one of these, whatever stands around it.
SOLID = (
    "3.14",
    "1,000,000",
    "$1,234.56",
    "10:30",
    "12-15",
    "50%",
    "192.168.0.1",
    "https://example.com/a,b.html?x=1;y=2",
    "www.example.org",
    "a.b-c@mail.example.com",
    "don't",
    "well-known",
    "C++",
    "1939\u20131945",
    "👩\u200d👩\u200d👧",
    "🇩🇪🇫🇷",
    "👍🏽",
    "e\u0301te\u0301",
    "한국어",
    "\u1112\u1161\u11ab",
)
TAGS = ("[whisper]", "[laugh]", "[pause]", "[normal]", "[professional broadcast tone]", "[sigh]", "[sad]", "[emphasis]")
SPEAKERS = ("<|speaker:0|>", "<|speaker:1|>", "<|speaker:12|>")
WORDS = (
    "Hello",
    "there",
    "I",
    "am",
    "afraid",
    "that",
    "Dr.",
    "Smith",
    "e.g.",
    "etc.",
    "U.S.",
    "naïve",
    "Straße",
    "No.",
    "5",
    "2024",
)
PHRASES = (
    "今天天气很好，我们去公园吧。",
    "「こんにちは」と言った",
    "สวัสดีครับวันนี้อากาศดี",
    "مرحبا، كيف حالك؟",
    "नमस्ते दोस्त। आप कैसे हैं",
    "ကျေးဇူးတင်ပါတယ်",
    "Привет, как дела?",
)
JUNK = (
    "[",
    "]",
    "[ ]",
    "[1]",
    "<|",
    "<|speaker:",
    "<|im_end|>",
    "<|speaker:x|>",
    "-",
    "—",
    "...",
    "…",
    "!?",
    "(",
    ")",
    '"',
    "😀",
    "**",
    "\u200b",
    "\ufeff",
)
GAPS = (" ", " ", " ", " ", "\n", "\n\n", "\r\n", "\u00a0", "  ", ", ", ". ", "! ", "; ", "", "")


@dataclass(frozen=True)
class Atom:
    """A piece of a text, and whether it may be cut."""

    text: str
    solid: bool


def random_text(rng: Random, most: int = 24) -> str:
    """A mixture of everything."""
    pools = (WORDS, WORDS, WORDS, SOLID, TAGS, SPEAKERS, PHRASES, JUNK)
    return "".join(rng.choice(rng.choice(pools)) + rng.choice(GAPS) for _ in range(rng.randint(1, most)))


def utf16_pieces(text: str, cuts: list[int]) -> list[str]:
    """The text cut between UTF-16 units, as a JavaScript client cuts it: half surrogate pairs come as lone surrogates."""
    units = text.encode("utf-16-le")
    ends = sorted({2 * (cut % (len(units) // 2 + 1)) for cut in cuts} | {len(units)})
    starts = [0, *ends]
    return [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in zip(starts, ends, strict=False)]


def single_units(text: str) -> list[str]:
    """The text in pieces of one UTF-16 unit."""
    return utf16_pieces(text, list(range(2 * len(text) + 1)))


def spans(atoms: list[Atom]) -> Iterator[tuple[int, int, Atom]]:
    """Where atoms stand that are joined without anything between them."""
    at = 0
    for atom in atoms:
        yield at, at + len(atom.text), atom
        at += len(atom.text)


_pool = st.one_of(*(st.sampled_from(pool) for pool in (WORDS, SOLID, TAGS, SPEAKERS, PHRASES, JUNK, GAPS)))
texts = st.one_of(
    st.lists(_pool, max_size=60).map("".join),
    st.lists(st.one_of(_pool, st.text(max_size=8)), max_size=40).map("".join),
)
cut_lists = st.lists(st.integers(0, 2000), max_size=30)
atoms = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(WORDS).map(lambda text: Atom(text, False)),
            st.sampled_from(SOLID + TAGS + SPEAKERS).map(lambda text: Atom(text, True)),
            st.sampled_from(PHRASES).map(lambda text: Atom(text, False)),
        ),
        st.sampled_from((" ", "\n", ", ", ". ", " - ", "\r\n\r\n")).map(lambda text: Atom(text, False)),
    ),
    max_size=80,
).map(lambda pairs: [atom for pair in pairs for atom in pair])
