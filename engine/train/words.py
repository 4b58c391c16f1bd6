"""Vocabulary for made-up text: word frequencies of the package `wordfreq`, sampled both as they are and flattened.

Knows words and how often they occur. Does not know grammar (text_en.py, text_de.py).
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from itertools import accumulate

_PLAIN = {"en": re.compile(r"[a-z]+('[a-z]+)?"), "de": re.compile(r"[a-zäöüß]+")}
_MOST = 60_000  # beyond this rank the list is mostly misspellings and foreign names
_LONGEST = 16  # letters; longer ones are rare and mostly joined words


class Vocabulary:
    """Words of one language ("en" or "de")."""

    def __init__(self, language: str) -> None:
        import wordfreq  # an optional dependency: only training needs it

        pattern = _PLAIN[language]
        ranked = wordfreq.top_n_list(language, _MOST)
        self.words = [word for word in ranked if len(word) <= _LONGEST and pattern.fullmatch(word)]
        frequency = (wordfreq.word_frequency(word, language) for word in self.words)
        self._cumulative = list(accumulate(frequency))

    def common(self, rng: random.Random) -> str:
        """A word as often as the language uses it."""
        at = bisect(self._cumulative, rng.random() * self._cumulative[-1])
        return self.words[min(at, len(self.words) - 1)]

    def flat(self, rng: random.Random) -> str:
        """A word with its rank drawn evenly on a square-root scale: rare words too, common ones more."""
        return self.words[int(rng.random() ** 2 * len(self.words))]

    def any(self, rng: random.Random) -> str:
        """Half and half."""
        return self.common(rng) if rng.random() < 0.4 else self.flat(rng)
