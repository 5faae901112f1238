"""Commands as a user gives them, and what they say when they refuse."""

import socket
import subprocess
import sys
from typing import Any

from conftest import ROOT


def launch(*arguments: Any, timeout: float = 300, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run launch.py to its end, from the project's folder if `changes` name no other `cwd`."""
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **{"cwd": ROOT, **changes})


def refused(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    """The run ended with one line that begins with "error:" and holds `words`."""
    assert ran.returncode in (1, 2), ran.stderr
    assert "Traceback" not in ran.stderr
    [line] = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert ran.stderr.rstrip().endswith(line), ran.stderr
    assert not [word for word in words if word not in line], line


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
