"""`python -m engine.evaluate.figures FIGURES.json README.md`: put an evaluation into the table that people read.

FIGURES.json is what --json-out wrote. Knows which figures the table has, what they are called there, and the two comments between which it
stands. Does not measure. Figures of the mini are refused where the mini has got other weights since.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from engine.evaluate.weights import weights_sha256
from engine.hub import MINI, resolve

BEGIN, END = "<!-- figures of engine.evaluate: begin -->", "<!-- figures of engine.evaluate: end -->"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table. Of several figures the worst is shown."""

    keys: str  # of the figures; * stands for anything
    title: str
    at_most: bool = False  # less is better


LINES = (
    Line("phoneme_error_rate", "phoneme error rate", True),
    Line("phoneme_error_rate_speakers", "phoneme error rate of eight speakers", True),
    Line("german_phoneme_error_rate", "phoneme error rate, German", True),
    Line("retrieval_top1", "of all sentences the teacher's rendering of the right one is nearest"),
    Line("duration_in_range", "lasts 0.6 to 1.6 times as long as the teacher"),
    Line("opening_duration_in_range", "so do its first 3 to 12 words alone, cut off in mid-sentence"),
    Line("last_word_recognised", "last word recognised"),
    Line("cut_phoneme_error_rate", "phoneme error rate of sentences cut there", True),
    Line("unknown_tags_not_spoken", "an unknown tag is not read out"),
    Line("tag_*", "a tag moves its quantity the right way (the weakest of {count} tags)"),
    Line("neighbour_*", "so do wordings it was never trained on (the weakest of {count})"),
    Line("middle_tag", "a tag in the middle acts from there on, not before"),
    Line("speaker_accuracy", "the right one of eight `<\\|speaker:i\\|>`"),
    Line("dialogue_speaker", "two speakers in one turn: each line in its own voice"),
    Line("dialogue_tags", "two speakers in one turn: each keeps its own tags"),
    Line("clone", "a clone is nearer to its recording than to the eight"),
    Line("clone_two_speakers", "both speakers of one recording are served"),
    Line("carried", "an untagged second turn keeps the first one's style"),
    Line("carried_by_codes_alone", "... where no text names the style"),
    Line("carried_after_cut", "... after a barge-in cut the first turn"),
    Line("fresh_does_not", "no style in a fresh conversation"),
    Line("deleted_codes_do_not", "no style once the first turn's codes are deleted"),
    Line("never_heard_does_not", "no style that was never heard"),
)


class FiguresError(Exception):
    """A file is not what it should be; the text is one line."""


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engine.evaluate.figures", description=__doc__)
    parser.add_argument("figures", type=Path, metavar="FIGURES.json", help="what --json-out wrote")
    parser.add_argument("document", type=Path, metavar="README.md", help="a text with the two comments; it is changed")
    options = parser.parse_args(arguments)
    try:
        found = json.loads(options.figures.read_text(encoding="utf-8"))
        table = markdown(found)
        check_weights(found)
        text = exchanged(options.document.read_text(encoding="utf-8"), table)
        options.document.write_text(text, encoding="utf-8")
    except (OSError, ValueError, FiguresError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def markdown(found: dict[str, Any]) -> str:
    """The table, and a sentence that says how it came about. Raises FiguresError for figures of a partial run."""
    if not {"failed", "targets", "teacher", "conditions"} <= found.keys():
        raise FiguresError("these are no figures of engine.evaluate")
    lines = ["| | model | wanted | teacher |", "|---|---|---|---|", *[_line(line, found) for line in LINES]]
    about, targets = found["conditions"], len(found["targets"])
    if about["quick"]:
        raise FiguresError("these are the figures of a quick run")
    lines += [
        "",
        f"{targets - len(found['failed'])} of {targets} targets reached (bold: not). `python -m engine.evaluate {about['checkpoint']}`, "
        f"{about['date']}, {about['sentences']} sentences, {about['device']}, {about['dtype']}, seed {about['seed']}, "
        f"temperature {about['temperature']}, top_p {about['top_p']}, {about['seconds'] / 60:.0f} minutes.",
    ]
    return "\n".join(lines)


def check_weights(found: dict[str, Any]) -> None:
    """Raises FiguresError for figures of a mini that is not the one in this package. Where other checkpoints are is not known."""
    about = found["conditions"]
    if about["checkpoint"] != MINI:
        return
    measured, here = about.get("weights"), weights_sha256(resolve(MINI).folder)
    if measured != here:
        said = "unnamed weights" if measured is None else f"the weights {measured[:12]}"
        raise FiguresError(f"these are figures of {said}; the mini now has {here[:12]}: run `make evaluate`")


def _line(line: Line, found: dict[str, Any]) -> str:
    keys = [key for key in found if fnmatchcase(key, line.keys) and isinstance(found[key], float)]
    if not keys:
        raise FiguresError(f"there is no figure {line.keys}; was it a run with --only?")
    worst = (max if line.at_most else min)(keys, key=lambda key: float(found[key]))
    value, target, teacher = found[worst], found["targets"].get(worst), found["teacher"].get(worst)
    shown = f"**{value:.3f}**" if worst in found["failed"] else f"{value:.3f}"
    wanted = "" if target is None else f"{'at most' if line.at_most else 'at least'} {f'{target:.3f}'.rstrip('0')}"
    return (
        f"| {line.title.format(count=len(keys))} | {shown} | {wanted} | {'' if teacher is None else f'{teacher:.3f}'} |"
    )


def exchanged(text: str, table: str) -> str:
    """The text with `table` between the comments. Raises FiguresError where they do not stand there once, in their order."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in tail or END in head + tail:
        raise FiguresError(f"the text does not hold {BEGIN} and {END} once, in this order")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


if __name__ == "__main__":
    sys.exit(main())
