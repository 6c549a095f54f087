"""`python -m tests.hostile`: run every case, and write docs/hostile.md."""

from __future__ import annotations

import sys

from tests.hostile.case import fault, observe
from tests.hostile.table import CASES, PAGE, line, line_of, page


def main() -> int:
    """Write the page; return 1 where a case is not as it has to be, which leaves its line as it was."""
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    lines, faults = [], []
    for case in CASES:
        wrong = None
        text = line_of(case, before)
        if case.needs():
            seen = observe(case)
            wrong = fault(case, seen)
            text = text if wrong else line(case, seen)
        if wrong:
            faults.append(f"{case.name}: {wrong}")
        if text is not None:
            lines.append((case, text))
    PAGE.write_text(page(lines), encoding="utf-8")
    print(*faults, f"{len(lines)} of {len(CASES)} cases in {PAGE.name}", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
