"""A recording that was sent as a form becomes a voice.

Knows how large a form may be, and the store of voices. Does not know any vendor's fields.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from anyio.to_thread import run_sync
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from engine.api import EngineError
from protocol.dialects.interface import Refused
from realtime.recording_file import RecordingRefused, read
from realtime.references import MAX_BYTES
from realtime.service import Service
from realtime.voice_folder import NewSource, VoiceNotFound, VoiceUnusable

log = logging.getLogger("parley.voices")

FORM_BYTES: Final = 64 * 1024  # of what is not the recording


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[FormData]:
    """The form, with one file at most. Raises Refused."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > MAX_BYTES + FORM_BYTES:
        raise Refused(413, f"a recording has at most {MAX_BYTES} bytes, and Content-Length says how many")
    try:
        async with request.form(max_files=1, max_fields=16, max_part_size=FORM_BYTES) as form:
            yield form
    except MultiPartException as error:
        raise Refused(400, f"the body is no form: {error.message}") from None


async def keep(service: Service, name: str, audio: bytes, text: str, param: str) -> None:
    """Make it a voice, in place of one of that name. text: what is said in it; param: the field of the recording. Raises Refused."""
    await run_sync(_store, service, name, audio, text, param)
    try:
        await service.encoder.ready(name)
    except EngineError as error:  # it is tried again when the engine has time
        log.warning("voice %r is encoded later: %s", name, error)


async def forget(service: Service, name: str) -> None:
    """Remove a voice. Raises VoiceNotFound, Refused."""
    try:
        await run_sync(service.voices.files.remove, name)
    except VoiceNotFound:
        raise
    except (VoiceUnusable, OSError) as error:
        raise Refused(500, f"the voice cannot be removed: {error}", "server_error") from None


def _store(service: Service, name: str, audio: bytes, text: str, param: str) -> None:
    try:
        read(audio)
        service.voices.files.add(name, [NewSource(audio, text)])
    except RecordingRefused as error:
        raise Refused(400, f"{param}: {error}", "invalid_value", param) from None
    except VoiceUnusable as error:
        raise Refused(400, str(error), "invalid_value", "name") from None
    except OSError as error:
        raise Refused(500, f"the folder of voices cannot be written: {error.strerror}", "server_error") from None
