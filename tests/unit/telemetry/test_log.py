"""A record is one line of the log, whatever text from outside is in it."""

import logging
import subprocess
import sys

SCRIPT = """
import logging
from glm4v.telemetry.log import end_log, start_log
start_log("info")
log = logging.getLogger("some.module")
log.info("request=%s refused: %s", "r", chr(10).join(["no", "2026-01-01 00:00:00,000 INFO forged"]))
log.info("said %s", "\\x1b[31mred\\x9b\\u2028 请求 \\t.")
try:
    raise ValueError("why")
except ValueError:
    log.exception("failed")
end_log()
"""


def test_text_from_outside_begins_no_line_and_commands_no_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, text=True, check=True, timeout=30
    )
    first, second, *others = done.stderr.splitlines()
    assert first.endswith(
        r" INFO some.module request=r refused: no\n2026-01-01 00:00:00,000 INFO forged"
    )
    assert second.endswith(r"INFO some.module said \x1b[31mred\x9b\u2028 请求 \t.")
    assert others[0].endswith(f"{logging.getLevelName(logging.ERROR)} some.module failed")
    assert others[1] == "Traceback (most recent call last):"
    assert others[-1] == "ValueError: why"
