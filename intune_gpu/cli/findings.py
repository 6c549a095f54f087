"""What `intune-gpu doctor` makes of versions: which packages are there, and whether they belong together."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from intune_gpu.core.pairing import TRIPLES, minor, misfits

State = Literal["ok", "warn", "fault"]
PACKAGE = "intune_gpu"
FBGEMM = ("fbgemm-gpu", "fbgemm-gpu-cpu")
"""The builds for CUDA and for the CPU; they are imported by the same name."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        state: `"fault"` where something does not work that should, `"warn"` where something is missed, else `"ok"`.
        found: what it is like.
        cure: what to do about it; None where there is nothing to do.
    """

    name: str
    state: State
    found: str
    cure: str | None = None


def version_of(package: str) -> str | None:
    """Return the version of what is installed, by its metadata; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements(extra: str = "") -> tuple[Requirement, ...]:
    """Return what intune_gpu requires, with an extra or without; nothing where it runs from a folder."""
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return ()
    all_of = (Requirement(line) for line in lines)
    if extra:
        return tuple(r for r in all_of if r.marker is not None and r.marker.evaluate({"extra": extra}))
    return tuple(r for r in all_of if r.marker is None or r.marker.evaluate({"extra": ""}))


def python() -> Finding:
    """Look at Python's version."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        allowed = metadata.metadata(PACKAGE)["Requires-Python"]
    except metadata.PackageNotFoundError:
        return Finding("python", "ok", found)
    if platform.python_version() in SpecifierSet(allowed, prereleases=True):
        return Finding("python", "ok", found)
    return Finding("python", "fault", f"expected {allowed}, found {found}", "make a new environment with such a Python")


def packages() -> Finding:
    """Look at what intune_gpu cannot do without."""
    needed = requirements()
    if not needed:
        found = f"{PACKAGE} runs from a folder and is not installed, so what it needs cannot be looked up"
        return Finding("packages", "warn", found, "pip install . in the clone, or make train")
    versions = {requirement: version_of(requirement.name) for requirement in needed}
    wrong = {r: found for r, found in versions.items() if found is None or not r.specifier.contains(found, True)}
    if not wrong:
        return Finding("packages", "ok", ", ".join(f"{r.name} {found}" for r, found in versions.items()))
    sentences = [f"expected {r.name}{r.specifier}, found {found or 'none'}" for r, found in wrong.items()]
    cure = "pip install " + " ".join(f'"{r.name}{r.specifier}"' for r in wrong)
    return Finding("packages", "fault", "; ".join(sentences), cure)


def pairing() -> Finding:
    """Look whether torch, TorchRec and fbgemm are there, and made for each other."""
    torch, torchrec = version_of("torch"), version_of("torchrec")
    builds = {name: found for name in FBGEMM if (found := version_of(name)) is not None}
    versions: dict[str, str | None] = {"torch": torch, "torchrec": torchrec, **(builds or {"fbgemm": None})}
    found = ", ".join(f"{name} {version or 'absent'}" for name, version in versions.items())
    fits = _cure(torch, next(iter(builds), None))
    if len(builds) > 1:
        again = f"pip uninstall -y {' '.join(builds)}, then {fits}"
        return Finding("pairing", "fault", f"{found}: both builds of fbgemm, of which each wrote over the other", again)
    if torch is None or torchrec is None or not builds:
        return Finding("pairing", "fault", f"{found}: loading batches and training need all three", fits)
    wrong = misfits(torch, torchrec, *builds.values())
    if not wrong:
        return Finding("pairing", "ok", f"{found}: they belong together")
    by_build = {"fbgemm": next(iter(builds))}
    expected = " and ".join(f"{by_build.get(name, name)} {right}" for name, right, _ in wrong)
    beside = "" if wrong[0][0] == "torch" else f" beside torch {minor(torch)}"
    return Finding("pairing", "fault", f"expected {expected}{beside}, found {found}", fits)


def _cure(torch: str | None, build: str | None) -> str:
    """Return the commands that install what belongs to this torch, or to the newest that is supported."""
    own = TRIPLES.get(minor(torch)) if torch is not None else None
    torch_version, torchrec, fbgemm = own or TRIPLES[max(TRIPLES)]
    first = [] if own else [f"torch=={torch_version}"]
    parts = " ".join([*first, f"{build or FBGEMM[1]}=={fbgemm}"])
    note = "" if build else f" ({FBGEMM[0]} instead, with a GPU)"
    return f"pip install {parts} && pip install --no-deps torchrec=={torchrec}{note}, or run make train"
