"""The corpora by name, and the one door to their clips."""

import importlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusion_emotion.corpora.corpus import Corpus, Found, Wanted
from fusion_emotion.corpora.labels import in_order
from fusion_emotion.errors import UserError, unknown_name

MODULES = ("ravdess", "sample", "cremad", "savee", "tess", "emodb", "ferplus", "folder")


def corpus(name: str) -> Corpus:
    """The corpus of a name. Raises UserError for an unknown one."""
    if name not in MODULES:
        raise unknown_name("data.corpus", name, MODULES)
    return importlib.import_module(f"fusion_emotion.corpora.{name}").CORPUS


def members(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the folder of each corpus of a config: of that of data.corpus, or of those of data.corpora."""
    data = config["data"]
    return dict(zip(data["corpora"], data["roots"], strict=True)) or {data["corpus"]: data["root"]}


def corpus_of(config: Mapping[str, Any]) -> Corpus:
    """The corpus of a config, or the description of several as one. Raises UserError for an unknown name."""
    return joined(list(members(config)))


def joined(names: Sequence[str]) -> Corpus:
    """The corpus of a name, or the description of several as one. Raises UserError for an unknown name."""
    several = [corpus(name) for name in names]
    if len(several) == 1:
        return several[0]

    def together(values: Iterable[str], separator: str) -> str:
        return separator.join(dict.fromkeys(filter(None, values)))

    return Corpus(
        name="+".join(names),
        title=together((member.title for member in several), " and "),
        licence=together((f"{member.title}: {member.licence}" for member in several), "; "),
        credit=together((member.credit for member in several), " "),
        label_names=in_order({word for member in several for word in member.label_names}),
        expects="",
        find=several[0].find,
        groups=("corpus", *(group for group in several[0].groups if all(group in other.groups for other in several))),
        note=together((member.note for member in several), " "),
    )


def find_clips(corpus: Corpus, root: pathlib.Path, wanted: Wanted) -> Found:
    """Find the clips of a corpus below `root`. Raises UserError if there are none."""
    if not root.is_dir():
        raise UserError(f"data.root={str(root)!r} is not a folder: set --config.data.root to the folder of the corpus")
    found = corpus.find(root, wanted)
    if not found.clips:
        why = ""
        if found.passed_over:
            path, reason = found.passed_over[0]
            why = f" ({len(found.passed_over)} files do not fit, the first: {path}: {reason})"
        raise UserError(f"data.root={str(root)!r} holds no {corpus.name} clip{why}: expected {corpus.expects}")
    return found


def fetch(corpus: Corpus, root: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Download the missing files of a corpus if the config says so, and make those that are made on this computer."""
    if config["run"]["download"] and (corpus.remotes or not corpus.make):
        download(corpus, root, config)
    if corpus.make is not None:
        corpus.make(root, config)


def download(corpus: Corpus, root: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Download the missing files of a corpus. Raises UserError if it cannot be downloaded."""
    if corpus.remotes is None:
        where = f", which you get at {corpus.get}," if corpus.get else ""
        raise UserError(
            f"data.corpus={corpus.name!r} cannot be downloaded: put its files{where} into --config.data.root"
        )
    from fusion_emotion.corpora.download import install, mirror

    wanted, host = Wanted.from_config(config), mirror(config)
    remotes, keep = corpus.remotes(wanted, host), config["run"]["keep_archives"]
    install(root, remotes, title=corpus.title, mirror=host, keep_archives=keep)
