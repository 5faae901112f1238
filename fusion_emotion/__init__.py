"""Emotion recognition from faces and voices in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_emotion.predict.recognizer import Recognizer

__all__ = ["Recognizer"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the recogniser, and JAX with it, only where it is asked for."""
    if name != "Recognizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fusion_emotion.predict.recognizer import Recognizer

    return Recognizer
