"""How each style is heard: the acoustic quantity that its tag must move, in units of what the teacher makes of it.

Knows the direction and which measures count. Does not know the model: tags, carried prosody and dialogues all ask here.
"""

from __future__ import annotations

from engine.evaluate import measure
from engine.evaluate.measure import Sound
from engine.evaluate.trial import Samples, Trial
from engine.train.styles import SPEAKERS, Speaker, Style

ACTS = (
    1 / 3
)  # of the teacher's own move, at least, for a tag to have acted; some four times what two takes of one text differ by
HOLDS = 1 / 2  # of it, to decide between two deliveries: nearer to one than to the other

_EXCITED = 4.7, -0.26  # what the teacher's [excited] does to semitones and pace, each half of the quantity
_SAD = -4.5, 0.28


def quantity(style: Style, heard: Sound) -> float:
    """More of it, more of the style. Units differ between styles. Raises KeyError for Style.NORMAL."""
    match style:
        case Style.WHISPER:
            return -measure.voicing(heard)
        case Style.SLOW:
            return measure.pace(heard)
        case Style.FAST:
            return -measure.pace(heard)
        case Style.HIGH:
            return measure.semitones(heard)
        case Style.LOW:
            return -measure.semitones(heard)
        case Style.LOUD:
            return measure.loudness(heard)
        case Style.SOFT:
            return -measure.loudness(heard)
        case Style.EXCITED:
            return measure.semitones(heard) / _EXCITED[0] + measure.pace(heard) / _EXCITED[1]
        case Style.SAD:
            return measure.semitones(heard) / _SAD[0] + measure.pace(heard) / _SAD[1]
    raise KeyError(style)


STYLES = tuple(style for style in Style if style is not Style.NORMAL)
# Those of one quantity: half a sentence is enough for it, while mixtures drown in how a sentence's melody falls towards its end.
SIMPLE = tuple(style for style in STYLES if style not in (Style.EXCITED, Style.SAD))


def move(
    trial: Trial, style: Style, text: str, styled: Samples, plain: Samples, speaker: Speaker = SPEAKERS[0]
) -> float:
    """How far `styled` is from `plain` in the style's direction; 1 is as far as the teacher goes with this text."""
    taught = [quantity(style, trial.sound(trial.teacher.say(text, speaker, s))) for s in (style, Style.NORMAL)]
    return moved(style, trial.sound(styled), trial.sound(plain), taught[0] - taught[1])


def moved(style: Style, styled: Sound, plain: Sound, whole: float) -> float:
    """The same where the teacher's own move is known: `whole`."""
    if not styled.speech.any() or not plain.speech.any() or whole <= 0:
        return 0.0  # nothing was said, or the place was not found in the teacher's own speech: nothing has been shown to act
    return (quantity(style, styled) - quantity(style, plain)) / whole
