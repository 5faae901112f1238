"""For the tests of pages: a reader of HTML, and prepared corpora of made-up records."""

import collections
import dataclasses
import html.parser
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

import tiny
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.prepare.records import MANIFEST, Record, encode, write_rows, write_shard_list

FACE_PX = 8
EVIL = "<script>alert('&\"')</script>"
NO_SOUND = {"waveform": np.zeros(0, np.int16)}
NO_PICTURE = {
    "faces": np.zeros((0, FACE_PX, FACE_PX, 3), np.uint8),
    "face_found": np.zeros(0, bool),
    "box": np.zeros((0, 4), np.float32),
}

PROVENANCE = {
    "parameters": 1025536,
    "versions": {"jax": "0.10.2"},
    "commit": "0123456789ab+",
    "devices": ["cpu: cpu"],
    "machine": "a machine",
}


class Page(html.parser.HTMLParser):
    """The headings, texts, pictures and addresses of a page."""

    def __init__(self, source: str):
        super().__init__()
        self.headings: list[str] = []
        self.alts: list[str] = []
        self.loads: list[str] = []  # all that a browser would fetch
        self.rows: list[list[str]] = []
        self.tags: collections.Counter[str] = collections.Counter()
        self._words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.text = " ".join(" ".join(self._words).split())
        self.headings = [" ".join(heading.split()) for heading in self.headings]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags[tag] += 1
        self.loads += [named[name] or "" for name in ("src", "href", "srcset", "data") if name in named]
        if tag == "img":
            self.alts.append(named["alt"] or "")
        if tag in ("h1", "h2", "h3"):
            self.headings.append(f"{tag} ")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if "style" in self._open:
            return
        self._words.append(data)
        if {"h1", "h2", "h3"} & {*self._open}:
            self.headings[-1] += data
        if {"td", "th"} & {*self._open}:
            self.rows[-1][-1] += data

    def row(self, *first: str) -> list[str]:
        """The one table row whose first cells are `first`."""
        [found] = [row for row in self.rows if tuple(row[: len(first)]) == first]
        return found


def read(path: pathlib.Path) -> Page:
    """Read a page, which must load nothing from elsewhere and name no folder of this computer."""
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert all(re.match(r"data:(image/(svg\+xml|jpeg)|audio/wav);base64,[\w+/]{200}", load) for load in page.loads)
    assert not re.search(r"=\W?https?:|url\(|@import|<script|<link|<iframe|javascript:", source)
    assert str(path.parent.parent) not in source
    assert "/home/someone" not in source
    return page


def records_of(count: int, *, seconds: int = 3, **changes: Any) -> list[Record]:
    """Clips of noise, of each emotion and three speakers in turn."""
    rng = np.random.default_rng(0)
    n = 5 * seconds
    fields = {
        "faces": rng.integers(0, 256, (n, FACE_PX, FACE_PX, 3)).astype(np.uint8),
        "face_found": np.ones(n, bool),
        "box": np.zeros((n, 4), np.float32),
        "waveform": rng.integers(-9000, 9000, 3200 * n).astype(np.int16),
        "corpus": "ravdess",
        **changes,
    }
    return [
        Record(
            clip_id=f"ravdess/clip-{i:02d}",
            take_id=f"ravdess/take-{i:02d}",
            speaker=f"ravdess/{i % 3 + 1:02d}",
            emotion=LABEL_NAMES[i % 8],
            **fields,
        )
        for i in range(count)
    ]


def write_corpus(
    folder: pathlib.Path, records: Sequence[Record], changes: Mapping[int, Mapping[str, Any]] | None = None
) -> pathlib.Path:
    """A prepared corpus; `changes` are made to the rows of their indices."""
    folder.mkdir(parents=True)
    write_shard_list(folder, [pathlib.Path("shard.arrayrecord")])
    writer = ArrayRecordWriter(str(folder / "shard.arrayrecord"), "group_size:1")
    for record in records:
        writer.write(encode(record))
    writer.close()
    rows = []
    for i, record in enumerate(records):
        found_share = float(record.face_found.mean()) if len(record.face_found) else 0.0
        row = dataclasses.replace(tiny.row_of(record, index=i), found_share=found_share, rms_dbfs=-20.0 - i)
        rows.append(dataclasses.replace(row, **(changes or {}).get(i, {})))
    write_rows(folder / MANIFEST, rows)
    (folder / "settings.json").write_text(json.dumps({"detector": "centerface", "cache": "/home/someone/cache"}))
    return folder
