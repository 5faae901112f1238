"""Progress bars, which are plain lines where stderr is no terminal."""

import sys
import time
from typing import Any

from tqdm import tqdm

LINE_EVERY_S = 10.0


def bar(*args: Any, **options: Any) -> tqdm:
    """Return a tqdm bar; where stderr is no terminal, it writes a line every 10 s and one at the end."""
    if sys.stderr.isatty():
        return tqdm(*args, **options)
    plain = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    return _Lines(*args, **{"bar_format": plain, **options})


class _Lines(tqdm):
    _due_s = 0.0

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if msg is None and time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + LINE_EVERY_S
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Do nothing: a line stays."""

    def close(self) -> None:
        if not self.disable:
            self._due_s = 0.0
            self.display()
        self.leave = False  # else tqdm ends the line once more
        super().close()
