"""What a tuner did, in words: from the lines of decisions.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intune_gpu.core.plan import Plan
from intune_gpu.tuner.decisions import DRIFTED, plan_from
from intune_gpu.tuner.knobs import share_of, words

Line = Mapping[str, Any]

MOST_CHANGES = 20
LAST_LOOKS = 5


@dataclass(frozen=True)
class Change:
    """One change of the plan.

    Attributes:
        at_s: seconds since tuning began.
        what: the knobs that moved.
        why: what the policy, or who overruled it, said.
        before_rows_per_s: of the look before it.
        after_rows_per_s: of the look behind it; None where training ended first.
        expected_rows_per_s: by the policy, where it says.
    """

    at_s: float
    what: str
    why: str
    before_rows_per_s: float
    after_rows_per_s: float | None
    expected_rows_per_s: float | None

    @property
    def effect(self) -> float | None:
        """Share by which rows per second changed."""
        if self.after_rows_per_s is None or self.before_rows_per_s <= 0:
            return None
        return self.after_rows_per_s / self.before_rows_per_s - 1


@dataclass(frozen=True)
class Part:
    """A run's tuning from one beginning to its end; a resumed run has several.

    Attributes:
        begin: its first line.
        looks: lines that have rates, of changes too, in the order of time.
        changes: of the plan.
        events: (seconds, what) of all else that happened.
        end: its last line, where it was ended in order.
    """

    begin: Line
    looks: tuple[Line, ...]
    changes: tuple[Change, ...]
    events: tuple[tuple[float, str], ...]
    end: Line | None

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of features that a placement can tell apart."""
        return tuple(self.begin.get("groups", ()))

    @property
    def last_plan(self) -> Plan:
        """In force at the end."""
        if self.end is not None:
            return plan_from(self.end["plan"])
        last = next((look for look in reversed(self.looks)), None)
        return plan_from(self.begin["plan"] if last is None else last.get("after", last["before"]))

    @property
    def best(self) -> tuple[Plan, float] | None:
        """The plan with the highest mean rate since things last changed, and that rate."""
        changed_s = max((at_s for at_s, what in self.events if what.startswith(DRIFTED)), default=0.0)
        rates: dict[Plan, list[float]] = {}
        for look in self.looks:
            if float(look["at_s"]) < changed_s:
                continue
            rates.setdefault(plan_from(look["before"]), []).append(_rate(look))
        means = {plan: sum(found) / len(found) for plan, found in rates.items()}
        return max(means.items(), key=lambda item: item[1], default=None)


def parts_of(lines: Sequence[Line]) -> list[Part]:
    """Return the parts that the lines of a file tell of."""
    runs: list[list[Line]] = []
    for line in lines:
        if line["kind"] == "begin":
            runs.append([])
        if runs:
            runs[-1].append(line)
    return [_part(run) for run in runs]


def sentences(part: Part) -> list[str]:
    """Return a part's story, a line each."""
    begin = part.begin
    limits = begin.get("limits", {})
    most = (
        f"at most {limits.get('max_readers', 0):.0f} readers and {limits.get('max_transformers', 0):.0f} transformers"
    )
    told = [f"{begin['tuner']} began with {begin['words']} ({limits.get('cores', 0):g} cores, {most})"]
    if not part.looks:
        return [*told, "it had no time to look: training was over, or no whole look fell between its pauses"]
    first = part.looks[0]
    told.append(f"there training took {_rate(first):,.0f} rows/s and waited {first['wait_pct'] or 0:.1f} % of the time")
    told += _happenings(part)
    told += _held(part)
    best = part.best
    if best is not None:
        since = " since" if any(what.startswith(DRIFTED) for _, what in part.events) else ""
        told.append(f"the best plan seen{since} was {words(best[0], part.groups)}: {best[1]:,.0f} rows/s on average")
    last = [_rate(look) for look in part.looks[-LAST_LOOKS:]]
    now = sum(last) / len(last)
    gain = f", {now / _rate(first) - 1:+.1%} beside the first look" if _rate(first) > 0 else ""
    told.append(f"it ended with {words(part.last_plan, part.groups)}: {now:,.0f} rows/s of late{gain}")
    if part.end is not None and part.end.get("reason") != "closed":
        told.append(f"tuning ended early, training went on: {part.end.get('reason')}")
    return told


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _part(lines: Sequence[Line]) -> Part:
    begin = lines[0]
    groups = tuple(begin.get("groups", ()))
    looks = tuple(line for line in lines if line["kind"] in ("look", "decision"))
    changes = tuple(_change(line, groups) for line in looks if line["kind"] == "decision")
    events = tuple((float(line["at_s"]), str(line.get("what"))) for line in lines if line["kind"] == "event")
    end = next((line for line in lines if line["kind"] == "end"), None)
    return Part(begin, looks, changes, events, end)


def _change(line: Line, groups: Sequence[str]) -> Change:
    before, after = plan_from(line["before"]), plan_from(line["after"])
    moved = [
        f"{name} {was} → {now}"
        for name, was, now in (
            ("readers", before.readers, after.readers),
            ("transformers", before.transformers, after.transformers),
            ("GPU share", f"{share_of(before, groups):.0%}", f"{share_of(after, groups):.0%}"),
        )
        if was != now
    ]
    why = line.get("overruled") or line.get("action") or "no reason given"
    seen, expected = line.get("seen_rows_per_s"), line.get("expected_rows_per_s")
    return Change(float(line["at_s"]), ", ".join(moved) or "placement", str(why), _rate(line), seen, expected)


def _happenings(part: Part) -> list[str]:
    """Return changes and events in the order of time, the largest changes only where there are many."""
    shown = set(sorted(part.changes, key=lambda change: -abs(change.effect or 0.0))[:MOST_CHANGES])
    told = [(change.at_s, f"{clock(change.at_s)}  {_words_of(change)}") for change in part.changes if change in shown]
    told += [(at_s, f"{clock(at_s)}  {what}") for at_s, what in part.events]
    lines = [text for _, text in sorted(told, key=lambda item: item[0])]
    left = len(part.changes) - len(shown)
    return [*lines, *([f"and {left} changes that made less of a difference"] if left else [])]


def _words_of(change: Change) -> str:
    text = f"{change.what} ({change.why}): {change.before_rows_per_s:,.0f} rows/s"
    if change.after_rows_per_s is None:
        return f"{text}, and training ended before its effect was seen"
    text += f" → {change.after_rows_per_s:,.0f}"
    if change.effect is not None:
        text += f", {change.effect:+.1%}"
    if change.expected_rows_per_s is not None:
        text += f" (expected {change.expected_rows_per_s:,.0f})"
    return text


def _held(part: Part) -> list[str]:
    """Return why proposals did not become plans."""
    reasons = Counter(
        str(look["overruled"]).partition(":")[2].strip() or "no reason given"
        for look in part.looks
        if look["kind"] == "look" and str(look.get("overruled") or "").startswith("held")
    )
    if not reasons:
        return []
    kinds: Counter[str] = Counter()
    for reason, count in reasons.items():
        kinds["too little to gain" if "too little" in reason else reason] += count
    total, why = kinds.total(), "; ".join(f"{reason} ({count})" for reason, count in kinds.most_common())
    return [f"of the looks written down, {total} held back what the policy proposed: {why}"]


def _rate(line: Line) -> float:
    return float(line.get("rows_per_s") or 0.0)
