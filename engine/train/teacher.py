"""The teacher: espeak-ng through its C library, with phoneme and word positions.

Knows the C interface (speak_lib.h of espeak-ng 1.51) and turns one text into samples and events. Does not know styles,
conversations or codecs. The library keeps one global state, so teachers of one process speak one after the other, with the same data.
"""

from __future__ import annotations

import ctypes as c
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 22050  # Hz, what every voice of the teacher gives

_RETRIEVE = 2  # AUDIO_OUTPUT_SYNCHRONOUS: espeak_Synth returns when the callback has seen everything
_PHONEME_EVENTS = 1  # espeakINITIALIZE_PHONEME_EVENTS
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_UTF8 = 1
_WORD, _PHONEME = 1, 7  # espeak_EVENT_TYPE


class _Id(c.Union):
    _fields_ = [("number", c.c_int), ("name", c.c_char_p), ("string", c.c_char * 8)]


class _Event(c.Structure):
    _fields_ = [
        ("type", c.c_int),
        ("unique_identifier", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_position", c.c_int),
        ("sample", c.c_int),
        ("user_data", c.c_void_p),
        ("id", _Id),
    ]


_Callback = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(_Event))


class TeacherError(Exception):
    """The library is missing, or refuses a voice."""


@dataclass(frozen=True, slots=True)
class Tone:
    """Everything that the teacher lets one choose about a voice."""

    variant: str  # file in espeak-ng-data/voices/!v; "" is the language's own voice
    rate: int  # words a minute, 80..450
    pitch: int  # 0..99, 50 is the variant's own
    span: int  # pitch range 0..99, 50 is the variant's own
    volume: int  # 0..200, 100 is plain


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """One text as spoken."""

    samples: npt.NDArray[np.int16]  # [n] at SAMPLE_RATE
    phones: tuple[tuple[str, int], ...]  # (the teacher's mnemonic, first sample), in order; pauses are "_:" and "_"
    words: tuple[tuple[int, int], ...]  # (code point in the text where a word starts, first sample)


class Teacher:
    """The loaded library. `data` is the folder that holds espeak-ng-data; None takes the system's."""

    def __init__(self, data: Path | None = None) -> None:
        try:
            self._library = c.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise TeacherError(
                f"espeak-ng's library cannot be loaded ({error}); install the package espeak-ng"
            ) from error
        where = str(data).encode() if data else None
        if self._library.espeak_Initialize(_RETRIEVE, 200, where, _PHONEME_EVENTS) != SAMPLE_RATE:
            raise TeacherError(f"espeak-ng did not start with data in {data or 'its default folder'}")
        self._blocks: list[npt.NDArray[np.int16]] = []
        self._phones: list[tuple[str, int]] = []
        self._words: list[tuple[int, int]] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only the pointer

    def speak(self, text: str, language: str, tone: Tone) -> Utterance:
        """Render `text` in `language` ("en-us", "de"). Raises TeacherError for a voice that does not exist."""
        name = f"{language}+{tone.variant}" if tone.variant else language
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise TeacherError(f"the teacher has no voice {name!r}")
        for parameter, value in (
            (_RATE, tone.rate),
            (_VOLUME, tone.volume),
            (_PITCH, tone.pitch),
            (_RANGE, tone.span),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks, self._phones, self._words = [], [], []
        self._library.espeak_SetSynthCallback(self._callback)  # another teacher may have spoken in between
        raw = text.encode()
        self._library.espeak_Synth(raw, c.c_size_t(len(raw) + 1), 0, 1, 0, _UTF8, None, None)
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        return Utterance(samples, tuple(self._phones), tuple(self._words))

    def _receive(self, wave: c._Pointer[c.c_short], n: int, events: c._Pointer[_Event]) -> int:
        if n > 0:
            self._blocks.append(np.ctypeslib.as_array(wave, (n,)).copy())  # the library reuses its buffer
        i = 0
        while (event := events[i]).type:
            if event.type == _PHONEME:
                self._phones.append((event.id.string.decode("utf-8", "replace"), event.sample))
            elif event.type == _WORD:
                self._words.append((event.text_position - 1, event.sample))
            i += 1
        return 0
