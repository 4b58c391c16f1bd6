"""Packets made by the server's half, turned back into samples by the client's."""

import numpy as np
import pytest

from protocol.config import Format
from realtime.audio import AudioCodec, AudioOutput, OutputFormat
from realtime.decoding import Samples, TurnDecoder

RATE = 22050


def tone(seconds: float, rate: int) -> Samples:
    when = np.arange(int(seconds * rate)) / rate
    samples: Samples = (0.4 * np.sin(2 * np.pi * 440 * when)).astype(np.float32)
    return samples


def there_and_back(samples: Samples, fmt: OutputFormat, total: int | None) -> Samples:
    output = AudioOutput(RATE, fmt)
    packets = output.push(samples) + output.finish()
    decoder = TurnDecoder(Format(fmt.codec.value), output.pre_skip)
    pieces = [decoder.decode(packet.payload, packet.last) for packet in packets]
    return np.concatenate([*pieces, decoder.rest(total)])


def test_pcm_comes_back_as_it_was_sent() -> None:
    sent = np.round(tone(0.31, RATE) * 32768).astype(np.float32) / np.float32(32768)
    back = there_and_back(sent, OutputFormat(AudioCodec.PCM_S16LE, RATE), len(sent))
    assert back.dtype == np.float32
    assert np.array_equal(back, sent)


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.333])
def test_opus_comes_back_in_its_place_and_with_its_exact_length(seconds: float) -> None:
    sent = tone(seconds, RATE)
    total = -(-len(sent) * 48000 // RATE)
    back = there_and_back(sent, OutputFormat(), total)
    assert len(back) == total
    reference = tone(seconds, 48000)[: total - 480]  # the codec's own fading at the very end is no matter of ours
    middle = slice(480, len(reference))
    assert (
        np.corrcoef(back[middle], reference[middle])[0, 1] > 0.98
    )  # a packet's pre-skip more or less would be a fifth of a period


def test_where_the_length_is_unknown_the_padding_stays() -> None:
    sent = tone(0.05, RATE)
    assert len(there_and_back(sent, OutputFormat(), None)) >= -(-len(sent) * 48000 // RATE)


def test_a_broken_opus_packet_is_an_error() -> None:
    with pytest.raises(ValueError, match="broken Opus packet"):
        TurnDecoder(Format.OPUS, 312).decode(b"\xff" * 3, last=False)
