"""Steps a policy beside a running loader: a look every second, a change where something is to be gained.

It runs on a thread of its own from an epoch's first batch to its last, and knows plans and signals only; what it does
changes speed, never a batch. What goes wrong in it ends tuning, with one line, and never training.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from intune_gpu.core.errors import BudgetError
from intune_gpu.core.plan import Plan
from intune_gpu.core.signals import Signals
from intune_gpu.core.threads import join_begun
from intune_gpu.tuner.decisions import DRIFTED, DecisionLog, plan_json, signals_json
from intune_gpu.tuner.guard import Guard
from intune_gpu.tuner.knobs import plan_of, plans_of, share_of, words
from intune_gpu.tuner.policy import Policy, Told
from intune_gpu.tuner.pulse import Beat, together
from intune_gpu.tuner.seen import Limits, Numbers, Seen, of_signals

JOIN_S = 2.0
"""How long the end of an epoch waits for the thread, which may be in a policy's own computing."""

_STAGES = ("read_s", "transform_s", "read_busy", "transform_busy")
_FULL = 0.9

log = logging.getLogger(__name__)


class Tuned(Protocol):
    """What can be tuned: `Loader`, or what stands for one in a test."""

    @property
    def plan(self) -> Plan:
        """In force now."""
        ...

    @property
    def limits(self) -> Limits:
        """Between what a plan may move now; a batch of one."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of features that a placement can tell apart; none without a GPU."""
        ...

    def apply(self, plan: Plan) -> None:
        """Put a plan in force, or as much of it as memory allows."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How often it looks.

    Attributes:
        span_s: seconds of a look.
        settle_s: seconds behind a change that are not looked at: what was in flight is of the plan before.
        least_rows: a look is prolonged until so many rows came, for few large batches tell little,
        longest_s: but never beyond this.
    """

    span_s: float = 0.75
    settle_s: float = 0.25
    least_rows: int = 0
    longest_s: float = 4.0

    @classmethod
    def every(cls, seconds: float, batch_size: int) -> Pace:
        """Return the pace of a step every so many seconds, over at least four batches."""
        return cls(0.75 * seconds, 0.25 * seconds, 4 * batch_size, max(4.0, seconds))


@dataclass(frozen=True, slots=True)
class Account:
    """What a tuner did in a run, for metrics and people.

    Attributes:
        name: of the policy.
        looks: that it took.
        changes: of the plan.
        plans_tried: different plans that were in force for a look.
        decisions: the file that tells each, or None.
        ended: why it stopped tuning before training was over, or None.
    """

    name: str
    looks: int
    changes: int
    plans_tried: int
    decisions: str | None
    ended: str | None


