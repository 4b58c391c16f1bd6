"""Finding tags and speaker tokens in pieces of text, and what they do."""

from __future__ import annotations

import pytest
from hypothesis import given

from protocol.config import TagMode
from realtime.tags import (
    MAX_TAG_CHARS,
    Delivery,
    Lexer,
    SpeakerToken,
    Tag,
    TagKind,
    Text,
    Token,
    engine_text,
    lex,
    tag_kind,
    tag_name,
)
from tests.realtime.texts import cut_lists, texts

PERFORM, LITERAL, STRIP = TagMode.PERFORM, TagMode.LITERAL, TagMode.STRIP


def joined(tokens: list[Token]) -> list[Token]:
    """Neighbouring text runs as one."""
    found: list[Token] = []
    for token in tokens:
        if found and isinstance(token, Text) and isinstance(found[-1], Text):
            found[-1] = Text(found[-1].start, found[-1].raw + token.raw)
        else:
            found.append(token)
    return found


def shown(text: str, mode: TagMode = PERFORM) -> list[str]:
    """Tokens as T:text, [name], <index>."""
    names = []
    for token in joined(lex(text, mode)):
        match token:
            case Text():
                names.append("T:" + token.raw)
            case Tag():
                names.append(f"[{token.name}]")
            case SpeakerToken():
                names.append(f"<{token.speaker}>")
    return names


def engine(text: str, mode: TagMode, state: Delivery | None = None) -> str:
    tokens = lex(text, mode)
    return engine_text((state or Delivery()).prefix(tokens, mode), tokens, mode)


@given(texts, cut_lists)
def test_tokens_do_not_depend_on_the_pieces_and_cover_the_text(text: str, cuts: list[int]) -> None:
    for mode in TagMode:
        lexer, tokens = Lexer(mode), list[Token]()
        ends = sorted({cut % (len(text) + 1) for cut in cuts} | {len(text)})
        for start, end in zip([0, *ends], ends, strict=False):
            tokens += lexer.feed(text[start:end])
        tokens += lexer.finish()
        whole = Lexer(mode)
        assert joined(tokens) == joined(whole.feed(text) + whole.finish())
        assert "".join(token.raw for token in tokens) == text
        assert all(text.startswith(token.raw, token.start) for token in tokens)


def test_tags_and_speaker_tokens_are_found_between_text() -> None:
    assert shown("Hi<|speaker:1|>[Soft  Laugh] you") == ["T:Hi", "<1>", "[soft laugh]", "T: you"]


@pytest.mark.parametrize("text", ["a [b", "[laug", "<", "<|spea", "<|speaker:", "<|speaker:12", "<|speaker:12|"])
def test_an_unfinished_tag_or_token_is_not_yet_known(text: str) -> None:
    lexer = Lexer(PERFORM)
    known = "".join(token.raw for token in lexer.feed(text))
    assert known + lexer.held == text
    assert lexer.held.startswith(("[", "<"))
    assert lexer.finish() == [Text(len(known), text[len(known) :])]


@pytest.mark.parametrize(
    "text",
    [
        "<|im_end|>",
        "<|speaker:x|>",
        "<|speaker:|>",
        "<|speaker:12345|>",
        "< |speaker:1|>",
        "[1]",
        "[ ]",
        "[x]",
        "[]",
        "a]",
        "[a\nbc]",
        "[ab<cd]",
    ],
)
def test_what_only_looks_like_a_tag_is_text(text: str) -> None:
    assert shown(text) == ["T:" + text]


def test_a_bracket_stops_being_a_tag_when_it_is_not_closed_in_time() -> None:
    lexer = Lexer(PERFORM)
    assert lexer.feed("[" + "a" * MAX_TAG_CHARS) == []
    assert lexer.feed("b") == [Text(0, "[" + "a" * MAX_TAG_CHARS + "b")]
    assert shown("[" + "a" * MAX_TAG_CHARS + "]") == ["[" + "a" * MAX_TAG_CHARS + "]"]


@pytest.mark.parametrize("end", ["\n", "[", "<", "\u2028"])
def test_a_bracket_stops_being_a_tag_at_a_character_that_no_tag_has(end: str) -> None:
    lexer = Lexer(PERFORM)
    lexer.feed("[abc")
    assert "".join(token.raw for token in lexer.feed(end)).startswith("[abc")


def test_a_second_bracket_begins_anew() -> None:
    assert shown("[[laugh]") == ["T:[", "[laugh]"]
    assert shown("<<|speaker:3|>") == ["T:<", "<3>"]


