"""What the README shows is run as it is written."""

import csv
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown(beginning: str) -> str:
    """The indented block of the README that begins so, without its indentation."""
    block = next(block for block in re.findall(r"(?:^    .+\n)+", README, re.M) if block.strip().startswith(beginning))
    return re.sub(r"^    ", "", block, flags=re.M)


@pytest.mark.slow
def test_your_own_recordings(real_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Films of two people, sounds of three and pictures of three, by the README's columns and command."""
    data, root = real_data / "data", tmp_path / "recordings"
    header = shown("path,emotion").splitlines()[0].split(",")
    assert header == ["path", "emotion", "speaker", "sex", "place"]
    words = {"01": "neutral", "03": "happy", "04": "sad", "05": "angry"}
    rows = []

    def add(path: pathlib.Path, emotion: str, speaker: str, sex: str, place: str) -> None:
        target = root / speaker / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        rows.append([f"{speaker}/{path.name}", emotion, speaker, sex, place])

    for path in sorted((data / "ravdess_facecrops").rglob("*.mp4")):
        if path.stem[6:8] in words and path.stem.endswith("-01-05"):
            add(path, words[path.stem[6:8]], "actor", "male", "studio")
    for path in sorted((data / "cremad").rglob("*.flv")):
        if path.stem.split("_")[2] in ("ANG", "HAP", "SAD", "NEU"):
            emotion = {"ANG": "angry", "HAP": "happy", "SAD": "sad", "NEU": "neutral"}[path.stem.split("_")[2]]
            add(path, emotion, "other", "male", "studio")
    for speaker in ("03", "08", "09"):
        for path in sorted((data / "emodb" / "wav").glob(f"{speaker}*.wav"))[:30]:
            if path.stem[5] in "WFTN":
                emotion = {"W": "angry", "F": "happy", "T": "sad", "N": "neutral"}[path.stem[5]]
                add(path, emotion, f"s{speaker}", "male" if speaker == "03" else "female", "booth")
    with (data / "ferplus" / "FER2013Valid" / "label.csv").open() as lines:
        for number, (name, _, *votes) in enumerate(csv.reader(lines)):
            counts = dict(zip(("neutral", "happy", "surprised", "sad", "angry"), map(int, votes), strict=False))
            emotion = max(counts, key=counts.__getitem__)
            if emotion != "surprised" and number < 60:
                add(data / "ferplus" / "FER2013Valid" / name, emotion, f"p{number % 3}", "", "web")
    with (root / "labels.csv").open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    shutil.copytree(real_data / "models" / "insightface", tmp_path / ".insightface")
    for name in ("launch.py", "configs", "fusion_emotion"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = shown(".venv/bin/python launch.py --config=configs/folder.py").split()
    command[0] = sys.executable
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "speaker-independent, folds over all speakers" in ran.stdout
    results = json.loads((tmp_path / "runs" / "folder" / "results.json").read_text(encoding="utf-8"))
    places = results["test"]["by"]["place"]
    assert set(places) <= {"studio", "booth", "web"}
    assert sum(place["n"] for place in places.values()) == results["test"]["clip"]["count"] > 0
