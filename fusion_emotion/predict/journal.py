"""The rows of a prediction that is under way, appended to a file block by block."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fusion_emotion.files import sync

Row = dict[str, Any]  # of one step, as `recognizer.rows` makes it


class Journal:
    """A file of JSON lines: the settings, then blocks of rows, each ended by the state that goes on from there.

    A file that another prediction began, with other settings, is begun anew. What follows the last whole block is cut
    off. `go_on` is None at the start, then what the last block left.
    """

    def __init__(self, path: pathlib.Path, settings: Mapping[str, Any]):
        self.path = path
        self.go_on: dict[str, Any] | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"settings": settings}, sort_keys=True)
        end = self._whole(header) if path.exists() else 0
        self._file = path.open("r+b" if end else "wb")
        self._file.truncate(end)
        self._file.seek(end)
        self._is_empty = self.go_on is None
        if not end:
            self._file.write(header.encode() + b"\n")
            self._flush()
            sync(path.parent)

    def _whole(self, header: str) -> int:
        """Return the number of bytes up to the end of the last whole block, 0 if the settings are others."""
        end = place = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines):
                place += len(line)
                if number == 0:
                    if line != header.encode() + b"\n":
                        return 0
                    end = place
                elif line.startswith(b'{"go_on"') and line.endswith(b"\n"):
                    end, self.go_on = place, json.loads(line)["go_on"]
        return end

    def append(self, rows: Sequence[Row], go_on: Mapping[str, Any]) -> None:
        """Write a block durably."""
        lines = [json.dumps(row) for row in rows] + [json.dumps({"go_on": go_on})]
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._flush()
        self._is_empty = False

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def rows(self) -> Iterator[Row]:
        """Read the rows of the whole blocks."""
        with self.path.open("rb") as lines:
            next(lines)
            for line in lines:
                if not line.startswith(b'{"go_on"'):
                    yield json.loads(line)

    def close(self) -> None:
        """Close the file, which stays for a later run if it holds a block."""
        self._file.close()
        if self._is_empty:
            self.path.unlink(missing_ok=True)


class Memory:
    """The rows of a prediction that no file keeps."""

    def __init__(self) -> None:
        self.go_on: dict[str, Any] | None = None
        self._rows: list[Row] = []

    def append(self, rows: Sequence[Row], go_on: Mapping[str, Any]) -> None:
        """Keep a block."""
        self._rows += rows

    def rows(self) -> Iterator[Row]:
        """The rows of all blocks."""
        return iter(self._rows)
