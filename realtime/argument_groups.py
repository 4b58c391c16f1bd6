"""What several commands of the command line have in common: the model, where it runs, a server, sampling, and how a value is read.

Knows options and their words. Does not know commands (`realtime.arguments`) or what any option does.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeAlias

from engine.api import Admission, EngineLimits
from protocol.config import Format, SamplingConfig
from realtime.failure import MISUSED
from realtime.settings import KEYS_VARIABLE, Settings

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
QUANTIZE: Final = ("int8", "fp8", "nf4")  # as `engine.quantize.FORMATS`, which a test compares
DEFAULT_URL: Final = f"ws://{Settings.model_fields['host'].default}:{Settings.model_fields['port'].default}/v1/live"

FORMATS: Final = {"pcm": Format.PCM_S16LE, "opus": Format.OPUS}
MAX_BENCH_SEED: Final = 2**31 - 1  # each stream's own seed is derived from it and must be one of the protocol's


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"parley: {message} (see: {self.prog} --help)\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Group: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"


class Kinds(argparse._SubParsersAction):  # type: ignore[type-arg]  # its parameter exists for type checkers alone
    """Kinds of one command. An option in front of the kind would be the command's, change nothing, and is refused."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        given = [name for name, value in vars(namespace).items() if value != parser.get_default(name)]
        given = [name for name in given if any(action.dest == name for action in parser._actions)]
        if given:
            assert isinstance(values, Sequence), "argparse hands over the rest of the line"
            parser.error(f"--{given[0].replace('_', '-')} belongs behind `{values[0]}`")
        super().__call__(parser, namespace, values, option_string)


MODEL: Final = "`mini`, a folder, or a Hugging Face repository such as fishaudio/s2-pro"


def add_model(parser: Group) -> None:
    """Which model, and where it runs."""
    parser.add_argument("--model", default=setting("model"), help=f"{MODEL} (default: {setting('model')})")
    add_device(parser)
    add_hub(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Where the model runs, and how much of it at once."""
    add_device(parser)
    add_limits(parser)


def add_processes(parser: Group) -> None:
    """How many share the work beside the engine's."""
    parser.add_argument(
        "--processes",
        type=at_least_one,
        metavar="N",
        help="processes that encode and send, beside the engine's (default: one for each 20 of --max-streams, at most 16 and "
        "three quarters of the processors)",
    )


def add_device(parser: Group) -> None:
    """Where the model runs, and in which numbers."""
    parser.add_argument(
        "--device",
        type=device,
        default="auto",
        help="cpu, cuda or cuda:INDEX; auto is cuda where there is one (default: auto)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="of the language model; auto: float32 on cpu, bfloat16 on cuda (default: auto)",
    )
    parser.add_argument(
        "--quantize",
        choices=QUANTIZE,
        help="keep most of the language model in 8 or 4 bits, for GPUs of 8 to 24 GB; int8 is the most exact (default: none of it)",
    )


def add_limits(parser: Group) -> None:
    """How much the engine takes on at once: turns, positions, threads."""
    limits = EngineLimits()
    parser.add_argument(
        "--max-streams",
        type=at_least_one,
        default=limits.max_streams,
        metavar="N",
        help=f"turns that are generated at once (default: {limits.max_streams})",
    )
    parser.add_argument(
        "--kv-positions",
        type=at_least_one,
        default=limits.kv_positions,
        metavar="N",
        help=f"size of the cache over all conversations; a second of speech is some 22 positions (default: {limits.kv_positions})",
    )
    parser.add_argument(
        "--admission",
        choices=[kind.value for kind in Admission],
        help="who is let in: rows: up to --max-streams; measured: and no more than the device's step times and cache carry in real time "
        "(default: measured on a GPU; on a CPU step times are mostly the noise of other processes)",
    )
    parser.add_argument(
        "--threads",
        type=at_least_one,
        default=limits.threads,
        metavar="N",
        help="CPU threads of the engine (default: half the machine, at most four)",
    )


def add_hub(parser: Group) -> None:
    parser.add_argument("--revision", help="branch, tag or commit of a repository (default: main)")
    parser.add_argument(
        "--token", help="Hugging Face access token (default: HF_TOKEN, or the one that `hf auth login` stored)"
    )


def add_server(parser: Group) -> None:
    parser.add_argument("--url", default=DEFAULT_URL, help="server to speak through (default: %(default)s)")
    parser.add_argument("--key", help=f"key to show to it (default: the first of {KEYS_VARIABLE})")


def add_format(parser: Group, default: str) -> None:
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=default,
        help="how the sound travels; opus needs libopus here, too (default: %(default)s)",
    )


def add_sampling(parser: argparse.ArgumentParser, *, frames: bool) -> None:
    """Options named like the protocol's; what was not given is the server's, or the session's, default."""
    group = parser.add_argument_group("sampling")
    for name, kind, text in (
        ("temperature", float, "higher is livelier"),
        ("top_p", float, "probability mass to draw from"),
        ("top_k", int, "candidates to draw from; 1 always takes the likeliest"),
        ("repetition_penalty", float, "against repeated sounds; 1 is none"),
        ("seed", int, "the same seed gives the same speech"),
        ("max_frames", int, "longest speech, in codec frames"),
    ):
        if name != "max_frames" or frames:
            default = SamplingConfig.model_fields[name].default
            group.add_argument(
                f"--{name.replace('_', '-')}", type=kind, metavar="X", help=f"{text} (default: {default})"
            )


def setting(name: str) -> str:
    return str(Settings.model_fields[name].default)


def device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:INDEX")
    return text


def at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > MAX_BENCH_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MAX_BENCH_SEED}")
    return int(text)


def between(least: float, most: float) -> Callable[[str], float]:
    """A number from `least` to `most`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return value

    return number


def rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return value
