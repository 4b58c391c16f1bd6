"""Text to token ids.

Knows the two ways text is read: what a user wrote, which never becomes a control token whatever it spells, and the template's
own parts, in which `<|im_start|>` and its like are control tokens. Does not know how a prompt is put together (`engine.prompt`).
The reference parses control tokens in user text too; that lets a speaker end its own turn, so it is not followed here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import tokenizers

from engine.config import IM_END, ConfigError, SpecialIds, read_json

IM_START = "<|im_start|>"
VOICE = "<|voice|>"


class Tokenizer:
    """A folder's tokenizer.json. Immutable, safe for threads."""

    im_start: int
    im_end: int  # ends a segment
    voice: int
    semantic_begin: int  # <|semantic:0|>
    semantic_end: int  # the last one, inclusive

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError when the file is absent, unreadable or lacks a token that prompts need."""
        path = folder / "tokenizer.json"
        raw = read_json(path)
        self._specials = {token["content"]: int(token["id"]) for token in raw.get("added_tokens", [])}
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(self._specials, key=len, reverse=True))) + ")")
        self._text = _without_specials(raw)
        self.im_start, self.im_end, self.voice = (self._required(path, name) for name in (IM_START, IM_END, VOICE))
        ids = SpecialIds.from_tokens(self._specials)
        if ids.semantic_begin is None or ids.semantic_end is None:
            raise ConfigError(path, "has no <|semantic:i|> tokens")
        self.semantic_begin, self.semantic_end = ids.semantic_begin, ids.semantic_end

    def encode_text(self, text: str) -> list[int]:
        """Ids of text that somebody wrote. `<|im_end|>` in it is ten characters of text, never the control token."""
        return self._text.encode(text, add_special_tokens=False).ids

    def text_starts(self, text: str) -> list[int]:
        """For each id that `encode_text` gives, the code point of `text` at which its token starts: the word, not the blank before it."""
        spans = self._text.encode(text, add_special_tokens=False).offsets
        return [start + _blanks(text[start:end]) for start, end in spans]

    def encode_template(self, text: str) -> list[int]:
        """Ids of a piece of the prompt's template: added tokens are recognised, nothing is added."""
        ids = []
        for piece in self._split.split(text):
            ids += [self._specials[piece]] if piece in self._specials else self.encode_text(piece)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text that `encode_text` made these ids from, after its normalisation. Added tokens have no text."""
        return self._text.decode(ids, skip_special_tokens=False)

    def _required(self, path: Path, name: str) -> int:
        if name not in self._specials:
            raise ConfigError(path, f"has no token {name}")
        return self._specials[name]


def _blanks(token: str) -> int:
    """White space in front of what a token says; none if it says nothing else."""
    return len(token) - len(token.lstrip()) if token.strip() else 0


def _without_specials(raw: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer with no added tokens at all, so that it cannot produce one.

    The library's own switch for this, encode_special_tokens, spares only tokens that the file marks as special.
    """
    plain = raw | {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
    return tokenizers.Tokenizer.from_str(json.dumps(plain))
