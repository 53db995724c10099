"""The log of `glm4v up`: the lines of all processes, and their progress at start."""

import sys

import typer

from glm4v.checkpoint.loading import progress_in
from glm4v.cli.screen import Screen

_COLOURS = {"redis": "red", "vision_worker": "magenta", "lm_worker": "blue", "gateway": "green"}
_NAME_WIDTH = max(map(len, _COLOURS))
# Alarming lines of other software, and their meaning here.
_EXPLAINED = {
    "Memory overcommit must be enabled": "note: if memory is low, the kernel may stop Redis from "
    "rewriting its file; vm.overcommit_memory=1 (sysctl) prevents that",
}


class Log:
    """Prints the lines of processes, each after the name of its process."""

    def __init__(self) -> None:
        self.screen = Screen(sys.stdout, sys.stderr)
        self._is_terminal = sys.stderr.isatty()
        self._progress: dict[str, str] = {}
        self._is_starting = True
        self.screen.status("starting")

    def show(self, name: str, line: str) -> None:
        """Print a line of a process. On a terminal, progress goes to the status line."""
        progress = progress_in(line)
        if progress is not None and self._is_terminal and self._is_starting:
            self._progress[name] = progress
            parts = (f"{each} {text}" for each, text in self._progress.items())
            self.screen.status(f"starting: {', '.join(parts)}")
            return
        for phrase, meaning in _EXPLAINED.items():
            line = meaning if phrase in line else line
        head = f"{name:{_NAME_WIDTH}} |"
        if self._is_terminal:
            head = typer.style(head, fg=_COLOURS.get(name.partition("-")[0], "yellow"))
        self.screen.line(f"{head} {line}")

    def ready(self, text: str) -> None:
        """Print to standard output that all processes have started."""
        self._is_starting = False
        self.screen.status(None)
        self.screen.result(text)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.screen.close()
