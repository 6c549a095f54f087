"""`python -m intune_gpu.tuner.pretrain`: what it finds out ahead of a quarter of an hour, and what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from intune_gpu.tuner import pretrain
from intune_gpu.tuner.agent import Agent, AgentConfig


@pytest.mark.parametrize("out", ["", "no/such/folder/weights.safetensors"])
def test_weights_that_could_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str) -> None:
    assert pretrain.main(pretrain.Arguments(out=tmp_path / out)) == 2
    assert "--out: expected a file that can be written, found" in capsys.readouterr().err


def test_ctrl_c_leaves_the_weights_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "weights.safetensors"
    out.write_bytes(b"before")

    def stopped(*_: object) -> Agent:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "train", stopped)
    assert pretrain.main(pretrain.Arguments(AgentConfig(), out)) == 130
    assert out.read_bytes() == b"before"
    assert "is as it was" in capsys.readouterr().err
