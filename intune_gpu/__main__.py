"""`python -m intune_gpu` is the console command `intune-gpu`."""

from __future__ import annotations

import sys

from intune_gpu.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
