"""Inline `[tags]` and `<|speaker:i|>` tokens: finding them in text that comes in pieces, what they do, and how the engine reads them.

Knows protocol section 6a. Does not know borders, time or audio. A `[` counts as the start of a tag while what follows may still become
one: at most MAX_TAG_CHARS characters without brackets, angle brackets, bars and line ends. Everything else is text, also other `<|...|>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from enum import Enum
from typing import Final, NamedTuple

from protocol.config import TagMode
from realtime.repertoire import EVERYTHING, Repertoire

# S2-Pro's descriptions stay below 40; a `[` that is not closed delays what follows it by this much.
MAX_TAG_CHARS: Final = 80


class TagKind(Enum):
    """What a tag does."""

    SOUND = "sound"  # heard by itself, once: a laugh, a pause
    ACCENT = "accent"  # shapes what follows it at once, once: emphasis
    STYLE = "style"  # holds until the next style
    NORMAL = "normal"  # ends the style


@dataclass(frozen=True, slots=True)
class Text:
    """A run of characters that are no tags."""

    start: int  # code point in the turn's raw input
    raw: str
    said: tuple[str, ...] | None = None  # what is spoken for each code point of `raw`; None: the code point itself

    @property
    def spoken(self) -> str:
        """What is spoken for all of it."""
        return self.raw if self.said is None else "".join(self.said)

    @property
    def shown(self) -> str:
        """`raw` with blanks for what is not spoken, and with a digit for each character that something else is spoken for."""
        if self.said is None:
            return self.raw
        return "".join(
            char if char == said else "0" if said.strip() else " "
            for char, said in zip(self.raw, self.said, strict=True)
        )

    def between(self, first: int, end: int) -> Text:
        """The part between two code points of the turn."""
        part = slice(max(0, first - self.start), end - self.start)
        raw, said = self.raw[part], self.said and self.said[part]
        return Text(max(first, self.start), raw, None if said == tuple(raw) else said)


@dataclass(frozen=True, slots=True)
class Tag:
    """`[name]`."""

    start: int
    raw: str  # with its brackets, as the client wrote it
    name: str  # lower case, words separated by one space
    kind: TagKind


@dataclass(frozen=True, slots=True)
class SpeakerToken:
    """`<|speaker:i|>`."""

    start: int
    raw: str
    speaker: int


Token = Text | Tag | SpeakerToken

_SOUND_WORDS: Final = """
    pause pauses pausing break silence beat
    laugh laughs laughing laughter chuckle chuckles chuckling giggle giggles giggling snicker snickers snort snorts
    sigh sighs sighing gasp gasps gasping groan groans yawn yawns yawning whimper whimpers sob sobs
    inhale inhales inhaling exhale exhales exhaling breath breaths breathe breathes breathing
    cough coughs coughing sneeze sneezes sneezing sniff sniffs sniffing sniffle sniffles hiccup hiccups burp burps
    swallow swallows gulp gulps tsk tut tongue-click lip-smack clap claps clapping applause whistle whistles
    humming hums um uh hmm mm ahem
    笑 笑声 大笑 轻笑 停顿 叹气 吸气 呼气 咳嗽 清嗓子 笑い 溜息 ため息 間 咳
    """
_SOUNDS: Final = frozenset(_SOUND_WORDS.split())
_SOUND_PHRASES: Final = frozenset(
    {"clear throat", "clears throat", "clearing throat", "clears her throat", "clears his throat"}
)
_ACCENTS: Final = frozenset({"emphasis", "emphasize", "emphasized", "stress", "interrupting"})
_MANNER: Final = frozenset(
    {"tone", "voice", "style", "accent", "volume", "manner"}
)  # "laughing tone" is a way to speak, not a laugh
_NORMAL: Final = "normal"

_NOT_IN_TAG = r"\[\]<>|\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_OPENING = re.compile(r"[\[<]")
_ANGLE = re.compile("<")
_TAG = re.compile(rf"\[([^{_NOT_IN_TAG}]{{1,{MAX_TAG_CHARS}}})\]")
_TAG_BEGUN = re.compile(rf"\[[^{_NOT_IN_TAG}]{{0,{MAX_TAG_CHARS}}}\Z")
_SPEAKER = re.compile(r"<\|speaker:([0-9]{1,4})\|>")
_SPEAKER_BEGUN = re.compile(r"<\|speaker:[0-9]{0,4}\|?\Z")
_SPEAKER_HEAD = "<|speaker:"
_LAYOUT_MARKS: Final = frozenset(".,。")  # what is said for a bullet or the bar of a table
_AS_PARENTHESES = str.maketrans("[]", "()")


def tag_name(inside: str) -> str | None:
    """The name of a tag from what stands in its brackets; None for what is no tag: numbers, check boxes, `[ ]`."""
    name = " ".join(inside.replace("_", " ").casefold().split())
    letters = [char for char in name if char.isalpha()]
    if not letters or (len(name) == 1 and name.isascii()):
        return None
    return name


def tag_kind(name: str) -> TagKind:
    """What a tag does, from its name as `tag_name` gives it. Whatever is not known is a style: S2-Pro takes free descriptions."""
    if name == _NORMAL:
        return TagKind.NORMAL
    words = re.split(r"[\s:,]+", name)
    if words[-1] in _MANNER:
        return TagKind.STYLE
    if name in _SOUND_PHRASES or not _SOUNDS.isdisjoint(words):
        return TagKind.SOUND
    return TagKind.STYLE if _ACCENTS.isdisjoint(words) else TagKind.ACCENT


def special_at(buffer: str, at: int, start: int) -> Tag | SpeakerToken | None:
    """The tag or speaker token that begins there, if it is complete and is one. `start`: where that is in the turn."""
    if found := _SPEAKER.match(buffer, at):
        return SpeakerToken(start, found[0], int(found[1]))
    if found := _TAG.match(buffer, at):
        name = tag_name(found[1])
        return None if name is None else Tag(start, found[0], name, tag_kind(name))
    return None


def special_begun(buffer: str, at: int) -> bool:
    """Whether what begins there may still become a tag or a speaker token."""
    if buffer[at] == "[":
        return _TAG_BEGUN.match(buffer, at) is not None
    if len(buffer) - at <= len(_SPEAKER_HEAD):
        return _SPEAKER_HEAD.startswith(buffer[at:])
    return _SPEAKER_BEGUN.match(buffer, at) is not None


class Lexer:
    """Cuts text that comes in pieces into tokens. Text runs may be cut anywhere; tags and speaker tokens are whole.

    With TagMode.LITERAL brackets are text. Every character is looked at a bounded number of times.
    """

    def __init__(self, mode: TagMode, start: int = 0) -> None:
        self._mode = mode
        self._start = start  # where `_held` begins
        self._held = ""  # what may still become a tag or a speaker token; at most MAX_TAG_CHARS + 1 characters

    @property
    def held(self) -> str:
        """The end of the input, of which it is not yet known what it is."""
        return self._held

    def feed(self, text: str) -> list[Token]:
        """The tokens that are now known."""
        buffer = self._held + text
        opening = _ANGLE if self._mode is TagMode.LITERAL else _OPENING
        tokens: list[Token] = []
        plain = scan = 0  # text from `plain` on is not yet in a token, up to `scan` it is known to be text
        while found := opening.search(buffer, scan):
            at = found.start()
            token = special_at(buffer, at, self._start + at)
            if token is None and special_begun(buffer, at):
                scan = at
                break
            scan = at + (len(token.raw) if token else 1)
            if token:
                self._add_text(tokens, buffer, plain, at)
                tokens.append(token)
                plain = scan
        else:
            scan = len(buffer)
        self._add_text(tokens, buffer, plain, scan)
        self._held = buffer[scan:]
        self._start += scan
        return tokens

    def finish(self) -> list[Token]:
        """Nothing follows: what was held is text."""
        tokens: list[Token] = []
        self._add_text(tokens, self._held, 0, len(self._held))
        self._start += len(self._held)
        self._held = ""
        return tokens

    def _add_text(self, tokens: list[Token], buffer: str, first: int, end: int) -> None:
        if first < end:
            tokens.append(Text(self._start + first, buffer[first:end]))


def lex(text: str, mode: TagMode, start: int = 0) -> list[Token]:
    """The tokens of a whole text, or of a segment (borders never fall inside a token). `start`: where it stands in the turn.

    A Markdown link, `[text](target)`, is text.
    """
    lexer = Lexer(mode, start)
    tokens = lexer.feed(text) + lexer.finish()
    for index, token in enumerate(tokens[:-1]):
        after = tokens[index + 1]
        if isinstance(token, Tag) and isinstance(after, Text) and after.raw.startswith("("):
            tokens[index] = Text(token.start, token.raw)
    return tokens


def joined(tokens: Iterable[Token]) -> list[Token]:
    """The tokens with texts that follow each other made one."""
    made: list[Token] = []
    run: list[Text] = []
    for token in tokens:
        if isinstance(token, Text):
            run.append(token)
            continue
        made += _one(run)
        made.append(token)
        run = []
    return made + _one(run)


def _one(run: list[Text]) -> list[Token]:
    if len(run) < 2:
        return [*run]
    said = None
    if any(text.said is not None for text in run):
        said = tuple(sound for text in run for sound in (text.said or text.raw))
    return [Text(run[0].start, "".join(text.raw for text in run), said)]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Who speaks, and how: what a segment takes over from the ones before it."""

    speaker: int | None = None  # None: no speaker token so far
    style: str | None = None  # the style tag in force as the client wrote it

    def after(self, tokens: list[Token]) -> Delivery:
        """What is in force after these tokens."""
        state = self
        for token in tokens:
            if isinstance(token, SpeakerToken) and token.speaker != state.speaker:
                state = Delivery(token.speaker)
            elif isinstance(token, Tag) and token.kind is TagKind.STYLE:
                state = replace(state, style=token.raw)
            elif isinstance(token, Tag) and token.kind is TagKind.NORMAL:
                state = replace(state, style=None)
        return state

    def prefix(self, tokens: list[Token], mode: TagMode) -> str:
        """What is put in front of a segment of these tokens: speaker and style in force, but not what it opens with itself."""
        speaker, style = self.speaker, self.style if mode is TagMode.PERFORM else None
        for token in tokens:
            if isinstance(token, SpeakerToken) and token.speaker != self.speaker:
                speaker = style = None
            elif isinstance(token, Tag) and token.kind in (TagKind.STYLE, TagKind.NORMAL):
                style = None
            elif isinstance(token, Tag) or (isinstance(token, Text) and token.spoken.strip()):
                break
        return ("" if speaker is None else _speaker_token(speaker)) + (f"{style} " if style else "")


