"""Train the agent in simulation and write its weights: `python -m intune_gpu.tuner.pretrain`."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from rich.console import Console

from intune_gpu.tuner.agent import WEIGHTS, AgentConfig, train


@dataclass(frozen=True)
class Arguments:
    """Train the agent in simulation; the same flags and seed give the same weights on the same kind of machine."""

    agent: tyro.conf.OmitArgPrefixes[AgentConfig] = field(default_factory=AgentConfig)
    """How it is built and trained."""
    out: Path = WEIGHTS
    """Where the weights go."""


def main(arguments: Arguments) -> int:
    """Train, tell each episode, and write the weights; return the exit status, 2 where they could not be written."""
    out = arguments.out
    if out.is_dir() or not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        print(f"intune_gpu.tuner.pretrain: --out: expected a file that can be written, found {out}", file=sys.stderr)
        return 2  # not a quarter of an hour later
    try:
        _train(arguments)
    except KeyboardInterrupt:
        print(f"intune_gpu.tuner.pretrain: stopped; {out} is as it was", file=sys.stderr)
        return 130
    return 0


def _train(arguments: Arguments) -> None:
    console = Console()
    began = time.perf_counter()

    def told(episode: int, loss: float, reached: float) -> None:
        spent = time.perf_counter() - began
        left = spent / (episode + 1) * (arguments.agent.episodes - episode - 1)
        console.print(
            f"episode {episode + 1}/{arguments.agent.episodes}  loss {loss:.5f}  "
            f"share of the oracle while exploring {reached:.3f}  {spent:.0f} s, {left:.0f} s left"
        )

    agent = train(arguments.agent, told)
    agent.save(arguments.out, arguments.agent)
    size = arguments.out.stat().st_size
    console.print(f"wrote {arguments.out} ({size / 1e3:.0f} kB) after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(tyro.cli(Arguments, prog="python -m intune_gpu.tuner.pretrain")))
