"""Which characters are pictures.

Knows Unicode's blocks of them (the standard library has no table of the property). Does not know what is done with pictures in a text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

# Unicode's Extended_Pictographic as far as it is shown as a picture, in blocks: what is not in use yet comes out as a picture, too.
EMOJI_RANGES: Final = (
    "\u2139\u231a\u231b\u23e9-\u23fa\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50"
    "\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
EMOJI_PARTS: Final = "\u200d\ufe0e\ufe0f\u20e3\U000e0020-\U000e007f"  # only belong to an emoji behind one


@lru_cache(maxsize=1024)
def is_emoji(char: str) -> bool:
    """Whether a character is a picture. Numbers in circles and signs of music are not."""
    if char in "♭♮♯" or unicodedata.category(char)[0] == "N":
        return False
    return re.fullmatch(f"[{EMOJI_RANGES}]", char) is not None


def is_emoji_part(char: str) -> bool:
    """Whether a character that follows a picture only changes or joins it."""
    return re.fullmatch(f"[{EMOJI_PARTS}]", char) is not None
