"""What is said: conversations of made-up text with voices, styles, tags and speakers, before any audio exists.

Knows how the server will cut and prefix text (clauses first, styles and speakers restated at a segment's start) and
writes training conversations of that shape. Does not know audio (render.py) or token ids (tokens.py).

A style or speaker in force carries over to the next turn, as the model is meant to do from the codes it heard.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from engine.train.styles import PAUSES_S, SPEAKERS, Speaker, Style, random_speaker, style_tag, unknown_tag
from engine.train.text_de import German
from engine.train.text_en import English

NORMAL_TAG = "[normal]"


@dataclass(frozen=True, slots=True)
class Phrase:
    """A stretch of text in one delivery. Its visible form is `tags + text`."""

    tags: str  # what stands before the words and is not spoken
    text: str  # what is spoken, spaces at its ends included; may be empty
    speaker: Speaker
    style: Style
    pause_s: float = 0.0  # silence before it, asked for by a tag
    stressed: int | None = None  # index of the word that [emphasis] stands before

    @property
    def visible(self) -> str:
        """What the engine gets for it."""
        return self.tags + self.shown(self.text)

    def shown(self, text: str) -> str:
        """`text`, a beginning of the phrase's own, with the emphasis tag in its place."""
        words = list(re.finditer(r"\S+", text))
        if self.stressed is None or self.stressed >= len(words):
            return text
        at = words[self.stressed].start()
        return f"{text[:at]}[emphasis] {text[at:]}"


@dataclass(frozen=True, slots=True)
class SegmentScript:
    """One user/assistant pair."""

    phrases: tuple[Phrase, ...]


@dataclass(frozen=True, slots=True)
class TurnScript:
    """Segments in one codec stream."""

    segments: tuple[SegmentScript, ...]
    cut: float | None = None  # barge-in: the share of the last phrase that was heard
    mute: bool = False  # nothing of it was heard: codes of two frames at most, and the style has no effect later
    untold: bool = False  # its prompt lacks the tags that made it sound so, as after old segments were dropped: only heard, not learned


@dataclass(frozen=True, slots=True)
class ConversationScript:
    """A whole training example."""

    language: str  # a voice name of the teacher
    references: tuple[SegmentScript, ...]
    turns: tuple[TurnScript, ...]


@dataclass(slots=True)
class _Cast:
    """Who may speak, and the state that carries over."""

    voices: dict[int, Speaker]  # by index of the speaker token
    likely: Sequence[int]  # indices that conversations mostly ask for
    tokens: bool  # whether speaker tokens are used at all
    index: int = 0
    style: Style = Style.NORMAL
    tagged: str = ""  # the tag that the turn has in force, restated by the server at segment starts
    named: bool = False  # whether the turn has named its speaker

    @property
    def speaker(self) -> Speaker:
        return self.voices[self.index]

    def pick(self, rng: random.Random) -> int:
        return rng.choice(self.likely if rng.random() < 0.85 else list(self.voices))


