"""Runnable systems built with Antiphon; a wheel carries them as ``antiphon_examples``."""
