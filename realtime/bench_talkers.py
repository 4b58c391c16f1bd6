"""Who speaks in a benchmark: a client of our own protocol, of another vendor's protocol on our server, or of somebody else's endpoint.

Knows which of them the options ask for, and that each holds a connection and speaks turns on it. Does not know when.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import anyio

from protocol.client import ClientError, Refused, ServerError, connect
from realtime import bench_client, bench_foreigner
from realtime.bench_client import Native, configure
from realtime.bench_dialects import RATE_HZ, DialectFailed, Speaker
from realtime.bench_endpoints import REFUSING, Pool, caller
from realtime.bench_figures import Failure, Outcome, Refusal
from realtime.bench_foreigner import Foreigner
from realtime.bench_options import BenchOptions
from realtime.bench_speakers import SPEAKERS
from realtime.failure import leaf

CLOSE_S: Final = 1.0
WHOLE_TEXT: Final = ("openai",)  # dialects that are asked when all of the text is there

Talk = Callable[
    [str, float | None], Awaitable[Outcome]
]  # a text, and after how many seconds of speech it is interrupted
Tell = Callable[[str, int], None]  # the model's name, where it is told, and the rate of the sound in Hz
Connected = AbstractAsyncContextManager[Talk]


def talking(options: BenchOptions, stream: int, now: Callable[[], float], pool: Pool, tell: Tell) -> Connected:
    """A connection of its own, for as long as the block lasts. Entering it and speaking raise what `outcome_of` knows."""
    if options.endpoint is not None:
        return _at_endpoint(options, now, pool, tell)
    return _natively(options, stream, now, tell) if options.dialect is None else _in_dialect(options, now, tell)


def outcome_of(error: BaseException) -> Outcome | None:
    """What a connection that failed made of a turn; None: it is a bug of ours."""
    match leaf(error):
        case ServerError() as error:
            return bench_client.without_turn(error)
        case DialectFailed() as error:
            return bench_foreigner.without_turn(error)
        case Refused(status=status) as error if status in REFUSING:
            return Refusal(str(error), error.retry_after_s)
        case (ClientError() | OSError()) as error:
            return Failure(str(error) or type(error).__name__)
    return None


@asynccontextmanager
async def _natively(options: BenchOptions, stream: int, now: Callable[[], float], tell: Tell) -> AsyncIterator[Talk]:
    async with connect(options.url, token=options.key, renew_s=0) as client:
        rate, pre_skip = await configure(client, options, stream)
        tell(client.session.model, rate)
        yield lambda text, after_s: Native(options, client, rate, pre_skip, now).turn(text, after_s)


@asynccontextmanager
async def _in_dialect(options: BenchOptions, now: Callable[[], float], tell: Tell) -> AsyncIterator[Talk]:
    """In a session of its own: others may have measured this server before."""
    assert options.dialect is not None, "the caller asked"
    speaker = SPEAKERS[options.dialect](options.url, f"bench-{secrets.token_hex(8)}", options.key)
    whole = options.dialect in WHOLE_TEXT
    tell("", RATE_HZ)
    async with _closing(speaker):
        yield lambda text, after_s: Foreigner(speaker, options.text_rate, options.latency, now, whole_text=whole).turn(
            text, after_s
        )


@asynccontextmanager
async def _at_endpoint(options: BenchOptions, now: Callable[[], float], pool: Pool, tell: Tell) -> AsyncIterator[Talk]:
    assert options.endpoint is not None and options.dialect is not None, "the caller asked"
    speaker = caller(options.url, options.key, options.dialect, options.endpoint, pool)

    async def turn(text: str, after_s: float | None) -> Outcome:
        foreigner = Foreigner(
            speaker, options.text_rate, options.latency, now, lambda: speaker.rate_hz, speaker.whole_text
        )
        outcome = await foreigner.turn(text, after_s)
        tell(options.endpoint.model if options.endpoint is not None else "", speaker.rate_hz)
        return outcome

    async with _closing(speaker):
        await speaker.connect()
        yield turn


@asynccontextmanager
async def _closing(speaker: Speaker) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
            await speaker.close()
