"""The prompt: pieces of an integer matrix, in the form that the reference builds (spec 3).

Knows the template and its parts; each part is tokenised on its own, so pieces can be kept and joined.
Does not know what was heard, what is cached, or how long a prompt may get.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.api import Codes, Conversation, Reference, Voice
from engine.config import ModelConfig
from engine.tokenizer import Tokenizer

Columns = npt.NDArray[np.int64]  # [K + 1, n]: row 0 token ids, then the codes of a frame, zero at text

KEPT_SYSTEMS = 64  # voices; one of ten seconds takes 30 kB

_SPEAKER = re.compile(r"<\|speaker:\d+\|>")


class PromptBuilder:
    """Makes the pieces. A conversation is `system`, then `user` and `spoken` for every segment heard, then `user`."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._systems: dict[tuple[tuple[str, tuple[int, ...], bytes], ...], Columns] = {}  # the longest unused first
        self._message_end = self._template("<|im_end|>\n")
        self._user_start = self._template("<|im_start|>user\n")
        self._assistant_start = self._template("<|im_start|>assistant\n<|voice|>")

    def system(self, voice: Voice) -> Columns:
        """The system message: the voice's references, or the plain instruction. Not to be written to. Raises ValueError for bad codes."""
        # By what they hold: a voice comes anew with every turn, twice. To make it takes 0.25 ms, to find it 4 us.
        key = tuple((each.text, each.codes.shape, each.codes.tobytes()) for each in voice.references)
        made = self._systems.pop(key, None)
        if made is None:
            made = self._made_system(voice)
            made.flags.writeable = False
        self._systems[key] = made
        if len(self._systems) > KEPT_SYSTEMS:
            self._systems.pop(next(iter(self._systems)))
        return made

    def _made_system(self, voice: Voice) -> Columns:
        start = self._template("<|im_start|>system\n")
        if not voice.references:
            return joined(start, self._template("convert the provided text to speech"), self._message_end)
        return joined(
            start,
            self._template("convert the provided text to speech reference to the following:\n\nText:\n"),
            self._text(_transcript(voice.references)),
            self._template("\n\nSpeech:\n"),
            *(self.frames(reference.codes) for reference in voice.references),
            self._message_end,
        )

    def user(self, text: str) -> Columns:
        """A segment to speak, up to the place where its frames begin."""
        return joined(self._user_start, self._text(text), self._message_end, self._assistant_start)

    def text_starts(self, text: str) -> tuple[int, npt.NDArray[np.int64]]:
        """Where the text is in `user(text)`: the column of its first token, and of each token the code point at which it starts."""
        return self._user_start.shape[1], np.array(self._tokenizer.text_starts(text), np.int64)

    def spoken(self, codes: Codes) -> Columns:
        """A segment's frames and the end of its message: what follows `user` in the history. Raises ValueError for bad codes."""
        return joined(self.frames(codes), self._message_end)

    def history(self, conversation: Conversation, voice: Voice) -> list[Columns]:
        """`system`, then `user` and `spoken` of all that was heard. Raises ValueError for what no prompt can hold."""
        for text in [*(each.text for each in voice.references), *(heard.text for heard in conversation.history)]:
            check_unicode(text)
        pieces = [self.system(voice)]
        for heard in conversation.history:
            pieces += [self.user(heard.text), self.spoken(heard.codes)]
        return pieces

    def frames(self, codes: Codes) -> Columns:
        """Columns of frames [K, T]: the token of code 0 above the codes. Raises ValueError for codes out of range."""
        config = self._config
        wide = np.asarray(codes, np.int64)
        if wide.ndim != 2 or wide.shape[0] != config.num_codebooks:
            raise ValueError(f"codes have shape {wide.shape}, expected ({config.num_codebooks}, frames)")
        semantic = min(config.n_semantic, config.codebook_size)
        if wide.size and (wide.min() < 0 or wide.max() >= config.codebook_size or wide[0].max() >= semantic):
            raise ValueError(
                f"codes lie in {wide.min()}..{wide.max()} (row 0 up to {wide[0].max()}),"
                f" expected 0..{config.codebook_size - 1} (row 0 up to {semantic - 1})"
            )
        return np.concatenate((wide[:1] + config.semantic_begin, wide))

    def _template(self, text: str) -> Columns:
        return self._columns(self._tokenizer.encode_template(text))

    def _text(self, text: str) -> Columns:
        return self._columns(self._tokenizer.encode_text(text))

    def _columns(self, ids: list[int]) -> Columns:
        columns = np.zeros((self._config.num_codebooks + 1, len(ids)), np.int64)
        columns[0] = ids
        return columns


def _transcript(references: Sequence[Reference]) -> str:
    """All reference texts; one without a speaker token gets its place in the list as speaker."""
    texts = (
        reference.text if _SPEAKER.search(reference.text) else f"<|speaker:{index}|>{reference.text}"
        for index, reference in enumerate(references)
    )
    return "\n".join(texts)


def joined(*pieces: Columns) -> Columns:
    """One piece behind the other."""
    return np.concatenate(pieces, axis=1)


def check_unicode(text: str) -> None:
    """Raises UnicodeEncodeError, which is a ValueError, for half a surrogate pair: what a tokenizer does with it is not defined."""
    text.encode()
