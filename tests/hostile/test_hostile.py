"""Every hostile case, against what it has to say and keep, and against docs/hostile.md."""

from __future__ import annotations

import pytest
import torch

from tests.hostile.case import Case, fault, observe
from tests.hostile.table import CASES, PAGE, line, line_of, page


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the command sets OMP_WAIT_POLICY, which comes too late in a process that has torch


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    if not case.needs():
        pytest.skip("this machine cannot run it")
    seen = observe(case)
    assert fault(case, seen) is None
    assert line(case, seen) == line_of(case, PAGE.read_text(encoding="utf-8")), "run python -m tests.hostile"


def test_the_page_has_every_case_and_nothing_else() -> None:
    text = PAGE.read_text(encoding="utf-8")
    lines = [(case, line_of(case, text) or "") for case in CASES]
    assert text == page(lines), "run python -m tests.hostile"
    assert len({case.what for case in CASES}) == len({case.name for case in CASES}) == len(CASES) >= 60
