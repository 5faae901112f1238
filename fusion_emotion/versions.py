"""Versions of installed packages, to be kept beside what they made."""

import contextlib
import importlib.metadata
from collections.abc import Iterable


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed; of packages in several builds, one is."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
