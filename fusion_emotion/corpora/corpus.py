"""What the other rooms know of a corpus."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusion_emotion.corpora.clip import Clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """The clips that a config asks for."""

    audio_alone: bool
    channel: str  # speech, song, both
    actors: tuple[int, ...] = ()  # numbers; (): all
    table: str = ""  # of your own recordings
    labels: str = ""  # a label set, by name or written out; "": the corpus's own words
    labels_by: str = "acted"  # or "votes", of raters, where the corpus has them

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Wanted":
        """Read the sections `data` and `model`."""
        return cls(
            audio_alone=config["model"]["modalities"] == "audio",
            channel=config["data"]["channel"],
            actors=tuple(int(actor) for actor in config["data"]["actors"]),
            **{name: config["data"][name] for name in ("table", "labels", "labels_by")},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The clips below a folder, sorted by id, and (path, reason) of each file that is not one."""

    clips: Sequence[Clip]
    passed_over: Sequence[tuple[str, str]] = ()

    def passed_over_by_reason(self) -> dict[str, list[str]]:
        """Return the paths of the files that are no clips, by reason."""
        paths: dict[str, list[str]] = {}
        for path, reason in self.passed_over:
            paths.setdefault(reason, []).append(path)
        return paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on its owner's host."""

    name: str  # its path below the folder of the corpus
    host: str  # as "https://zenodo.org"
    path: str  # on the host, with the query
    size_bytes: int | None = None  # None: the server announces it
    digest: str | None = None  # as "md5:0123...", of any algorithm of hashlib; None: none is published
    members: str = ""  # a regular expression: those members of a zip file are unpacked; "": the file itself is kept
    expansion: float = 0.0  # unpacked size over the size of the zip file, rounded up
    guess_bytes: int = 0  # size assumed for the space on the disk, where none is known


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus: how to find its clips, and what to say of it."""

    name: str
    title: str  # in a sentence
    licence: str  # of the data, and so of a model trained on them
    credit: str  # said on pages that show its pictures or sound
    label_names: tuple[str, ...]  # its words for emotions; (): those of the recordings
    expects: str  # the files it consists of, for the error that there are none
    get: str = ""  # where its owners give it out
    find: Callable[[pathlib.Path, Wanted], Found]  # raises UserError for clips that are there but not as wanted
    groups: tuple[str, ...] = ("speaker", "sex")  # fields of a row to break results down by
    value_titles: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)  # by field and value
    note: str = ""  # said beside every number
    human: Mapping[str, float] = dataclasses.field(default_factory=dict)  # fraction right, by modalities
    human_caveat: str = ""
    make: Callable[[pathlib.Path, Mapping[str, Any]], None] | None = None  # a corpus that is made on this computer
    # The files that a config needs, of the owners' hosts or of a mirror ("": none). Raises UserError.
    remotes: Callable[[Wanted, str], Sequence[Remote]] | None = None
