"""Ogg Opus: libopus's packets, as they are sent natively too, in pages of 60 ms.

Knows the two headers, granule positions, pre-skip and how the end is trimmed. libsndfile writes the same, but a page a second.
Source: RFC 7845.
"""

from __future__ import annotations

import random
import struct
from typing import Final

import numpy as np

from realtime.encoders.encoder import Encoder, Samples
from realtime.encoders.ogg import OggStream
from realtime.opus import DEFAULT_BITRATE, OPUS_RATE_HZ, OpusEncoder

PACKET_MS: Final = 20
PACKET_SAMPLES: Final = OPUS_RATE_HZ * PACKET_MS // 1000
SILENCE: Final = b"\xf8\xff\xfe"  # a packet of 20 ms, full band, that decodes to zeros; RFC 6716 3.1, 4.3
# Of a page. Its header costs 27 bytes and one a packet: 4 kbit/s at 60 ms beside some 32 of speech, 11 at 20 ms.
PAGE_PACKETS: Final = 3
_VENDOR: Final = b"parley"


def opus_head(pre_skip: int) -> bytes:
    """The identification header: version 1, one channel, 48 kHz, no gain, mapping family 0. Source: RFC 7845 5.1."""
    return struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, pre_skip, OPUS_RATE_HZ, 0, 0)


def opus_tags() -> bytes:
    """The comment header: who wrote it, no comments. Source: RFC 7845 5.2."""
    return struct.pack(f"<8sI{len(_VENDOR)}sI", b"OpusTags", len(_VENDOR), _VENDOR, 0)


class OggOpus:
    """Wraps packets of 20 ms that exist already: `start`, `packet` for each but the last, `finish` with the last."""

    def __init__(self, serial: int, pre_skip: int) -> None:
        """serial: 32 bits; streams that may be chained in one file must differ in it. pre_skip: samples at 48 kHz."""
        self._stream = OggStream(serial)
        self._pre_skip = pre_skip
        self._waiting: list[bytes] = []  # packets of the next page
        self._packets = 0  # on pages so far
        self._page_packets = 1  # the first page has only one: whoever waits for it hears 40 ms earlier

    def start(self) -> bytes:
        """The two headers, each on a page of its own."""
        return self._stream.page([opus_head(self._pre_skip)], 0) + self._stream.page([opus_tags()], 0)

    def packet(self, payload: bytes) -> bytes:
        """Add a packet; returns a page, or nothing."""
        self._waiting.append(payload)
        if len(self._waiting) < self._page_packets:
            return b""
        self._packets += len(self._waiting)
        page = self._stream.page(self._waiting, self._packets * PACKET_SAMPLES)
        self._waiting, self._page_packets = [], PAGE_PACKETS
        return page

    def finish(self, total_samples: int, payload: bytes = SILENCE) -> bytes:
        """The last page, with the last packet. What the packets hold beyond pre-skip and total_samples (at 48 kHz) is trimmed.

        Only a packet on the last page can be trimmed, which is why it comes here.
        """
        return self._stream.page([*self._waiting, payload], self._pre_skip + total_samples, last=True)


class OggOpusEncoder(Encoder):
    """Samples at 48 kHz to Ogg Opus; decodes to exactly as many."""

    name = "opus"
    media_type = "audio/ogg"
    extension = "ogg"

    def __init__(self, sample_rate: int, bitrate: int = DEFAULT_BITRATE, serial: int | None = None) -> None:
        """serial: as OggOpus's; None: any. Raises OpusUnavailable."""
        assert sample_rate == OPUS_RATE_HZ, f"Opus is encoded at {OPUS_RATE_HZ} Hz"
        super().__init__(sample_rate)
        self._opus = OpusEncoder(PACKET_MS, bitrate)
        self._ogg = OggOpus(random.getrandbits(32) if serial is None else serial, self._opus.lookahead)
        self._waiting: Samples = np.zeros(0, np.float32)

    def _start(self) -> bytes:
        return self._ogg.start()

    def _encode(self, samples: Samples) -> bytes:
        self._waiting = np.concatenate((self._waiting, samples))
        pages = b""
        while len(self._waiting) >= PACKET_SAMPLES:
            packet, self._waiting = self._waiting[:PACKET_SAMPLES], self._waiting[PACKET_SAMPLES:]
            pages += self._ogg.packet(self._opus.encode(packet))
        return pages

    def _end(self) -> bytes:
        # The decoder lags by the lookahead, so the last sample comes out that much later: in the packet begun or the one after it.
        rest = np.pad(self._waiting, (0, self._opus.lookahead))
        pages = b""
        if len(rest) > PACKET_SAMPLES:
            pages, rest = self._ogg.packet(self._opus.encode(rest[:PACKET_SAMPLES])), rest[PACKET_SAMPLES:]
        last = self._opus.encode(np.pad(rest, (0, PACKET_SAMPLES - len(rest))))
        return pages + self._ogg.finish(self.samples, last)
