"""Voices, speakers and styles in terms of what the teacher can do, and the tags that ask for them.

Knows which tone each style makes of a voice and the many spellings of each tag. Does not know text or audio.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, replace
from enum import Enum

from engine.train.teacher import Tone

FEMALE = frozenset(
    [
        "Alicia",
        "Andrea",
        "Annie",
        "anika",
        "aunty",
        "belinda",
        "f1",
        "f2",
        "f3",
        "f4",
        "f5",
        "grandma",
        "linda",
        "steph",
        "steph2",
        "zac",
        "shelby",
    ]
)
MALE = frozenset(
    [
        "Alex",
        "Andy",
        "Denis",
        "Diogo",
        "Gene",
        "Gene2",
        "Henrique",
        "Hugo",
        "Jacky",
        "Lee",
        "Mario",
        "Michael",
        "Mike",
        "Nguyen",
        "RicishayMax",
        "RicishayMax2",
        "Storm",
        "Tweaky",
        "UniRobot",
        "adam",
        "antonio",
        "boris",
        "croak",
        "david",
        "ed",
        "edward",
        "grandpa",
        "gustave",
        "iven2",
        "iven3",
        "iven4",
        "john",
        "kaukovalta",
        "klatt",
        "klatt2",
        "klatt3",
        "klatt4",
        "klatt5",
        "m1",
        "m2",
        "m3",
        "m4",
        "m5",
        "m6",
        "m7",
        "m8",
        "marcelo",
        "max",
        "michel",
        "miguel",
        "norbert",
        "pablo",
        "paul",
        "pedro",
        "quincy",
        "rob",
        "robert",
        "robosoft2",
        "robosoft4",
        "sandro",
        "travis",
        "victor",
    ]
)
VARIANTS = tuple(sorted(FEMALE | MALE))


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice: what stays the same whatever the style."""

    tone: Tone
    level_db: float = 0.0  # against the common level of all voices

    @property
    def held_out(self) -> bool:
        """Whether this combination of variant, pitch and rate is kept for evaluation and never trained on."""
        key = f"{self.tone.variant}/{self.tone.pitch // 12}/{self.tone.rate // 20}"
        return zlib.crc32(key.encode()) % 10 == 0


SPEAKERS = tuple(
    Speaker(Tone(variant, rate, pitch, 50, 100))
    for variant, rate, pitch in (
        ("m3", 165, 50),
        ("f2", 170, 55),
        ("david", 155, 40),
        ("belinda", 180, 70),
        ("klatt2", 165, 65),
        ("grandma", 150, 35),
        ("rob", 185, 80),
        ("grandpa", 145, 45),
    )
)  # the eight of <|speaker:0|> .. <|speaker:7|>; 0 speaks where nothing says who


def random_speaker(rng: random.Random, *, held_out: bool = False) -> Speaker:
    """A voice for cloning: any variant, pitch, rate and level; only or never from the held-out combinations."""
    while True:
        tone = Tone(rng.choice(VARIANTS), rng.randint(140, 195), rng.randint(20, 85), rng.randint(35, 65), 100)
        speaker = Speaker(tone, rng.uniform(-4.0, 5.0))  # recordings are levelled to -23 LUFS when served
        if speaker.held_out == held_out:
            return speaker


