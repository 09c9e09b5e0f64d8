"""The words and signs that attributes and policies are written in: PROTOCOL.md, sections 3 and 4."""

import regex

from answers import Refused

KEYWORDS = {"and", "or", "of", "not"}
SPACE = r"\p{White_Space}+"
BARE = r"[\p{Alphabetic}\p{Nd}\p{Nl}\p{No}_\-.:/@+]+"
QUOTED = r'"(?:[^"\\\p{Cc}]|\\"|\\\\)*"'
OPERATOR = r"[=<>!]+"
PLACEHOLDER = r"\$[1-9][0-9]*"
BRACKET = r"[(),]"

TOKEN = regex.compile(
    f"(?P<space>{SPACE})|(?P<bare>{BARE})|(?P<quoted>{QUOTED})|(?P<operator>{OPERATOR})"
    f"|(?P<placeholder>{PLACEHOLDER})|(?P<sign>{BRACKET})"
)


def tokens(text: str) -> list[tuple[str, str]]:
    """Kind and text of each token: `bare`, `quoted` (without quotes and escapes), `keyword`, `operator`, `placeholder`, `sign`."""
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise Refused("Text", f"nothing begins with {text[at]!r}")
        kind, token, at = match.lastgroup, match.group(), match.end()
        if kind == "quoted":
            token = regex.sub(r"\\(.)", r"\1", token[1:-1])
        elif is_keyword(token):
            kind, token = "keyword", token.lower()
        if kind != "space":
            found.append((kind, token))
    return found


def is_keyword(token: str) -> bool:
    return token.isascii() and token.lower() in KEYWORDS


def word(text: str) -> str:
    """A word as it is printed: quoted only if it is no `bare`."""
    if regex.fullmatch(BARE, text) and not is_keyword(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Reader:
    """A place in a list of tokens."""

    def __init__(self, text: str):
        self.tokens = tokens(text)
        self.at = 0

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else ("end", "")

    def next(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def accept(self, kind: str, text: str) -> bool:
        if self.peek() == (kind, text):
            self.at += 1
            return True
        return False

    def expect(self, kind: str, text: str = "") -> None:
        if not self.accept(kind, text):
            raise Refused("Text", f"{text or kind} expected, {self.peek()[1] or 'the end'} found")

    def word(self) -> str:
        kind, text = self.next()
        if kind not in ("bare", "quoted"):
            raise Refused("Text", f"a word expected, {text or 'the end'} found")
        return text
