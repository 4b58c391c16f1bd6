"""The teacher's phonemes as classes: targets of the semantic codebook and of the recogniser.

Knows espeak-ng's mnemonics for English and German. Marks that are not sounds (language switches, links) are dropped and
spelling variants of one sound joined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

SILENCE = 0
_NAMES = (
    "? @ @L 0 3 3: a A aa A: A@ A~ aI aI3 aI@ aU b C d D dZ E e@ e: E: eI f g h i I i: i@ i@3 j k l m n N O o@ "
    "O: o: O@ OI oU OY p pF r R s S t T tS ts u: U U@ UR v V w W x y y: Y: z Z"
)
PHONES = tuple(_NAMES.split(" "))
CLASSES = len(PHONES) + 1  # 0 is silence

_INDEX = {name: i for i, name in enumerate(PHONES, 1)}
_JOINED = {"EI": "eI", "aI@": "aI@"}


def phone_class(mnemonic: str) -> int | None:
    """Class of one event's mnemonic: SILENCE for pauses, None for what is no sound."""
    if mnemonic in ("_:", "_", "_!"):
        return SILENCE
    plain = re.sub(r"[#\-2]$", "", mnemonic)
    return _INDEX.get(_JOINED.get(plain, plain))


def phone_sequence(phones: Iterable[tuple[str, int]]) -> list[int]:
    """Classes of an utterance's sounds in order, pauses left out: what a recogniser should say."""
    classes = (phone_class(name) for name, _ in phones)
    return [value for value in classes if value]


def phone_track(phones: Iterable[tuple[str, int]], samples: int, hop_samples: int) -> npt.NDArray[np.uint8]:
    """The class sounding at the middle of each hop, uint8 [ceil(samples / hop_samples)]."""
    count = -(-samples // hop_samples)
    track = np.full(count, SILENCE, np.uint8)
    for name, start in phones:
        value = phone_class(name)
        if value is not None:
            track[max(0, (start + hop_samples // 2) // hop_samples) :] = value
    return track
