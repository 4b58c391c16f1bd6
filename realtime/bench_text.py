"""What the benchmark's conversations say, and how fast it is typed.

Knows a small grammar of English sentences of some 40 to 100 characters. No two turns say the same: a server that keeps what it computed for
a prompt would otherwise be measured 4 to 5 times too fast (vllm-omni#3323). Does not know sockets or time.
"""

from __future__ import annotations

import random
import re
from typing import Final

MEAN_CHARS: Final = 90  # of a stranger's turn: six seconds at 15 characters a second
LEAST_CHARS: Final = 40  # shorter ones would soon be said twice
SPREAD: Final = 0.5  # sigma of the logarithm: a fifth of them say half as much again
TURN_CHARS: Final = 120  # a turn has at least so many characters: two or three sentences, some eight seconds


def _choices(line: str) -> tuple[str, ...]:
    return tuple(line.split("|"))


_OPENERS: Final = _choices(
    "Yesterday|This morning|In the end|After lunch|Before dawn|As far as I know|To be honest|On Monday|Last winter|Around noon|By the way|"
    "For the record|Strangely enough|At half past seven|Without a word|Against all odds|In early spring|On the way home|Two years ago|"
    "As always|To our surprise|Late at night|During the break|Just in time|Sooner or later|Out of habit|On the third day|If I remember well"
)
_QUALITIES: Final = _choices(
    "old|quiet|narrow|careful|bright|distant|hungry|patient|wooden|friendly|curious|heavy|silver|gentle|broken|clever|dusty|tired|northern|"
    "famous|cheerful|nervous|golden|modest|frozen|generous|empty|crowded|brave|sleepy|polite|ancient|noisy|tiny|proud|loyal|humble|rough"
)
_PEOPLE: Final = _choices(
    "gardener|teacher|pilot|neighbour|doctor|painter|baker|captain|student|farmer|engineer|singer|tailor|visitor|librarian|carpenter|"
    "journalist|grandmother|driver|mechanic|nurse|sailor|writer|waiter|detective|dentist|plumber|judge|photographer|referee|tourist|chemist"
)
_DEEDS: Final = _choices(
    "found|repaired|carried|sold|painted|borrowed|forgot|counted|returned|described|measured|opened|hid|bought|cleaned|lost|moved|watched|"
    "photographed|delivered|collected|noticed|packed|tested|polished|closed|labelled|unwrapped|sketched|admired|examined|ordered"
)
_THINGS: Final = _choices(
    "bicycle|letter|window|kettle|ladder|violin|map|suitcase|lantern|camera|basket|clock|blanket|mirror|ticket|boat|radio|umbrella|bottle|"
    "notebook|carpet|bridge|statue|telescope|piano|envelope|compass|hammer|teapot|drawer|fountain|balloon|cupboard|wheelbarrow|scarf|trumpet"
)
_PLACES: Final = _choices(
    "near the station|behind the school|in the kitchen|by the river|under the stairs|across the street|on the roof|at the harbour|"
    "next to the museum|beyond the hills|in the waiting room|outside the theatre|above the workshop|along the canal|inside the tower|"
    "beside the old mill|at the corner|on the platform|in the cellar|between two trees"
)
_ENDINGS: Final = _choices(
    "and nobody complained|but the door stayed open|because it was raining|so we had to wait|and everyone laughed|although it was late|"
    "while the band played on|and that was all|until the lights went out|which nobody expected|but only for a moment|and then went home|"
    "before anyone could ask|as if nothing had happened|and it worked at once|since there was no other way"
)

_TOKEN = re.compile(r"\s?\S{1,5}|\s")


def text_of(seed: int, stream: int, turn: int) -> str:
    """What one turn says; the same for the same numbers, and for no others."""
    rng = random.Random(f"{seed}/{stream}/{turn}")
    text = _sentence(rng)
    while len(text) < TURN_CHARS:
        text += " " + _sentence(rng)
    return text


def short_text_of(seed: int, turn: int) -> str:
    """A few words, some three seconds: of a conversation that has many turns."""
    rng = random.Random(f"{seed}/short/{turn}")
    return f"{rng.choice(_OPENERS)}, the {rng.choice(_PEOPLE)} {rng.choice(_DEEDS)} the {rng.choice(_THINGS)}."


def text_of_length(seed: int, number: int) -> str:
    """What a stranger says, of arrival `number`: some MEAN_CHARS characters, of a log-normal number of them; cut at a word."""
    rng = random.Random(f"{seed}/stranger/{number}")
    chars = max(LEAST_CHARS, round(MEAN_CHARS * rng.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)))
    text = _sentence(rng)
    while len(text) < chars:
        text += " " + _sentence(rng)
    if len(text) > chars:
        text = text[: text.rfind(" ", 0, chars + 1)].rstrip(",.") + "."
    return text


def _sentence(rng: random.Random) -> str:
    person, thing = f"{rng.choice(_QUALITIES)} {rng.choice(_PEOPLE)}", f"{rng.choice(_QUALITIES)} {rng.choice(_THINGS)}"
    core = f"the {person} {rng.choice(_DEEDS)} the {thing} {rng.choice(_PLACES)}"
    match rng.randrange(3):
        case 0:
            return f"{rng.choice(_OPENERS)}, {core}."
        case 1:
            return f"{core[0].upper()}{core[1:]}, {rng.choice(_ENDINGS)}."
        case _:
            return f"{rng.choice(_OPENERS)}, {core}, {rng.choice(_ENDINGS)}."


def typed(text: str, chars_per_s: float) -> list[tuple[float, str]]:
    """The text as deltas, with the seconds after the first at which each is due.

    A delta is up to five characters and the space before them, about a language model's token. `chars_per_s` 0: one delta.
    """
    if chars_per_s == 0:
        return [(0.0, text)]
    deltas: list[tuple[float, str]] = []
    typed_chars = 0
    for token in _TOKEN.findall(text):
        deltas.append((typed_chars / chars_per_s, token))
        typed_chars += len(token)
    return deltas
