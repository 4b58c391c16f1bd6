from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol.config import (
    FIXED_RATES,
    ConfigFields,
    Format,
    HistoryConfig,
    Limits,
    OutputConfig,
    PacingConfig,
    SamplingConfig,
    SessionConfig,
    apply,
    override,
)
from protocol.errors import ErrorCode, ProtocolError
from protocol.messages import SessionUpdate, TextAppend, TurnCancel, parse_command


def updated(config: SessionConfig, **fields: Any) -> SessionConfig:
    command = parse_command({"type": "session.update", **fields})
    assert isinstance(command, SessionUpdate)
    return apply(config, command)


def output(config: SessionConfig, **fields: Any) -> OutputConfig:
    return updated(config, audio={"output": fields}).audio.output


def refused(config: SessionConfig, **fields: Any) -> ProtocolError:
    before = config.model_dump()
    with pytest.raises(ProtocolError) as caught:
        updated(config, **fields)
    assert config.model_dump() == before
    return caught.value


def test_the_defaults_are_the_first_of_the_listed_values() -> None:
    assert SessionConfig().model_dump(mode="json") == {
        "voice": None,
        "voices": {},
        "audio": {
            "output": {"format": "opus", "rate": 48000, "frame_ms": 20, "bitrate": None},
            "transport": "binary",
        },
        "pacing": {"lead_ms": 2000, "burst_ms": 400, "clock": "ack"},
        "latency": "low",
        "speed": 1.0,
        "volume_db": 0.0,
        "normalize": True,
        "language": None,
        "lexicon": {},
        "tags": "perform",
        "alignment": "none",
        "history": {"max_s": 60.0, "max_turns": 50},
        "cut": {"snap": "word", "min_heard": 0.5},
        "sampling": {
            "temperature": 0.8,
            "top_p": 0.9,
            "top_k": 30,
            "repetition_penalty": 1.0,
            "seed": 0,
            "max_frames": 2048,
        },
        "metadata": {},
    }


def test_an_update_changes_the_given_fields_and_no_other() -> None:
    start = SessionConfig(history=HistoryConfig(max_s=40), sampling=SamplingConfig(top_k=7, seed=9))
    after = updated(start, pacing={"burst_ms": 0}, sampling={"top_k": 1}, voice="anna")
    expected = start.model_dump()
    expected["pacing"]["burst_ms"] = 0
    expected["sampling"]["top_k"] = 1
    expected["voice"] = "anna"
    assert after.model_dump() == expected
    assert type(after) is SessionConfig


def test_an_empty_update_changes_nothing() -> None:
    start = SessionConfig(voice="anna", sampling=SamplingConfig(top_k=7))
    assert updated(start) == start
    assert updated(start, audio={}, pacing={}, history={}, cut={}, sampling={}) == start


def test_null_takes_back_what_may_be_absent() -> None:
    start = updated(SessionConfig(), voice="anna", audio={"output": {"bitrate": 24_000}})
    assert updated(start, voice=None).voice is None
    assert output(start, bitrate=None).bitrate is None


def test_metadata_is_replaced_as_a_whole() -> None:
    start = updated(SessionConfig(), metadata={"a": "1", "b": "2"})
    assert updated(start, metadata={"c": "3"}).metadata == {"c": "3"}
    assert updated(start, latency="quality").metadata == {"a": "1", "b": "2"}


def test_a_token_is_no_part_of_the_configuration() -> None:
    assert "token" not in updated(SessionConfig(), token="secret").model_dump()


@pytest.mark.parametrize(("name", "rate"), FIXED_RATES.items())
def test_a_format_with_one_rate_brings_it_along(name: Format, rate: int) -> None:
    start = updated(SessionConfig(), audio={"output": {"format": "pcm_s16le", "rate": 24_000}})
    assert output(start, format=name.value).rate == rate


@pytest.mark.parametrize(("name", "rate"), FIXED_RATES.items())
def test_a_format_with_one_rate_refuses_another(name: Format, rate: int) -> None:
    assert output(SessionConfig(), format=name.value, rate=rate).rate == rate
    error = refused(SessionConfig(), audio={"output": {"format": name.value, "rate": 16_000}}, voice="anna")
    assert (error.code, error.param) == (ErrorCode.INVALID_VALUE, "audio.output.rate")
    assert "16000" in error.message and str(rate) in error.message


def test_a_rate_is_checked_against_the_format_in_effect() -> None:
    pcm = updated(SessionConfig(), audio={"output": {"format": "pcm_f32le"}})
    assert output(pcm, rate=22_050).rate == 22_050
    assert refused(SessionConfig(), audio={"output": {"rate": 22_050}}).param == "audio.output.rate"


def test_pcm_keeps_the_rate_it_finds() -> None:
    assert output(SessionConfig(), format="pcm_s16le").rate == 48_000
    mulaw = updated(SessionConfig(), audio={"output": {"format": "mulaw"}})
    assert output(mulaw, format="pcm_s16le").rate == 8_000


