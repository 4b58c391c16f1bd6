"""What an operator can set, read once at start.

Knows every setting, its default and its environment variable. Does not know the command line (`realtime.cli` passes what it parsed) or
what the settings are used for. A setting `name` is read from `PARLEY_NAME` (the keys: `PARLEY_API_KEY`); structured ones are JSON.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from protocol.config import Limits

PREFIX: Final = "PARLEY_"
# The name under which clients look for their key, so that one machine needs one variable.
KEYS_VARIABLE: Final = "PARLEY_API_KEY"
DATA_FOLDER: Final = "~/.local/share/parley"  # or below XDG_DATA_HOME
VOICES_FOLDER: Final = f"{DATA_FOLDER}/voices"
MIN_KEY_CHARS: Final = 8  # a shorter key is guessed


class SettingsError(ValueError):
    """A setting that cannot be; the text is one line for the operator."""


class Settings(BaseModel):
    """Every number and name the server runs with. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(default="mini", description="A name, a folder or a Hugging Face repository.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8300, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    keys: tuple[SecretStr, ...] = Field(default=(), description="Bearer keys that are let in; none: everybody is.")
    insecure: bool = Field(default=False, description="Listen beyond this machine without a key.")
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="Origins of other pages that may connect, such as https://example.org; `*` is all."
    )
    page_connects_to: tuple[str, ...] = Field(
        default=("https:", "http://127.0.0.1:*", "http://localhost:*"),
        description="Where the page may look for a language model, as sources of a Content-Security-Policy; `'none'`: nowhere.",
    )
    voices_dir: Path | None = Field(default=None, description="Folder of voices; none: only the model's own.")
    voice_aliases: dict[str, str] = Field(
        default={},
        description="Voices of this server by the names that clients of other vendors' protocols ask for; what is in neither is `default`.",
    )
    reference_paths: Path | None = Field(
        default=None,
        description="Folder of recordings that requests may name by path as a reference; none: they may not.",
    )
    reference_urls: bool = Field(
        default=False, description="Whether requests may name a public http(s) address of a recording as a reference."
    )
    max_sessions: int = Field(default=1024, ge=1, description="Sessions, with those that wait for their client.")
    max_unauthenticated: int = Field(default=64, ge=1, description="Connections that have not shown a key yet.")
    admission_timeout_s: float = Field(
        default=5.0, ge=0, description="How long a turn waits for a place in the engine."
    )
    client_secret_s: float = Field(
        default=60.0, gt=0, le=3600, description="How long a secret of POST /v1/sessions can be used."
    )
    public_url: str | None = Field(
        default=None,
        pattern="^https?://[^/?#]+$",
        description="Address that clients reach the server by, such as https://voice.example; none: as they called it.",
    )
    twilio_auth_token: SecretStr | None = Field(
        default=None,
        description="Auth token of the Twilio account: calls must be signed with it, and need no key then.",
    )
    tls_cert: Path | None = Field(default=None, description="Certificate to show (PEM, the whole chain); none: no TLS.")
    tls_key: Path | None = Field(default=None, description="Its private key (PEM, not encrypted).")
    tls_self_signed: bool = Field(
        default=False,
        description="Show a certificate that the server makes for itself; its clients must be told to trust it.",
    )
    tls_dir: Path | None = Field(default=None, description="Folder in which that one is kept.")
    drain_s: float = Field(default=30.0, ge=0, description="How long turns may go on after the server was told to end.")
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$", description="What is logged.")
    limits: Limits = Field(default=Limits(), description="Limits of the protocol, lowered.")

    @field_validator("keys")
    @classmethod
    def _keys_are_long_enough(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < MIN_KEY_CHARS for key in keys):
            raise ValueError(f"a key has at least {MIN_KEY_CHARS} characters")
        if any(not key.get_secret_value().isascii() or not key.get_secret_value().isprintable() for key in keys):
            raise ValueError("a key has printable ASCII characters only: it travels in an HTTP header")
        return keys

    @field_validator("page_connects_to")
    @classmethod
    def _sources_stay_sources(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        if any(not re.fullmatch(r"[!-+\--:<-~]+", source) for source in sources):
            raise ValueError("a source has no blank, comma or semicolon: they would begin another one, or another rule")
        return tuple(source for source in sources if source != "'none'")

    @model_validator(mode="after")
    def _one_certificate(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_self_signed and self.tls_cert is not None:
            raise ValueError("tls_self_signed makes a certificate, and tls_cert names one: say one of them")
        return self

    @property
    def uses_tls(self) -> bool:
        """Whether clients say https and wss."""
        return self.tls_self_signed or self.tls_cert is not None

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the port may speak."""
        return not self.keys

    def shown(self) -> str:
        """One line for the log: every setting, secrets by their number alone."""
        shown = self.model_dump(mode="json", exclude={"keys", "limits"})
        changed = {name: value for name, value in self.limits.model_dump().items() if value != getattr(Limits(), name)}
        return json.dumps({**shown, "keys": len(self.keys), "limits": changed}, ensure_ascii=False)


def read_settings(environ: Mapping[str, str], given: Mapping[str, object]) -> Settings:
    """Settings from `given` (the command line: only what was given there), else the environment, else the defaults.

    Raises SettingsError.
    """
    values: dict[str, object] = {}
    for name in Settings.model_fields:
        if name in given:
            values[name] = given[name]
        elif text := environ.get(_variable(name)):
            values[name] = _parsed(name, text)
    values.setdefault("voices_dir", _data_folder(environ, "voices"))
    values.setdefault("tls_dir", _data_folder(environ, "tls"))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        why = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{where}: {why}" if where else why) from None


def check_binding(settings: Settings) -> None:
    """Refuse to give a voice to a whole network by accident. Raises SettingsError."""
    if settings.is_open and not settings.insecure and not is_loopback(settings.host):
        raise SettingsError(
            f"listening on {settings.host} without a key lets everybody who reaches it speak: set {KEYS_VARIABLE}, or say --insecure"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`. A name other than localhost may resolve to anything."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _data_folder(environ: Mapping[str, str], name: str) -> Path | None:
    """Where something is kept if nobody says: the same place for the commands and the server of one person."""
    data = environ.get("XDG_DATA_HOME", "")
    if Path(data).is_absolute():  # the XDG Base Directory Specification: a relative path is to be ignored
        return Path(data) / "parley" / name
    home = environ.get("HOME")
    return Path(home) / DATA_FOLDER.removeprefix("~/") / name if home else None


def _variable(name: str) -> str:
    return KEYS_VARIABLE if name == "keys" else PREFIX + name.upper()


def _parsed(name: str, text: str) -> object:
    """Lists are separated by commas; limits are JSON; pydantic reads the rest."""
    if name in ("keys", "allowed_origins", "page_connects_to"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if name in ("limits", "voice_aliases"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingsError(f"{_variable(name)} is not JSON: {error.msg} at character {error.pos}") from None
    return text