def _speaker_token(speaker: int) -> str:
    return f"<|speaker:{speaker}|>"


def understood(tokens: list[Token], repertoire: Repertoire) -> list[Token]:
    """The tokens without the tags that are written in a script which the checkpoint does not know: they do nothing."""
    return [token for token in tokens if not isinstance(token, Tag) or repertoire.reads_all(token.name)]


def engine_text(prefix: str, tokens: list[Token], mode: TagMode, repertoire: Repertoire = EVERYTHING) -> str:
    """The text of `engine_reading`."""
    return engine_reading(prefix, tokens, mode, repertoire).text


class Reading(NamedTuple):
    """What the engine gets, and where it comes from."""

    text: str
    origin: tuple[
        int, ...
    ]  # for each code point of `text` that of the turn it stands for, -1 for the prefix; behind that it never falls


def engine_reading(prefix: str, tokens: list[Token], mode: TagMode, repertoire: Repertoire = EVERYTHING) -> Reading:
    """What the engine gets for these tokens: the prefix, then what is spoken for them without white space around it.

    The engine takes `[...]` for a tag wherever it stands, so brackets that are text become parentheses. Stripped tags leave one space
    where there would be two, and a speaker token that the prefix gave already is not given again. Text and tags that the checkpoint cannot
    read are left out.
    """
    body = ""
    origin: list[int] = []
    stripped = False
    for token in tokens:
        if isinstance(token, Tag):
            left_out = mode is TagMode.STRIP or not repertoire.reads_all(token.name)
            stripped = stripped or left_out
            body += "" if left_out else token.raw
            origin += [] if left_out else range(token.start, token.start + len(token.raw))
            continue
        if isinstance(token, SpeakerToken):
            raw = _speaker_token(token.speaker)
            raw = "" if not body.strip() and prefix.startswith(raw) else raw
            places = [token.start] * len(raw)
        else:
            raw, places = _spoken(token, repertoire)
            gone = len(raw) - len(raw.lstrip()) if stripped and (not body or body[-1].isspace()) else 0
            raw, places = raw[gone:], places[gone:]
        body += raw
        origin += places
        stripped = False
    first = len(body) - len(body.lstrip())
    text = body.strip()
    return Reading(prefix + text, (*[-1] * len(prefix), *origin[first : first + len(text)]))


