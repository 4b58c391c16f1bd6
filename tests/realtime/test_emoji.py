"""Which characters are pictures."""

from __future__ import annotations

from realtime.emoji import is_emoji, is_emoji_part


def test_pictures_are_told_from_letters_and_numbers() -> None:
    assert all(map(is_emoji, "😀🎉✅⭐☀🚀ℹ🇩"))
    assert not any(map(is_emoji, "a1①♯€§漢→\u200d"))


def test_what_joins_or_colours_pictures_is_no_picture() -> None:
    assert all(map(is_emoji_part, "\u200d\ufe0f\u20e3\U000e0067"))
    assert not any(map(is_emoji_part, "a 😀"))
