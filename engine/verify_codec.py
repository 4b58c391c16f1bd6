"""The checks of `engine.verify` that concern the codec: every stage, both directions, and streaming against offline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.codec import Codec
from engine.codec_weights import load_codec
from engine.streaming import StreamingCodec, StreamingEncoder
from engine.verify_report import CODEC_TOLERANCE, STREAM_TOLERANCE, Report

CHUNKINGS: tuple[tuple[int, ...], ...] = ((1,), (4, 1, 1, 2, 7, 25), (3,), (1000,))  # frames a call, repeated as needed


def check(folder: Path, report: Report) -> None:
    """Everything about the codec."""
    codec = load_codec(folder, report.device)
    _decode(codec, report)
    _encode(codec, report)


def _decode(codec: Codec, report: Report) -> None:
    codes = report.expected("codec_dec_codes")
    if codes is None:
        return
    latents = codec.quantizer.from_codes(codes[None])
    post = codec.quantizer.post_module(latents)
    upsampled = codec.quantizer.upsample(post)
    report.close("codec: summed code vectors", latents[0], "codec_dec_zq", CODEC_TOLERANCE)
    report.close("codec: post-transformer", post[0], "codec_dec_post", CODEC_TOLERANCE)
    report.close("codec: upsampled", upsampled[0], "codec_dec_up", CODEC_TOLERANCE)
    whole = codec.decode(codes[None])[0]
    report.close("codec: wave", whole, "codec_dec_wave", CODEC_TOLERANCE)
    part = codes.shape[1] // 3
    prefix = codec.decode(codes[None, :, :part])[0]
    report.close(f"codec: wave of the first {part} frames alone", prefix, whole[: len(prefix)], STREAM_TOLERANCE)
    streaming = StreamingCodec(codec, rows=2)
    for chunking in CHUNKINGS:
        got = _streamed(streaming, codes, chunking)
        report.close(f"codec: streamed by {_named(chunking)}, against offline", got, whole, STREAM_TOLERANCE)


def _streamed(streaming: StreamingCodec, codes: Tensor, chunking: Sequence[int]) -> Tensor:
    """Decode in row 1 while row 0 decodes the same codes the other way round, so that a leak between rows would show."""
    for row in (0, 1):
        streaming.reset(row)
    waves = []
    for start, stop in _chunks(codes.shape[1], chunking):
        both = torch.stack((codes.flip(1)[:, start:stop], codes[:, start:stop]))
        waves.append(streaming.step(both, [0, 1])[1])
    return torch.cat(waves)


def _encode(codec: Codec, report: Report) -> None:
    wave = report.expected("codec_wave")
    if wave is None:
        return
    padded = F.pad(wave, (0, -len(wave) % codec.frame_samples))
    report.close("codec: encoder", codec.encoder(padded[None, None])[0], "codec_enc_z", CODEC_TOLERANCE)
    report.close("codec: quantiser input", codec.latents(wave[None])[0], "codec_pre_z", CODEC_TOLERANCE)
    codes = codec.encode(wave[None])[0]
    report.equal("codec: codes", codes, "codec_codes")
    report.equal("codec: number of frames", torch.tensor([codes.shape[1]]), "codec_code_len")
    report.close("codec: wave of these codes", codec.decode(codes[None])[0], "codec_roundtrip_wave", CODEC_TOLERANCE)
    encoder = StreamingEncoder(codec)
    for size in (codec.frame_samples, 1000, len(wave)):
        pushed = [encoder.push(part) for part in torch.split(wave, size)]
        got = torch.cat([*pushed, encoder.finish()], 1)
        report.equal(f"codec: codes streamed by {size} samples, against offline", got, codes)


def _chunks(total: int, chunking: Sequence[int]) -> Iterator[tuple[int, int]]:
    start, call = 0, 0
    while start < total:
        stop = min(start + chunking[call % len(chunking)], total)
        yield start, stop
        start, call = stop, call + 1


def _named(chunking: Sequence[int]) -> str:
    return "one call" if chunking[0] >= 1000 else f"{', '.join(map(str, chunking))} frames"
