"""A typed client: text in, events and audio out, on one WebSocket.

    async with connect("ws://127.0.0.1:8300/v1/live") as client:
        turn = client.speak(deltas)
        async for item in turn:
            if isinstance(item, AudioChunk):
                play(item.payload)

A socket that is lost is replaced: the server keeps the session for a while, text that did not arrive is sent again, audio that did not
arrive comes again, and the turns notice nothing but the time it took. A session that the server has ended is followed by another one.

Does not decode or play audio. Runs on asyncio, as the websockets library does. Reading never waits for anybody: not for text that is still
being written, not for a consumer that is slow. So what a consumer does not read has a bound: beyond it its turn is cancelled and raises
Overrun.
"""

from protocol.client.errors import ClientError, ConnectionLost, Overrun, Refused, ServerError, SessionEnded
from protocol.client.microphone import Microphone
from protocol.client.opening import connect
from protocol.client.session import Client
from protocol.client.turn import AudioChunk, Deltas, Turn, TurnItem

__all__ = [
    "AudioChunk",
    "Client",
    "ClientError",
    "ConnectionLost",
    "Deltas",
    "Microphone",
    "Overrun",
    "Refused",
    "ServerError",
    "SessionEnded",
    "Turn",
    "TurnItem",
    "connect",
]
