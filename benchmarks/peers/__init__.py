"""The benchmark beside the peers: ``python -m benchmarks.peers``."""
