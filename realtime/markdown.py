"""Text as language models write it, read as a person would: marks, links and code are seen and not said.

Knows Markdown as far as chat models use it, addresses, a few HTML tags, and emoji. Finds `[tags]` and speaker tokens on the way, as
`tags.Lexer` does, because which brackets are which is one question. Does not know numbers, segments, borders or scripts.

Every code point of the input stays where it is; a token says beside it what is spoken for it (`Text.said`): itself, nothing, a space, or a
mark that only the layout gave ("." at the end of a list's item). Text that comes in pieces is held back while the next characters may still
decide it, at most `MOST_HELD` code points, so the tokens do not depend on how the text was cut.
"""

from __future__ import annotations

import re
from typing import Final

from protocol.config import TagMode
from realtime.addresses import Addresses
from realtime.characters import Script, facts
from realtime.emoji import EMOJI_PARTS, EMOJI_RANGES, is_emoji, is_emoji_part
from realtime.said import Change, ChangeKind, SaidText
from realtime.tags import MAX_TAG_CHARS, Token, special_at, special_begun

MOST_HELD: Final = 256  # a line that only holds marks; everything else is decided sooner


_READ_FENCES: Final = frozenset({"text", "txt", "plain", "plaintext", "md", "markdown"})  # these hold prose
_FENCE = re.compile(r"(`{3,32}|~{3,32})([^`\n\r]{0,60})(?=[\n\r])")
_FENCE_BEGUN = re.compile(r"(?:`{1,32}|~{1,32})\Z|(?:`{3,32}|~{3,32})[^`\n\r]{0,60}\Z")
_FENCE_CLOSED = re.compile(r" {0,3}(`{3,32}|~{3,32})[ \t]{0,32}(?=[\n\r]|\Z)")
_FENCE_CLOSING = re.compile(r" {0,3}(?:`{0,32}|~{0,32})[ \t]{0,32}\Z")
_MARK_LINE = re.compile(rf"[-=_*:|+ \t]{{1,{MOST_HELD}}}")
_HEADING = re.compile(r"#{1,6}(?=[ \t])")
_BULLETS: Final = "-*+•‣◦▪●○·–—"
_CHECK_BOX = re.compile(r"\[[ xX]?\](?=\s)")
_CHECK_BOX_BEGUN = re.compile(r"\[[ xX]?\]?\Z")
_NUMBERED = re.compile(r"[0-9]{1,3}[.)](?=[ \t])")
_NUMBERED_BEGUN = re.compile(r"[0-9]{1,3}[.)]?\Z")
_LINK = re.compile(rf"\[[^\[\]\n]{{0,{MAX_TAG_CHARS}}}\]\(")
_LINK_BEGUN = re.compile(rf"\[[^\[\]\n]{{0,{MAX_TAG_CHARS}}}\]?\Z")
_CITATION = re.compile(r"\[\^[^\[\]\s]{1,20}\]:?|\[[0-9]{1,3}(?:[,–-] ?[0-9]{1,3}){0,5}\]")
_HTML_NAMES: Final = (
    "br|p|div|li|ul|ol|hr|h[1-6]|b|i|u|em|strong|s|del|ins|mark|small|sub|sup|span|a|code|pre|q|td|th|tr|table"
)
_HTML = re.compile(rf"</?({_HTML_NAMES})(?:\s[^<>\n]{{0,100}})?/?>", re.IGNORECASE)
_HTML_BEGUN = re.compile(
    rf"</?(?:[A-Za-z][A-Za-z0-9]{{0,7}})?\Z|</?(?:{_HTML_NAMES})(?:\s[^<>\n]{{0,100}})?/?\Z", re.IGNORECASE
)
_HTML_BREAKS: Final = frozenset({"br", "p", "div", "li", "ul", "ol", "hr", "td", "th", "tr", "table"})
_ENTITY = re.compile(r"&(amp|lt|gt|nbsp|quot|apos|#39|mdash|ndash|hellip);")
_ENTITIES: Final = {
    "amp": "&", "lt": "<", "gt": ">", "nbsp": " ", "quot": '"', "apos": "'", "#39": "'", "mdash": "—", "ndash": "–", "hellip": "…",
}  # fmt: skip
_ENTITY_BEGUN = re.compile(r"&#?[a-z0-9]{0,6}\Z")
_ESCAPED: Final = frozenset("!\"#$%&'()*+,-./:;=>?@[\\]^_`{|}~")  # not `<`: that would make text of a speaker token
_ARROWS: Final = frozenset("→⇒⟶➡➜➔")
# Where something other than plain text may begin. `h` and `w` only at the start of a word: an address.
_SPECIAL = re.compile(
    rf"[\n\r*_~`\[\]<&|!\\{''.join(_ARROWS)}{EMOJI_RANGES}{EMOJI_PARTS}]|(?<![^\W_])[hHwW](?=[tTwW]|\Z)"
)


