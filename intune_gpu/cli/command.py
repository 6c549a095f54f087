"""Where `intune-gpu` begins: reads the command line, runs the subcommand, and says what went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from intune_gpu.cli.config import (
    PROG,
    CalibrateConfig,
    Command,
    DoctorConfig,
    ExplainConfig,
    InspectConfig,
    RecipeConfig,
    parse,
)
from intune_gpu.core.errors import IntuneError
from intune_gpu.train.stop import exit_code_of_signal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 2 for what the user has to mend, 130 for Ctrl-C, 143 for SIGTERM to `synth`.

    `doctor` returns 1 where it found a fault.

    Args:
        arguments: those of the process, unless given.
    """
    try:
        return _run(parse(sys.argv[1:] if arguments is None else arguments))
    except IntuneError as error:
        return _failed(error, 2)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does; Python would complain at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        code = exit_code_of_signal(error)
        if code is None:
            raise
        return _failed("stopped", code)


def _run(command: Command) -> int:
    # Behind --help, which needs not wait for pyarrow and numba.
    if isinstance(command, RecipeConfig):
        from intune_gpu.cli import recipe

        return recipe.run(command)
    if isinstance(command, InspectConfig):
        from intune_gpu.cli import inspect

        return inspect.run(command)
    if isinstance(command, ExplainConfig):
        from intune_gpu.cli import explain

        return explain.run(command)
    if isinstance(command, CalibrateConfig):
        from intune_gpu.cli import calibrate

        return calibrate.run(command)
    if isinstance(command, DoctorConfig):
        try:
            from intune_gpu.cli import doctor
        except ImportError as error:
            raise IntuneError(
                f"doctor: expected packaging, psutil and rich, with which it looks, found that {error.name} cannot be "
                f"imported ({error}); pip install packaging psutil rich"
            ) from error
        return doctor.run(command)
    from intune_gpu.cli import synth

    return synth.run(command)


def _failed(message: object, code: int) -> int:
    print(f"{PROG}: {message}", file=sys.stderr)
    return code
