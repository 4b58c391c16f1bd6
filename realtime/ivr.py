"""One call to a telephone menu: it speaks, is interrupted by speech or a key, and goes on.

Knows the order of such a call, as a client of the native protocol: the telephone is a leg of its session, so that all it does is say texts
and read events. Does not know Twilio, nor how a call gets here (`realtime.ivr_server`). A program to start from.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from protocol.client import Client, Turn
from protocol.messages import Dtmf, Event, LegAttached, LegDetached, SpeechStarted, SpeechStopped, Status, TurnPlayed
from realtime.ivr_menu import Item, Menu

log = logging.getLogger("parley.ivr")

ATTACH_S: Final = 20.0  # from the answer to the call's webhook until its sound is connected
_SENTENCE_END: Final = re.compile(r"[.!?:](?=\s)\s*")


class HungUp(Exception):
    """The caller is gone."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a caller did while a text was spoken, or after it."""

    key: str | None = None  # None: nothing, for long enough
    rest: str | None = None  # they spoke, and this was not heard


class Attendant:
    """Of one call. Hand every event of the session to `events`."""

    def __init__(self, client: Client, menu: Menu, events: MemoryObjectReceiveStream[Event]) -> None:
        self._client = client
        self._menu = menu
        self._events = events

    async def attend(self) -> None:
        """From before the call is there to its end. Raises ClientError where the server is lost."""
        try:
            with anyio.fail_after(ATTACH_S):
                while not isinstance(await self._events.receive(), LegAttached):
                    pass
            await self._walk()
            await self._client.close(drain=True)  # once it has been heard
        except TimeoutError:
            log.warning("a call did not come")
        except HungUp:
            log.info("the caller hung up")

    async def _walk(self) -> None:
        menu = self._menu
        name: str | None = menu.start
        while name is not None:
            item = menu.items[name]
            log.info("says %s", name)
            name = await self._choice(item) if item.keys else await self._told(item)

    async def _told(self, item: Item) -> str | None:
        """Say something that asks for nothing. A key skips the rest of it, speech does not."""
        text: str | None = item.text
        while text is not None:
            text = (await self._say(text, patience_s=0.0)).rest
        return item.next

    async def _choice(self, item: Item) -> str | None:
        """Say something, until a key is pressed that leads on. None: nobody is there."""
        menu = self._menu
        for _ in range(menu.repeats + 1):
            text, before = item.text, ""
            while (answer := await self._say(text, menu.patience_s, before)) != _Answer():
                if answer.key is not None and answer.key in item.keys:
                    return item.keys[answer.key]
                before = (menu.no_such_key if answer.key is not None else menu.not_understood) + " "
                text = answer.rest or item.text
        await self._say(menu.nobody_there, patience_s=0.0)
        return None

    async def _say(self, text: str, patience_s: float, before: str = "") -> _Answer:
        """Speak, and wait for a key, for speech, or until so long after the end was heard. before: said first, and never again."""
        turn = self._client.speak([before + text])
        done = await turn.finish()
        if done.status is Status.FAILED:
            log.error("a text was not spoken: %s", done.reason)
        # What interrupted it has been told before its end: it waits in `events`.
        patience = math.inf if done.status is Status.COMPLETED and done.audio_ms else max(patience_s, 1.0)
        spoke = False
        while True:
            with anyio.move_on_after(patience):
                event = await self._events.receive()
                match event:
                    case LegDetached():
                        raise HungUp
                    case Dtmf():
                        return _Answer(key=event.digit)
                    case TurnPlayed() if event.turn == turn.id and not spoke:
                        patience = patience_s
                    case SpeechStarted():
                        spoke, patience = True, max(self._menu.patience_s, patience_s)
                    case SpeechStopped() if spoke:
                        return _Answer(rest=_rest(turn, text, before))
                continue
            return _Answer(rest=_rest(turn, text, before)) if spoke else _Answer()


def _rest(turn: Turn, text: str, before: str) -> str:
    """What of `text` was not heard, from the beginning of the sentence that was interrupted; all of it, if all was heard."""
    heard = turn.heard
    if heard is None or not heard.remaining.strip():
        return text
    begins = [match.end() for match in _SENTENCE_END.finditer(heard.text)]
    return (before + text)[max([len(before), *begins]) :]
