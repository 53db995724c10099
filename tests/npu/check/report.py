"""The report: one page that is complete whatever fails."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class Failed(Exception):
    """A part ran and its result is wrong; the lines say what."""

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__("wrong results")
        self.lines = list(lines)


Part = Callable[[], Iterable[str]]  # Markdown, line by line


@dataclass(slots=True)
class Page:
    """Parts as they ended; the file is written again after each."""

    path: Path
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def run(self, title: str, part: Part) -> None:
        """Run a part; an error becomes its text, and the next part runs."""
        began = time.monotonic()
        try:
            lines, verdict = list(part()), "passed"
        except Failed as failed:
            lines, verdict = failed.lines, "FAILED"
        except Exception:
            lines, verdict = ["```", *traceback.format_exc().splitlines(), "```"], "FAILED"
        if verdict != "passed":
            self.failed.append(title)
        seconds = time.monotonic() - began
        self.lines += ["", f"## {title}: {verdict} ({seconds:.0f} s)", "", *lines]
        self.path.write_text("\n".join([*self._head(), *self.lines]) + "\n", encoding="utf-8")

    def _head(self) -> Iterator[str]:
        yield "# glm4v-serve on an NPU (L3)"
        yield ""
        yield f"Failed: {', '.join(self.failed) or 'nothing'}."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown."""
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(row)} |"
