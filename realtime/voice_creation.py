"""`parley voices create`: a voice that nobody has, from a style in words.

Knows takes, how a person chooses one, and that the codes of a take are a reference as they are. Does not know how an engine is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TextIO

from anyio.to_thread import run_sync

from engine.api import Codes, Engine, Reference, SamplingParams, Voice
from protocol.config import TagMode
from realtime.audio import to_int16
from realtime.codes_tools import generate
from realtime.failure import MISUSED, CommandFailed
from realtime.playback import Playback, PlayerFailed, find_player
from realtime.recording_file import MAX_S, MIN_S
from realtime.tags import Tag, TagKind, lex
from realtime.voice_folder import NAME_RULE, VoiceFolder, VoiceUnusable, is_name
from realtime.voices import VoiceStore
from realtime.wavefile import Pcm, header

# Statements, a question, an aside: what a voice needs to be known by. Some 20 s.
TEXT: Final = (
    "Good evening, and thank you for waiting. I have looked through everything you sent me, and most of it is in very good order. "
    "Shall we begin with the simple part? The letters from Amsterdam arrived on Thursday; the two from Zurich, I am afraid, are still "
    "on their way. Never mind. There is plenty for us to do until then."
)


@dataclass(frozen=True, slots=True)
class Creation:
    """What was asked for."""

    name: str
    style: str  # a tag, with or without its brackets
    text: str
    takes: int
    keep: int | None  # of the takes, from 1; None: a person chooses
    output: Path  # folder for the takes
    play: bool
    params: SamplingParams  # the seed is the first take's, and each further take has the next one

    @property
    def tags(self) -> str:
        """The style as it is written into a text."""
        style = self.style.strip()
        return style if style.startswith("[") else f"[{style}]"


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """One rendering."""

    number: int  # from 1
    codes: Codes
    sound: Pcm
    path: Path


async def create(
    creation: Creation, engine: Engine, folder: VoiceFolder, person: TextIO | None, out: TextIO, err: TextIO
) -> None:
    """Render, let choose, freeze. `person`: where a choice is typed, or None. Raises CommandFailed, EngineError, OSError."""
    check(creation, folder)
    studio = _Studio(creation, engine, out, err)
    if creation.keep is not None:
        kept = await studio.take(creation.keep)
    else:
        takes = [await studio.take(number) for number in range(1, creation.takes + 1)]
        if person is None:
            print("listen to them, then type the same command again with --keep N", file=out)
            return
        number = await run_sync(partial(_chosen, len(takes), person, out), abandon_on_cancel=True)
        if number is None:
            print("none is kept; another --seed makes others", file=out)
            return
        kept = takes[number - 1]
    store = VoiceStore(folder.path, engine.info.codebooks, engine.info.codec_id)
    sound = kept.sound.astype("<i2").tobytes()
    wave = header(engine.info.sample_rate, len(sound)) + sound
    try:
        store.add(creation.name, [Reference(creation.text, kept.codes)], [wave])
    except VoiceUnusable as error:
        raise CommandFailed(error) from error
    print(
        f"voice {creation.name}: take {kept.number}. Try: parley say --voice {creation.name} 'Hello there.'", file=out
    )


def check(creation: Creation, folder: VoiceFolder) -> None:
    """Before minutes are spent on takes. Raises CommandFailed."""
    if folder.path is None or not is_name(creation.name):
        raise CommandFailed(VoiceUnusable(creation.name, NAME_RULE), MISUSED)
    styles = lex(creation.tags, TagMode.PERFORM)
    if not all(isinstance(one, Tag) and one.kind is TagKind.STYLE for one in styles if one.raw.strip()):
        raise CommandFailed(f"--style {creation.style!r} is no style; one is like '[deep gravelly voice]'", MISUSED)
    if creation.keep is not None and creation.keep > creation.takes:
        raise CommandFailed(f"--keep {creation.keep} is more than --takes {creation.takes}", MISUSED)


class _Studio:
    """Makes takes, writes them and plays them."""

    def __init__(self, creation: Creation, engine: Engine, out: TextIO, err: TextIO) -> None:
        self._creation = creation
        self._engine = engine
        self._out = out
        self._note: Callable[[str], None] = lambda note: print(f"parley: {note}", file=err)
        self._player = find_player(engine.info.sample_rate) if creation.play else None

    async def take(self, number: int) -> Take:
        """Take `number`: the same one whenever it is made."""
        creation, engine = self._creation, self._engine
        params = replace(creation.params, seed=creation.params.seed + number - 1)
        # The style shapes the take and is no part of its transcript: the voice is to sound so always, not only where a tag asks for it.
        codes = await generate(engine, f"{creation.tags} {creation.text}", Voice("default"), params, self._note)
        seconds = codes.shape[1] * engine.info.frame_s
        if not MIN_S <= seconds <= MAX_S:
            raise CommandFailed(f"take {number} has {seconds:.1f} s, not {MIN_S:g} to {MAX_S:g}: give another --text")
        sound = to_int16(await engine.decode(codes))
        path = creation.output / f"{creation.name}-{number}.wav"
        data = sound.astype("<i2").tobytes()
        path.write_bytes(header(engine.info.sample_rate, len(data)) + data)
        print(f"take {number} of {creation.takes}: {path}, {seconds:.1f} s", file=self._out, flush=True)
        if self._player is not None and creation.keep is None:
            await self._play(sound)
        return Take(number, codes, sound, path)

    async def _play(self, sound: Pcm) -> None:
        """A machine without a working speaker is told once; the files are there."""
        assert self._player is not None, "checked by the caller"
        try:
            playback = await Playback.start(self._player, self._engine.info.sample_rate)
            try:
                await playback.write(sound)
                await playback.finish()
            finally:
                await playback.stop()
        except (PlayerFailed, OSError) as error:
            self._note(f"cannot play: {error}")
            self._player = None


def _chosen(count: int, person: TextIO, out: TextIO) -> int | None:
    """The number that a person types; None: none of them."""
    while True:
        print(f"which one to keep? 1 to {count}, or nothing for none: ", end="", file=out, flush=True)
        answer = person.readline()
        if not answer.strip():
            return None
        if answer.strip().isascii() and answer.strip().isdigit() and 1 <= int(answer) <= count:
            return int(answer)
