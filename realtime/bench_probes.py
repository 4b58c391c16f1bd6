"""What `bench conversation` tries on a server, one probe after the other: the talk itself, pacing, pauses, and a socket that is lost.

Each probe is a client of the public protocol and returns what it found. Does not know how findings are shown (`bench_promises`).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import anyio
from websockets.asyncio.client import connect as websocket_connect
from websockets.typing import Subprotocol

from protocol.client import AudioChunk, Client, Turn
from protocol.commands import PlaybackState
from protocol.config import AlignmentMode, Clock, HistoryConfig, PacingConfig
from protocol.events import Alignment, HeardSource, TurnPaused, TurnResumed
from protocol.messages import Event, Heard, SessionCreated, Status
from realtime.bench_promises import Bound, Figure, Finding, Promise, never, p95, worst
from realtime.bench_stage import Listener, Stage, Take, network, taken
from realtime.bench_text import short_text_of, text_of

Probe = Callable[[Stage], Awaitable[Sequence[Finding]]]

AT_ONCE: Final = PacingConfig(lead_ms=30_000, burst_ms=30_000, clock=Clock.ACK)  # a listener who is quicker than life
LONG: Final = HistoryConfig(max_s=120.0, max_turns=500)  # nothing that was heard is trimmed
HEARD_SHARE: Final = 0.5  # of what has come when a barge-in comes
SILENCE_S: Final = 0.3  # for sound that should not come to come
LEAD_MS: Final = 1_000
BURST_MS: Final = 300
PACKET_MS: Final = 20
JITTER_MS: Final = 50  # of two processes on one machine, which look at the same clock at different times
RUN_AHEAD_MS: Final = 1_000  # protocol section 7
CREDIT_FRAMES: Final = 4  # credit is given in steps
CANCEL_MS: Final = 20.0  # protocol section 6
BACK_MS: Final = 1_000.0  # a person takes that for a pause
WORDS_LATE_MS: Final = 500.0  # protocol section 4


async def talk(stage: Stage) -> Sequence[Finding]:
    """A conversation of many turns, some of them interrupted; what it leaves behind is what was heard."""
    every = max(1, stage.turns // max(1, stage.barge_ins))
    told, answered_ms, untrue, failed, heard_chars = list[Heard](), list[float](), 0, 0, 0
    async with stage.client({"pacing": AT_ONCE, "history": LONG}) as client:
        for number in range(stage.turns):
            text = short_text_of(stage.seed, number)
            barge_in = number % every == every - 1 and number // every < stage.barge_ins
            turn = client.speak(text)
            if barge_in:
                answered_ms.append(await _interrupted(stage, client, turn))
            else:
                done = await turn.finish()
                failed += done.status is not Status.COMPLETED
                await turn.played(done.audio_ms, PlaybackState.ENDED)
            heard = turn.heard
            assert heard is not None, "the turn is done"
            told.append(heard)
            untrue += heard.text + heard.remaining != text or heard.char_end != len(heard.text)
            heard_chars += len(heard.text)
        kept = await client.truncate(turn, turn.heard.ms if turn.heard is not None else 0)
    cut = sum(bool(heard.remaining) for heard in told)
    return (
        never("heard and remaining are not the text", untrue, f"{stage.turns} turns"),
        never("turns failed", failed, f"{stage.turns - stage.barge_ins} that nobody interrupted"),
        Promise("interrupted, and text was left unheard", cut, stage.barge_ins, "times", Bound.AT_LEAST),
        never("characters remembered and not heard, or the reverse", abs(kept.text_chars - heard_chars), "at the end"),
        Promise("turns remembered", kept.turns, sum(bool(heard.text) for heard in told), "turns", Bound.AT_LEAST),
        p95("from turn.cancel to turn.done", answered_ms, CANCEL_MS),
    )


async def _interrupted(stage: Stage, client: Client, turn: Turn) -> float:
    """Interrupt in the middle of the sound that has come; ms until the server has said what was heard."""
    rate = client.config.audio.output.rate
    async for item in turn:
        if isinstance(item, AudioChunk) and item.position >= rate // 2:
            break
    else:
        return 0.0
    at = stage.now()
    await turn.cancel(played_ms=round(1000 * HEARD_SHARE * item.position / rate), reason="barge_in")
    await turn.finish()
    return 1000 * (stage.now() - at)


async def silence(stage: Stage) -> Sequence[Finding]:
    """After turn.done no sound of that turn comes, also on the wire; counted without a client that would hide it."""
    headers = {"Authorization": f"Bearer {stage.key}"} if stage.key is not None else {}
    late, dones = 0, 0
    async with websocket_connect(
        stage.url, subprotocols=[Subprotocol("live.v1")], additional_headers=headers, compression=None
    ) as socket:
        for number in range(3):
            await socket.send(json.dumps({"type": "text.append", "text": text_of(stage.seed, 1, number)}))
            await socket.send(json.dumps({"type": "turn.end"}))
            cancelled = False
            while isinstance(message := await socket.recv(), bytes) or json.loads(message)["type"] != "turn.done":
                if isinstance(message, bytes) and not cancelled:
                    cancelled = True
                    await socket.send(json.dumps({"type": "turn.cancel", "played_ms": 0}))
            dones += 1
            with anyio.move_on_after(SILENCE_S):
                while True:
                    late += isinstance(await socket.recv(), bytes)
    return (
        never("sound after turn.done", late, "messages of 3 cancelled turns"),
        Promise("turn.done of each turn", dones, 3, "times", Bound.AT_LEAST),
    )


async def pacing(stage: Stage) -> Sequence[Finding]:
    """A listener who reports: never more sound ahead of him than asked for, and none generated far beyond that."""
    ahead, hurried, standing = list[float](), list[float](), list[float]()
    config = PacingConfig(lead_ms=LEAD_MS, burst_ms=BURST_MS, clock=Clock.ACK)
    async with stage.client({"pacing": config}) as client:
        text = text_of(stage.seed, 2, 0)
        turn = client.speak(text)
        take = Take(text, client.config.audio.output.rate)
        listener = Listener(stage, turn, take)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.report)
            async for item in turn:
                at = stage.now()
                take.add(item, at)
                if not isinstance(item, AudioChunk):
                    continue
                ahead.append(take.sent_ms - listener.heard_ms)
                allowed = BURST_MS + 1250 * (at - take.chunks[0][0])
                hurried.append(take.sent_ms - allowed)
                if listener.stopped_at is None and take.sent_ms >= 3 * LEAD_MS:
                    await listener.stop()  # the person holds the player; what is ahead of him stays ahead
                    tasks.start_soon(partial(_let_go, stage, turn, listener, take, standing))
            tasks.cancel_scope.cancel()
    done = take.done
    assert done is not None, "the turn was read to its end"
    wasted_ms = done.metrics.audio_tokens * stage.frame_ms - done.heard.ms if stage.frame_ms is not None else None
    most_ms = LEAD_MS + RUN_AHEAD_MS + PACKET_MS + (CREDIT_FRAMES + 1) * (stage.frame_ms or 0.0)
    acked = done.heard.source == HeardSource.ACK
    return (
        worst("ahead of the listener", ahead, LEAD_MS + PACKET_MS + JITTER_MS),
        worst("ahead of 1.25 x real time", hurried, PACKET_MS + JITTER_MS),
        worst("ahead of one who stands still", standing, LEAD_MS + PACKET_MS + JITTER_MS),
        never("heard told from something else than his reports", not acked, done.heard.source),
        Promise("generated and never heard", wasted_ms, most_ms, "ms"),
    )


async def _let_go(stage: Stage, turn: Turn, listener: Listener, take: Take, standing: list[float]) -> None:
    """Look at what has come a while after he stood still; then interrupt."""
    await anyio.sleep(2.0)
    standing.append(take.sent_ms - listener.heard_ms)
    await turn.cancel(reason="barge_in")  # and no word on how much was heard: the server knows


async def pauses(stage: Stage) -> Sequence[Finding]:
    """A pause that was a false alarm: nothing is lost, nothing is generated again, and the same sound goes on."""
    text = " ".join(short_text_of(stage.seed, 3000 + number) for number in range(2))
    config = PacingConfig(lead_ms=LEAD_MS, burst_ms=BURST_MS, clock=Clock.ACK)
    late, again = 0, 0
    async with stage.client({"pacing": config}) as client:
        turn = client.speak(text)
        take = Take(text, client.config.audio.output.rate)
        first: dict[int, bytes] = {}
        silent_ms: float | None = None
        differs = 0
        async with anyio.create_task_group() as tasks:
            paused_at: float | None = None
            tasks.start_soon(_pause_once, stage, turn, take)
            async for item in turn:
                take.add(item, stage.now())
                if isinstance(item, TurnPaused):
                    paused_at = stage.now()
                elif isinstance(item, TurnResumed):
                    silent_ms = 1000 * (stage.now() - (paused_at or stage.now()))
                    paused_at = None
                elif isinstance(item, AudioChunk):
                    late += paused_at is not None
                    again += item.position in first
                    differs += first.setdefault(item.position, item.payload) != item.payload
            tasks.cancel_scope.cancel()
    done = take.done
    assert done is not None, "the turn was read to its end"
    whole = done.status is Status.COMPLETED and done.heard.text + done.heard.remaining == text
    findings: list[Finding] = [
        never("sound while it was paused", late, "messages behind turn.paused"),
        never("other sound than before at the same place", differs, f"{again} messages came twice"),
        Promise("came again from the word before", again, 1, "times", Bound.AT_LEAST),
        never("turns that were not whole after it", not whole, done.status),
    ]
    if silent_ms is not None:
        findings.append(Figure("lasted", silent_ms, "ms"))
    if stage.frame_ms is not None:
        twice_ms = done.metrics.audio_tokens * stage.frame_ms - done.audio_ms
        findings.append(Promise("generated beyond what the turn is long", twice_ms, 2 * stage.frame_ms, "ms"))
    return findings


async def _pause_once(stage: Stage, turn: Turn, take: Take) -> None:
    """Cough when two seconds have come."""
    while take.sent_ms < 1500:
        await anyio.sleep(0.02)
    heard_ms = min(take.sent_ms, 1000 * (stage.now() - take.chunks[0][0]))
    await turn.pause(played_ms=round(heard_ms))
    await anyio.sleep(0.5)
    await turn.resume(from_ms=round(heard_ms))


async def lost_socket(stage: Stage) -> Sequence[Finding]:
    """The network fails in the middle of a turn: the client is back soon, and the turn is whole."""
    back: list[float] = []
    broken = unheard = lost_texts = 0
    cut_at = 0.0
    losses = 3

    def on_event(event: Event) -> None:
        if isinstance(event, SessionCreated) and event.resumed:
            back.append(1000 * (stage.now() - cut_at))

    async with network(stage.url) as (way, url), stage.client({"pacing": AT_ONCE}, url, on_event) as client:
        for number in range(losses):
            text = short_text_of(stage.seed, 1000 + number)
            half = len(text) // 2
            turn = client.speak()
            await turn.append(text[:half])
            take = Take(text, client.config.audio.output.rate)
            async for item in turn:
                take.add(item, stage.now())
                if len(back) == number and isinstance(item, AudioChunk) and cut_at <= take.chunks[0][0]:
                    cut_at = stage.now()
                    way.cut()
                    await turn.append(text[half:])  # between two sockets
                    turn.end()
            done = take.done
            assert done is not None, "the turn was read to its end"
            broken += take.broken() + (abs(done.audio_ms - take.sent_ms) > 1)
            unheard += bool(done.heard.remaining.strip())
            lost_texts += done.heard.text + done.heard.remaining != text
            await turn.played(done.audio_ms, PlaybackState.ENDED)
    return (
        Promise("came back", len(back), losses, "times", Bound.AT_LEAST),
        worst("until the session was back", back, BACK_MS),
        never("sound missing or twice", broken, f"places in {losses} turns"),
        never("turns not spoken to their end", unheard, f"{losses} turns"),
        never("text lost or doubled", lost_texts, f"{losses} turns"),
    )


async def words(stage: Stage) -> Sequence[Finding]:
    """Every word has a time, which comes with its sound and not long after it."""
    text = text_of(stage.seed, 5, 0)
    fields = {"pacing": PacingConfig(clock=Clock.REALTIME), "alignment": AlignmentMode.WORD}
    async with stage.client(fields) as client:
        take = await taken(stage, client, client.speak(text), text)
    ends = [(take.end_ms(chunk), at) for at, chunk in take.chunks]
    told = [(at, event) for at, event in take.events if isinstance(event, Alignment)]
    late: dict[tuple[int, int], float] = {}  # by the word; a better time for it may follow
    for at, event in told:
        for word in event.items:
            came = next((came_at for end_ms, came_at in ends if end_ms >= word.end_ms), ends[-1][1])
            late.setdefault((word.char_start, word.char_end), 1000 * (at - came))
    covered = {place for start, end in late for place in range(start, end)}
    missing = sum(char.isalnum() for place, char in enumerate(text) if place not in covered)
    sources = ", ".join(sorted({str(event.source) for _, event in told}))
    return (
        worst("words told behind their sound", list(late.values()), WORDS_LATE_MS),
        never("letters without a time", missing, f"{len(late)} words, times from: {sources or 'nowhere'}"),
    )


PROBES: Final[dict[str, Probe]] = {
    "talk": talk,
    "silence": silence,
    "pacing": pacing,
    "pause": pauses,
    "lost socket": lost_socket,
    "words": words,
}
