"""`parley`: reads the command line and the environment, builds what a command needs, and says in one line what went wrong.

The composition root: the only place in the server that builds a real engine. Nothing heavy is imported before a command asks for it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from engine.api import Admission, EngineLimits
from realtime.argument_groups import FORMATS
from realtime.arguments import LLM_KEY_VARIABLES, build_parser
from realtime.arguments_bench import ENDPOINT_KEYS, OWN_SERVER, REPORT_NAMES
from realtime.failure import FAILED, INTERRUPTED, MISUSED, CommandFailed
from realtime.settings import KEYS_VARIABLE, Settings, SettingsError, check_binding, read_settings
from realtime.terminal import DownloadLine, log_to_stderr

if TYPE_CHECKING:
    from engine.api import ModelInfo
    from engine.commands import WorkerSpec
    from engine.hub import ResolvedModel
    from engine.process import EngineProcess
    from protocol.config import SamplingConfig
    from realtime.voice_folder import VoiceFolder

log = logging.getLogger("parley.cli")

LISTENING: Final = "listening on "  # the start-up block ends with it and the address; `bench` waits for that line
SAMPLING: Final = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "max_frames")


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code. 2: the command line is wrong; 1: something else is."""
    args = build_parser(_version()).parse_args(argv)
    try:
        return _COMMANDS[args.command](args)
    except CommandFailed as error:
        print(f"parley: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more when it flushes it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _version() -> str:
    try:
        return version("parley")
    except PackageNotFoundError:
        return "from a checkout that is not installed"


def _serve(args: argparse.Namespace) -> int:
    import anyio

    from engine.api import EngineError
    from engine.process import EngineProcess, EngineWorker
    from realtime.processes import sensible_number, serve_in_processes
    from realtime.server import serve

    settings = _settings(args)
    log_to_stderr(settings.log_level)
    model = _resolved(args, settings.model)
    spec = _spec(args, model)
    processes = args.processes or sensible_number(spec.limits.max_streams, len(os.sched_getaffinity(0)))
    loaded: list[ModelInfo] = []

    @asynccontextmanager
    async def worker() -> AsyncIterator[EngineWorker]:
        log.info("loading", extra={"model": model.name, "folder": model.folder, "processes": processes})
        running = await EngineWorker.start(spec)
        loaded.append(running.info)
        try:
            yield running
        finally:
            await running.close()

    @asynccontextmanager
    async def engine() -> AsyncIterator[EngineProcess]:
        async with worker() as running:
            yield EngineProcess(running)

    def listening(url: str) -> None:
        print(start_up_block(loaded[0], url), flush=True)

    try:
        if processes == 1:
            anyio.run(partial(serve, settings, engine, listening=listening))
        else:
            anyio.run(partial(serve_in_processes, settings, worker, processes, listening=listening))
    except (SettingsError, EngineError, OSError) as error:
        raise CommandFailed(error) from error
    return 0


def start_up_block(info: ModelInfo, url: str) -> str:
    """What a person sees when the server speaks."""
    lines = [f"Parley {_version()}", f"  model {info.name}", f"  on {info.device}, {info.dtype}"]
    if info.attribution is not None:
        lines.append(f"  {info.attribution}")
    return "\n".join([*lines, f"  {LISTENING}{url}"])


def _say(args: argparse.Namespace) -> int:
    from protocol.config import Latency
    from realtime.bench import live_url
    from realtime.say import SayOptions, once, say
    from realtime.typed_text import read_deltas

    options = SayOptions(
        url=live_url(args.url),
        key=_key(args),
        voice=args.voice,
        latency=Latency(args.latency),
        sampling=_sampling(args),
        fmt=FORMATS[args.format],
        output=args.output,
        play=args.play if args.play is not None else args.output is None,
        quiet=args.quiet,
        speed=args.speed,
        volume_db=args.volume,
    )
    if args.text is not None and args.text != "-":
        return say(options, once(_unicode(args.text)), sys.stderr)
    if sys.stdin.isatty() and not args.quiet:
        print("parley: what you type is spoken, line by line; Ctrl-D ends", file=sys.stderr)
    return say(options, read_deltas(sys.stdin.fileno()), sys.stderr)


def _chat(args: argparse.Namespace) -> int:
    from realtime.bench import live_url
    from realtime.chat import SYSTEM, ChatOptions, chat
    from realtime.keyboard import Keyboard

    keys = [args.llm_key, *(os.environ.get(name) for name in LLM_KEY_VARIABLES)]
    options = ChatOptions(
        url=live_url(args.url),
        key=_key(args),
        voice=args.voice,
        llm_url=args.llm,
        llm_model=args.llm_model,
        llm_key=next((key for key in keys if key), None),
        system=_unicode(args.system) if args.system is not None else SYSTEM,
        output=args.output,
        play=args.play,
    )
    return chat(options, Keyboard(sys.stdin.fileno()), sys.stdout)


def _ivr(args: argparse.Namespace) -> int:
    from realtime.bench import live_url
    from realtime.ivr_menu import DEFAULT, MenuError, read_menu
    from realtime.ivr_server import IvrOptions, ivr, stream_url

    if args.print_menu:
        print(DEFAULT, end="")
        return 0
    try:
        menu = read_menu(DEFAULT if args.menu is None else args.menu.read_text("utf-8"))
        token = read_settings(os.environ, {}).twilio_auth_token
    except (OSError, UnicodeDecodeError, MenuError) as error:
        raise CommandFailed(f"{args.menu}: {error}", MISUSED) from error
    except SettingsError as error:
        raise CommandFailed(error, MISUSED) from error
    log_to_stderr("info")
    url = live_url(args.url)
    return ivr(
        IvrOptions(
            url=url,
            stream_url=args.stream_url or stream_url(url),
            key=_key(args),
            auth_token=token.get_secret_value() if token is not None else None,
            host=args.host,
            port=args.port,
            menu=menu,
        ),
        sys.stdout,
    )


def _encode(args: argparse.Namespace) -> int:
    from realtime.codes_tools import read_recording, write_codes

    samples, rate = read_recording(args.recording)

    async def encode(engine: EngineProcess) -> None:
        codes = await engine.encode(samples, rate)
        write_codes(args.output, codes)
        print(
            f"{args.output}: {codes.shape[0]} codebooks, {codes.shape[1]} frames, {codes.shape[1] * engine.info.frame_s:.2f} s"
        )

    return _with_engine(args, encode)


def _generate(args: argparse.Namespace) -> int:
    from engine.api import SamplingParams
    from realtime.codes_tools import generate, read_codes, voice_of, write_codes

    params = SamplingParams(**_sampling(args).model_dump())
    voice = voice_of([_unicode(text) for text in args.prompt_text], [read_codes(path) for path in args.prompt_codes])
    text = _unicode(args.text) if args.text != "-" else sys.stdin.buffer.read().decode("utf-8", "replace")

    async def speak(engine: EngineProcess) -> None:
        codes = await generate(engine, text, voice, params, lambda note: print(f"parley: {note}", file=sys.stderr))
        write_codes(args.output, codes)
        print(
            f"{args.output}: {codes.shape[0]} codebooks, {codes.shape[1]} frames, {codes.shape[1] * engine.info.frame_s:.2f} s"
        )

    return _with_engine(args, speak)


def _decode(args: argparse.Namespace) -> int:
    from realtime.codes_tools import read_codes, write_sound

    codes = read_codes(args.codes)

    async def decode(engine: EngineProcess) -> None:
        samples = await engine.decode(codes)
        write_sound(args.output, samples, engine.info.sample_rate)
        print(f"{args.output}: {len(samples) / engine.info.sample_rate:.2f} s at {engine.info.sample_rate} Hz")

    return _with_engine(args, decode)


def _download(args: argparse.Namespace) -> int:
    model = _resolved(args, args.repo)
    print(model.folder)
    licences = sorted(
        path.name for path in model.folder.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
    )
    if licences:
        print(f"its licence is kept there: {', '.join(licences)}")
    if model.attribution is not None:
        print(f"{model.attribution.notice} {model.attribution.built_with}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from realtime.bench import bench, live_url
    from realtime.bench_conversation import PROBES, ConversationOptions, bench_conversation
    from realtime.bench_options import check, is_endpoint, options_of
    from realtime.bench_server import serve_command, server_of_its_own

    def run(url: str) -> int:
        if args.bench_command == "conversation":
            all_ = [name for name in PROBES if args.url is None or name not in REPORT_NAMES]
            talk = ConversationOptions(url, _key(args), args.turns, args.barge_ins, args.seed, args.only or all_)
            return bench_conversation(talk, args.url is None, sys.stdout)
        key = _endpoint_key(args) if is_endpoint(args) else _key(args)
        return bench(options_of(args, url, key), args.url is None, sys.stdout, sys.stderr)

    if args.bench_command is None:
        check(args)
    given = {name: getattr(args, name) for name in OWN_SERVER if getattr(args, name) is not None}
    if args.url is not None:
        if getattr(args, "random_weights", None) is not None:
            given["random_weights"] = args.random_weights
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise CommandFailed(f"{options} would change nothing about the server at {args.url}", MISUSED)
        if reports := sorted(set(getattr(args, "only", None) or ()) & set(REPORT_NAMES)):
            raise CommandFailed(f"--only {reports[0]} would say nothing about the server at {args.url}", MISUSED)
        return run(args.url if is_endpoint(args) else live_url(args.url))
    if args.key is not None:
        raise CommandFailed("--key is for a server named with --url", MISUSED)
    streams = 1 if args.bench_command == "conversation" else options_of(args, "", None).most_at_once
    with (
        _random_weights(args) as random,
        server_of_its_own(serve_command(given | random, streams), LISTENING, sys.stderr) as url,
    ):
        return run(url)


def _endpoint_key(args: argparse.Namespace) -> str | None:
    """The key for somebody else's endpoint: never one of ours."""
    return args.key if args.key is not None else os.environ.get(ENDPOINT_KEYS[args.dialect]) or None


@contextmanager
def _random_weights(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """The model folder that `--random-weights` asks for, as one of the options of a server of its own; it goes with the block."""
    shape = getattr(args, "random_weights", None)
    if shape is None:
        yield {}
        return
    if args.model is not None:
        raise CommandFailed("--random-weights stands for a model; leave --model out", MISUSED)
    from engine.random_weights import write_folder

    with TemporaryDirectory() as scratch:
        folder = Path(scratch, f"{shape}-random")
        write_folder(shape, folder)
        yield {"model": folder}


def _voices(args: argparse.Namespace) -> int:
    from realtime import voices_tools

    folder = voices_tools.open_folder(_voices_dir(args))
    match args.voices_command:
        case "add":
            texts = [_unicode(text) for text in args.text]
            voices_tools.add(folder, args.name, args.recordings, texts, args.append, sys.stdout, sys.stderr)
        case "list":
            voices_tools.show(folder, sys.stdout)
        case "remove":
            voices_tools.remove(folder, args.names, sys.stdout)
        case "create":
            return _create_voice(args, folder)
    return 0


def _create_voice(args: argparse.Namespace, folder: VoiceFolder) -> int:
    from engine.api import SamplingParams
    from realtime.voice_creation import TEXT, Creation, create

    creation = Creation(
        name=args.name,
        style=_unicode(args.style),
        text=_unicode(args.text) if args.text is not None else TEXT,
        takes=args.takes,
        keep=args.keep,
        output=args.output,
        play=args.play,
        params=SamplingParams(**_sampling(args).model_dump()),
    )

    async def run(engine: EngineProcess) -> None:
        await create(creation, engine, folder, sys.stdin if sys.stdin.isatty() else None, sys.stdout, sys.stderr)

    return _with_engine(args, run)


def _voices_dir(args: argparse.Namespace) -> Path | None:
    try:
        given = {"voices_dir": args.voices_dir} if args.voices_dir is not None else {}
        return read_settings(os.environ, given).voices_dir
    except SettingsError as error:
        raise CommandFailed(error, MISUSED) from error


def _settings(args: argparse.Namespace) -> Settings:
    """What the operator set: on the command line, else in the environment, else nowhere."""
    given = {
        "model": args.model,
        "host": args.host,
        "port": args.port,
        "keys": tuple(args.key) if args.key is not None else None,
        "insecure": args.insecure,
        "allowed_origins": tuple(args.allow_origin) if args.allow_origin is not None else None,
        "tls_cert": args.tls_cert,
        "tls_key": args.tls_key,
        "tls_self_signed": args.tls_self_signed,
        "voices_dir": args.voices_dir,
        "max_sessions": args.max_sessions,
        "log_level": args.log_level,
    }
    try:
        settings = read_settings(os.environ, {name: value for name, value in given.items() if value is not None})
        check_binding(settings)
    except SettingsError as error:
        raise CommandFailed(error, MISUSED) from error
    return settings


def _key(args: argparse.Namespace) -> str | None:
    """The key that a client shows."""
    keys = [args.key] if args.key is not None else os.environ.get(KEYS_VARIABLE, "").split(",")
    return keys[0].strip() or None


def _sampling(args: argparse.Namespace) -> SamplingConfig:
    """Only what was given is set in it."""
    from protocol.config import SamplingConfig

    given = {name: getattr(args, name, None) for name in SAMPLING}
    try:
        return SamplingConfig.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise CommandFailed(f"--{option} {first['input']}: {first['msg']}", MISUSED) from error


def _unicode(argument: str) -> str:
    """An argument with what was no UTF-8 replaced: Python keeps such bytes as surrogates, which no JSON may hold."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _resolved(args: argparse.Namespace, name: str) -> ResolvedModel:
    """The model's folder; downloads it where it has to, and shows how far that is."""
    from engine.hub import HubError, resolve

    shown = DownloadLine()
    try:
        return resolve(name, args.revision, args.token, shown)
    except (HubError, OSError) as error:
        raise CommandFailed(error) from error
    finally:
        shown.end()


def _spec(args: argparse.Namespace, model: ResolvedModel) -> WorkerSpec:
    from engine.commands import WorkerSpec

    default = EngineLimits()
    limits = EngineLimits(
        max_streams=getattr(args, "max_streams", default.max_streams),
        kv_positions=getattr(args, "kv_positions", default.kv_positions),
        threads=getattr(args, "threads", default.threads),
        admission=Admission(args.admission) if getattr(args, "admission", None) is not None else None,
    )
    attribution = (
        f"{model.attribution.notice} {model.attribution.built_with}" if model.attribution is not None else None
    )
    return WorkerSpec(model.folder, model.name, args.device, args.dtype, limits, attribution, quantize=args.quantize)


@asynccontextmanager
async def _engine(spec: WorkerSpec) -> AsyncIterator[EngineProcess]:
    from engine.process import EngineProcess

    engine = await EngineProcess.start(spec)
    try:
        yield engine
    finally:
        await engine.close()


def _with_engine(args: argparse.Namespace, use: Callable[[EngineProcess], Awaitable[None]]) -> int:
    """Run one of the tools; its exit code."""
    import anyio

    from engine.api import EngineError

    spec = _spec(args, _resolved(args, args.model))

    async def run() -> None:
        async with _engine(spec) as engine:
            await use(engine)

    try:
        anyio.run(run)
    except (EngineError, OSError) as error:
        raise CommandFailed(error) from error
    return 0


_COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "serve": _serve,
    "say": _say,
    "ivr": _ivr,
    "chat": _chat,
    "encode": _encode,
    "generate": _generate,
    "decode": _decode,
    "download": _download,
    "bench": _bench,
    "voices": _voices,
}


if __name__ == "__main__":
    sys.exit(main())
