"""The command line: every command, option and default, in the words of `--help`.

Knows what may be written. Does not know what any of it does (`realtime.cli` calls that), and imports nothing that is slow to import.
What the protocol, the settings or the engine define takes its default from there; an option of those that was not given is None.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from protocol.config import Latency
from realtime.argument_groups import (
    MODEL,
    Commands,
    Parser,
    add_engine,
    add_format,
    add_hub,
    add_model,
    add_processes,
    add_sampling,
    add_server,
    between,
    setting,
)
from realtime.arguments_bench import add_bench
from realtime.arguments_voices import VOICES_DIR, add_voices
from realtime.settings import KEYS_VARIABLE, PREFIX

LLM_KEY_VARIABLES: Final = ("PARLEY_LLM_KEY", "OPENAI_API_KEY")  # the first that is set
_NO_OPTION: Final = ("max_unauthenticated", "admission_timeout_s", "drain_s", "tls_dir", "twilio_auth_token", "limits")


def build_parser(version: str) -> Parser:
    """The parser of `parley`; the name of the chosen command is in `command`."""
    parser = Parser(
        prog="parley",
        description="A self-hosted, real-time voice server: text deltas in, speech out, and the truth about what was heard.",
        epilog="`parley COMMAND --help` explains a command. Try: parley serve, and in a second terminal: parley say 'Hello there.'",
    )
    parser.add_argument("--version", action="version", version=f"parley {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_serve,
        _add_say,
        _add_chat,
        _add_ivr,
        _add_encode,
        _add_generate,
        _add_decode,
        _add_download,
        add_bench,
        add_voices,
    ):
        add(commands)
    return parser


def _add_serve(commands: Commands) -> None:
    serve = _command(
        commands,
        "serve",
        "serve a model over WebSockets",
        "Load a model and serve it: WebSocket /v1/live, HTTP /health/live, /health/ready and /v1/models, and a page at /. "
        "The first SIGINT or SIGTERM lets running turns end; the second ends at once.",
        f"Settings that have no option are read from the environment: "
        f"{', '.join(PREFIX + name.upper() for name in _NO_OPTION)} "
        "(the last one is JSON); the options below have a variable each, too, such as PARLEY_PORT. "
        "HF_HOME and HF_TOKEN are huggingface_hub's.",
    )
    serve.add_argument("model", nargs="?", metavar="MODEL", help=f"{MODEL} (default: {setting('model')})")
    serve.add_argument(
        "--host", help=f"address to listen on; any but this machine's own needs a key (default: {setting('host')})"
    )
    serve.add_argument("--port", type=int, help=f"port to listen on; 0 takes a free one (default: {setting('port')})")
    serve.add_argument(
        "--key",
        action="append",
        metavar="KEY",
        help=f"let in only who shows this key; may be given several times (default: {KEYS_VARIABLE}, separated by commas; else everybody)",
    )
    serve.add_argument("--insecure", action="store_true", default=None, help="listen on any address without a key")
    serve.add_argument(
        "--allow-origin",
        action="append",
        metavar="ORIGIN",
        help="let pages of another origin connect; may be given several times",
    )
    serve.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="speak TLS (https, wss) with this certificate (PEM)"
    )
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    serve.add_argument(
        "--tls-self-signed",
        action="store_true",
        default=None,
        help="speak TLS with a certificate that is made, and kept, for clients on one's own machines: they trust it with SSL_CERT_FILE",
    )
    serve.add_argument("--voices-dir", type=Path, metavar="DIR", help=f"folder of voices (default: {VOICES_DIR})")
    serve.add_argument(
        "--max-sessions",
        type=int,
        metavar="N",
        help=f"connections that are let in (default: {setting('max_sessions')})",
    )
    serve.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help=f"what is logged on stderr (default: {setting('log_level')})",
    )
    add_engine(serve)
    add_processes(serve)
    add_hub(serve)


def _add_say(commands: Commands) -> None:
    say = _command(
        commands,
        "say",
        "speak a text through a server",
        "Speak TEXT, or what comes on standard input as it comes: `some-llm | parley say` speaks while the model writes. "
        "Plays through the speakers unless -o is given. Words, and a line of figures at the end, go to stderr. "
        "Ctrl-C stops at once and prints what was heard and what was not.",
        "Figures: `first audio` is the time from the first text sent to the first packet of sound; `real-time factor` is the server's own "
        "count of generating time per second of speech. A text above some 3,000 characters is spoken in several turns of one conversation.",
    )
    say.add_argument("text", nargs="?", metavar="TEXT", help="what to say; - or nothing reads standard input")
    say.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a WAV file, which is whole at any time")
    play = say.add_mutually_exclusive_group()
    play.add_argument(
        "--play",
        action="store_true",
        default=None,
        dest="play",
        help="play through the speakers (default: if there is no -o)",
    )
    play.add_argument(
        "--no-play",
        action="store_false",
        default=None,
        dest="play",
        help="do not; sound then comes as fast as it is made",
    )
    add_server(say)
    say.add_argument("--voice", help="voice to speak with (default: the model's own)")
    say.add_argument(
        "--latency",
        choices=[latency.value for latency in Latency],
        default=Latency.LOW.value,
        help="begin with a clause of two words, with five words, or with a sentence (default: %(default)s)",
    )
    say.add_argument(
        "--speed",
        type=between(0.25, 4.0),
        default=1.0,
        metavar="X",
        help="0.25 to 4, at the same pitch (default: %(default)g)",
    )
    say.add_argument(
        "--volume",
        type=between(-20.0, 20.0),
        default=0.0,
        metavar="DB",
        help="-20 to 20 dB louder (default: %(default)g)",
    )
    add_format(say, "pcm")
    add_sampling(say, frames=False)
    say.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def _add_chat(commands: Commands) -> None:
    chat = _command(
        commands,
        "chat",
        "talk with a language model",
        "Type, and hear a language model answer while it writes. Type on, or press any key, and it stops at once; what was not heard is "
        "removed from what the model remembers. Lines from a pipe are answered one after the other. Ctrl-D ends.",
        "The model is asked at POST URL/chat/completions, as OpenAI, vLLM, llama.cpp and Ollama offer it.",
    )
    chat.add_argument(
        "--llm",
        required=True,
        metavar="URL",
        help="base address of an OpenAI-compatible API, such as http://127.0.0.1:11434/v1",
    )
    chat.add_argument("--llm-model", metavar="NAME", help="model to ask there (default: the only one that there is)")
    chat.add_argument("--llm-key", metavar="KEY", help=f"key to show there (default: {' or '.join(LLM_KEY_VARIABLES)})")
    chat.add_argument(
        "--system", metavar="TEXT", help="what the model is told first (default: to speak in plain sentences)"
    )
    chat.add_argument("-o", "--output", type=Path, metavar="FILE", help="write what was heard into a WAV file")
    play = chat.add_mutually_exclusive_group()
    play.add_argument(
        "--play",
        action="store_true",
        default=None,
        dest="play",
        help="fail where there is nothing to play through (default: pass the time in silence, and say so)",
    )
    play.add_argument("--no-play", action="store_false", default=None, dest="play", help="pass the time in silence")
    add_server(chat)
    chat.add_argument("--voice", help="voice to speak with (default: the model's own)")


def _add_ivr(commands: Commands) -> None:
    ivr = _command(
        commands,
        "ivr",
        "answer telephone calls with a menu",
        "Answer calls of a Twilio number with a menu that is spoken, is interrupted by speech or a key, and goes on. Twilio asks this "
        "program (POST /voice) what to do with a call, and connects its sound to the Parley server's /twilio.",
        f"With {PREFIX}TWILIO_AUTH_TOKEN, the auth token of the Twilio account, requests must be signed with it; set it for "
        "`parley serve`, too. Without it anybody who reaches this port can open sessions.",
    )
    ivr.add_argument(
        "--stream-url",
        metavar="WSS_URL",
        help="/twilio of the server, as Twilio reaches it, such as wss://voice.example/twilio (default: as this program does, for a trial)",
    )
    ivr.add_argument("--menu", type=Path, metavar="FILE", help="what is said (TOML; default: an example)")
    ivr.add_argument("--print-menu", action="store_true", help="print the example and end")
    ivr.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    ivr.add_argument(
        "--port", type=int, default=8380, help="port to listen on; 0 takes a free one (default: %(default)s)"
    )
    add_server(ivr)


def _add_encode(commands: Commands) -> None:
    encode = _command(
        commands,
        "encode",
        "turn a recording into codes",
        "Turn a recording into the codec's codes, for `parley generate --prompt-codes`. Reads WAV, FLAC, Ogg and MP3; channels are mixed.",
        "The .npy file holds int16 [codebooks, frames].",
    )
    encode.add_argument("recording", type=Path, metavar="RECORDING", help="sound file of at most ten minutes")
    encode.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="codes to write (.npy)")
    add_model(encode)


def _add_generate(commands: Commands) -> None:
    generate = _command(
        commands,
        "generate",
        "turn a text into codes",
        "Speak a text into codes, without a server; in the voice of one or more recordings if their codes and texts are given.",
        "The .npy file holds int16 [codebooks, frames]; `parley decode` makes it sound.",
    )
    generate.add_argument("text", metavar="TEXT", help="what to say; - reads standard input")
    generate.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="codes to write (.npy)")
    generate.add_argument(
        "--prompt-text",
        action="append",
        default=[],
        metavar="TEXT",
        help="what is said in a recording; once for each --prompt-codes",
    )
    generate.add_argument(
        "--prompt-codes",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="codes of a recording; may be given several times",
    )
    add_sampling(generate, frames=True)
    add_model(generate)


def _add_decode(commands: Commands) -> None:
    decode = _command(
        commands, "decode", "turn codes into sound", "Turn codes into a WAV file at the codec's own rate."
    )
    decode.add_argument(
        "codes", type=Path, metavar="CODES", help="integers [codebooks, frames] or [1, codebooks, frames] (.npy)"
    )
    decode.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="WAV file to write")
    add_model(decode)


def _add_download(commands: Commands) -> None:
    download = _command(
        commands,
        "download",
        "fetch a model from the Hugging Face hub",
        "Fetch the files of a model that the engine reads, and its licence, into huggingface_hub's cache (HF_HOME); print the folder. "
        "An interrupted download goes on where it stopped.",
    )
    download.add_argument("repo", metavar="REPO", help="repository, such as fishaudio/s2-pro")
    add_hub(download)


def _command(
    commands: Commands, name: str, help_: str, description: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=help_, description=description, epilog=epilog)
