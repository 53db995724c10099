"""Regular expressions of ECMA-262, as JSON schemas have them, in the syntax of Rust's regex crate.

Where the two read the same text differently it is rewritten, or refused with what to write.
"""

from collections.abc import Iterator

from glm4v.errors import InvalidRequest
from glm4v.json_schema.refusal import Place, refusal, shown

# ECMA-262, WhiteSpace and LineTerminator. Rust's \s has U+0085 more and U+FEFF less.
_SPACE = r"\t\n\x0B\f\r \u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF"
_DOT = r"[^\n\r\u2028\u2029]"
_META = frozenset(r"\.+*?()|[]{}^$#&-~/")
_SAME = frozenset("dDwWtnrfv")
_HEX = frozenset("0123456789abcdefABCDEF")


def held_pattern(pattern: str, place: Place) -> str:
    """The same language for Rust. Raises InvalidRequest naming what has no counterpart."""
    return "".join(_Scanner(pattern, place).parts())


class _Scanner:
    """One reading of a pattern, from left to right."""

    def __init__(self, pattern: str, place: Place) -> None:
        self._text = pattern
        self._place = place
        self._at = 0

    def parts(self) -> Iterator[str]:
        while self._at < len(self._text):
            char = self._take()
            if char == "\\":
                yield self._escape(in_class=False)
            elif char == "[":
                yield self._class()
            elif char == "(":
                yield char + self._group()
            else:
                yield _DOT if char == "." else char

    def _take(self, count: int = 1) -> str:
        taken = self._text[self._at : self._at + count]
        self._at += count
        return taken

    def _next_is(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _refuse(self, what: str) -> InvalidRequest:
        return refusal(self._place, f"{what} at character {self._at} of {shown(self._text)}")

    def _group(self) -> str:
        if not self._next_is("?"):
            return ""
        if self._next_is("?:"):
            return self._take(2)
        if self._next_is("?<") and not self._next_is("?<=") and not self._next_is("?<!"):
            return self._take(2)
        raise self._refuse("look-around and flags are not held to: (?")

    def _class(self) -> str:
        parts = ["["]
        if self._next_is("^"):
            parts.append(self._take())
        if self._next_is("]"):
            raise self._refuse("a class without characters: []")
        while not self._next_is("]"):
            if self._next_is("[") or any(map(self._next_is, ("&&", "--", "~~"))):
                raise self._refuse(
                    f"{self._take()} in a class means something else here; write \\ before it"
                )
            char = self._take()
            if not char:
                raise self._refuse("a class without its end: [")
            parts.append(self._escape(in_class=True) if char == "\\" else char)
        parts.append(self._take())
        return "".join(parts)

    def _escape(self, *, in_class: bool) -> str:
        char = self._take()
        if char in _SAME:
            return "\\" + char
        if char == "s":
            return _SPACE if in_class else f"[{_SPACE}]"
        if char == "S" and not in_class:
            return f"[^{_SPACE}]"
        if char in ("x", "u", "p", "P"):
            return "\\" + char + self._operand(char)
        if not char or char.isalnum():
            raise self._refuse(f"\\{char} is not held to")
        return "\\" + char if char in _META else char

    def _operand(self, kind: str) -> str:
        """What follows \\x, \\u or \\p: digits, or a name in braces."""
        if kind != "x" and self._next_is("{"):
            end = self._text.find("}", self._at)
            return self._take(max(end, self._at) + 1 - self._at)
        count = {"x": 2, "u": 4}.get(kind, 0)
        digits = self._take(count)
        if not digits or len(digits) < count or not _HEX.issuperset(digits):
            raise self._refuse(f"\\{kind}{digits} is not held to")
        return digits
