"""What `parley bench` was asked to do, as values; and what of it makes no sense together.

Knows the options' meaning. Does not know their words (`realtime.arguments_bench`), the environment, or how a load is made.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from protocol.config import Clock, Format, Latency
from realtime.argument_groups import FORMATS
from realtime.failure import MISUSED, CommandFailed

TURN_S: Final = 8.0  # that a turn of strangers is there: it connects, waits, speaks some six seconds, leaves
_OURS: Final = {"latency": "low", "clock": "realtime", "format": "opus"}  # of our own protocol alone -> default
_CLOSED: Final = {"streams": 1, "turns": 5, "pause": 0.5}  # of conversations -> default
_OPEN: Final = {"duration": 60.0, "warm_up": 10.0}  # of arrivals -> default
_ENDPOINT: Final = ("speech_model", "rate", "extra")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Turns that come whether or not the ones before are over."""

    per_s: float  # on the mean; the time between two is exponential
    duration_s: float  # of measured arrivals
    warm_up_s: float  # of arrivals before them

    @property
    def most_at_once(self) -> int:
        """That hardly ever more turns are there than: four standard deviations above the mean."""
        mean = self.per_s * TURN_S
        return math.ceil(mean + 4 * math.sqrt(mean))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whoever serves this address, and what is asked of them."""

    model: str
    voice: str | None
    rate_hz: int  # of samples without a header
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields of each request, over ours


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is asked of the server."""

    url: str
    key: str | None
    streams: int
    turns: int  # measured, of each stream
    text_rate: float  # characters a second; 0: all at once
    cancel_every: int | None  # every so many measured turns of a stream one is interrupted
    pause_s: float  # mean
    latency: Latency
    fmt: Format
    clock: Clock  # realtime: clients that listen; none: clients that store what comes as fast as it comes
    seed: int
    dialect: str | None = None  # of another vendor, see `bench_speakers.SPEAKERS`; None: our own protocol
    voice: str | None = None  # None: the server's own
    arrivals: Arrivals | None = None  # instead of `streams` of `turns`
    endpoint: Endpoint | None = None  # `url` is of one, in `dialect`, and not of a server of ours

    @property
    def most_at_once(self) -> int:
        """Turns that a server should have room for."""
        return self.streams if self.arrivals is None else self.arrivals.most_at_once


def is_endpoint(args: argparse.Namespace) -> bool:
    """Whether the address is asked as it is written."""
    dialect = getattr(args, "dialect", None)  # a kind of bench may have none
    return dialect in ("openai", "fish") and args.url is not None and urlsplit(args.url).path.strip("/") != ""


def check(args: argparse.Namespace) -> None:
    """Raises CommandFailed for options of a load that change nothing beside others, or cannot be had together."""
    given = _given(args, _CLOSED) if args.arrivals is not None else _given(args, _OPEN)
    if given and args.arrivals is not None:
        raise CommandFailed(f"--{given[0]} is of conversations, and --arrivals are turns of strangers", MISUSED)
    if given:
        raise CommandFailed(f"--{given[0]} is of --arrivals, and there are none", MISUSED)
    if args.arrivals is not None and not (args.arrivals and args.duration):
        raise CommandFailed("--arrivals and --duration must be above 0", MISUSED)
    if args.dialect is not None and (given := _given(args, _OURS)):
        raise CommandFailed(f"--{given[0]} is of our own protocol, and --dialect {args.dialect} has none", MISUSED)
    if is_endpoint(args):
        return
    if given := [name for name in _ENDPOINT if getattr(args, name) is not None]:
        option = given[0].replace("_", "-")
        raise CommandFailed(f"--{option} is for an endpoint: --dialect openai or fish and --url with a path", MISUSED)
    if args.voice is not None and args.dialect is not None:
        raise CommandFailed(
            f"--voice is not asked for below /s/{{session}}, where --dialect {args.dialect} speaks", MISUSED
        )


def options_of(args: argparse.Namespace, url: str, key: str | None) -> BenchOptions:
    """What the command line asks for; `check` has passed it. url: of the server that is measured. Raises CommandFailed."""
    arrivals = Arrivals(args.arrivals, args.duration, args.warm_up) if args.arrivals is not None else None
    return BenchOptions(
        url=url,
        key=key,
        streams=args.streams,
        turns=args.turns,
        text_rate=args.text_rate,
        cancel_every=args.cancel_every,
        pause_s=args.pause,
        latency=Latency(args.latency),
        fmt=FORMATS[args.format],
        clock=Clock(args.clock),
        seed=args.seed,
        dialect=args.dialect,
        voice=args.voice,
        arrivals=arrivals,
        endpoint=_endpoint(args) if is_endpoint(args) else None,
    )


def _endpoint(args: argparse.Namespace) -> Endpoint:
    openai = args.dialect == "openai"
    try:
        extra = json.loads(args.extra) if args.extra is not None else {}
    except ValueError as error:
        raise CommandFailed(f"--extra is no JSON: {error}", MISUSED) from error
    if not isinstance(extra, dict):
        raise CommandFailed("--extra is no JSON object", MISUSED)
    return Endpoint(
        model=args.speech_model or ("tts-1" if openai else "s1"),
        voice=args.voice or ("alloy" if openai else None),
        rate_hz=args.rate or (24_000 if openai else 44_100),
        extra=extra,
    )


def _given(args: argparse.Namespace, defaults: Mapping[str, object]) -> list[str]:
    return [name.replace("_", "-") for name, default in defaults.items() if getattr(args, name) != default]
