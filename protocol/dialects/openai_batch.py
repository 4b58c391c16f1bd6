"""Many texts in one request, `POST /v1/audio/speech/batch`: what the items are, and what is said of each.

Knows the fields. Does not know how items are spoken, or how many at a time. Source: vLLM-Omni's manual, "Batch Speech Generation".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.dialects.interface import Refused
from protocol.dialects.openai_request import SpeechRequest

MAX_ITEMS: Final = 32


@dataclass(frozen=True, slots=True)
class Spoken:
    """What became of one item."""

    audio: bytes
    media_type: str


def items(fields: object) -> list[SpeechRequest | Refused]:
    """Each item with what it shares with the others, or why it cannot be. Raises Refused where there are none, or too many."""
    if not isinstance(fields, Mapping) or not isinstance(fields.get("items"), list):
        raise Refused(400, "items: a list of objects with `input` is needed", "invalid_value", "items")
    given: Sequence[object] = fields["items"]
    if not 1 <= len(given) <= MAX_ITEMS:
        raise Refused(400, f"items: {len(given)} are not 1 to {MAX_ITEMS}", "invalid_value", "items")
    shared = {name: value for name, value in fields.items() if name not in ("items", "input", "session")}
    return [_item(shared, item) for item in given]


def _item(shared: Mapping[str, object], item: object) -> SpeechRequest | Refused:
    own = {name: value for name, value in item.items() if value is not None} if isinstance(item, Mapping) else {}
    # The model that all share says nothing of the format that is expected: a batch answers with wav.
    fields = {"response_format": "wav", **shared, **own, "stream": False, "stream_format": "audio"}
    try:
        return SpeechRequest.read(fields)
    except Refused as refused:
        return refused


def results(spoken: Sequence[Spoken | Refused]) -> dict[str, object]:
    """The whole answer."""
    succeeded = sum(isinstance(one, Spoken) for one in spoken)
    return {
        "results": [_result(index, one) for index, one in enumerate(spoken)],
        "total": len(spoken),
        "succeeded": succeeded,
        "failed": len(spoken) - succeeded,
    }


def _result(index: int, one: Spoken | Refused) -> dict[str, object]:
    if isinstance(one, Refused):
        return {"index": index, "status": "error", "error": one.message}
    audio = base64.b64encode(one.audio).decode("ascii")
    return {"index": index, "status": "success", "audio_data": audio, "media_type": one.media_type}
