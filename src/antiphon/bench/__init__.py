"""Measures this machine: what the framework costs, as ratios to figures of the same run."""
