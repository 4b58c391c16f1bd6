"""`parley voices add`, `list` and `remove`: what a person types, and what is printed about it.

Knows recordings and the folder of voices. Does not know models: adding a voice needs none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from realtime.failure import MISUSED, CommandFailed
from realtime.recording_file import Recording, RecordingRefused, load, read
from realtime.voice_folder import NAME_RULE, NewSource, VoiceFolder, VoiceNotFound, VoiceUnusable, is_name

# Of one voice: every conversation carries it, and a second takes some 22 positions of the cache.
MAX_TOTAL_S: Final = 180.0
_SPEAKER = re.compile(r"<\|speaker:\d+\|>")
_SHOWN_CHARS: Final = 48


def open_folder(path: Path | None) -> VoiceFolder:
    """Raises CommandFailed where nobody said which, and there is no home to keep one in."""
    if path is None:
        raise CommandFailed("say which folder with --voices-dir: HOME is not set", MISUSED)
    return VoiceFolder(path)


def add(
    folder: VoiceFolder,
    name: str,
    paths: Sequence[Path],
    texts: Sequence[str],
    append: bool,
    out: TextIO,
    err: TextIO,
) -> None:
    """Check the recordings, say what could be better, and store them all, or nothing. Raises CommandFailed."""
    if len(paths) != len(texts):
        raise CommandFailed(f"{len(paths)} recordings and {len(texts)} --text; every recording needs its own", MISUSED)
    if not is_name(name):
        raise CommandFailed(VoiceUnusable(name, NAME_RULE), MISUSED)
    new, seconds = [], 0.0
    for path, text in zip(paths, texts, strict=True):
        audio, recording = _checked(path, text)
        for advice in recording.advice(text):
            print(f"parley: {path}: {advice.text}", file=err)
        seconds += recording.measures.seconds
        new.append(NewSource(audio, text.strip()))
    try:
        if append:
            seconds += sum(_seconds(folder, name))
        if seconds > MAX_TOTAL_S:
            raise CommandFailed(f"{seconds:.0f} s of recordings are more than one voice carries, {MAX_TOTAL_S:g} s")
        folder.add(name, new, append=append)
    except (VoiceNotFound, VoiceUnusable, OSError) as error:
        raise CommandFailed(error) from error
    count = len(folder.sources(name))
    recordings = f"{count} recordings" if count > 1 else "one recording"
    print(f"voice {name}: {recordings}, {seconds:.1f} s. Try: parley say --voice {name} 'Hello there.'", file=out)


def show(folder: VoiceFolder, out: TextIO) -> None:
    """A line for each recording of each voice."""
    names = folder.names()
    if not names:
        print(f"no voices in {folder.path}", file=out)
    width = max(map(len, names), default=0)
    for name in names:
        try:
            sources = folder.sources(name)
        except (VoiceNotFound, VoiceUnusable) as error:
            print(f"{name:<{width}}  {error}", file=out)
            continue
        for index, (source, seconds) in enumerate(zip(sources, _seconds(folder, name), strict=True)):
            text = source.text if len(source.text) <= _SHOWN_CHARS else source.text[: _SHOWN_CHARS - 3] + "..."
            print(f"{name if not index else '':<{width}}  {seconds:5.1f} s  {text}", file=out)


def remove(folder: VoiceFolder, names: Sequence[str], out: TextIO) -> None:
    """Delete them all, or, if one does not exist, none. Raises CommandFailed."""
    try:
        for name in names:
            folder.version(name)
        for name in dict.fromkeys(names):
            folder.remove(name)
            print(f"voice {name} is removed", file=out)
    except (VoiceNotFound, OSError) as error:
        raise CommandFailed(error) from error


def _checked(path: Path, text: str) -> tuple[bytes, Recording]:
    if not _SPEAKER.sub("", text).strip():
        raise CommandFailed(f"the transcript of {path} is empty: --text says what is said in it, word for word")
    try:
        audio = load(path)
        return audio, read(audio)
    except RecordingRefused as error:
        raise CommandFailed(f"{path} {error}") from error


def _seconds(folder: VoiceFolder, name: str) -> list[float]:
    """How long each recording of a voice is; 0 for one that is gone."""
    import soundfile

    found = []
    for source in folder.sources(name):
        try:
            found.append(float(soundfile.info(str(folder.recording(source.recording))).duration))
        except (OSError, soundfile.SoundFileError):
            found.append(0.0)
    return found
