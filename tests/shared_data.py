"""Finds ../shared, which lies beside a checkout but is not part of it; tests skip what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

CRITEO_TINY = SHARED / "data" / "criteo_tiny.tsv"
MOVIELENS = SHARED / "data" / "movielens_100k.parquet"
HASH_VECTORS = SHARED / "vectors" / "hash_v1.json"


def needs(*paths: Path) -> pytest.MarkDecorator:
    """Return a mark that skips a test, and says why, where one of the shared files is missing."""
    missing = [str(path) for path in paths if not path.exists()]
    reason = f"{', '.join(missing)} is not there: it comes with the project's ../shared folder, not with the repository"
    return pytest.mark.skipif(bool(missing), reason=reason)
