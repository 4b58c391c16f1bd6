"""One response of OpenAI's Realtime API: the events from its creation to its end, in the order that the API gives them.

Knows their fields. Does not know when they are sent, nor the names that the beta had for some of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.commands import SessionUpdate
from protocol.dialects.interface import StreamEncoder
from protocol.dialects.openai_realtime_request import Voicing
from protocol.dialects.speeches import Speech
from protocol.events import Alignment, Status, TurnDone

Message = tuple[str, Mapping[str, object]]


class Response(Speech):
    """See `Speech`. It has one item with one part."""

    def __init__(
        self,
        name: str,
        item_id: str,
        encoder: StreamEncoder,
        settings: SessionUpdate,
        voicing: Voicing,
        conversation: str | None,
        metadata: Mapping[str, object] | None,
    ) -> None:
        """conversation: None, if no conversation is to remember it."""
        super().__init__(name, encoder, settings)
        self.item_id = item_id
        self.text = ""
        self.cut = False  # it was asked to stop
        self.output: list[Mapping[str, object]] = []
        self._voicing = voicing
        self._conversation = conversation
        self._metadata = metadata
        self._told_chars = 0  # of the text: its transcript so far
        self._beta = False
        self._previous_item_id: str | None = None

    @property
    def recorded(self) -> bool:
        """Whether the conversation remembers it."""
        return self._conversation is not None

    def item(self, status: str, transcript: str | None) -> dict[str, object]:
        """transcript: None, before there is a part."""
        kind = "audio" if self._beta else "output_audio"
        content = [] if transcript is None else [{"type": kind, "transcript": transcript}]
        return {
            "id": self.item_id,
            "object": "realtime.item",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def began(self, previous_item_id: str | None, *, beta: bool) -> list[Message]:
        """Before any sound."""
        self._beta, self._previous_item_id = beta, previous_item_id
        item = self.item("in_progress", None)
        added: list[Message] = []
        if self.recorded:
            kinds = ["conversation.item.created"] if beta else []
            kinds.append("conversation.item.added")
            added = [(kind, {"previous_item_id": previous_item_id, "item": item}) for kind in kinds]
        placed = {"response_id": self.name, "output_index": 0}
        return [
            ("response.created", {"response": self._shown("in_progress")}),
            ("response.output_item.added", {**placed, "item": item}),
            *added,
            ("response.content_part.added", {**self._place, "part": {"type": "audio", "transcript": ""}}),
        ]

    def sounded(self, data: str) -> Message:
        """Some sound, in base64."""
        return "response.output_audio.delta", {**self._place, "delta": data}

    def transcribed(self, alignment: Alignment) -> list[Message]:
        """The text as it stands, as far as it was spoken."""
        end = max((item.char_end for item in alignment.items), default=0)
        return self._transcript_to(end)

    def ended_by(self, done: TurnDone) -> list[Message]:
        """What a turn that is over makes of it."""
        if done.status is Status.FAILED:
            return self.failed(f"the turn failed: {done.reason}", done.reason or "failed")
        rest = self._transcript_to(len(self.text)) if done.status is Status.COMPLETED else []
        given, made = done.metrics.text_chars, done.metrics.audio_tokens
        usage = {"total_tokens": given + made, "input_tokens": given, "output_tokens": made}
        if done.status is Status.CANCELLED:
            return self.cancelled(usage)
        return [*rest, *self._closed("completed", {"type": "completed"}, usage)]

    def cancelled(self, usage: Mapping[str, int] | None = None) -> list[Message]:
        """The client does not want it any more."""
        return self._closed("cancelled", {"type": "cancelled", "reason": "client_cancelled"}, usage)

    def failed(self, why: str, code: str) -> list[Message]:
        """It could not be spoken, or not to its end."""
        error = {"type": "server_error", "code": code, "message": why}
        return self._closed("failed", {"type": "failed", "error": error}, None)

    def _transcript_to(self, end: int) -> list[Message]:
        if end <= self._told_chars:
            return []
        delta, self._told_chars = self.text[self._told_chars : end], end
        return [("response.output_audio_transcript.delta", {**self._place, "delta": delta})]

    def _closed(self, status: str, details: Mapping[str, object], usage: Mapping[str, int] | None) -> list[Message]:
        transcript = self.text[: self._told_chars]
        item = self.item("completed" if status == "completed" else "incomplete", transcript)
        self.output = [item]
        placed = {"response_id": self.name, "output_index": 0}
        part = {"type": "audio", "transcript": transcript}
        before = {"previous_item_id": self._previous_item_id, "item": item}
        kept: list[Message] = [("conversation.item.done", before)] if self.recorded else []
        return [
            ("response.output_audio.done", self._place),
            ("response.output_audio_transcript.done", {**self._place, "transcript": transcript}),
            ("response.content_part.done", {**self._place, "part": part}),
            ("response.output_item.done", {**placed, "item": item}),
            *kept,
            ("response.done", {"response": self._shown(status, details, usage)}),
        ]

    @property
    def _place(self) -> Mapping[str, object]:
        return {"response_id": self.name, "item_id": self.item_id, "output_index": 0, "content_index": 0}

    def _shown(
        self, status: str, details: Mapping[str, object] | None = None, usage: Mapping[str, int] | None = None
    ) -> dict[str, object]:
        return {
            "id": self.name,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": self.output,
            "conversation_id": self._conversation,
            "output_modalities": ["audio"],
            "max_output_tokens": "inf",
            "audio": {"output": self._voicing.output()},
            "usage": usage,
            "metadata": self._metadata,
        }
