"""The routes of the local fish-speech server that scripts use: is it there, and what does its codec make of this.

Knows the engine's codec and files of sound. Does not know the fields (`protocol.dialects.local_fish`). A script that goes away stops
the work.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import numpy as np
import soundfile
from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from engine.api import EngineError, Samples
from protocol.dialects.fish_routes import errors
from protocol.dialects.interface import Refused
from protocol.dialects.local_fish import (
    BODY_BYTES,
    MEDIA_TYPE,
    audios_answer,
    read_audios,
    read_tokens,
    tokens_answer,
)
from realtime.dialects.entering import engine_refused, owner, response
from realtime.dialects.request import read_body
from realtime.service import Service

MAX_S: Final = 600.0  # of sound in one request, as the engine takes in one recording
RATES_HZ: Final = (8_000, 192_000)
MAX_CHANNELS: Final = 16
HERE: Final = {"status": "ok"}


async def health(request: Request) -> Response:
    """`/v1/health`. Scripts wait for it until it is 200."""
    service: Service = request.app.state.service
    if service.ready:
        return JSONResponse(HERE)
    return JSONResponse({"status": "draining" if service.draining else "loading"}, 503, {"Retry-After": "1"})


async def encode(request: Request) -> Response:
    """`POST /v1/vqgan/encode`: audio files to codes."""
    return await _answered(request, _encoded)


async def decode(request: Request) -> Response:
    """`POST /v1/vqgan/decode`: codes to samples."""
    return await _answered(request, _decoded)


async def _encoded(service: Service, body: bytes, content_type: str) -> bytes:
    def read() -> list[tuple[Samples, int]]:
        left_s, sounds = MAX_S, []
        for index, audio in enumerate(read_audios(body, content_type)):
            samples, rate = _sound(audio, left_s, f"audios.{index}")
            left_s -= len(samples) / rate
            sounds.append((samples, rate))
        return sounds

    tokens = [await service.engine.encode(samples, rate) for samples, rate in await run_sync(read)]
    return tokens_answer([codes.tolist() for codes in tokens])


async def _decoded(service: Service, body: bytes, content_type: str) -> bytes:
    info = service.engine.info
    read = await run_sync(read_tokens, body, content_type, info.codebooks, int(MAX_S / info.frame_s))
    samples = [await service.engine.decode(np.array(codes, np.int16)) for codes in read]
    return audios_answer([piece.astype(np.float16).tobytes() for piece in samples])


async def _answered(request: Request, work: Callable[[Service, bytes, str], Awaitable[bytes]]) -> Response:
    service: Service = request.app.state.service
    try:
        owner(service, dict(request.headers))
        body = await read_body(request, BODY_BYTES)
        answer: bytes | None = None
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            answer = await work(service, body, request.headers.get("content-type", ""))
            tasks.cancel_scope.cancel()
        if answer is None:
            return Response(status_code=499)  # nobody reads it
        return Response(answer, media_type=MEDIA_TYPE, headers={"X-Sample-Rate": str(service.engine.info.sample_rate)})
    except ClientDisconnect:
        return Response(status_code=499)
    except Refused as error:
        return response(error, errors)
    except ExceptionGroup as group:  # of one: `work` is the only task that raises
        return response(_refusal(group.exceptions[0]), errors)


def _refusal(error: Exception) -> Refused:
    if isinstance(error, EngineError):
        return engine_refused(error)
    if isinstance(error, Refused):
        return error
    raise error


def _sound(data: bytes, most_s: float, where: str) -> tuple[Samples, int]:
    """Mono samples and their rate. No more is decoded than is allowed, whatever the file says of its length. Raises Refused."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = int(file.samplerate)
            if not RATES_HZ[0] <= rate <= RATES_HZ[1] or file.channels > MAX_CHANNELS:
                raise Refused(422, f"{where}: {file.channels} channels at {rate} Hz cannot be encoded", param=where)
            samples = file.read(int(most_s * rate) + 1, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError):
        raise Refused(422, f"{where}: no sound that can be read", param=where) from None
    if len(samples) > most_s * rate:
        raise Refused(413, f"audios: longer than {MAX_S:g} s together", param="audios")
    if not np.isfinite(samples).all():
        raise Refused(422, f"{where}: holds samples that are no numbers", param=where)
    return np.ascontiguousarray(samples.mean(axis=1), np.float32), rate
