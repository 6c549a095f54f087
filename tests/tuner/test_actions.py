"""Actions: where they lead, which may be taken, and that none leaves the limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intune_gpu.tuner.actions import ACTIONS, BEST, MODEL, STAY, allowed, chosen, outcomes
from intune_gpu.tuner.seen import Limits, Plans


def plans(readers: float, transformers: float, share: float) -> Plans:
    return Plans(np.array([float(readers)]), np.array([float(transformers)]), np.array([float(share)]))


def limits(cores: float = 8, most: float = 16, gpu: float = 1) -> Limits:
    return Limits(*(np.array([float(one)]) for one in (cores, most, most, gpu)))


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("stay", (4, 3, 0.5)),
        ("readers /2", (2, 3, 0.5)),
        ("readers /1.3", (3, 3, 0.5)),
        ("readers x1.3", (6, 3, 0.5)),
        ("readers x2", (8, 3, 0.5)),
        ("transformers x1.3", (4, 4, 0.5)),
        ("transformers /2", (4, 1, 0.5)),
        ("both x2", (8, 6, 0.5)),
        ("readers to transformers", (3, 4, 0.5)),
        ("transformers to readers", (6, 2, 0.5)),
        ("GPU share up", (4, 3, 2 / 3)),
        ("GPU share far up", (4, 3, 8 / 9)),
        ("GPU share down", (4, 3, 1 / 3)),
        ("the model's plan", (7, 7, 1.0)),
        ("the best plan seen", (5, 2, 0.0)),
    ],
)
def test_where_an_action_leads(action: str, expected: tuple[float, float, float]) -> None:
    after = outcomes(plans(4, 3, 0.5), plans(7, 7, 1.0), plans(5, 2, 0.0), limits())
    got = chosen(after, np.array([ACTIONS.index(action)]))
    assert (got.readers[0], got.transformers[0], got.share[0]) == pytest.approx(expected)


def test_the_share_reaches_both_ends_and_comes_back() -> None:
    now = plans(1, 1, 0.0)
    seen = []
    for _ in range(12):
        after = outcomes(now, now, now, limits())
        now = chosen(after, np.array([ACTIONS.index("GPU share up")]))
        seen.append(float(now.share[0]))
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx(1 / 14, abs=0.01)
    assert seen[-1] == 1.0
    down = chosen(outcomes(now, now, now, limits()), np.array([ACTIONS.index("GPU share far down")]))
    assert 0.0 < down.share[0] < 1.0


def test_without_a_gpu_no_action_touches_the_share() -> None:
    now = plans(4, 4, 0.0)
    after = outcomes(now, plans(4, 4, 1.0), now, limits(gpu=0))
    assert (after.share == 0).all()
    mask = allowed(now, after)[0]
    assert mask[STAY]
    assert not any(mask[index] for index, name in enumerate(ACTIONS) if "share" in name)
    assert not mask[MODEL]
    assert not mask[BEST]


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.integers(1, 256), st.sampled_from([0.0, 1.0]))
def test_no_action_leaves_the_limits_and_the_mask_says_what_changes(
    readers: int, transformers: int, share: float, most: int, gpu: float
) -> None:
    bounds = limits(most=most, gpu=gpu)
    now = bounds.clip(plans(readers, transformers, share))
    after = outcomes(now, plans(999, 0, 2.0), plans(-5, 1e6, -1.0), bounds)
    mask = allowed(now, after)
    for action in range(len(ACTIONS)):
        got = chosen(after, np.array([action]))
        assert got.same(bounds.clip(got)).all()
        assert float(got.readers[0]).is_integer()
        assert mask[0, action] == (action == STAY or not bool(got.same(now)[0]))
