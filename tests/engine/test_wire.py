"""Framing between the server and its engine process."""

import socket
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import commands as c
from engine.api import Conversation, Frame, SamplingParams, SegmentEnd, SpokenSegment, SynthesisFailed, Voice
from engine.wire import MAX_MESSAGE_BYTES, MOST_WAITING_BYTES, BlockingPeer, PeerGone, QueueingPeer, Unpacker, pack


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, BlockingPeer]]:
    """The server's socket and the engine's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, BlockingPeer(theirs)


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 50), max_size=200))
def test_any_cutting_of_the_bytes_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pack(message) for message in messages)
    unpacker, got, at = Unpacker(), [], 0
    for cut in [*cuts, len(stream)]:
        got += unpacker.feed(stream[at : at + cut])
        at += cut
    got += unpacker.feed(stream[at:])
    assert got == messages


def test_a_command_with_history_survives_the_crossing() -> None:
    codes = np.arange(20, dtype=np.int16).reshape(10, 2)
    history = (SpokenSegment("Hello.", codes),)
    sent = c.Open(7, Conversation("c", history), Voice("v"), SamplingParams(seed=3), 2)
    (got,) = Unpacker().feed(pack(sent))
    assert isinstance(got, c.Open)
    assert (got.stream, got.params, got.turn) == (7, sent.params, 2)
    assert (got.conversation.history[0].codes == codes).all()


def test_what_arrives_does_not_share_memory_with_what_comes_after() -> None:
    unpacker = Unpacker()
    first = unpacker.feed(pack(c.Recording(1, np.ones(50, np.float32))))[0]
    unpacker.feed(pack(c.Recording(1, np.zeros(50, np.float32))))
    assert isinstance(first, c.Recording) and (first.samples == 1).all()


def test_a_message_beyond_the_cap_is_not_packed() -> None:
    with pytest.raises(AssertionError, match="exceeds"):
        pack(bytes(MAX_MESSAGE_BYTES))


def test_a_length_that_no_message_has_is_not_waited_for() -> None:
    with pytest.raises(AssertionError, match="exceeds"):
        Unpacker().feed(struct.pack("<I", MAX_MESSAGE_BYTES + 1))


def test_a_peer_that_does_not_wait_returns_at_once(pair: tuple[socket.socket, BlockingPeer]) -> None:
    ours, peer = pair
    assert peer.receive(wait=False) == []
    ours.sendall(pack(c.Finish(1))[:5])
    assert peer.receive(wait=False) == []


def test_a_peer_that_waits_has_a_whole_message(pair: tuple[socket.socket, BlockingPeer]) -> None:
    ours, peer = pair
    ours.sendall(pack(c.Finish(1)) + pack(c.Cancel(1))[:5])
    assert peer.receive(wait=True) == [c.Finish(1)]
    ours.sendall(pack(c.Cancel(1))[5:])
    assert peer.receive(wait=True) == [c.Cancel(1)]


def test_everything_that_has_arrived_is_received_at_once(pair: tuple[socket.socket, BlockingPeer]) -> None:
    ours, peer = pair
    commands = [c.Push(1, "x" * 10_000) for _ in range(10)]  # more than fits into one read of a small buffer
    ours.sendall(b"".join(map(pack, commands)))
    assert peer.receive(wait=False) == commands
    assert peer.receive(wait=False) == []


def test_a_server_that_went_away_is_noticed_by_reading_and_by_writing(pair: tuple[socket.socket, BlockingPeer]) -> None:
    ours, peer = pair
    ours.close()
    with pytest.raises(PeerGone):
        peer.receive(wait=True)
    with pytest.raises(PeerGone):
        peer.receive(wait=False)
    with pytest.raises(PeerGone):
        peer.send(c.Finish(1))


def test_a_server_that_went_away_with_messages_unread_is_noticed(pair: tuple[socket.socket, BlockingPeer]) -> None:
    ours, peer = pair
    peer.send(c.Finish(1))
    ours.close()  # which resets the connection
    with pytest.raises(PeerGone):
        peer.receive(wait=True)


def test_a_step_s_events_cross_in_order_and_a_frame_that_is_kept_keeps_no_other() -> None:
    noise = np.random.default_rng(0)
    frames = [
        Frame(segment, 3 * segment, noise.integers(0, 9, 10).astype(np.int16), noise.random(2048, np.float32), at)
        for segment, at in enumerate([None, 7, 0])
    ]
    events = [(4, frames[0]), (5, SegmentEnd(0, 2, None)), (6, frames[1]), (6, frames[2]), (4, c.Ended())]
    sent = c.Report(
        list(events), [(1, np.ones(3, np.float32))], {2: SynthesisFailed("bad_input", "no")}, c.Load(3, 0.5)
    )
    (got,) = Unpacker().feed(pack(sent))
    assert isinstance(got, c.Report)
    assert [stream for stream, _ in got.events] == [stream for stream, _ in events]
    assert got.events[1][1] == events[1][1] and got.events[4][1] == events[4][1]
    assert (got.pieces[0][1] == 1).all() and str(got.done[2]) == str(sent.done[2]) and got.load == sent.load
    for place, frame in zip((0, 2, 3), frames, strict=True):
        other = got.events[place][1]
        assert isinstance(other, Frame)
        assert (other.segment, other.index, other.text_at) == (frame.segment, frame.index, frame.text_at)
        for array, wanted in ((other.codes, frame.codes), (other.samples, frame.samples)):
            assert array.dtype == wanted.dtype and (array == wanted).all()
            assert array.base is None
    (nothing,) = Unpacker().feed(pack(c.Report()))
    assert not nothing and nothing == c.Report()


def received(ours: socket.socket, count: int) -> list[object]:
    """So many messages."""
    unpacker, messages = Unpacker(), list[object]()
    while len(messages) < count:
        messages += unpacker.feed(ours.recv(1 << 16))
    return messages


@pytest.fixture
def queueing(pair: tuple[socket.socket, BlockingPeer]) -> tuple[socket.socket, QueueingPeer]:
    ours, blocking = pair
    return ours, QueueingPeer(blocking._socket)


def test_who_queues_goes_on_while_nobody_reads_and_the_order_is_kept(
    queueing: tuple[socket.socket, QueueingPeer],
) -> None:
    ours, peer = queueing
    texts = ["first", *(f"{n}" * 500_000 for n in range(3)), "last"]
    for text in texts:
        peer.send(text)
    assert received(ours, len(texts)) == texts
    peer.flush()
    peer.send("after")
    assert received(ours, 1) == ["after"]


def test_who_queues_waits_where_too_much_does(queueing: tuple[socket.socket, QueueingPeer]) -> None:
    ours, peer = queueing
    sent, most = [bytes(MOST_WAITING_BYTES // 2) for _ in range(4)], list[int]()

    def send_all() -> None:
        for message in sent:
            peer.send(message)
            most.append(peer._waiting_bytes)

    sending = threading.Thread(target=send_all)
    sending.start()
    with peer._changed:
        peer._changed.wait_for(lambda: peer._waiting_bytes > 0.9 * MOST_WAITING_BYTES)
    assert len(most) <= 2 and sending.is_alive()
    assert received(ours, len(sent)) == sent
    sending.join()
    assert max(most) <= MOST_WAITING_BYTES
    peer.flush()


def test_a_message_larger_than_the_queue_goes_alone(queueing: tuple[socket.socket, QueueingPeer]) -> None:
    ours, peer = queueing
    peer.send(bytes(2 * MOST_WAITING_BYTES))
    assert received(ours, 1) == [bytes(2 * MOST_WAITING_BYTES)]


@pytest.mark.parametrize("waiting", [True, False])
def test_who_queues_notices_a_server_that_went_away(
    queueing: tuple[socket.socket, QueueingPeer], waiting: bool
) -> None:
    ours, peer = queueing
    if waiting:
        peer.send(bytes(1 << 20))
    ours.close()
    with pytest.raises(PeerGone):
        peer.flush()
        peer.send("anybody?")
    with pytest.raises(PeerGone):
        peer.receive(wait=True)