def test_a_bitrate_goes_with_opus_alone() -> None:
    opus = updated(SessionConfig(), audio={"output": {"bitrate": 24_000}})
    assert output(opus, format="opus").bitrate == 24_000
    assert output(opus, format="alaw").bitrate is None
    error = refused(opus, audio={"output": {"format": "pcm_s16le", "bitrate": 24_000}})
    assert (error.code, error.param) == (ErrorCode.INVALID_VALUE, "audio.output.bitrate")
    pcm = updated(SessionConfig(), audio={"output": {"format": "pcm_s16le"}})
    assert refused(pcm, audio={"output": {"bitrate": 24_000}}).param == "audio.output.bitrate"


@pytest.mark.parametrize("speaker", ["8", "01", "-1", "a", "1.0"])
def test_voices_are_keyed_by_the_numbers_of_speakers(speaker: str) -> None:
    assert updated(SessionConfig(), voices={"0": "anna", "7": "ben"}).voices == {"0": "anna", "7": "ben"}
    error = refused(SessionConfig(), voices={"0": "anna", speaker: "ben"})
    assert (error.code, error.param) == (ErrorCode.INVALID_VALUE, f"voices.{speaker}")


@pytest.mark.parametrize(
    ("word", "spoken"),
    [
        ("two words", "x"),
        ("[tag]", "x"),
        ("<|", "x"),
        ("--", "x"),
        ("word", " "),
        ("word", "[laugh]"),
        ("word", "a\nb"),
    ],
)
def test_a_lexicon_respells_words_and_does_nothing_else(word: str, spoken: str) -> None:
    assert updated(SessionConfig(), lexicon={"Köln's": "cologne is"}).lexicon == {"Köln's": "cologne is"}
    error = refused(SessionConfig(), lexicon={word: spoken})
    assert (error.code, error.param) == (ErrorCode.INVALID_VALUE, "lexicon")


def test_options_of_a_turn_lie_over_those_of_the_session() -> None:
    session = SamplingConfig(temperature=0.5, top_k=7)
    assert override(session, SamplingConfig(top_k=1, seed=3)) == SamplingConfig(temperature=0.5, top_k=1, seed=3)


parts = st.fixed_dictionaries(
    {},
    optional={
        "voice": st.none() | st.just("anna"),
        "latency": st.sampled_from(["low", "balanced", "quality"]),
        "cut": st.fixed_dictionaries({}, optional={"snap": st.just("frame"), "min_heard": st.floats(0, 1)}),
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "output": st.fixed_dictionaries(
                    {},
                    optional={
                        "format": st.sampled_from([item.value for item in Format]),
                        "rate": st.sampled_from([8_000, 24_000, 48_000]),
                        "bitrate": st.none() | st.just(24_000),
                    },
                )
            },
        ),
    },
)


@given(st.lists(parts, max_size=5))
def test_every_reachable_configuration_is_one_that_could_be_asked_for_at_once(updates: list[dict[str, Any]]) -> None:
    config = SessionConfig()
    for update in updates:
        try:
            config = updated(config, **update)
        except ProtocolError as error:
            assert error.code is ErrorCode.INVALID_VALUE
    assert updated(SessionConfig(), **config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", Limits.model_fields)
def test_a_server_cannot_raise_a_limit(name: str) -> None:
    default = Limits.model_fields[name].default
    with pytest.raises(ValidationError):
        Limits(**{name: default + 1})


def test_the_limits_of_single_fields_are_the_bounds_that_refuse() -> None:
    limits, lead, history = (
        Limits(),
        PacingConfig.model_json_schema()["properties"],
        HistoryConfig.model_json_schema()["properties"],
    )
    settings = ConfigFields.model_json_schema()["properties"]
    assert {lead["lead_ms"]["maximum"], lead["burst_ms"]["maximum"]} == {limits.lead_ms}
    assert (history["max_s"]["maximum"], history["max_turns"]["maximum"]) == (limits.history_s, limits.history_turns)
    assert SamplingConfig.model_json_schema()["properties"]["max_frames"]["maximum"] == limits.max_frames
    assert settings["voice"]["anyOf"][0]["maxLength"] == limits.id_chars
    assert settings["metadata"]["propertyNames"]["maxLength"] == limits.id_chars
    assert settings["metadata"]["maxProperties"] == limits.metadata_entries
    assert settings["metadata"]["additionalProperties"]["maxLength"] == limits.metadata_chars
    assert settings["voices"]["maxProperties"] == limits.speakers
    assert settings["lexicon"]["maxProperties"] == limits.lexicon_entries
    assert settings["lexicon"]["propertyNames"]["maxLength"] == limits.lexicon_key_chars
    assert settings["lexicon"]["additionalProperties"]["maxLength"] == limits.lexicon_value_chars
    assert TurnCancel.model_json_schema()["properties"]["played_ms"]["anyOf"][0]["maximum"] == limits.played_ms
    assert TextAppend.model_json_schema()["properties"]["text"]["maxLength"] == limits.append_chars
