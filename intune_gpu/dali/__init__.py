"""The same recipe inside NVIDIA DALI: an iterator, a node for one's own pipeline, and one's own pipelines as a source.

Importing this room imports DALI, and says in one sentence where it is not installed or of a version that will not do.
"""

from intune_gpu.dali.installed import check_installed

check_installed()

from nvidia.dali.plugin.base_iterator import LastBatchPolicy as LastBatchPolicy  # noqa: E402 (now it is there)

from intune_gpu.dali import fn as fn  # noqa: E402
from intune_gpu.dali.iterator import DALIRecIterator as DALIRecIterator  # noqa: E402
from intune_gpu.dali.loader import DALILoader as DALILoader  # noqa: E402
from intune_gpu.dali.source import PipelineSource as PipelineSource  # noqa: E402
