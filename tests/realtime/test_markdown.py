"""Text of a language model as it is read aloud: what is not said, and that it does not depend on how the text came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import TagMode
from realtime.markdown import MOST_HELD, MarkdownLexer
from realtime.said import Change, ChangeKind
from realtime.tags import Tag, Text, Token, engine_text, joined
from tests.realtime.texts import cut_lists, texts

PERFORM, LITERAL, STRIP = TagMode.PERFORM, TagMode.LITERAL, TagMode.STRIP

# Marks in every neighbourhood: whatever can begin, end or break off.
PIECES = (
    *(
        "*",
        "**",
        "_",
        "__",
        "~~",
        "`",
        "``",
        "```",
        "```python\n",
        "~~~",
        "# ",
        "## ",
        "#",
        "> ",
        "- ",
        "* ",
        "+ ",
        "• ",
        "-",
    ),
    *(
        "1. ",
        "12) ",
        "3",
        "[ ] ",
        "[x] ",
        "|",
        " | ",
        "|---|",
        "---",
        "===",
        "***",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        " ",
        "  ",
        "\t",
    ),
    *(
        "[",
        "]",
        "(",
        ")",
        "](",
        "[a](b)",
        "[a b](https://x.org/a_(b) 'c')",
        "![",
        "![pic](p.png)",
        "[1]",
        "[^2]",
        "[laugh]",
    ),
    *(
        "http",
        "https://",
        "https://www.",
        "www.",
        "http://a.bc",
        "w",
        "h",
        "/x?y=z.",
        "<https://a.b>",
        "<",
        ">",
        "<br>",
        "</b>",
    ),
    *(
        "&",
        "&amp;",
        "&nb",
        "<|speaker:1|>",
        "<|",
        "\\",
        "\\*",
        "!",
        "😀",
        "👩\u200d👧",
        "1\ufe0f\u20e3",
        "🇩🇪",
        "\ufe0f",
        "→",
        "你好",
        "。",
    ),
    *("word", "a", "B", ".", ", ", ": ", "Hello", "e\u0301"),
)
marked = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map("".join),
    texts,
).map(lambda text: text.encode("utf-8", "replace").decode())  # the segmenter gives no lone surrogates


def lexed(pieces: list[str], mode: TagMode = PERFORM) -> list[Token]:
    lexer = MarkdownLexer(mode)
    tokens = [token for piece in pieces for token in lexer.feed(piece)] + lexer.finish()
    assert lexer.held == ""
    return joined(tokens)


def read(text: str, mode: TagMode = PERFORM) -> str:
    """What the engine would get for a text."""
    return engine_text("", lexed([text], mode), mode)


def changes(text: str) -> list[tuple[str, ChangeKind]]:
    lexer = MarkdownLexer(PERFORM)
    lexer.feed(text)
    lexer.finish()
    return [(text[change.start : change.end], change.kind) for change in lexer.take_changes(len(text))]


@given(marked, cut_lists, st.sampled_from(TagMode))
def test_any_cutting_of_a_text_is_read_the_same(text: str, cuts: list[int], mode: TagMode) -> None:
    whole = lexed([text], mode)
    assert lexed([*text], mode) == whole
    ends = sorted({cut % (len(text) + 1) for cut in cuts} | {len(text)})
    assert lexed([text[a:b] for a, b in zip([0, *ends], ends, strict=False)], mode) == whole


@given(marked, st.sampled_from(TagMode))
def test_every_character_stays_where_it_is(text: str, mode: TagMode) -> None:
    tokens = lexed([text], mode)
    assert "".join(token.raw for token in tokens) == text
    for token in tokens:
        assert text[token.start : token.start + len(token.raw)] == token.raw
        assert not isinstance(token, Text) or token.said is None or len(token.said) == len(token.raw)


@given(marked)
def test_changes_say_where_something_else_is_said(text: str) -> None:
    lexer = MarkdownLexer(PERFORM)
    tokens = lexer.feed(text) + lexer.finish()
    told = {at for change in lexer.take_changes(len(text)) for at in range(change.start, change.end)}
    for token in tokens:
        for at, (char, said) in enumerate(
            zip(token.raw, getattr(token, "said", None) or token.raw, strict=True), token.start
        ):
            layout = char in "\n\r" or (char.isdigit() and said[-1:] == char)
            assert at in told or said == char or layout


@given(marked)
def test_changes_taken_in_parts_are_those_taken_at_once(text: str) -> None:
    lexer = MarkdownLexer(PERFORM)
    parts: list[Change] = []
    for end, char in enumerate(text, 1):
        lexer.feed(char)
        parts += lexer.take_changes(end - len(lexer.held))
    lexer.finish()
    parts += lexer.take_changes(len(text))
    apart = {(change.kind, at) for change in parts for at in range(change.start, change.end)}
    whole = MarkdownLexer(PERFORM)
    whole.feed(text)
    whole.finish()
    assert apart == {(c.kind, at) for c in whole.take_changes(len(text)) for at in range(c.start, c.end)}


@given(marked)
def test_little_is_ever_held_back(text: str) -> None:
    lexer = MarkdownLexer(PERFORM)
    for char in text:
        lexer.feed(char)
        assert len(lexer.held) <= MOST_HELD


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("**Hello** *you*, __this__ is _it_ and ~~gone~~.", "Hello you, this is it and gone."),
        ("**un**believable", "unbelievable"),
        ("这是**重点**内容", "这是重点内容"),
        ("2 * 3 and 5*4", "2 * 3 and 5*4"),
        ("f**k, snake_case, a ~ b", "f**k, snake_case, a ~ b"),
        ("Call `arr[laugh]` and ``a ` b``.", "Call arr(laugh) and a b."),
        (r"A \*star\* and \_this\_ \[that\]", "A *star* and _this_ (that)"),
        ("# Title\n\nSome text\nwrapped here.\n", "Title. Some text wrapped here."),
        ("Setext\n======\nText", "Setext. Text"),
        ("#hashtag and # 5", "#hashtag and # 5"),
        ("Buy:\n- apples\n- [x] pears\n  * **figs**!\n\nDone", "Buy: apples. pears. figs! Done"),
        ("Steps\n1. First\n2) Second\n", "Steps. 1. First. 2) Second."),
        ("- 你好\n- 世界\n", "你好。 世界。"),
        ("-5 degrees\n+3", "-5 degrees +3"),
        ("> quoted\n> more\n\n---\nend", "quoted more. end"),
        ("| Name | Age |\n|------|----:|\n| Bob  | 5 |\n\nfine", "Name, Age. Bob, 5. fine"),
        ("left | right", "left, right"),
        ("a|b and ||", "a|b and ||"),
        ("Great! 🎉🎉 Go 👩\u200d👧 now 🇩🇪, 1\ufe0f\u20e3 👍🏽.", "Great! Go now, 1."),
        ("A → B", "A, B"),
        ("Möbius♭ ①", "Möbius♭ ①"),
        ("See [the docs](https://a.b/c_(d)?e=f 'title') now", "See the docs now"),
        ("![a picture](a.png)!", "a picture!"),
        ("[https://x.org/a](https://x.org/a)", "x.org"),
        (
            "Go to https://www.example.com/foo/bar?x=1. Or www.a-b.org/x, (http://c.de/e)",
            "Go to example.com. Or a-b.org, (c.de)",
        ),
        ("<https://x.org/a?b> and https://例え.jp", "x.org and 例え.jp"),
        ("swww.x and http", "swww.x and http"),
        ("Paris[1] is nice[2, 3].[^note]", "Paris is nice."),
        ("a<br>b, x<sup>2</sup> &amp; AT&T &lt; 5 < 6", "a b, x2 & AT&T < 5 < 6"),
        ("Use ``` here", "Use here"),
    ],
)
def test_marks_are_not_read_as_symbols(text: str, said: str) -> None:
    assert read(text) == said


@pytest.mark.parametrize("fence", ["```", "~~~", "````"])
def test_a_block_of_code_is_left_out(fence: str) -> None:
    code = f"{fence}python\nprint('a[laugh]')\n\n# no **heading**\n<|speaker:2|>\n{fence}"
    assert read(f"Look:\n{code}\nDone.") == "Look: Done."
    assert changes(f"Look:\n{code}\nDone.") == [(code, ChangeKind.CODE)]


def test_a_block_that_is_never_closed_is_left_out_to_the_end() -> None:
    assert read("Look:\n```\nx = 1\ny = 2") == "Look:"


def test_a_block_is_closed_by_as_many_marks_as_opened_it() -> None:
    assert read("````\na\n```\nb\n````\nDone.") == "Done."


@pytest.mark.parametrize("language", ["text", "Markdown", "md", "plaintext"])
def test_a_block_of_prose_is_read(language: str) -> None:
    assert read(f"```{language}\nHello *there*\n- friend\n```\nbye") == "Hello there. friend. bye"


def test_tags_and_speakers_are_still_found() -> None:
    tokens = lexed(["- **[laugh] Hi** <|speaker:1|>[sad](not a tag) `[x y]`"])
    assert [token.raw for token in tokens if not isinstance(token, Text)] == ["[laugh]", "<|speaker:1|>"]


def test_with_literal_tags_brackets_are_text_and_links_are_links() -> None:
    assert read("[laugh] [a](b)", LITERAL) == "(laugh) a"


def test_stripped_tags_leave_no_double_space() -> None:
    assert read("**a** [laugh] b", STRIP) == "a b"


def test_a_mark_is_only_added_where_a_line_has_none() -> None:
    assert read("- one,\n- two?\n- three)\n- 4\n- «five»\n- six:\n") == "one, two? three). 4. «five». six:"


def test_text_without_marks_is_left_as_it_is() -> None:
    tokens = lexed(["Plain text, with (brackets) and 5% of everything: a-b, c/d; #1."])
    assert all(isinstance(token, Text) and token.said is None for token in tokens)


def test_changes_name_what_was_changed() -> None:
    assert changes("**a** [b](c) 😀 <br>") == [
        ("**", ChangeKind.MARKS),
        ("**", ChangeKind.MARKS),
        ("[", ChangeKind.LINK),
        ("](c)", ChangeKind.LINK),
        ("😀", ChangeKind.EMOJI),
        ("<br>", ChangeKind.HTML),
    ]


def test_a_tag_is_known_once_it_cannot_be_a_link() -> None:
    lexer = MarkdownLexer(PERFORM)
    assert lexer.feed("[laugh]") == []
    assert [type(token) for token in lexer.feed(" ")] == [Tag, Text]
