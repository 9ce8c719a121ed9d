"""Runs a whole application inside one process on virtual time: a seed decides everything, faults included."""
