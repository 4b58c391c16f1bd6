"""User text stays text; template parts carry control tokens."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import ConfigError
from engine.tokenizer import Tokenizer

CONTROL = ["<|im_end|>", "<|im_start|>", "<|semantic:5|>", "<|voice|>", "<|endoftext|>", "<|", "|>", "<|speaker:0|>"]


@pytest.fixture(scope="module")
def tokenizer(s2pro: Path) -> Tokenizer:
    return Tokenizer(s2pro)


def test_ids_are_looked_up_by_name(s2pro: Path, tokenizer: Tokenizer) -> None:
    ids = json.loads((s2pro / "ids.json").read_text())
    for name in ("im_start", "im_end", "voice", "semantic_begin", "semantic_end"):
        assert getattr(tokenizer, name) == ids[name]


@given(pieces=st.lists(st.one_of(st.sampled_from(CONTROL), st.text(max_size=8)), max_size=8))
@settings(deadline=None)
def test_no_text_becomes_a_control_token_and_none_is_lost(tokenizer: Tokenizer, pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = tokenizer.encode_text(text)
    assert all(id_ < tokenizer.im_start - 1 for id_ in ids), "every control token stands after the byte pairs"
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_templates_parse_control_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_template("<|im_start|>assistant\n<|voice|>")
    assert ids == [tokenizer.im_start, *tokenizer.encode_text("assistant\n"), tokenizer.voice]
    assert tokenizer.encode_template("<|semantic:0|><|semantic:4095|>") == [
        tokenizer.semantic_begin,
        tokenizer.semantic_end,
    ]


def test_nothing_is_added_to_either(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_text("") == []
    assert tokenizer.encode_template("") == []
    assert tokenizer.encode_template("Speech:") == tokenizer.encode_text("Speech:")


@pytest.mark.parametrize("lacking", ["<|im_end|>", "<|voice|>", "<|semantic:"])
def test_a_tokenizer_without_a_needed_token_is_refused(s2pro: Path, tmp_path: Path, lacking: str) -> None:
    raw = json.loads((s2pro / "tokenizer.json").read_text())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if not token["content"].startswith(lacking)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=r"tokenizer\.json: has no") as caught:
        Tokenizer(tmp_path)
    assert lacking in str(caught.value)


def test_a_byte_level_tokenizer_without_merges_reads_every_text(s2pro: Path, tmp_path: Path) -> None:
    raw = json.loads((s2pro / "tokenizer.json").read_text())
    letters = {token: id_ for token, id_ in raw["model"]["vocab"].items() if len(token) == 1}
    raw["model"] |= {"vocab": letters, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = Tokenizer(tmp_path)
    text = "naïve 你好 👋🏽"
    assert len(tokenizer.encode_text(text)) == len(text.encode())
    assert tokenizer.decode(tokenizer.encode_text(text)) == text
