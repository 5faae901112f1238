"""Emotion recognition from faces and voices in JAX."""

__version__ = "0.1.0"
