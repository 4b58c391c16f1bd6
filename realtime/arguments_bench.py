"""The options of `parley bench` and its kinds, in the words of `--help`.

Knows what may be written. Does not know what it does (`realtime.bench_options` reads what can only be read together), and imports nothing
that is slow to import.
"""

from __future__ import annotations

import argparse
import textwrap
from typing import Final

from protocol.config import Clock, Latency
from realtime.argument_groups import (
    Commands,
    Kinds,
    Parser,
    add_format,
    add_limits,
    add_model,
    add_processes,
    at_least_one,
    rate,
    seed,
)
from realtime.settings import KEYS_VARIABLE

TEXT_RATE: Final = 200.0  # a hosted language model writes some 50 tokens of 4 characters a second
ENDPOINT_KEYS: Final = {
    "openai": "OPENAI_API_KEY",
    "fish": "FISH_API_KEY",
}  # dialect -> variable with the key of an endpoint
DIALECTS: Final = (
    "fish",
    "openai",
    "openai-stream",
    "elevenlabs",
    "cartesia",
    "deepgram",
    "deepgram-flux",
    "openai-realtime",
    "twilio",
)  # as `bench_speakers.SPEAKERS`, which a test compares
RANDOM_SHAPES: Final = ("s2-pro", "tiny")  # as `engine.random_weights.SHAPES`, which a test compares
REPORT_NAMES: Final = ("reactions", "hearing")  # as `bench_reports.REPORTS`: of this code, not of a server that runs
# As `bench_conversation.PROBES`, which a test compares.
PROBE_NAMES: Final = (
    "talk",
    "silence",
    "pacing",
    "pause",
    "lost socket",
    "words",
    "speed and volume",
    "loudness",
    "marked-up text",
    "marks",
    "barge-in by voice",
    *REPORT_NAMES,
)
OWN_SERVER: Final = (
    "model",
    "device",
    "dtype",
    "quantize",
    "revision",
    "token",
    "max_streams",
    "kv_positions",
    "admission",
    "threads",
    "processes",
)

BENCH_MEASURES: Final = """\
What is measured (times of a client on this machine; percentiles are nearest-rank, so each is a value that occurred):
  first audible     until the listener hears the first sample above -50 dBFS; silence in front of it counts as waiting.
    waiting for text    from the first delta to the one that completes the first segment (found with the server's segmenter)
    waiting for engine  from there to the audible sample; this is what the server can be blamed for
  first packet      from the first segment's text to the first packet, silent or not
  real-time factor  seconds of generation per second of speech, as the server counts them (turn.done); below 1 is real time. With
                    --clock realtime a server stays only so far ahead of its listeners, frame by frame, and the factor is the latency
                    of single frames; --clock none lets it generate without a pause, and the factor is its throughput. Then a client's
                    own count, from the first text to the last packet, stands beside it: use --text-rate 0.
  short by          the worst lateness of a packet for a listener who plays from the first packet on and never stops: how much longer he
                    should have waited to hear no gap. Lateness before the segment's text was there counts as waiting for text, apart.
  cancel            from turn.cancel to turn.done
  roof              the least that a frame could take there: bytes of weights over the bandwidth of a copy. Told by a server with a GPU.
With --arrivals, besides:
  refused           turns that were not let in, apart from all other figures, with the wait that they were told (retry_after)
  connecting        from an arrival until its connection stands and is configured; no part of the waits above
Texts have a log-normal length of 90 characters on the mean then, some six seconds. --random-weights ends each piece of text after what it
would take to say it, at random. An endpoint that takes a whole text only is waited for from the last delta on.
Every text is new. Conversations begin at random within the first seconds and wait for the listener between turns (closed loop: N speakers,
not N requests a second; --arrivals is the open one). Those that are done go on unmeasured until all are, so the load stays the same. The
client and, without --url, the server share this machine's processors; `client late` says how late the client itself was."""


