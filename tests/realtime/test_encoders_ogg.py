"""Ogg Opus page by page, read by a parser that follows RFC 3533 and RFC 7845 and nothing of ours."""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.audio import AudioCodec, AudioOutput, OutputFormat
from realtime.encoders import OggOpus, encoder_for
from realtime.encoders.ogg import OggStream, checksum
from realtime.encoders.ogg_opus import SILENCE, OggOpusEncoder
from realtime.opus import OpusDecoder

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Page:
    kind: int  # 2: the first, 4: the last
    granule: int
    serial: int
    number: int
    packets: list[bytes]


def slow_checksum(page: bytes) -> int:
    """Bit by bit, as RFC 3533 says: polynomial 0x04c11db7, from 0."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
    return crc


def pages_of(data: bytes) -> list[Page]:
    pages, at = [], 0
    while at < len(data):
        magic, version, kind, granule, serial, number, crc, count = struct.unpack_from("<4sBBqIIIB", data, at)
        assert (magic, version) == (b"OggS", 0)
        lacing = data[at + 27 : at + 27 + count]
        body, end = at + 27 + count, at + 27 + count + sum(lacing)
        assert slow_checksum(data[at : at + 22] + bytes(4) + data[at + 26 : end]) == crc
        packets, packet = [], b""
        for size in lacing:
            packet, body = packet + data[body : body + size], body + size
            if size < 255:
                packets.append(packet)
                packet = b""
        assert not packet, "a packet goes on in the next page"
        pages.append(Page(kind, granule, serial, number, packets))
        at = end
    return pages


def noise(count: int) -> Samples:
    return (0.2 * np.random.default_rng(count).standard_normal(count)).astype(np.float32)


def stream(count: int) -> bytes:
    encoder = OggOpusEncoder(48000, serial=99)
    return encoder.push(noise(count)) + encoder.finish()


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 12_000))
def test_pages_follow_the_rfc_and_trim_to_the_exact_length(count: int) -> None:
    pages = pages_of(stream(count))
    head, tags, *audio = pages

    assert [page.number for page in pages] == list(range(len(pages)))
    assert {page.serial for page in pages} == {99}
    assert [page.kind for page in pages] == [2, *[0] * (len(pages) - 2), 4]
    assert head.granule == tags.granule == 0
    magic, version, channels, pre_skip, rate, gain, family = struct.unpack("<8sBBHIhB", head.packets[0])
    assert (magic, version, channels, rate, gain, family) == (b"OpusHead", 1, 1, 48000, 0, 0)
    assert tags.packets == [b"OpusTags" + struct.pack("<I", 6) + b"parley" + struct.pack("<I", 0)]
    # Positions count the packets' samples, pre-skip included; only the last page stops short of them, by less than a packet.
    ends = np.cumsum([960 * len(page.packets) for page in audio])
    assert [page.granule for page in audio[:-1]] == ends[:-1].tolist()
    assert audio[-1].granule == pre_skip + count
    assert 0 <= ends[-1] - audio[-1].granule < 960


def test_the_first_page_of_sound_holds_20_ms_and_the_others_60() -> None:
    _, _, *audio = pages_of(stream(48_000))

    assert [len(page.packets) for page in audio[:-1]] == [1, *[3] * (len(audio) - 2)]


def test_a_page_leaves_as_soon_as_its_samples_are_there() -> None:
    encoder = OggOpusEncoder(48000, serial=1)
    encoder.push(noise(959))

    assert len(pages_of(encoder.push(noise(1)))) == 1
    assert encoder.push(noise(2879)) == b""
    assert len(pages_of(encoder.push(noise(1)))) == 1


@given(st.binary(max_size=700))
def test_the_checksum_is_the_one_of_the_rfc(data: bytes) -> None:
    assert checksum(data) == slow_checksum(data)


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 510, 1275])
def test_packets_of_every_size_are_laced(size: int) -> None:
    packets = [b"a" * size, b"b" * 3]

    assert pages_of(OggStream(1).page(packets, 5))[0].packets == packets


def test_chained_streams_differ_in_their_serial_numbers() -> None:
    serials = {pages_of(encoder_for("opus").finish())[0].serial for _ in range(5)}

    assert len(serials) == 5


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_the_packets_of_a_turn_are_wrapped_as_they_are(tmp_path: Path) -> None:
    """What the native protocol sends, in a file: no second encoder."""
    said = noise(20_000)
    # At this bitrate CELT alone is at work. SILK's part ffmpeg resamples in its own way, as RFC 6716 4.2.9 leaves to a decoder.
    turn = AudioOutput(48000, OutputFormat(AudioCodec.OPUS, bitrate=128_000))
    packets = turn.push(said) + turn.finish()
    ogg = OggOpus(serial=5, pre_skip=turn.pre_skip)

    data = ogg.start() + b"".join(ogg.packet(packet.payload) for packet in packets[:-1])
    data += ogg.finish(packets[-1].position + packets[-1].samples, packets[-1].payload)

    assert [p for page in pages_of(data)[2:] for p in page.packets] == [packet.payload for packet in packets]
    path = tmp_path / "turn.ogg"
    path.write_bytes(data)
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "f32le", "-"]
    got = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")
    decoder = OpusDecoder()
    mine = np.concatenate([decoder.decode(packet.payload) for packet in packets])[turn.pre_skip :][: len(said)]
    assert len(got) == len(said)
    assert np.abs(got - mine).max() < 1e-5


def test_the_packet_that_stands_for_nothing_decodes_to_20_ms_of_silence() -> None:
    decoded = OpusDecoder().decode(SILENCE)

    assert len(decoded) == 960
    assert np.abs(decoded).max() < 1e-9
