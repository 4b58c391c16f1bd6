"""What a checkpoint says of its own use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import engine
from engine.config import ConfigError
from engine.declared import declared_numbers_in_words, declared_scripts


def test_a_checkpoint_may_say_which_scripts_it_reads(s2pro: Path, tmp_path: Path) -> None:
    assert declared_scripts(s2pro) is None
    (tmp_path / "config.json").write_text('{"scripts": ["Latin", "Greek"]}')
    assert declared_scripts(tmp_path) == ("Latin", "Greek")


@pytest.mark.parametrize("scripts", ['"Latin"', "[]", "[1]", "{}"])
def test_scripts_that_are_no_list_of_names_are_refused(scripts: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"scripts": {scripts}}}')
    with pytest.raises(ConfigError, match="not a list of names"):
        declared_scripts(tmp_path)


def test_the_mini_reads_latin_script_alone() -> None:
    assert declared_scripts(Path(engine.__file__).parent / "mini") == ("Latin",)


def test_a_checkpoint_may_want_numbers_in_words(s2pro: Path, tmp_path: Path) -> None:
    assert declared_numbers_in_words(s2pro) is False
    for value in (True, False):
        (tmp_path / "config.json").write_text(json.dumps({"numbers_in_words": value}))
        assert declared_numbers_in_words(tmp_path) is value


@pytest.mark.parametrize("value", ['"yes"', "1", "null"])
def test_what_is_neither_true_nor_false_says_nothing_about_numbers(value: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"numbers_in_words": {value}}}')
    with pytest.raises(ConfigError, match="not true or false"):
        declared_numbers_in_words(tmp_path)
