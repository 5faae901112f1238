"""The sample corpus: synthetic talking heads in RAVDESS's layout, made on this computer at first use.

It lets everything run without a download: real H.264 and AAC files, faces that detectors find, speech. Results on it
say nothing about recognising people's emotions. `script.py` defines the actors and the clips.
"""

import concurrent.futures
import contextlib
import functools
import json
import multiprocessing
import pathlib
from collections.abc import Mapping
from typing import Any

from fusion_emotion.cores import cores
from fusion_emotion.corpora import ravdess
from fusion_emotion.corpora.corpus import Corpus
from fusion_emotion.corpora.sample import script
from fusion_emotion.errors import UserError
from fusion_emotion.locks import held
from fusion_emotion.progress import bar

CORPUS_VERSION = 1  # raise it with every change to the picture or the sound
MOST_ACTORS = 24  # the limit of RAVDESS's file names


def make_corpus(root: pathlib.Path, *, seed: int, actors: int = 10, workers: int) -> None:
    """Make the missing clips of a sample corpus in `root`: two statements in eight emotions for each actor.

    Takes about 0.4 s of one core for each clip, and no time if the corpus is complete. A sample corpus of another seed,
    version or number of actors is replaced. A clip gets its name only when it is complete, and `root/sample.json` is
    written when all clips are. The same seed gives the same files on the same computer. If another process makes the
    corpus, print which one and wait for it.

    Raises UserError if `root` holds something else than a sample corpus.
    """
    recipe = {"corpus": "fusion_emotion sample", "version": CORPUS_VERSION, "seed": seed, "actors": actors}
    finished, begun, lock = (root / name for name in ("sample.json", "sample.begun.json", ".lock"))
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{root} cannot be made a folder ({error.strerror}): name another for the sample corpus"
        ) from error
    if _read(finished) == recipe and not _missing(root, actors):
        return
    if not finished.exists() and not begun.exists():
        strange = sorted(path.name for path in root.iterdir() if path != lock)
        if strange:
            raise UserError(f"{root} holds {strange[0]} but no sample corpus: name an empty or a new folder")
    with held(lock, f"waiting for process {{process}}, which makes the sample corpus in {root}", wait=True):
        if any(marker.exists() and _read(marker) != recipe for marker in (finished, begun)):
            _clear(root)
            finished.unlink(missing_ok=True)
            begun.unlink(missing_ok=True)
        if not finished.exists():
            begun.write_text(json.dumps(recipe) + "\n")
        _record(root, _missing(root, actors), seed=seed, workers=workers)
        if begun.exists():
            begun.replace(finished)


def make_clip(folder: pathlib.Path) -> pathlib.Path:
    """Make one clip of the corpus, to show what a model says of it; return its path. Takes 4 s of one core."""
    take = script.takes_of(1)[4]
    path = _folder(folder, take.actor) / take.file_name
    _record(folder, {take.actor: [take.file_name]}, seed=0, workers=1)
    return path


def _read(marker: pathlib.Path) -> object:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(marker.read_text())
    return None


def _folder(root: pathlib.Path, actor: int) -> pathlib.Path:
    return root / f"Actor_{actor:02d}"


def _missing(root: pathlib.Path, actors: int) -> dict[int, list[str]]:
    """Return the file names of the missing clips, by actor."""
    missing = {
        actor: [t.file_name for t in script.takes_of(actor) if not (_folder(root, actor) / t.file_name).exists()]
        for actor in range(1, actors + 1)
    }
    return {actor: names for actor, names in missing.items() if names}


def _clear(root: pathlib.Path) -> None:
    """Delete the clips of a sample corpus, complete or not, and nothing else."""
    for actor in range(1, MOST_ACTORS + 1):
        folder = _folder(root, actor)
        for take in script.takes_of(actor):
            for name in (take.file_name, script.unfinished(take.file_name)):
                (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _record(root: pathlib.Path, missing: dict[int, list[str]], *, seed: int, workers: int) -> None:
    """Make the missing clips, each actor in a new process: eSpeak NG is reproducible only there."""
    wanted = [_folder(root, actor) / name for actor, names in missing.items() for name in names]
    if not wanted:
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(missing)), multiprocessing.get_context("spawn"), max_tasks_per_child=1
    )
    try:
        waiting = {executor.submit(_act, _folder(root, actor), actor, names, seed) for actor, names in missing.items()}
        with bar(total=len(wanted), desc="making the sample corpus", unit="clip") as shown:
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, timeout=0.5, return_when="FIRST_EXCEPTION")
                for future in done:
                    future.result()
                shown.update(sum(path.exists() for path in wanted) - shown.n)
    finally:
        executor.shutdown(cancel_futures=True)


def _act(folder: pathlib.Path, actor: int, names: list[str], seed: int) -> None:
    # Import here: only the workers need OpenCV, PyAV and eSpeak NG.
    from fusion_emotion.corpora.sample import studio

    folder.mkdir(exist_ok=True)
    studio.make_actor(folder, actor, names, seed=seed)


def _make(root: pathlib.Path, config: Mapping[str, Any]) -> None:
    make_corpus(root, seed=0, workers=config["run"]["workers"] or cores())


CORPUS = Corpus(
    name="sample",
    title="the synthetic sample corpus",
    licence="Apache-2.0",
    credit="The faces are warps of NASA's public-domain portrait of Eileen Collins; the voices are espeak-ng's.",
    label_names=ravdess.LABEL_NAMES,
    expects="what it makes itself: name an empty or a new folder",
    find=functools.partial(ravdess.find, corpus="sample"),
    groups=ravdess.CORPUS.groups,
    value_titles=ravdess.CORPUS.value_titles,
    note="The sample corpus is synthetic: a proof of the pipeline, not of emotion recognition.",
    make=_make,
)
