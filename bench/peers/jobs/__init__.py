"""One file an engine, each run as `python -m bench.peers.jobs.<name>` by the Python of that engine's environment."""
