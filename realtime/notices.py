"""What a client is told about its text: what is left out because the model cannot read it, and what is not read as it stands.

Knows which of it was told already. Does not know turns or sockets.
"""

from __future__ import annotations

from protocol.events import WarningCode
from realtime.segmenter import Segment


class TextNotices:
    """Those of one turn: each script and each kind of change once, with the first place where it is."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def of(self, segment: Segment) -> list[tuple[WarningCode, str]]:
        """What there is to tell about the next segment."""
        found = [(WarningCode.UNSUPPORTED_SCRIPT, stretch.script, str(stretch)) for stretch in segment.unread]
        found += [(WarningCode.TEXT_NORMALIZED, change.kind.value, str(change)) for change in segment.changes]
        notices = []
        for code, key, text in found:
            if key not in self._told:
                self._told.add(key)
                notices.append((code, f"{text}; told once a turn"))
        return notices
