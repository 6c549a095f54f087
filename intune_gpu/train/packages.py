"""The packages that training needs and the rest of intune_gpu does not."""

from __future__ import annotations

import importlib
import logging
import warnings

from intune_gpu.core.errors import MissingPackageError
from intune_gpu.core.packages import EXTRAS, is_absent

NEEDED = ("torch", "fbgemm_gpu", "torchrec")


def require_packages() -> None:
    """Import torch, fbgemm and TorchRec, without the warnings that are known to mean nothing here.

    Raises:
        MissingPackageError: one is missing, or does not fit the others.
    """
    _hush()
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: fbgemm built for CUDA where there is none, or another torch
            why = "it is not installed" if is_absent(name, error) else error
            raise MissingPackageError(
                f"training needs torch, fbgemm and TorchRec that fit each other, found that {name} cannot be imported "
                f'({why}); run make train, or pip install "intune_gpu[{EXTRAS[name]}]" '
                "([train,cuda] with an NVIDIA GPU)"
            ) from error


def _hush() -> None:
    # fbgemm's CPU wheel lacks two SSD optimizers; TorchRec imports fbgemm through a module that fbgemm deprecates.
    warnings.filterwarnings("ignore", r"\s*\S*\s*Failed to import. fbgemm_gpu", DeprecationWarning)
    warnings.filterwarnings(
        "ignore", r"[\s\S]*split_table_batched_embeddings_ops is now DEPRECATED", DeprecationWarning
    )
    # TorchRec wraps the MLPs with an argument that torch has a newer name for.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # TorchRec 1.6 asks for a process group's device by a name that torch has a newer one for; torch 2.11 says so.
    warnings.filterwarnings("ignore", "`_get_pg_default_device` will be deprecated", UserWarning)
    warnings.filterwarnings("ignore", "Multiple backends are registered with this ProcessGroup", UserWarning)
    # TorchRec asks torch whether it is being traced by a name that torch has a newer one for.
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_is_news)
    # fbgemm 1.7 does not know itself; whether it fits the torch is looked at in core/pairing.py.
    logging.getLogger().addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "is_fx_tracing will return true" not in message and "compat_table has no entry for" not in message