class Style(Enum):
    """How a voice speaks until something else is asked for."""

    NORMAL = "normal"
    WHISPER = "whisper"
    SLOW = "slow"
    FAST = "fast"
    HIGH = "high pitch"
    LOW = "low pitch"
    LOUD = "loud"
    SOFT = "soft"
    EXCITED = "excited"
    SAD = "sad"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A voice in a style: what the teacher is asked for, and the level of the result."""

    tone: Tone
    gain_db: float


def _clamped(tone: Tone, rate: float = 1.0, pitch: int = 0, span: int = 0) -> Tone:
    return replace(
        tone,
        rate=max(80, min(400, round(tone.rate * rate))),
        pitch=max(0, min(99, tone.pitch + pitch)),
        span=max(0, min(99, tone.span + span)),
    )


def deliver(speaker: Speaker, style: Style) -> Delivery:
    """What `style` makes of `speaker`."""
    tone, gain = speaker.tone, speaker.level_db
    match style:
        case Style.NORMAL:
            return Delivery(tone, gain)
        case Style.WHISPER:
            # The teacher whispers with variants of their own; two of them keep whether the voice is low or high.
            variant = "whisperf" if tone.variant in FEMALE else "whisper"
            return Delivery(replace(tone, variant=variant), gain - 6.0)
        case Style.SLOW:
            return Delivery(_clamped(tone, rate=0.66), gain)
        case Style.FAST:
            return Delivery(_clamped(tone, rate=1.5), gain)
        case Style.HIGH:
            return Delivery(_clamped(tone, pitch=35), gain)
        case Style.LOW:
            return Delivery(_clamped(tone, pitch=-35), gain)
        case Style.LOUD:
            return Delivery(tone, gain + 6.0)
        case Style.SOFT:
            return Delivery(tone, gain - 8.0)
        case Style.EXCITED:
            return Delivery(_clamped(tone, rate=1.2, pitch=20, span=35), gain + 2.0)
        case Style.SAD:
            return Delivery(_clamped(tone, rate=0.8, pitch=-18, span=-30), gain - 3.0)


_SPELLINGS: dict[Style, str] = {
    Style.NORMAL: "normal|normal voice|neutral|normally|speaking normally|back to normal|regular voice|plain|default voice|calm",
    Style.WHISPER: "whisper|whispering|whispers|whispered|in a whisper|whisper softly|whispering quietly|whisper voice|"
    "in a hushed voice|hushed|under one's breath|whisper in a low voice|secretive whisper|whispering voice|whisper close to the mic",
    Style.SLOW: "slow|slowly|speak slowly|speaking slow|slower|in a slow voice|slow pace|very slow|slowly and clearly|taking time|"
    "drawn out|slow down|unhurried|dragging|at a slow pace",
    Style.FAST: "fast|quickly|speak fast|speaking quickly|faster|rapid|in a hurry|fast pace|very fast|hurried|rushed|quick|speed up|"
    "speaking fast|at a fast pace",
    Style.HIGH: "high pitch|high|high voice|higher pitch|in a high voice|high-pitched|squeaky|pitch up|raised pitch|very high pitch|"
    "squeaky voice|speaking high|high tone",
    Style.LOW: "low pitch|low|low voice|lower pitch|in a low voice|low-pitched|deep|deep voice|pitch down|very low pitch|"
    "speaking in a deep voice|low tone|deep gravelly voice",
    Style.LOUD: "loud|loudly|shout|speaking loudly|louder|in a loud voice|yelling|yell|very loud|shouts|volume up|calling out|"
    "raised voice|screaming|speak up|shouted|shouting voice|shouting out loud|yelling out|yelled|bellowing|roaring|"
    "shouting out|shouting at them|shouting angrily|shouting across the street|now shouting|starts shouting|almost shouting",
    Style.SOFT: "soft|softly|quiet|quietly|soft voice|softer|in a soft voice|speaking softly|gentle|gently|very soft|volume down|"
    "speaking quietly|quieter|low volume|in a quiet voice",
    Style.EXCITED: "excited|excitedly|with excitement|very excited|enthusiastic|thrilled|in an excited tone|excited voice|delighted|"
    "excited tone|happy|cheerful|overjoyed",
    Style.SAD: "sad|sadly|in a sad voice|sorrowful|very sad|gloomy|depressed|with sadness|sad tone|heartbroken|melancholy|"
    "in a sad tone|mournful",
}  # fmt: skip
_FREE_FORM: dict[Style, str] = {
    Style.WHISPER: "whisper in small voice|whispering in a tiny voice|a secret whisper",
    Style.SLOW: "speaking slowly|talking slowly|speak very slowly",
    Style.FAST: "talking quickly|speaking very fast|speak really quickly",
    Style.HIGH: "speaking in a high pitch|in a very high voice|with a high pitch",
    Style.LOW: "speaking in a low pitch|in a very low voice|with a deep tone",
    Style.LOUD: "shouting|shouting loudly|speaking very loudly",
    Style.SOFT: "speaking in a soft voice|very quietly|with a soft voice",
}
_KEYWORDS: dict[Style, str] = {
    Style.WHISPER: "whisper|whispering|whispers",
    Style.SLOW: "slow|slowly",
    Style.FAST: "fast|quickly|quick",
    Style.HIGH: "high pitch|high-pitched|high pitched",
    Style.LOW: "low pitch|low-pitched|low pitched|deep",
    Style.LOUD: "loud|loudly|shout|yell",
    Style.SOFT: "soft|softly|quiet|quietly",
    Style.EXCITED: "excited|excitedly",
    Style.SAD: "sad|sadly",
}
_FRAMES = [
    "{} voice",
    "{} tone",
    "very {}",
    "a bit {}",
    "in a {} voice",
    "in a {} tone",
    "speaking {}",
    "talking {}",
    "speak {}",
    "quite {}",
    "extremely {}",
    "with a {} voice",
    "{} speech",
    "{} and clear",
    "suddenly {}",
    "really {}",
    "{} please",
    "says it {}",
    "said {}",
    "more {}",
]


def style_tag(style: Style, rng: random.Random) -> str:
    """A tag for `style`: mostly the plain word, else one of its paraphrases or a made-up phrase around its keyword.

    The spellings of `free_form_tags` are among them rarely, so that evaluation can still call them neighbours.
    """
    draw = rng.random()
    if draw < 0.5:
        words = style.value
    elif draw < 0.85 or style not in _KEYWORDS:
        words = rng.choice(_SPELLINGS[style].split("|"))
    else:
        words = rng.choice(_FRAMES).format(rng.choice(_KEYWORDS[style].split("|")))
        if words in free_form_tags(style):
            words = style.value
    if rng.random() < 0.05:
        words = words.capitalize() if rng.random() < 0.7 else words.upper()
    return f"[{words}]"


def free_form_tags(style: Style) -> tuple[str, ...]:
    """Paraphrases of `style` that are never trained on."""
    return tuple(_FREE_FORM[style].split("|")) if style in _FREE_FORM else ()


PAUSES_S = {"pause": 0.6, "short pause": 0.3, "long pause": 1.2, "break": 0.6, "silence": 0.6}
_UNKNOWN = [
    "laugh",
    "laughing",
    "sigh",
    "cough",
    "inhale",
    "exhale",
    "breath",
    "gasp",
    "clears throat",
    "chuckle",
    "singing",
    "sarcastic",
    "angry",
    "confused",
    "robotic",
    "with a British accent",
    "echo",
    "radio",
    "phone",
    "music",
    "applause",
    "pirate",
    "nervous",
    "surprised",
    "professional",
    "storytelling",
    "warm",
    "friendly",
]


_STEM = 4  # letters that make two words relatives: shouted, shouting


def _stems() -> frozenset[str]:
    """Beginnings of the words that styles are asked for with."""
    said = [*_SPELLINGS.values(), *_FREE_FORM.values(), *_KEYWORDS.values(), *PAUSES_S, "emphasis"]
    return frozenset(word[:_STEM] for text in said for word in re.split(r"[^a-z]+", text) if len(word) > 2)


_ASKED = _stems() - {"and", "the"}


def unknown_tag(word: str, rng: random.Random) -> str:
    """A tag that asks for nothing the teacher can do: it must change nothing and not be spoken. `word` is any word.

    Relatives of a style's words are left out: a model that learns that [shouting] means nothing believes it of others too.
    """
    if rng.random() < 0.6 or word[:_STEM] in _ASKED:
        return f"[{rng.choice(_UNKNOWN)}]"
    return f"[{rng.choice((word, f'very {word}', f'{word} voice'))}]"