class Controller:
    """Tunes one loader.

    Args:
        target: what is tuned.
        policy: who decides.
        beat: what happened since it was last asked.
        pace: how often it looks.
        log: where its decisions go.
        seed: of the policy.
        start: whether to begin with the policy's plan; else with the one in force, which a user chose.
        clock: seconds, `time.monotonic`'s.
    """

    def __init__(
        self,
        target: Tuned,
        policy: Policy,
        beat: Beat,
        pace: Pace,
        decisions: DecisionLog,
        *,
        seed: int = 0,
        start: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target, self._policy, self._beat, self._pace, self._log = target, policy, beat, pace, decisions
        self._seed, self._start, self._clock = seed, start, clock
        self._guard = Guard(idle_is_enough=not target.groups)
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began_s: float | None = None
        self._restored: Mapping[str, Any] | None = None
        self._pending: dict[str, Any] | None = None
        self._disturbed = False
        self._away = 0
        self._looks = self._changes = 0
        self._tried: set[Plan] = set()
        self._stages: dict[str, Numbers] = {}
        self._ended: str | None = None
        self._closed = False

    # --- beside an epoch ---

    def resume(self) -> None:
        """Begin to look, on a thread: batches are being taken. Nothing happens where it looks already."""
        if self._thread is not None or self._ended is not None or self._closed:
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name="intune-tuner", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Stop looking until `resume`: no batches are taken. May be called more than once, from any thread."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is None:
            return
        join_begun(thread, JOIN_S)
        self._event("epoch ends")

    @contextmanager
    def away(self, what: str) -> Iterator[None]:
        """For as long as the trainer does something else than train: a span that meets it tells nothing."""
        self._away += 1
        self._disturbed = True
        self._event(what)
        try:
            yield
        finally:
            self._away -= 1
            self._disturbed = True

    def close(self) -> None:
        """End tuning for good, and write what is not yet written. May be called more than once."""
        self.pause()
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._settle(None)
            if self._began_s is not None and self._ended is None:
                self._log.write("end", self._now(), plan=plan_json(self._target.plan), reason="closed")
        self._beat.close()

    # --- one look ---

    def begin(self) -> None:
        """Ask the policy where to begin, unless that was done; `step` comes behind it."""
        if self._began_s is not None:
            return
        self._began_s = self._clock()
        target, limits = self._target, self._target.limits
        before = target.plan
        first = limits.clip(self._policy.begin(limits, self._seed))
        if self._restored is not None:
            self._load(self._restored)
        elif self._start:
            self._apply(plan_of(first, before, target.groups))
        self._log.write(
            "begin",
            0.0,
            tuner=self._policy.name,
            unix_s=time.time(),
            plan=plan_json(target.plan),
            words=words(target.plan, target.groups),
            groups=list(target.groups),
            limits={name: float(value[0]) for name, value in asdict(limits).items()},
        )

    def step(self, signals: Signals) -> bool:
        """Take in what happened, and decide; return whether the plan was changed.

        Raises:
            Exception: whatever the policy raises.
        """
        with self._lock:
            return self._step(signals)

    def _step(self, signals: Signals) -> bool:
        target, guard, policy = self._target, self._guard, self._policy
        now, groups, limits = target.plan, target.groups, target.limits
        self._looks += 1
        self._tried.add(now)
        self._settle(signals)
        if guard.note(now, signals.rows_per_s):
            self._event(f"{DRIFTED}: the same plan gives other rows/s than before; what was known is forgotten")
        seen = self._known(of_signals(signals, now, limits, share_of(now, groups)))
        proposed = plan_of(limits.clip(policy.next(seen)), now, groups)
        told = policy.told()
        wait = signals.exposed_wait_pct / 100.0
        verdict = guard.judge(now, proposed, signals.rows_per_s, wait, told.expected_rows_per_s)
        refused = None if verdict.plan == now else self._apply(verdict.plan)
        after = target.plan
        line = self._line(signals, told, proposed, refused or verdict.why, now)
        if after == now:
            self._log.look(self._now(), **line)
            return False
        self._changes += 1
        self._pending = {"at_s": self._now(), **line, "after": plan_json(after), "words": words(after, groups)}
        return True

    def _known(self, seen: Seen) -> Seen:
        """Return what was seen, with what a stage showed before where it finished nothing meanwhile.

        Clocks move when a thread ends its work or its wait. One that did neither stood before a full budget, or goes on
        with what it did.
        """
        stands = float(seen.fill[0]) > _FULL
        for name in _STAGES:
            now = getattr(seen, name)
            if not np.isnan(now).any():
                self._stages[name] = now
            elif name.endswith("_busy") and stands:
                self._stages[name] = np.zeros_like(now)
        known = (self._stages.get(name, getattr(seen, name)) for name in _STAGES)
        read_s, transform_s, read_busy, transform_busy = known
        return replace(seen, read_s=read_s, transform_s=transform_s, read_busy=read_busy, transform_busy=transform_busy)

    def _line(
        self, signals: Signals, told: Told, proposed: Plan, overruled: str | None, before: Plan
    ) -> dict[str, Any]:
        return {
            "rows_per_s": signals.rows_per_s,
            "wait_pct": signals.exposed_wait_pct,
            "action": told.action,
            "overruled": overruled,
            "proposed": None if proposed == before else plan_json(proposed),
            "before": plan_json(before),
            "expected_rows_per_s": told.expected_rows_per_s,
            "signals": signals_json(signals),
        }

    def _settle(self, signals: Signals | None) -> None:
        """Write the decision of the look before, with what came of it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            seen = None if signals is None else signals.rows_per_s
            before = pending["rows_per_s"]
            gain = None if seen is None or before <= 0 else 100.0 * (seen / before - 1)
            self._log.write("decision", **pending, seen_rows_per_s=seen, seen_effect_pct=gain)

    def _apply(self, plan: Plan) -> str | None:
        """Put a plan in force; return why not, where its workers do not fit the budget."""
        try:
            self._target.apply(plan)
        except BudgetError as error:
            return f"refused: {error}"
        return None

    # --- for others ---

    @property
    def account(self) -> Account:
        """What was done so far."""
        file = str(self._log.path) if self._log.lines else None
        return Account(self._policy.name, self._looks, self._changes, len(self._tried), file, self._ended)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the plan, and what the policy remembers; JSON and NumPy arrays."""
        remember = getattr(self._policy, "state", None)
        with self._lock:
            inner = remember() if remember is not None and self._began_s is not None else None
            plan = plans_of(self._target.plan, self._target.groups)
            knobs = {name: float(value[0]) for name, value in asdict(plan).items()}
            return {"tuner": self._policy.name, "knobs": knobs, "policy": inner}

    def load_state(self, state: Mapping[str, Any]) -> bool:
        """Go on from what `state` gave; return whether it is of this policy, else nothing is taken of it."""
        if state.get("tuner") != self._policy.name:
            return False
        self._restored = state
        return True

    def _load(self, state: Mapping[str, Any]) -> None:
        load = getattr(self._policy, "load_state", None)
        if load is not None and state.get("policy") is not None:
            load(state["policy"])
        target = self._target
        plans = plans_of(target.plan, target.groups)
        knobs = state["knobs"]
        for name in ("readers", "transformers", "share"):
            getattr(plans, name)[0] = knobs[name]
        self._apply(plan_of(target.limits.clip(plans), target.plan, target.groups))

    # --- its thread ---

    def _run(self, stop: threading.Event) -> None:
        try:
            with self._lock:
                self.begin()
            changed = True
            while True:
                if changed:
                    stop.wait(self._pace.settle_s)
                    self._known(of_signals(self._beat.take(), self._target.plan, self._target.limits))
                signals = self._look(stop)
                if signals is None:
                    return
                changed = self.step(signals)
        except Exception as error:  # training must not end because its tuner did
            if not stop.is_set():
                self._give_up(error)

    def _look(self, stop: threading.Event) -> Signals | None:
        """Return a span that tells something, or None when it is time to stop."""
        held: Signals | None = None
        while not stop.wait(self._pace.span_s):
            signals = self._beat.take()
            disturbed, self._disturbed = self._disturbed, self._away > 0
            if disturbed or signals.rows <= 0 or stop.is_set():
                held = None
                continue
            held = signals if held is None else together(held, signals)
            if held.rows >= self._pace.least_rows or held.span_s >= self._pace.longest_s:
                return held
        return None

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            best = self._guard.best
            try:
                self._apply(self._target.plan if best is None else best.plan)
            except Exception as again:  # it may be what failed in the first place
                error.add_note(f"and the best plan cannot be put in force: {again}")
            self._ended = f"{type(error).__name__}: {error}"
            self._settle(None)
            self._log.write("end", self._now(), plan=plan_json(self._target.plan), reason=self._ended)
        log.warning(
            "tuner %s: ended by %s; training goes on with %s", self._policy.name, self._ended, words(self._target.plan)
        )

    def _event(self, what: str) -> None:
        if self._began_s is not None and self._ended is None:
            self._log.write("event", self._now(), what=what)

    def _now(self) -> float:
        return 0.0 if self._began_s is None else self._clock() - self._began_s
