"""No name is used that is not defined: ruff's check, without the axes in jaxtyping's shape strings."""

import json
import subprocess
import sys
import tokenize
from collections.abc import Iterator

from conftest import ROOT


def undefined(folder: str) -> Iterator[str]:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", "--output-format=json", folder]
    for hit in json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout):
        at = hit["location"]["row"], hit["location"]["column"] - 1
        with open(hit["filename"], "rb") as file:
            strings = [
                (token.start, token.end)
                for token in tokenize.tokenize(file.readline)
                if token.type == tokenize.STRING and token.start <= at < token.end
            ]
        if not strings:
            yield f"{hit['filename']}:{at[0]}: {hit['message']}"


def test_every_name_is_defined(tmp_path):
    (tmp_path / "wrong.py").write_text('def f(x: "batch time") -> None:\n    return lost\n')
    assert [line.partition("wrong.py:")[2] for line in undefined(str(tmp_path))] == ["2: Undefined name `lost`"]
    assert list(undefined(str(ROOT))) == []
