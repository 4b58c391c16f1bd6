"""Read a JUnit report: list what was skipped for want of anything but a GPU, and close with one plain line of counts.

Exits with 1 where there is such a test, where a test failed or where none ran.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

# The one reason that tests/conftest.py gives when a test marked `gpu` meets a machine without one.
GPU_REASON = "needs a GPU"


def main(report: Path) -> int:
    """`report`: the file that `pytest --junitxml` wrote. Returns the exit code."""
    cases = list(ET.parse(report).getroot().iter("testcase"))
    skips = [(case, skip.get("message", "")) for case in cases for skip in case.iter("skipped")]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    wrong = [(case, reason) for case, reason in skips if reason != GPU_REASON]
    for case, reason in wrong:
        print(f"skipped, and not for want of a GPU: {case.get('classname')}.{case.get('name')}: {reason}")
    passed = len(cases) - len(failed) - len(skips)
    print(f"{passed} passed, {len(failed)} failed, {len(skips)} skipped")
    return 1 if wrong or failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
