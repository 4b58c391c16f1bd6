"""Bare addresses: what of them is read, and where they end."""

from __future__ import annotations

import pytest

from protocol.config import TagMode
from realtime.markdown import MarkdownLexer
from realtime.tags import engine_text


def read(text: str) -> str:
    lexer = MarkdownLexer(TagMode.PERFORM)
    tokens = [token for char in text for token in lexer.feed(char)] + lexer.finish()
    return engine_text("", tokens, TagMode.PERFORM)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://example.com", "example.com"),
        ("HTTPS://WWW.Example.com/A?b#c", "Example.com"),
        ("www.example.com:8080/x", "example.com"),
        ("http://localhost:3000", "localhost"),
        ("At https://x.org.", "At x.org."),
        ("At https://x.org/a.html, or", "At x.org, or"),
        ("At https://x.org/a(b)c) or", "At x.org) or"),
        ("(https://x.org/a_(b)): yes", "(x.org): yes"),
        ('"https://x.org/?q=1" and **https://y.org/z**', '"x.org" and y.org'),
        ("https://x.org's page", "x.org page"),
        ("https://x.org/a你好", "x.org你好"),
        ("<https://x.org/a> <www.y.org>", "x.org y.org"),
        ("http:/x, https: and www", "http:/x, https: and www"),
        ("showww.x", "showww.x"),
    ],
)
def test_of_an_address_the_host_is_read(text: str, said: str) -> None:
    assert read(text) == said
