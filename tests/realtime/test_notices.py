"""What a client is told about its text, and how often."""

from __future__ import annotations

from protocol.config import Latency, TagMode
from protocol.events import WarningCode
from realtime.notices import TextNotices
from realtime.repertoire import Repertoire
from realtime.segmenter import Segmenter
from realtime.wording import Wording


def notices(text: str) -> list[tuple[WarningCode, str]]:
    segmenter = Segmenter(Latency.LOW, TagMode.PERFORM, repertoire=Repertoire(("Latin",)), wording=Wording(clean=True))
    segmenter.push(text, 0.0)
    segmenter.end()
    told = TextNotices()
    segments = segmenter.take(0.0, 0.0)
    assert len(segments) > 1
    return [notice for segment in segments for notice in told.of(segment)]


def test_each_kind_of_change_is_told_once_with_its_first_place() -> None:
    told = notices("**This** is the first of them. **This** is the second 😀, and so on. And the third 😀 of them.")
    assert told == [
        (WarningCode.TEXT_NORMALIZED, "characters 0 to 2: Markdown marks are not read; told once a turn"),
        (WarningCode.TEXT_NORMALIZED, "characters 54 to 55: emoji are not read; told once a turn"),
    ]


def test_each_script_that_is_left_out_is_told_once() -> None:
    told = notices("This is the first, мир. This is the second, мир. This is Greek: κόσμε.")
    assert [code for code, _ in told] == [WarningCode.UNSUPPORTED_SCRIPT] * 2
    assert ["Cyrillic" in told[0][1], "Greek" in told[1][1]] == [True, True]


def test_plain_text_is_not_talked_about() -> None:
    assert notices("This is the first of them, and it is plain. This is the second.") == []
