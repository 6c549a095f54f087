"""Train a DLRM with TorchRec on what a `Loader` gives: `python -m intune_gpu.train`."""
