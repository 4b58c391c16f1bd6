"""Through the speakers, with whatever player the machine has: a pipe into a program, no sound library.

Knows which programs play a stream from their standard input, and how. Does not know turns. `afplay` is missing because it reads files only;
on macOS `brew install sox` or `ffmpeg` brings one that does.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.text import TextReceiveStream

from realtime.wavefile import Pcm, header

LAST_WORDS_S: Final = 0.5  # for a player that ended by itself to say why


@dataclass(frozen=True, slots=True)
class Player:
    """A program, as it is started for mono 16-bit samples of one rate."""

    command: tuple[str, ...]
    wants_header: bool  # it reads a WAV stream; else raw samples

    @property
    def name(self) -> str:
        return self.command[0]


# In this order: the lighter ones first.
_PLAYERS: Final = (
    Player(("aplay", "-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", "{rate}"), False),
    Player(("paplay", "--raw", "--format=s16le", "--channels=1", "--rate={rate}"), False),
    Player(("pw-play", "-"), True),  # its --raw is younger than many an installation
    # Its options for raw samples changed with ffmpeg 5 and 7; a header works with all. Without the others it hoards seconds of input.
    Player(
        ("ffplay", "-loglevel", "error", "-nodisp", "-autoexit", "-probesize", "32", "-f", "wav", "-i", "pipe:0"), True
    ),
    Player(("play", "-q", "-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-r", "{rate}", "-"), False),
)
NAMES: Final = ", ".join(player.name for player in _PLAYERS)


@dataclass
class PlayerFailed(Exception):
    """The program ended before the sound did."""

    name: str
    exit_code: int
    detail: str  # the last thing it said, or ""

    def __str__(self) -> str:
        return f"{self.name} ended with exit code {self.exit_code}{': ' + self.detail if self.detail else ''}"


def find_player(rate: int, which: Callable[[str], str | None] = shutil.which) -> Player | None:
    """The first player that is installed, made ready for `rate` Hz."""
    for player in _PLAYERS:
        if which(player.name) is not None:
            return Player(tuple(word.replace("{rate}", str(rate)) for word in player.command), player.wants_header)
    return None


class Playback:
    """A running player. Make it with `await Playback.start(...)`; end it with `finish` or `stop`."""

    def __init__(self, player: Player, process: Process) -> None:
        self._player = player
        self._process = process

    @classmethod
    async def start(cls, player: Player, rate: int) -> Playback:
        """Raises OSError where the program cannot be started."""
        process = await anyio.open_process(
            player.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )  # its own session: Ctrl-C is ours to answer
        playback = cls(player, process)
        if player.wants_header:
            await playback._put(header(rate))
        return playback

    async def write(self, samples: Pcm) -> None:
        """Hand over samples; waits while the player has enough. Raises PlayerFailed."""
        await self._put(samples.astype("<i2", copy=False).tobytes())

    async def finish(self) -> None:
        """Wait until everything was played. Raises PlayerFailed."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        if await self._process.wait():
            raise await self._failure()
        await self._process.aclose()

    async def stop(self) -> None:
        """Silence, now. Idempotent."""
        if self._process.returncode is None:
            self._process.kill()
        with anyio.CancelScope(shield=True):
            await self._process.aclose()

    async def _put(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise await self._failure() from error

    async def _failure(self) -> PlayerFailed:
        said = ""
        with anyio.move_on_after(LAST_WORDS_S):
            assert self._process.stderr is not None
            said = await _text(self._process.stderr)
            await self._process.wait()
        code = self._process.returncode
        await self.stop()
        lines = said.strip().splitlines()
        return PlayerFailed(self._player.name, code if code is not None else -1, lines[-1].strip() if lines else "")


async def _text(stream: ByteReceiveStream) -> str:
    return "".join([text async for text in TextReceiveStream(stream, errors="replace")])
