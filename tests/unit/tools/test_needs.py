"""What happens to tests whose needs are not met, and to every other skip."""

import pytest

from tests import needs

pytest_plugins = ["pytester"]

ABSENT = needs.Need("an absent program", lambda: False, ("absent",), "absent --start")
PRESENT = needs.Need("a present program", lambda: True)
NO_DEVICE = needs.Need("a device", lambda: False, otherwise="buy one", can_be_installed=False)

TESTS = """
import pytest

@pytest.fixture
def started():
    raise AssertionError("a fixture of a test that cannot run")

@pytest.mark.needs_absent
def test_absent(started):
    raise AssertionError("a test that cannot run")

@pytest.mark.needs_present
def test_present():
    pass

@pytest.mark.needs_device
def test_device():
    raise AssertionError("a test that cannot run")

@pytest.mark.parametrize(
    "case", ["one", pytest.param("two", marks=pytest.mark.needs_absent)]
)
def test_cases(case):
    assert case == "one"

@pytest.mark.xfail(strict=True)
def test_known_fault():
    raise ValueError
"""


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with these needs alone."""
    entries = {"needs_absent": ABSENT, "needs_present": PRESENT, "needs_device": NO_DEVICE}
    monkeypatch.setattr(needs, "NEEDS", entries)
    pytester.makeini(
        "[pytest]\naddopts = --strict-markers -p tests.needs -p no:asyncio -p no:xdist -ra"
    )


def test_what_is_missing_is_skipped_and_said(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    done = pytester.runpytest()
    done.assert_outcomes(passed=2, skipped=3, xfailed=1)
    said = "needs an absent program: apt-get install absent, then absent --start"
    done.stdout.fnmatch_lines(
        [f"SKIPPED [[]2] *: {said}", "SKIPPED [[]1] *: needs a device: buy one"]
    )


def test_without_skips_only_what_cannot_be_installed_may_be_missing(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(TESTS)
    done = pytester.runpytest("--no-skips")
    done.assert_outcomes(passed=2, failed=0, errors=2, skipped=1, xfailed=1)
    done.stdout.fnmatch_lines(["*no test may be skipped here. *apt-get install absent*"])


def test_no_other_skip_passes_either(pytester: pytest.Pytester) -> None:
    others = {
        "test_call": "def test_it(): pytest.skip('why')",
        "test_mark": "@pytest.mark.skip(reason='why')\ndef test_it(): pass",
        "test_condition": "@pytest.mark.skipif(True, reason='why')\ndef test_it(): pass",
        "test_fixture": "@pytest.fixture\ndef f(): pytest.skip('why')\ndef test_it(f): pass",
        "test_import": "pytest.importorskip('absent_module', reason='why')",
        "test_module": "pytest.skip('why', allow_module_level=True)",
    }
    pytester.makepyfile(**{name: f"import pytest\n{test}" for name, test in others.items()})
    assert pytester.runpytest().parseoutcomes() == {"skipped": 6}
    done = pytester.runpytest("--no-skips", "--continue-on-collection-errors")
    assert done.parseoutcomes() == {"failed": 1, "errors": 5}
    assert done.stdout.str().count("no test may be skipped here. ") >= 6


def test_an_unknown_need_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.needs_absnet\ndef test_it(): pass")
    pytester.runpytest().assert_outcomes(errors=1)
