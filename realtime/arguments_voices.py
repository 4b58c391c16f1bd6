"""The command line of `parley voices`, in the words of its `--help`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from realtime.argument_groups import Commands, add_model, add_sampling, at_least_one
from realtime.settings import VOICES_FOLDER

VOICES_DIR: Final = f"PARLEY_VOICES_DIR, else {VOICES_FOLDER}"
TAKES: Final = 4


def add_voices(commands: Commands) -> None:
    """`parley voices` and what comes behind it; the name of that is in `voices_command`."""
    voices = commands.add_parser(
        "voices",
        help="add, make, list and remove voices",
        description="The voices that a server speaks with, besides the model's own: made of recordings, or invented. They lie in a folder "
        "that a server reads while it runs. Use a voice of somebody else only with their consent.",
    )
    actions = voices.add_subparsers(dest="voices_command", required=True, metavar="ACTION")
    _add_add(actions)
    _add_create(actions)
    _add_list(actions)
    _add_remove(actions)


def _add_add(actions: Commands) -> None:
    add = actions.add_parser(
        "add",
        help="make a voice of recordings",
        description="Make a voice of one or more recordings of 3 to 60 seconds, best 10 to 30, each with its exact transcript, and say "
        "what is wrong with them. Needs no server and no model: a server encodes a recording when it first sees it.",
        epilog="Several speakers in one voice: each recording is the next one of <|speaker:0|>, <|speaker:1|>, ..., in their order; or "
        "write these tokens into the transcript of a recording in which several people speak, where each begins.",
    )
    add.add_argument("name", metavar="NAME", help="letters, digits, - and _; a voice of that name is replaced")
    add.add_argument(
        "recordings",
        nargs="+",
        type=Path,
        metavar="RECORDING",
        help="sound file (WAV, FLAC, AIFF, MP3, Ogg); channels are mixed",
    )
    add.add_argument(
        "--text",
        action="append",
        required=True,
        metavar="TEXT",
        help="what is said in the recording, word for word; once for each recording, in their order, behind them",
    )
    add.add_argument("--append", action="store_true", help="keep what the voice has, and add these recordings to it")
    _add_folder(add)


def _add_create(actions: Commands) -> None:
    create = actions.add_parser(
        "create",
        help="invent a voice",
        description="Have the model speak a text in a style several times, each time otherwise; listen to these takes and keep one. "
        "It becomes the reference of the voice as the model made it, without another encoding.",
        epilog="Asks which take to keep where a person sits at a terminal. Elsewhere: render them, listen to the files, and run the same "
        "command again with --keep N, which makes that take alone and keeps it.",
    )
    create.add_argument("name", metavar="NAME", help="letters, digits, - and _; a voice of that name is replaced")
    create.add_argument(
        "--style", required=True, metavar="TAG", help="how the voice is, such as '[deep gravelly voice]'"
    )
    create.add_argument(
        "--text", metavar="TEXT", help="what the takes say, best 10 to 30 seconds (default: some English sentences)"
    )
    create.add_argument(
        "--takes", type=at_least_one, default=TAKES, metavar="N", help="how many to make (default: %(default)s)"
    )
    create.add_argument("--keep", type=at_least_one, metavar="N", help="keep this take, and ask nothing")
    create.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where the takes are written, as NAME-1.wav and so on (default: .)",
    )
    create.add_argument("--no-play", action="store_false", dest="play", help="do not play the takes")
    add_sampling(create, frames=False)
    _add_folder(create)
    add_model(create)


def _add_list(actions: Commands) -> None:
    list_ = actions.add_parser(
        "list", help="list the voices", description="List the voices of the folder, with their recordings."
    )
    _add_folder(list_)


def _add_remove(actions: Commands) -> None:
    remove = actions.add_parser(
        "remove",
        help="delete voices",
        description="Delete voices, with their recordings and whatever was made of them. A turn that speaks with one goes on to its end.",
    )
    remove.add_argument("names", nargs="+", metavar="NAME", help="voice to delete")
    _add_folder(remove)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--voices-dir", type=Path, metavar="DIR", help=f"folder of voices (default: {VOICES_DIR})")
