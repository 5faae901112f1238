"""The lines of docs/corpora.md that make a table of a corpus, each run on a tree in its owners' layout."""

import csv
import pathlib
import re

import pytest

from conftest import ROOT
from fusion_emotion.corpora.labels import EMOTIONS

BLOCKS = dict(
    re.findall(
        r"^### (.+?)\n.*?^```python\n(.*?)^```", (ROOT / "docs" / "corpora.md").read_text(), re.DOTALL | re.MULTILINE
    )
)
TURNS = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()

[10.0100 - 11.3925]\tSes01F_impro01_M001\txxx\t[2.5000, 2.5000, 2.5000]

[14.8872 - 18.0175]\tSes01F_impro01_M002\texc\t[2.5000, 2.5000, 2.5000]
"""
MELD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
SAID = '1,"Well, no.",{},{},x,{},{},8,21,"00:16:16,059","00:16:21,731"\n'
WAV = "IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_"
JL = "Raw JL corpus (unchecked and unannotated)/JL(wav+txt)/"

# The files of each corpus, with the text of those that are read; the folder; the rows of its table.
TREES = {
    "IEMOCAP": (
        {f"{WAV}{turn}.wav": "" for turn in ("F000", "M001", "M002")}
        | {"IEMOCAP_full_release/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": TURNS}
        | {"IEMOCAP_full_release/Session1/dialog/EmoEvaluation/Categorical/Ses01F_impro01_e1_cat.txt": "x"},
        [
            ["Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav", "neutral", "Ses01F", "female", "impro01"],
            ["Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M002.wav", "excited", "Ses01M", "male", "impro01"],
        ],
    ),
    "MELD": (
        {
            "MELD.Raw/train_sent_emo.csv": MELD + SAID.format("Joey", "joy", 0, 0) + SAID.format("Ross", "anger", 0, 1),
            "MELD.Raw/dev_sent_emo.csv": MELD + SAID.format("Phoebe", "sadness", 1, 0),
            "MELD.Raw/test_sent_emo.csv": MELD + SAID.format("Mark", "surprise", 2, 5),
            "MELD.Raw/train_splits/dia0_utt0.mp4": "",
            "MELD.Raw/dev_splits_complete/dia1_utt0.mp4": "",
            "MELD.Raw/output_repeated_splits_test/dia2_utt5.mp4": "",
        },
        [
            ["train_splits/dia0_utt0.mp4", "happy", "Joey", "train"],
            ["dev_splits_complete/dia1_utt0.mp4", "sad", "Phoebe", "validation"],
            ["output_repeated_splits_test/dia2_utt5.mp4", "surprised", "Mark", "test"],
        ],
    ),
    "eNTERFACE'05": (
        dict.fromkeys(
            (
                "enterface database/subject 1/anger/sentence 1/s1_an_1.avi",
                "enterface database/subject 6/happiness/s6_ha_2.avi",
            ),
            "",
        ),
        [
            ["subject 1/anger/sentence 1/s1_an_1.avi", "angry", "subject 1", "sentence 1"],
            ["subject 6/happiness/s6_ha_2.avi", "happy", "subject 6", ""],
        ],
    ),
    "ESD": (
        dict.fromkeys(
            (
                "Emotion Speech Dataset/0003/Neutral/0003_000007.wav",
                "Emotion Speech Dataset/0011/Angry/train/0011_000351.wav",
                "Emotion Speech Dataset/0011/0011.txt",
            ),
            "",
        ),
        [
            ["0003/Neutral/0003_000007.wav", "neutral", "0003", "female", "Chinese 7", "Chinese"],
            ["0011/Angry/train/0011_000351.wav", "angry", "0011", "male", "English 1", "English"],
        ],
    ),
    "JL-corpus": (
        dict.fromkeys(
            (f"{JL}{name}.wav" for name in ("female1_angry_10a_1", "male2_excited_1b_2", "male2_anxious_1a_1")), ""
        )
        | {f"{JL}female1_angry_10a_1.txt": ""},
        [
            ["JL(wav+txt)/female1_angry_10a_1.wav", "angry", "female1", "female", "10a"],
            ["JL(wav+txt)/male2_excited_1b_2.wav", "excited", "male2", "male", "1b"],
        ],
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_the_lines_make_the_table(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files, expected = TREES[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[name], f"docs/corpora.md, {name}", "exec"), {})
    [table] = tmp_path.glob("*/labels.csv")
    with table.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    assert header[:2] == ["path", "emotion"]
    assert rows == expected
    assert {row[1] for row in rows} <= set(EMOTIONS)
    assert all((table.parent / row[0]).is_file() for row in rows)


def test_every_corpus_has_its_lines() -> None:
    assert BLOCKS.keys() == TREES.keys()
