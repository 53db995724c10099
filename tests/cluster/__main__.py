"""Tries the chart on a cluster: `python -m tests.cluster [--values FILE]`, for `make test-cluster`.

Uses the cluster of KUBECONFIG. Makes a namespace, and removes it. Prints one line for each check,
and exits with 1 if one failed.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from tests.cluster.checks import CHECKS, Check, Failed
from tests.cluster.release import CommandFailed, Release


async def run(values: list[Path], context: str) -> bool:
    """Run the checks in their order; whether all passed."""
    release = Release(values, context)
    rows: list[tuple[str, str, str]] = []
    try:
        for name, check in CHECKS.items():
            rows.append((name, *await outcome(release, check)))
            sys.stdout.write("  ".join(rows[-1]) + "\n")
            if name == "install" and rows[-1][1] != "passed":
                break
    finally:
        rows.append(("remove", *await outcome(release, remove)))
    width = max(len(name) for name, _, _ in rows)
    sys.stdout.write("\n")
    for name, result, what in rows:
        sys.stdout.write(f"{name:<{width}}  {result:<7}  {what}\n")
    return all(result != "failed" for _, result, _ in rows)


async def outcome(release: Release, check: Check) -> tuple[str, str]:
    """How a check ended, and what it saw."""
    try:
        return "passed", await check(release)
    except CommandFailed as error:
        return "failed", str(error)
    except Failed as error:
        return ("skipped" if error.is_for_want else "failed"), str(error)


async def remove(release: Release) -> str:
    """Remove the namespace, whatever was left in it."""
    await release.remove()
    return release.namespace


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=Path, action="append", default=[])
    parser.add_argument("--context", default="", help="of KUBECONFIG")
    arguments = parser.parse_args()
    sys.exit(not asyncio.run(run(arguments.values, arguments.context)))
