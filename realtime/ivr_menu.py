"""What a telephone menu says, and where its keys lead.

Knows the menu's file (TOML) and its rules. Does not know calls.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT: Final = """\
start = "main"
not_understood = "I can hear you, but I only understand the keys of your telephone."
no_such_key = "That key does nothing here."
nobody_there = "I did not hear from you, so I will end this call. Good bye."

[items.main]
text = "Welcome to Parley. For our opening hours, press one. To hear how this voice is made, press two. To end this call, press zero."
keys = { 1 = "hours", 2 = "voice", 0 = "bye" }

[items.hours]
text = "We are open on every day of the week, from nine in the morning until six in the evening."
next = "main"

[items.voice]
text = "A small model on one computer speaks these words while you listen, and it stops as soon as you speak or press a key."
next = "main"

[items.bye]
text = "Thank you for calling. Good bye."
"""

_Text = Annotated[str, Field(min_length=1, max_length=4096)]
_Key = Annotated[str, Field(pattern="^[0-9*#]$")]


class MenuError(ValueError):
    """The file says something that cannot be; for people."""


class Item(BaseModel):
    """Something that is said. Where nothing follows, the call ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: _Text
    keys: dict[_Key, str] = {}  # names of the items they lead to
    next: str | None = None  # the item that follows by itself


class Menu(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: str
    items: dict[str, Item]
    not_understood: _Text
    no_such_key: _Text
    nobody_there: _Text
    patience_s: float = Field(default=8.0, gt=0, le=60)  # for a key, once all was heard
    repeats: int = Field(default=2, ge=0, le=10)  # of an item, for a caller who does nothing

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Menu:
        for name in (self.start, *(name for item in self.items.values() for name in _targets(item))):
            if name not in self.items:
                raise ValueError(f"there is no item {name!r}")
        both = next((name for name, item in self.items.items() if item.keys and item.next is not None), None)
        if both is not None:
            raise ValueError(f"item {both!r} has both keys and next")
        return self


def read_menu(text: str) -> Menu:
    """Raises MenuError."""
    try:
        fields: Mapping[str, object] = tomllib.loads(text)
        return Menu.model_validate(fields)
    except tomllib.TOMLDecodeError as error:
        raise MenuError(f"it is no TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MenuError(f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")) from None


def _targets(item: Item) -> list[str]:
    return [*item.keys.values(), *([] if item.next is None else [item.next])]
