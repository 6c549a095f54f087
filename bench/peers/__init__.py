"""The suite `peers`: the whole job, file → batches in memory, by what users would pick instead, each in own processes.

`jobs/` runs in the peers' own environments, and so do `serving.py` and `processes.py`: the standard library alone, and
what the job itself imports.
"""
