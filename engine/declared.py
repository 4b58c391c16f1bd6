"""What a checkpoint's config.json says of how it wants to be used, beside its shapes. S2-Pro's says nothing of the kind.

Knows the keys and what they may hold. Does not know who heeds them.
"""

from __future__ import annotations

from pathlib import Path

from engine.config import ConfigError, read_json


def declared_scripts(folder: Path) -> tuple[str, ...] | None:
    """The scripts that a checkpoint can read aloud, as Unicode names them; None where config.json does not say, as those of S2-Pro do not.

    Raises ConfigError for anything but a list of names.
    """
    path = folder / "config.json"
    names = read_json(path).get("scripts")
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(path, f'"scripts" is {names!r}, not a list of names such as ["Latin"]')
    return tuple(names)


def declared_numbers_in_words(folder: Path) -> bool:
    """Whether a checkpoint must get numbers and symbols written out; False where config.json does not say.

    Raises ConfigError for anything but true or false.
    """
    path = folder / "config.json"
    value = read_json(path).get("numbers_in_words", False)
    if not isinstance(value, bool):
        raise ConfigError(path, f'"numbers_in_words" is {value!r}, not true or false')
    return value
