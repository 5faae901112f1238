"""A bar on a terminal, plain lines in a log file."""

import sys
from typing import Any

import pytest
from tqdm import tqdm

from fusion_emotion import progress


def test_a_log_file_gets_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    with progress.bar(total=40, desc="preparing", unit="clip") as shown:
        for _ in range(30):
            now_s += 1
            shown.update()
            shown.set_postfix(loss=1)  # refreshes a bar
            tqdm.write("a message")  # redraws a bar
    printed, lines = capsys.readouterr()
    assert "\r" not in printed + lines
    assert printed == 30 * "a message\n"
    # At the start, after 10, 20 and 30 s, and at the end.
    assert [line.split()[2].split("/")[0] for line in lines.splitlines()] == ["0", "10", "20", "30", "30"]
    assert all(line.startswith("preparing:") for line in lines.splitlines())


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> Any:
        return list(progress.bar(range(3), desc="preparing"))

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert shown() == [0, 1, 2]
    assert "\r" in capsys.readouterr().err
