"""How a recipe runs: programs, batches, buffers, stages."""
