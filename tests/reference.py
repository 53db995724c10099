"""Where the golden outputs of the original implementation are, and the mark of their tests."""

from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"

needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(),
    reason="needs the golden outputs of the original implementation in ../shared/reference",
)
