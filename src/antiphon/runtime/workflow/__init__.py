"""Durable functions: a run is rows, moved on turn by turn by ordinary deliveries."""
