"""In which words a segment's text is spoken: as it stands, or as a person would read it aloud.

Knows the settings of a turn. Does not know segments' borders, deltas or time: it gets the tokens of one whole segment, so nothing that it
does looks across a border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Wording:
    """What is done to the text of a turn. Immutable."""

    clean: bool = False  # marks, links, code, tables and emoji are not read as symbols


AS_IT_STANDS: Final = Wording()
