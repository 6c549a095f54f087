"""What measures intune_gpu against what its users would pick instead: `python -m bench --suite cpu`."""
