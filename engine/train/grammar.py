"""A small context-free text generator: symbols in braces are replaced by a random production until none is left.

Knows expansion and the number-like symbols every language needs. Does not know any language (text_en.py, text_de.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

from engine.train.words import Vocabulary

Rule = Sequence[str] | Callable[[random.Random], str]
_SYMBOL = re.compile(r"\{(\w+)\}")


class Grammar:
    """Rules by symbol. `word`, `rare` and `common` come from the vocabulary."""

    def __init__(self, rules: Mapping[str, Rule], vocabulary: Vocabulary) -> None:
        self._rules: dict[str, Rule] = {
            "word": vocabulary.any,
            "rare": vocabulary.flat,
            "common": vocabulary.common,
            **rules,
        }

    def expand(self, text: str, rng: random.Random) -> str:
        """Replace every {symbol} in `text`, depth first. Raises KeyError for an unknown symbol."""

        def one(match: re.Match[str]) -> str:
            rule = self._rules[match.group(1)]
            if callable(rule):
                return rule(rng)
            return self.expand(rng.choice(rule), rng)

        return _SYMBOL.sub(one, text)

    def sentence(self, rng: random.Random) -> str:
        """One sentence of the symbol `sentence`, its first letter in upper case."""
        text = " ".join(self.expand("{sentence}", rng).split())
        return text[:1].upper() + text[1:]


def salad(vocabulary: Vocabulary, glue: Sequence[str], rng: random.Random, longest: int = 14) -> str:
    """Random words with function words between them: every word in every neighbourhood, no grammar at all."""
    words: list[str] = []
    for _ in range(rng.randint(1, longest)):
        if words and rng.random() < 0.45:
            words.append(rng.choice(glue))
        words.append(vocabulary.any(rng))
        if rng.random() < 0.07 and len(words) > 1:
            words[-1] += ","
    return " ".join(words).rstrip(",") + rng.choice("......?!")