def test_literal_brackets_are_text_and_speaker_tokens_still_act() -> None:
    assert shown("[laugh]<|speaker:2|>[", LITERAL) == ["T:[laugh]", "<2>", "T:["]


def test_a_markdown_link_is_text() -> None:
    assert shown("see [the page](https://x.org) and [whisper] (softly)") == [
        "T:see [the page](https://x.org) and ",
        "[whisper]",
        "T: (softly)",
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pause", TagKind.SOUND),
        ("long pause", TagKind.SOUND),
        ("pause: 500ms", TagKind.SOUND),
        ("laugh", TagKind.SOUND),
        ("laughs softly", TagKind.SOUND),
        ("sigh", TagKind.SOUND),
        ("inhale", TagKind.SOUND),
        ("coughs", TagKind.SOUND),
        ("clearing throat", TagKind.SOUND),
        ("笑", TagKind.SOUND),
        ("laughing tone", TagKind.STYLE),
        ("breathy voice", TagKind.STYLE),
        ("whisper", TagKind.STYLE),
        ("pitch up", TagKind.STYLE),
        ("emphasis", TagKind.ACCENT),
        ("normal", TagKind.NORMAL),
    ],
)
def test_a_tags_name_says_what_it_does(name: str, kind: TagKind) -> None:
    assert tag_kind(name) is kind


def test_names_are_compared_without_case_underscores_and_doubled_spaces() -> None:
    assert tag_name(" Long_PAUSE ") == tag_name("long   pause") == "long pause"


def test_a_style_holds_until_the_next_style_normal_or_another_speaker() -> None:
    style = Delivery().after(lex("[sad] a [laugh] b [emphasis]", PERFORM))
    assert style == Delivery(None, "[sad]")
    assert style.after(lex("[happy]", PERFORM)).style == "[happy]"
    assert style.after(lex("[Normal]", PERFORM)).style is None
    assert style.after(lex("<|speaker:1|>", PERFORM)) == Delivery(1)


def test_the_speaker_in_force_named_again_keeps_the_style() -> None:
    assert Delivery(1, "[sad]").after(lex("<|speaker:1|>hi", PERFORM)) == Delivery(1, "[sad]")


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("hello", "<|speaker:1|>[sad] hello"),
        (" hello ", "<|speaker:1|>[sad] hello"),
        ("[happy] hello", "<|speaker:1|>[happy] hello"),
        ("[normal] hello", "<|speaker:1|>[normal] hello"),
        ("[laugh] hello", "<|speaker:1|>[sad] [laugh] hello"),
        ("[laugh] [happy] hello", "<|speaker:1|>[sad] [laugh] [happy] hello"),
        ("<|speaker:2|>hello", "<|speaker:2|>hello"),
        ("<|speaker:2|>[happy] hello", "<|speaker:2|>[happy] hello"),
        ("<|speaker:1|>hello", "<|speaker:1|>[sad] hello"),
        ("a <|speaker:2|>hello", "<|speaker:1|>[sad] a <|speaker:2|>hello"),
    ],
)
def test_speaker_and_style_in_force_are_put_in_front_unless_the_text_begins_with_its_own(
    text: str, spoken: str
) -> None:
    assert engine(text, PERFORM, Delivery(1, "[sad]")) == spoken


def test_text_before_the_first_speaker_token_gets_no_speaker() -> None:
    assert engine("hello <|speaker:0|>you", PERFORM) == "hello <|speaker:0|>you"


def test_stripped_tags_leave_no_trace_and_no_doubled_space() -> None:
    assert engine("Well, [sad] I [laugh][pause] see[sigh]. [x]", STRIP) == "Well, I see. (x)"
    assert engine("[sad] hi", STRIP, Delivery(1, "[happy]")) == "<|speaker:1|>hi"


def test_literal_brackets_reach_the_engine_as_parentheses() -> None:
    assert engine("<|speaker:1|>see [laugh] there", LITERAL, Delivery(0)) == "<|speaker:1|>see (laugh) there"


def test_brackets_that_are_no_tag_never_reach_the_engine() -> None:
    assert engine("[1] [sad] see [the page](x) [", PERFORM) == "(1) [sad] see (the page)(x) ("


@given(texts)
def test_what_the_engine_gets_has_brackets_only_around_tags(text: str) -> None:
    for mode in TagMode:
        tags = [token.raw for token in lex(text, mode) if isinstance(token, Tag)] if mode is PERFORM else []
        assert engine(text, mode).count("[") == len(tags)
