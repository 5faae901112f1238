"""The prepared clips of a config, labelled and split, and readers of their records."""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fusion_emotion.corpora.catalogue import Corpus, corpus_of
from fusion_emotion.corpora.labels import Labels
from fusion_emotion.corpora.protocols import Part, Protocol, protocol
from fusion_emotion.input.batches import Source
from fusion_emotion.input.membership import clip_ids, parts_of
from fusion_emotion.input.segments import Segments, rows_for, usable_rows
from fusion_emotion.prepare.records import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The segments of each part of a split, and the folder of the records that they are cut from."""

    folder: pathlib.Path
    corpus: Corpus
    labels: Labels
    protocol: Protocol
    parts: Mapping[Part, Segments]
    set_aside: Counter[str]  # clips in no part, by reason

    @classmethod
    def open(cls, config: Mapping[str, Any], folder: pathlib.Path, workdir: pathlib.Path | None = None) -> "Data":
        """Read the manifest in `folder`; take the parts that `workdir` keeps, or draw them. Raises UserError."""
        rows, labels, set_aside = usable_rows(folder, config)
        chosen = protocol(config["split"]["protocol"])
        used = rows_for(chosen, rows)
        parts = parts_of(config, used, folder, workdir, label_names=labels.names)
        if n_new := len(used) - len(clip_ids(parts)):
            set_aside["new since this run began"] = n_new
        if n_other := len(rows) - len(used):
            set_aside["of a corpus that the protocol does not use"] = n_other
        return cls(
            folder=folder, corpus=corpus_of(config), labels=labels, protocol=chosen, parts=parts, set_aside=set_aside
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """The emotions; a row's `label` is an index into them."""
        return self.labels.names

    @property
    def rows(self) -> list[Row]:
        """The rows of all parts."""
        return [row for segments in self.parts.values() for row in segments.rows]

    def source(self, part: Part) -> Source:
        """Open the records of a part."""
        return Source.open(self.folder, self.parts[part], labels=self.labels)

    def text(self, config: Mapping[str, Any]) -> str:
        """Describe corpus, protocol and parts, a line each."""
        split = config["split"]
        lines = [
            f"corpus     {self.corpus.name}, {config['model']['modalities']}, records in {self.folder}",
            f"protocol   {self.protocol.name}, fold {split['fold']}, seed {split['seed']}",
        ]
        for part, segments in self.parts.items():
            speakers = sorted(set(segments.speakers))
            names = f"s {', '.join(speakers)}" if len(speakers) <= 24 else f"s: {len(speakers)}"
            lines.append(f"{part:<10} {segments.n_clips} clips, {len(segments)} segments, speaker{names}")
        if self.set_aside:
            lines.append("set aside  " + ", ".join(f"{count} {reason}" for reason, count in self.set_aside.items()))
        return "\n".join(lines)
