"""The stages of deploy/Dockerfile, and what each inherits."""

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: the stage or image it starts from, and its instructions."""

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """All stages by name; continued lines are joined, and comments left out."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[str, Stage] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            parent, _, name = rest.partition(" AS ")
            found[name] = Stage(name, parent)
        elif found:
            found[list(found)[-1]].instructions.append((instruction, " ".join(rest.split())))
    return found


def lineage(target: str) -> list[Stage]:
    """The stage and those that it starts from, the oldest last."""
    known = stages(DOCKERFILE.read_text(encoding="utf-8"))
    found = [known[target]]
    while found[-1].parent in known:
        found.append(known[found[-1].parent])
    return found


def setting(target: str, instruction: str) -> str:
    """The last value of an instruction such as USER, inherited ones included."""
    for stage in lineage(target):
        values = [value for name, value in stage.instructions if name == instruction]
        if values:
            return values[-1]
    raise KeyError(f"{target} has no {instruction}")


def copied_stages(target: str) -> set[str]:
    """The stages that files of a target come from."""
    copies = [
        value for stage in lineage(target) for name, value in stage.instructions if name == "COPY"
    ]
    return {
        copy.split()[0].removeprefix("--from=") for copy in copies if copy.startswith("--from=")
    }