def _spoken(token: Text, repertoire: Repertoire) -> tuple[str, list[int]]:
    """What the engine gets for a run of text, and where each code point comes from."""
    text, places = _gathered(token)
    spoken = repertoire.spoken(text)
    if len(spoken) != len(text):
        places = _followed(text, places, spoken)
    return spoken.translate(_AS_PARENTHESES), places


def _gathered(token: Text) -> tuple[str, list[int]]:
    """What is spoken for a run, without the white space that what is not spoken left behind."""
    if token.said is None:
        return token.raw, [*range(token.start, token.start + len(token.raw))]
    text: list[str] = []
    places: list[int] = []
    left_out = False  # something was, since the last sound
    for at, (char, said) in enumerate(zip(token.raw, token.said, strict=True), token.start):
        added = said[:1] in _LAYOUT_MARKS and said[:1] != char
        if added or (left_out and said and said in ".,;:!?"):
            while text and text[-1].isspace():
                del text[-1], places[-1]
        for sound in said:
            if not (sound.isspace() and text and text[-1].isspace()):
                text.append(sound)
                places.append(at)
        left_out = not said.strip() and (left_out or not char.isspace())
    return "".join(text), places


def _followed(text: str, places: list[int], changed: str) -> list[int]:
    """The places of a text for what a repertoire made of it."""
    found: list[int] = []
    for _, first, end, new_first, new_end in SequenceMatcher(None, text, changed, autojunk=False).get_opcodes():
        kept = places[first:end] or places[max(0, first - 1) : first] or places[:1]
        found += [kept[min(index, len(kept) - 1)] for index in range(new_end - new_first)]
    return found
