"""A segment in two parts: nothing lost, and each part as it would be alone."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Latency, TagMode
from realtime.alignment import units
from realtime.repertoire import EVERYTHING
from realtime.segmenter import Segmenter
from tests.realtime.texts import texts


def letters(text: str) -> str:
    """Without speaker tokens: one that is in force already is not given again."""
    return "".join(char for char in re.sub(r"<\|speaker:\d+\|>", "", text) if char.isalnum())


@given(texts, st.sampled_from(TagMode))
def test_both_parts_have_the_text_of_the_whole(text: str, tags: TagMode) -> None:
    segmenter = Segmenter(Latency.QUALITY, tags)
    segmenter.push(text, 0.0)
    segmenter.end()
    for segment in segmenter.take(0.0, 0.0):
        words = [unit for unit in units(segment, tags) if unit.is_word] if segment.speakable else []
        for before, behind in pairwise(words):
            if before.end >= behind.end or not letters(behind.text):
                continue
            head, rest = segment.parted(before.end, tags, EVERYTHING)
            assert (head.start, head.end, rest.end) == (segment.start, rest.start, segment.end)
            assert head.raw + rest.raw == segment.raw
            assert segment.text.startswith(head.text) and head.prefix == segment.prefix
            assert len(head.origin) == len(head.text) and len(rest.origin) == len(rest.text)
            assert all(at == -1 or at >= rest.start for at in rest.origin)
            body = rest.text[len(rest.prefix) :]
            assert letters(segment.text) == letters(head.text + body)
            assert "".join(token.raw for token in (*head.tokens, *rest.tokens)) == segment.raw