@dataclass(slots=True)
class ScriptWriter:
    """Writes conversations; the same seed gives the same ones."""

    rng: random.Random
    held_out_voices: bool = False  # references speak only in voices kept for evaluation
    _english: English = field(default_factory=English)
    _german: German = field(default_factory=German)

    def conversation(self) -> ConversationScript:
        """The next one."""
        rng = self.rng
        language: English | German = self._german if rng.random() < 0.18 else self._english
        cast, references = self._cast(language)
        turns = []
        count = rng.choices((1, 2, 3, 4), (0.38, 0.32, 0.2, 0.1))[0]
        for number in range(count):
            before = cast.index, cast.style
            turn = self._turn(cast, language)
            if turn.mute:
                cast.index, cast.style = before
            elif number == 0 and count > 1 and rng.random() < 0.15:
                turn = replace(turn, untold=True)
            turns.append(turn)
        return ConversationScript(language.voice, references, tuple(turns))

    def _cast(self, language: English | German) -> tuple[_Cast, tuple[SegmentScript, ...]]:
        rng = self.rng
        builtin = dict(enumerate(SPEAKERS))
        draw = rng.random()
        if draw < 0.2:
            return _Cast(builtin, range(8), tokens=False), ()
        if draw < 0.42:
            return _Cast(builtin, range(8), tokens=True), ()
        count = rng.choices((1, 2, 3), (0.7, 0.24, 0.06))[0]
        known = {i: random_speaker(rng, held_out=self.held_out_voices) for i in range(count)}
        if count > 1 and rng.random() < 0.6:  # one recording in which several speak
            lines = [
                Phrase(f"<|speaker:{i}|>", self._sentence(language, 60) + "\n", known[i], Style.NORMAL) for i in known
            ]
            references: tuple[SegmentScript, ...] = (SegmentScript(tuple(lines)),)
        else:
            references = tuple(self._reference(known[i], language) for i in known)
        cast = _Cast({**builtin, **known}, range(count), tokens=count > 1 or rng.random() < 0.25)
        return cast, references

    def _reference(self, speaker: Speaker, language: English | German) -> SegmentScript:
        text = " ".join(
            self._sentence(language, 80) for _ in range(self.rng.choices((1, 2, 3, 4), (0.3, 0.3, 0.25, 0.15))[0])
        )
        return SegmentScript((Phrase("", text, speaker, Style.NORMAL),))

    def _sentence(self, language: English | German, longest: int) -> str:
        for _ in range(8):
            text = language.sentence(self.rng)
            if len(text) <= longest:
                return text
        return text[:longest].rsplit(" ", 1)[0] + "."

    def _turn(self, cast: _Cast, language: English | German) -> TurnScript:
        rng = self.rng
        cast.tagged, cast.named = "", False
        if cast.tokens and rng.random() < 0.7:
            self._change_speaker(cast, cast.pick(rng))
        if rng.random() < 0.4:
            self._change_style(cast)
        segments = tuple(
            self._next_segment(part, cast, i) for i, part in enumerate(self._segment_texts(language, cast.tokens))
        )
        if rng.random() < 0.15:
            return self._barge_in(segments, cast)
        return TurnScript(segments, mute=len(segments) == 1 and rng.random() < 0.05)

    def _barge_in(self, segments: tuple[SegmentScript, ...], cast: _Cast) -> TurnScript:
        """Drop whole segments and phrases from the end; what was said last decides what carries over."""
        kept = segments[: self.rng.randint(1, len(segments))]
        phrases = kept[-1].phrases[: self.rng.randint(1, len(kept[-1].phrases))]
        last = phrases[-1]
        cast.style = last.style
        cast.index = next(i for i, voice in cast.voices.items() if voice == last.speaker)
        return TurnScript((*kept[:-1], SegmentScript(phrases)), cut=self.rng.uniform(0.3, 0.95))

    def _segment_texts(self, language: English | German, dialogue: bool) -> list[str]:
        """Text of a turn cut as the server cuts it: often a clause first, then whole sentences; a short exchange stays whole."""
        rng = self.rng
        if dialogue and rng.random() < 0.35:
            return [" ".join(self._sentence(language, 50) for _ in range(rng.randint(2, 4)))]
        sentences = [self._sentence(language, 150) for _ in range(rng.choices((1, 2, 3), (0.6, 0.28, 0.12))[0])]
        parts: list[str] = []
        first = sentences[0].split(" ")
        if len(first) > 3 and rng.random() < 0.45:
            commas = [i for i, word in enumerate(first[:-1], 1) if word[-1:] in (",", ";", ":") and i >= 2]
            # Mostly as short as the server likes a first clause, but a model that has only met those never ends a longer one.
            longest = min(rng.choice((6, 12)), len(first) - 1)
            at = commas[0] if commas and rng.random() < 0.6 else rng.randint(2, longest)
            parts, sentences[0] = [" ".join(first[:at])], " ".join(first[at:])
        joined = rng.random() < 0.35
        parts += [" ".join(sentences)] if joined else sentences
        if rng.random() < 0.12:  # text that came late or had no stop in it: a border in mid-sentence
            words = parts[-1].split(" ")
            if len(words) > 6:
                at = rng.randint(4, len(words) - 2)
                parts[-1:] = [" ".join(words[:at]), " ".join(words[at:])]
        space = rng.choice(("before", "after", "none"))
        last = len(parts) - 1
        return [
            (" " if space == "before" and i else "") + part + (" " if space == "after" and i < last else "")
            for i, part in enumerate(parts)
        ]

    def _next_segment(self, text: str, cast: _Cast, number: int) -> SegmentScript:
        """A segment of a turn; a change of speaker or style likes to open one, for the server cuts there."""
        if number and cast.tokens and self.rng.random() < 0.3:
            self._change_speaker(cast, cast.pick(self.rng))
        if number and self.rng.random() < 0.15:
            self._change_style(cast)
        return self._segment(text, cast)

    def _segment(self, text: str, cast: _Cast) -> SegmentScript:
        """Lay tags and speaker changes into `text`; what is in force stands before it."""
        rng = self.rng
        lead = f"<|speaker:{cast.index}|>" if cast.named else ""
        lead += " " if lead and not text.startswith(" ") and rng.random() < 0.4 else ""
        lead += cast.tagged + (" " if cast.tagged and not text.startswith(" ") and rng.random() < 0.6 else "")
        if cast.tagged == NORMAL_TAG:
            cast.tagged = ""  # what [normal] asks for is nothing that a later segment would have to be told again
        phrases: list[Phrase] = []
        for i, piece in enumerate(self._pieces(text, cast.tokens)):
            pause_s = 0.0
            if i:
                lead, pause_s = self._marker(cast)
                piece = piece.lstrip(" ") if lead.endswith(" ") else piece
            elif rng.random() < 0.04:
                lead += self._unknown() + " "
            elif rng.random() < 0.04:
                tag, pause_s = self._pause()
                lead += tag + rng.choice((" ", ""))
            words = piece.split()
            stressed = rng.randrange(len(words)) if len(words) > 1 and rng.random() < 0.1 else None
            phrases.append(Phrase(lead, piece, cast.speaker, cast.style, pause_s, stressed))
        return SegmentScript(tuple(phrases))

    def _pieces(self, text: str, dialogue: bool) -> list[str]:
        """Cut `text` at zero to four word starts; every piece but the first begins with a space. In a dialogue often at sentences."""
        rng = self.rng
        starts = [i for i, char in enumerate(text) if char == " " and 0 < i < len(text) - 1]
        sentences = [i for i in starts if text[i - 1] in ".!?"]
        if dialogue and sentences and rng.random() < 0.6:
            starts = sentences
            if rng.random() < 0.5:
                return [text[i:j] for i, j in zip([0, *starts[:4]], [*starts[:4], len(text)], strict=True)]
        chances = (0.4, 0.25, 0.2, 0.1, 0.05) if dialogue else (0.68, 0.22, 0.07, 0.02, 0.01)
        at = sorted(rng.sample(starts, min(len(starts), rng.choices(range(5), chances)[0])))
        return [text[i:j] for i, j in zip([0, *at], [*at, len(text)], strict=True)]

    def _marker(self, cast: _Cast) -> tuple[str, float]:
        """A tag or speaker token in the middle of a segment, with the silence it asks for."""
        rng = self.rng
        if cast.tokens and rng.random() < 0.65:
            self._change_speaker(cast, cast.pick(rng))
            token = f"{rng.choice((' ', ' ', ''))}<|speaker:{cast.index}|>{rng.choice(('', '', ' '))}"
            draw = rng.random()
            if draw < 0.55:
                return token, 0.0
            if draw < 0.65:
                tag, pause_s = self._pause()
                return f"{token}{tag} ", pause_s
            self._change_style(cast)  # in a dialogue each has a style of his own: <|speaker:1|>[fast] And you?
            return f"{token}{cast.tagged}{rng.choice((' ', ' ', ''))}", 0.0
        draw = rng.random()
        if draw < 0.5:
            self._change_style(cast)
            return f" {cast.tagged} ", 0.0
        if draw < 0.85:
            tag, pause_s = self._pause()
            return f" {tag} ", pause_s
        return f" {self._unknown()} ", 0.0

    def _pause(self) -> tuple[str, float]:
        """A tag that asks for silence, and how much of it in seconds."""
        name = self.rng.choices(list(PAUSES_S), (8, 1, 1, 1, 1))[0]
        return f"[{name}]", PAUSES_S[name]

    def _unknown(self) -> str:
        return unknown_tag(self._english.vocabulary.flat(self.rng), self.rng)

    def _change_speaker(self, cast: _Cast, index: int) -> None:
        if index != cast.index:  # naming the one who speaks already changes nothing, the style neither
            cast.index, cast.tagged, cast.style = index, "", Style.NORMAL
        cast.named = True

    def _change_style(self, cast: _Cast) -> None:
        others: Sequence[Style] = [style for style in Style if style is not cast.style]
        weights = [3.0 if style is Style.NORMAL and cast.style is not Style.NORMAL else 1.0 for style in others]
        cast.style = self.rng.choices(others, weights)[0]
        cast.tagged = style_tag(cast.style, self.rng)
