from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocol.surrogates import has_half, join

HIGH, LOW = "\ud83d", "\ude00"
# Every code unit with equal chance, so that halves in and out of place are common.
units = st.lists(st.sampled_from(["a", "é", "\ufffd", "😀", HIGH, LOW]), max_size=12)


def fed(pieces: list[str]) -> tuple[str, str]:
    text, held = "", ""
    for piece in pieces:
        part, held = join(held, piece)
        assert not has_half(part)
        text += part
    return text, held


def test_a_pair_cut_between_two_pieces_is_one_character() -> None:
    assert fed(["a" + HIGH, LOW + "b"]) == ("a😀b", "")


def test_a_high_half_waits_through_empty_pieces() -> None:
    assert fed([HIGH, "", LOW]) == ("😀", "")


def test_a_half_without_its_partner_becomes_one_replacement_character() -> None:
    assert fed([HIGH, "x"]) == ("\ufffdx", "")
    assert fed(["x" + LOW]) == ("x\ufffd", "")
    assert fed([HIGH + HIGH, LOW]) == ("\ufffd😀", "")
    assert fed([LOW + HIGH + "x"]) == ("\ufffd\ufffdx", "")


def test_a_high_half_at_the_very_end_is_held() -> None:
    assert fed(["x", HIGH]) == ("x", HIGH)


def test_text_without_halves_passes_as_it_is() -> None:
    assert join("", "grün 😀") == ("grün 😀", "")


@given(units, st.data())
def test_cutting_a_text_changes_nothing(parts: list[str], data: st.DataObject) -> None:
    whole = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in pairwise([0, *cuts, len(whole)])]
    assert fed(pieces) == fed([whole])


@given(st.text(max_size=30))
def test_a_text_spelt_in_halves_is_the_text(text: str) -> None:
    raw = text.encode("utf-16-le", "surrogatepass")
    halves = [raw[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(raw), 2)]
    assert fed(halves) == (text, "")
