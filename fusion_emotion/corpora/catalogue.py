"""The corpora by name, and the one door to their clips."""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from fusion_emotion.corpora.corpus import Corpus, Found, Wanted
from fusion_emotion.errors import UserError, unknown_name

MODULES = ("ravdess", "sample", "cremad", "savee", "tess", "emodb")


def corpus(name: str) -> Corpus:
    """The corpus of a name. Raises UserError for an unknown one."""
    if name not in MODULES:
        raise unknown_name("data.corpus", name, MODULES)
    return importlib.import_module(f"fusion_emotion.corpora.{name}").CORPUS


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
    """Make the files of a corpus that makes itself, or download the missing ones if the config says so."""
    if corpus.make is not None:
        corpus.make(root, config)
    elif config["run"]["download"]:
        download(corpus, root, config)


def download(corpus: Corpus, root: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Download the missing files of a corpus. Raises UserError if it cannot be downloaded."""
    if corpus.download is None:
        where = f", which you get at {corpus.get}," if corpus.get else ""
        raise UserError(
            f"data.corpus={corpus.name!r} cannot be downloaded: put its files{where} into --config.data.root"
        )
    corpus.download(root, config)
