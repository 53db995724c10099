"""The `glm4v` command; `main` is its entry point."""

import os
import sys

from glm4v.host.torch_environment import prepare_torch
from glm4v.process.extras import EXTRAS, what_to_install


def main() -> None:
    """Run the command, or say in one line what has to be installed for it."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its notes on lost connections are not ours
    prepare_torch()
    try:
        from glm4v.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("glm4v"):
            raise
        package = error.name.partition(".")[0]
        sys.stderr.write(f"glm4v: {what_to_install(package, EXTRAS)}\n")
        sys.exit(2)
    run()
