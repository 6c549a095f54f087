"""Which torch, TorchRec and fbgemm belong together. `tools/setup.py` runs this file before anything is installed."""

from __future__ import annotations

# torch: (torch, TorchRec, fbgemm). A TorchRec fails at import with any other torch, and its wheel does not say so.
TRIPLES = {
    "2.11": ("2.11.0", "1.6.1", "1.6.0"),
    "2.12": ("2.12.0", "1.7.0", "1.7.0"),
    "2.13": ("2.13.0", "1.8.0", "1.8.0"),
}


def minor(version: str) -> str:
    """Return "2.13" of "2.13.0+cpu"."""
    return ".".join(version.split("+")[0].split(".")[:2])


def misfits(torch: str, torchrec: str, fbgemm: str) -> tuple[tuple[str, str, str], ...]:
    """Return (name, what belongs there, what was found) of each version that does not belong to this torch.

    A torch that is not supported is the misfit itself, and what belongs there are those that are.
    """
    fitting = TRIPLES.get(minor(torch))
    if fitting is None:
        return (("torch", " or ".join(TRIPLES), torch),)
    pairs = (("torchrec", fitting[1], torchrec), ("fbgemm", fitting[2], fbgemm))
    return tuple((name, right, found) for name, right, found in pairs if minor(found) != minor(right))
