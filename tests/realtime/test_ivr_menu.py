"""What a telephone menu's file may say, and what Twilio is told."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from realtime.ivr_menu import DEFAULT, MenuError, read_menu
from realtime.ivr_server import twiml


def test_twiml_holds_whatever_an_address_holds() -> None:
    (stream,) = ElementTree.fromstring(twiml('wss://a.example/s/a"<&/twilio', "s-1", None)).iter("Stream")
    assert stream.attrib["url"] == 'wss://a.example/s/a"<&/twilio'


def test_the_example_is_a_menu() -> None:
    assert read_menu(DEFAULT).start == "main"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("start = ", "start: "), "no TOML"),
        (('"hours", 2', '"ours", 2'), "no item 'ours'"),
        (("keys = { 1 =", 'next = "bye"\nkeys = { 1 ='), "both keys and next"),
        (("keys = { 1 =", "keys = { 11 ="), "keys"),
        (('next = "main"\n\n[items.voice', 'onward = "main"\n\n[items.voice'), "onward"),
    ],
)
def test_a_menu_that_leads_nowhere_is_refused(change: tuple[str, str], why: str) -> None:
    text = DEFAULT.replace(*change)
    assert text != DEFAULT
    with pytest.raises(MenuError, match=why):
        read_menu(text)