class MarkdownLexer:
    """Cuts text that comes in pieces into tokens, as `Lexer` does, and says of each character what is spoken for it."""

    def __init__(self, mode: TagMode) -> None:
        self._mode = mode
        self._held = ""  # what is not decided
        self._text = SaidText()
        self._head = True  # of the line, only white space and list marks came
        self._item = False  # the line is a heading, an item or a row: it ends as a sentence does
        self._bullet = False  # a check box may come
        self._row = False
        self._fence = ""  # the marks that opened the block of code, "" outside
        self._fence_read = False  # it holds prose
        self._code = 0  # backticks that opened the code in the line
        self._stars = 0  # emphases that are open
        self._brackets = 0  # `[` that were no tag and are open
        self._target = 0  # parentheses that are open in the target of a link
        self._addresses = Addresses(self._text)
        self._emoji_end = -1  # behind the last picture

    @property
    def held(self) -> str:
        """The end of the input, of which it is not yet known what it is."""
        return self._held

    def take_changes(self, end: int) -> tuple[Change, ...]:
        """What was changed up to a position, each once."""
        return self._text.take_changes(end)

    def feed(self, text: str) -> list[Token]:
        """The tokens that are now known."""
        return self._read(self._held + text, final=False)

    def finish(self) -> list[Token]:
        """Nothing follows: what was held is decided."""
        return self._read(self._held, final=True)

    def _read(self, buffer: str, final: bool) -> list[Token]:
        at = 0
        while at < len(buffer):
            count = self._step(buffer, at, final)
            if count is None:
                break
            at += count
        self._held = buffer[at:]
        return self._text.take()

    def _step(self, b: str, at: int, final: bool) -> int | None:
        """Read on from a position; how many characters were read, None: what follows decides."""
        if self._fence and self._head:
            closed = self._fence_closed(b, at, final)
            if closed != 0:
                return closed
        if self._fence and not self._fence_read:
            return self._skip_code(b, at)
        if self._target and b[at] not in "\n\r":
            return self._skip_target(b[at])
        if self._addresses.open:
            count = self._addresses.read(b, at, final)
            if count != 0:
                return count
        if b[at] in "\n\r":
            return self._line_end(b, at, final)
        if self._head:
            count = self._line_head(b, at, final)
            if count != 0:
                return count
            self._head = self._bullet = False
        return self._inline(b, at, final)

    # Blocks: lines, lists, tables, code.

    def _line_end(self, b: str, at: int, final: bool) -> int | None:
        if b[at] == "\r" and at + 1 == len(b) and not final:
            return None
        raw = b[at : at + 2] if b.startswith("\r\n", at) else b[at]
        mark = self._text.missing_mark() if self._item or self._head else ""
        for index, char in enumerate(raw):
            self._text.put(char, (mark or " ") if index == 0 else "")
        self._stars = 0 if self._head else self._stars  # an empty line ends a paragraph
        self._head, self._item, self._bullet, self._row = True, False, False, False
        self._code = self._brackets = self._target = 0
        return len(raw)

    def _line_head(self, b: str, at: int, final: bool) -> int | None:
        """Marks at the start of a line; 0: there is none (any more)."""
        char = b[at]
        if self._bullet and char == "[":
            found = _CHECK_BOX.match(b, at)
            if found:
                return self._text.drop(found[0], ChangeKind.LIST)
            if not final and _CHECK_BOX_BEGUN.match(b, at):
                return None
        lone = self._mark_line(b, at, final)
        if lone != 0:
            return lone
        if char in " \t":
            return self._text.plain(char)
        if char in "`~" and not self._fence:
            return self._fence_opened(b, at, final)
        if char == "#":
            return self._heading(b, at, final)
        if char == ">":
            return self._text.drop(char, ChangeKind.MARKS)
        if char in _BULLETS:
            return self._list_mark(b, at, final)
        if char == "|":
            self._head, self._item, self._row = False, True, True
            return self._text.drop(char, ChangeKind.TABLE, self._text.missing_mark())
        if char.isdigit():
            return self._item_number(b, at, final)
        return 0

    def _mark_line(self, b: str, at: int, final: bool) -> int | None:
        """A line of marks alone: a rule, the line below a table's head, the underline of a heading. 0: it is none."""
        found = _MARK_LINE.match(b, at)
        if found is None or b[at] in " \t":
            return 0
        line = found[0]
        if found.end() == len(b) and len(line) < MOST_HELD and not final:
            return None
        ends = len(line) == MOST_HELD or found.end() == len(b) or b[found.end()] in "\n\r"
        if not ends or sum(line.count(char) for char in "-=_*") < 3:
            return 0
        return self._text.drop(line, ChangeKind.TABLE if "|" in line else ChangeKind.MARKS, self._text.missing_mark())

    def _fence_opened(self, b: str, at: int, final: bool) -> int | None:
        found = _FENCE.match(b, at) or (_FENCE_BEGUN.match(b, at) if final else None)
        if found is None:
            return None if not final and _FENCE_BEGUN.match(b, at) else 0
        line = found[0]
        marks = line[: len(line) - len(line.lstrip(line[0]))]
        if len(marks) < 3:
            return 0
        self._fence = marks
        self._fence_read = line[len(marks) :].strip().casefold() in _READ_FENCES
        self._head = False
        return self._text.drop(
            line, ChangeKind.MARKS if self._fence_read else ChangeKind.CODE, self._text.missing_mark()
        )

    def _fence_closed(self, b: str, at: int, final: bool) -> int | None:
        """The line that closes a block of code; 0: this is another one."""
        found = _FENCE_CLOSED.match(b, at)
        open_end = found is None or found.end() == len(b)
        if open_end and not final and _FENCE_CLOSING.match(b, at):
            return None
        if found is None or not found[1].startswith(self._fence):
            return 0
        kind = ChangeKind.MARKS if self._fence_read else ChangeKind.CODE
        self._fence, self._fence_read, self._head = "", False, False
        return self._text.drop(found[0], kind)

    def _skip_code(self, b: str, at: int) -> int:
        """To the end of the line."""
        end = next((i for i in range(at, len(b)) if b[i] in "\n\r"), None)
        if end == at:
            self._head = True
            return self._text.drop(b[at], ChangeKind.CODE)
        self._head = False
        return self._text.drop(b[at:end], ChangeKind.CODE)

    def _heading(self, b: str, at: int, final: bool) -> int | None:
        found = _HEADING.match(b, at)
        if found is None:
            marks = len(b) - at
            return None if not final and marks <= 6 and set(b[at:]) == {"#"} else 0
        mark = self._text.missing_mark()
        self._head, self._item = False, True
        return self._text.drop(found[0], ChangeKind.MARKS, mark)

    def _list_mark(self, b: str, at: int, final: bool) -> int | None:
        if at + 1 == len(b) and not final:
            return None
        if b[at + 1 : at + 2] not in (" ", "\t") and b[at] not in "•‣◦▪●":
            return 0
        mark = self._text.missing_mark()
        self._item = self._bullet = True
        return self._text.drop(b[at], ChangeKind.LIST, mark)

    def _item_number(self, b: str, at: int, final: bool) -> int | None:
        """The number of an item is read; the item ends as a sentence."""
        found = _NUMBERED.match(b, at)
        if found is None:
            return None if not final and _NUMBERED_BEGUN.match(b, at) else 0
        mark = self._text.missing_mark()
        self._head, self._item = False, True
        self._text.put(b[at], mark + b[at])
        return 1 + self._text.plain(found[0][1:])

    # Inside a line.

    def _inline(self, b: str, at: int, final: bool) -> int | None:
        char = b[at]
        if self._code and char not in "`<":
            end = next((i for i in range(at, len(b)) if b[i] in "`<\n\r"), len(b))
            return self._text.plain(b[at:end])
        special = _SPECIAL.search(b, at)
        if special is None or special.start() > at:
            return self._text.plain(b[at : special.start() if special else len(b)])
        if char in "*_~":
            return self._emphasis(b, at, final)
        match char:
            case "`":
                return self._backticks(b, at, final)
            case "[":
                return self._bracket(b, at, final)
            case "]":
                return self._bracket_closed(b, at, final)
            case "<":
                return self._angle(b, at, final)
            case "&":
                return self._entity(b, at, final)
            case "|":
                return self._bar(b, at, final)
            case "!":
                return self._exclamation(b, at, final)
            case "\\":
                return self._escape(b, at, final)
        if char in "hHwW":
            count = self._addresses.begin(b, at, final)
            return self._text.plain(char) if count == 0 else count
        return self._picture(char)

    def _emphasis(self, b: str, at: int, final: bool) -> int | None:
        """A run of asterisks, underlines or tildes: emphasis next to a word, text between two spaces or inside a word."""
        char = b[at]
        end = at
        while end < len(b) and b[end] == char and end - at < MAX_TAG_CHARS:
            end += 1
        if end == len(b) and not final:
            return None
        run, before, after = b[at:end], self._text.before, b[end : end + 1]
        gap_before, gap_after = not before.strip(), not after.strip()
        inside = before.isalnum() and after.isalnum()
        if char == "~" and (len(run) != 2 or (gap_before and gap_after)):
            return self._text.plain(run)
        if char == "_" and (inside or (gap_before and gap_after and len(run) < 3)):
            return self._text.plain(run)
        if char == "*":
            spaced = inside and facts(before).script is Script.SPACED and facts(after).script is Script.SPACED
            if (gap_before and gap_after and len(run) < 3) or (spaced and (before.isdigit() or not self._stars)):
                return self._text.plain(run)
            self._stars = self._stars + 1 if gap_before else max(0, self._stars - 1)
        return self._text.drop(run, ChangeKind.MARKS)

    def _backticks(self, b: str, at: int, final: bool) -> int | None:
        end = at
        while end < len(b) and b[end] == "`" and end - at < MAX_TAG_CHARS:
            end += 1
        if end == len(b) and not final:
            return None
        if not self._code:
            lone = not self._text.before.strip() and not b[end : end + 1].strip()
            self._code = 0 if lone else end - at
        elif self._code == end - at:
            self._code = 0
        return self._text.drop(b[at:end], ChangeKind.MARKS)

    def _bracket(self, b: str, at: int, final: bool) -> int | None:
        if _LINK.match(b, at):
            self._brackets += 1
            return self._text.drop("[", ChangeKind.LINK)
        if not final and _LINK_BEGUN.match(b, at):
            return None
        found = _CITATION.match(b, at)
        if found and (self._text.before.strip() or found[0][1] == "^"):
            return self._text.drop(found[0], ChangeKind.LINK)
        token = special_at(b, at, self._text.start) if self._mode is not TagMode.LITERAL else None
        if token is not None:
            return self._text.token(token)
        self._brackets += 1
        return self._text.plain("[")

    def _bracket_closed(self, b: str, at: int, final: bool) -> int | None:
        if not self._brackets:
            return self._text.plain("]")
        if at + 1 == len(b) and not final:
            return None
        self._brackets -= 1
        if b[at + 1 : at + 2] != "(":
            return self._text.plain("]")
        self._target = 1
        return self._text.drop("](", ChangeKind.LINK)

    def _skip_target(self, char: str) -> int:
        """The target of a link, up to its parenthesis or the end of the line."""
        self._target += (char == "(") - (char == ")")
        return self._text.drop(char, ChangeKind.LINK)

    def _angle(self, b: str, at: int, final: bool) -> int | None:
        token = special_at(b, at, self._text.start)
        if token is not None:
            return self._text.token(token)
        if not final and special_begun(b, at):
            return None
        if not self._code:
            address = self._addresses.begin_angle(b, at, final)
            if address != 0:
                return address
            found = _HTML.match(b, at)
            if found:
                return self._text.drop(found[0], ChangeKind.HTML, " " if found[1].casefold() in _HTML_BREAKS else "")
            if not final and _HTML_BEGUN.match(b, at):
                return None
        return self._text.plain("<")

    def _entity(self, b: str, at: int, final: bool) -> int | None:
        found = _ENTITY.match(b, at)
        if found:
            return self._text.drop(found[0], ChangeKind.HTML, _ENTITIES[found[1]])
        return None if not final and _ENTITY_BEGUN.match(b, at) else self._text.plain("&")

    def _bar(self, b: str, at: int, final: bool) -> int | None:
        """Between two cells, or two parts of a line."""
        end = at + 1
        while end < len(b) and b[end] in " \t" and end - at <= MAX_TAG_CHARS:
            end += 1
        if end == len(b) and not final:
            return None
        if not self._row and (self._text.before.strip() or end == at + 1):
            return self._text.plain("|")
        last = not b[end : end + 1].strip()
        return self._text.drop("|", ChangeKind.TABLE, "," if self._text.unmarked and not last else "")

    def _exclamation(self, b: str, at: int, final: bool) -> int | None:
        if at + 1 == len(b) and not final:
            return None
        if _LINK.match(b, at + 1):
            return self._text.drop("!", ChangeKind.LINK)
        return None if not final and _LINK_BEGUN.match(b, at + 1) else self._text.plain("!")

    def _escape(self, b: str, at: int, final: bool) -> int | None:
        if at + 1 == len(b) and not final:
            return None
        if b[at + 1 : at + 2] not in _ESCAPED:
            return self._text.plain("\\")
        self._text.drop("\\", ChangeKind.MARKS)
        return 1 + self._text.plain(b[at + 1])

    def _picture(self, char: str) -> int:
        if char in _ARROWS:
            return self._text.drop(char, ChangeKind.SYMBOL, "," if self._text.unmarked else "")
        joined = self._emoji_end == self._text.start and is_emoji_part(char)
        if is_emoji(char) or joined or char in "\ufe0f\u20e3":
            self._text.drop(char, ChangeKind.EMOJI, " ")
            self._emoji_end = self._text.start
            return 1
        return self._text.plain(char)
