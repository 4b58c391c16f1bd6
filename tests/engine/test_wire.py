"""Framing between the server and its engine process."""

import socket

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine import commands as c
from engine.api import Conversation, SamplingParams, SpokenSegment, Voice
from engine.wire import BlockingPeer, Unpacker, pack


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


def test_a_peer_that_does_not_wait_returns_at_once_and_a_closed_one_says_so() -> None:
    ours, theirs = socket.socketpair()
    peer = BlockingPeer(theirs)
    assert peer.receive(wait=False) == []
    ours.sendall(pack(c.Finish(1)) + pack(c.Cancel(1))[:5])
    assert peer.receive(wait=True) == [c.Finish(1)]
    ours.close()
    assert peer.receive(wait=True) is None
    theirs.close()