def add_bench(commands: Commands) -> None:
    """`parley bench` and `parley bench conversation`, with all their options."""
    description = (
        "Hold N conversations at once over the public protocol, as clients that play what they hear, and measure how long a listener waits "
        "and whether the sound ever runs short; or, with --arrivals, let turns come as they come. Starts a server of its own unless "
        "--url is given. Prints a table; the last line is JSON."
    )
    bench = commands.add_parser(
        "bench",
        help="measure a server with conversations",
        description=textwrap.fill(description, 100),
        epilog=BENCH_MEASURES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_load(bench)
    _add_listeners(bench)
    running = bench.add_argument_group("a server that runs")
    running.add_argument("--url", help="measure this one, instead of starting one")
    running.add_argument("--key", help=f"key to show to it (default: the first of {KEYS_VARIABLE})")
    _add_endpoint(bench)
    own = bench.add_argument_group("a server of its own")
    add_model(own)
    own.add_argument(
        "--random-weights",
        choices=RANDOM_SHAPES,
        help="instead of a model: this shape with random weights, which speak noise for as long as speech would take",
    )
    add_limits(own)
    add_processes(own)
    # What was not given is left to `parley serve`; and beside --url none of it may be given.
    bench.set_defaults(**dict.fromkeys(OWN_SERVER))
    _add_bench_conversation(bench)


def _add_endpoint(bench: argparse.ArgumentParser) -> None:
    endpoint = bench.add_argument_group(
        "somebody else's endpoint",
        "With --dialect openai or fish, an address with a path is asked as it is written, whoever serves it: "
        "http://127.0.0.1:8880/v1/audio/speech, https://api.fish.audio/v1/tts or wss://api.fish.audio/v1/tts/live. "
        f"Its key is --key, or {' or '.join(ENDPOINT_KEYS.values())}.",
    )
    endpoint.add_argument(
        "--voice", help="voice to ask for; of our own protocol, too (default: none, and `alloy` for openai)"
    )
    endpoint.add_argument(
        "--speech-model", metavar="NAME", help="model to ask for (default: tts-1 for openai, s1 for fish)"
    )
    endpoint.add_argument(
        "--rate",
        type=at_least_one,
        metavar="HZ",
        help="of samples without a header (default: 24000 for openai, 44100 for fish, which is asked for it)",
    )
    endpoint.add_argument(
        "--extra", metavar="JSON", help="""fields to add to each request, such as '{"stream": true}' for vllm-omni"""
    )


def _add_load(bench: argparse.ArgumentParser) -> None:
    """Who talks: how many, how often and how fast."""
    bench.add_argument(
        "--streams", type=at_least_one, default=1, metavar="N", help="conversations at once (default: %(default)s)"
    )
    bench.add_argument(
        "--turns",
        type=at_least_one,
        default=5,
        metavar="M",
        help="measured turns of each; one more warms up (default: %(default)s)",
    )
    bench.add_argument(
        "--arrivals",
        type=rate,
        metavar="PER_SECOND",
        help="instead: turns of strangers, each with a connection of its own, at random (Poisson), however many speak by then",
    )
    bench.add_argument(
        "--duration",
        type=rate,
        default=60.0,
        metavar="S",
        help="of measured arrivals, in seconds (default: %(default)g)",
    )
    bench.add_argument(
        "--warm-up", type=rate, default=10.0, metavar="S", help="of arrivals before that (default: %(default)g)"
    )
    bench.add_argument(
        "--text-rate",
        type=rate,
        default=TEXT_RATE,
        metavar="CHARS",
        help="characters a second that each writer types, in deltas of some five; 0: each text at once (default: %(default)g)",
    )
    bench.add_argument(
        "--cancel-every",
        type=at_least_one,
        metavar="K",
        help="interrupt every K-th measured turn while it speaks (default: none)",
    )
    bench.add_argument(
        "--pause",
        type=rate,
        default=0.5,
        metavar="S",
        help="mean silence between a conversation's turns, in seconds (default: %(default)g)",
    )


def _add_listeners(bench: argparse.ArgumentParser) -> None:
    """What their clients ask for, and in which protocol."""
    bench.add_argument(
        "--latency",
        choices=[latency.value for latency in Latency],
        default=Latency.LOW.value,
        help="as in `say` (default: %(default)s)",
    )
    bench.add_argument(
        "--clock",
        choices=(Clock.REALTIME.value, Clock.NONE.value),
        default=Clock.REALTIME.value,
        help="realtime: clients that play what comes; none: that store it, as fast as the server makes it (default: %(default)s)",
    )
    bench.add_argument(
        "--dialect",
        choices=DIALECTS,
        help="clients that speak another vendor's protocol, below /s/{session}/; they take 16-bit samples at 24 kHz as they are heard",
    )
    add_format(bench, "opus")
    bench.add_argument(
        "--seed", type=seed, default=0, help="of the texts, the pauses and the sampling (default: %(default)s)"
    )


def _add_bench_conversation(bench: argparse.ArgumentParser) -> None:
    kinds = bench.add_subparsers(
        dest="bench_command",
        metavar="conversation",
        parser_class=Parser,
        action=Kinds,
        help="try promises instead (see: parley bench conversation --help)",
    )
    conversation = kinds.add_parser(
        "conversation",
        help="try what the protocol promises of a conversation, instead of measuring a load",
        description="Try what the protocol promises of a conversation: heard text that is true after every interruption, pacing, pauses, "
        "a socket that is lost, the times of words, speed, volume. Starts a server of its own unless --url is given. Prints what was found "
        "beside what was promised; the last line is JSON. Exit code 1: a promise was broken.",
    )
    conversation.add_argument(
        "--turns", type=at_least_one, default=30, metavar="N", help="of the long conversation (default: %(default)s)"
    )
    conversation.add_argument(
        "--barge-ins", type=at_least_one, default=10, metavar="N", help="of these turns (default: %(default)s)"
    )
    conversation.add_argument(
        "--only",
        action="append",
        choices=PROBE_NAMES,
        help="play this probe; may be given several times (default: all)",
    )
    conversation.add_argument(
        "--seed", type=seed, default=0, help="of the texts and the sampling (default: %(default)s)"
    )
    running = conversation.add_argument_group("a server that runs")
    running.add_argument("--url", help="try this one, instead of starting one")
    running.add_argument("--key", help=f"key to show to it (default: the first of {KEYS_VARIABLE})")
    own = conversation.add_argument_group("a server of its own")
    add_model(own)
    add_limits(own)
    add_processes(own)
    conversation.set_defaults(**dict.fromkeys(OWN_SERVER))
