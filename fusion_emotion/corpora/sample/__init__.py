"""The sample corpus: synthetic talking heads in RAVDESS's layout, made on this computer at first use.

With it everything can be run without a download: real H.264 and AAC files, faces that detectors find, speech. It says
nothing of how well a system recognises people's emotions. What is played is in `script.py`.
"""

import concurrent.futures
import contextlib
import fcntl
import json
import multiprocessing
import pathlib

import tqdm

from fusion_emotion.corpora.sample import script
from fusion_emotion.errors import UserError

CORPUS_VERSION = 1  # to be raised with every change of the picture or the sound
MOST_ACTORS = 24  # RAVDESS's names know no more


def make_corpus(root: pathlib.Path, *, seed: int, actors: int = 10, workers: int) -> None:
    """Makes what is missing below `root` of the corpus of `seed`: `actors` actors, eight emotions, two statements each.

    Takes about 0.4 s of one core a clip, and nothing where the corpus is there already. A sample corpus of another
    seed, version or number of actors makes way for the new one. A clip appears under its name only when it is whole,
    and `root/sample.json` only when all are. The same seed gives the same files on the same computer.

    Raises UserError where `root` holds something that is not a sample corpus.
    """
    if not 2 <= actors <= MOST_ACTORS:
        raise UserError(f"actors={actors}: the sample corpus has 2 to {MOST_ACTORS}")
    if seed < 0:
        raise UserError(f"seed={seed}: the sample corpus wants 0 or more")
    if workers < 1:
        raise UserError(f"workers={workers}: the sample corpus wants 1 or more")
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
    with open(lock, "a") as held:
        # A second run that wants the same corpus waits here, and finds it made.
        fcntl.flock(held, fcntl.LOCK_EX)
        if any(marker.exists() and _read(marker) != recipe for marker in (finished, begun)):
            _clear(root)
            finished.unlink(missing_ok=True)
            begun.unlink(missing_ok=True)
        if not finished.exists():
            begun.write_text(json.dumps(recipe) + "\n")
        _record(root, _missing(root, actors), seed=seed, workers=workers)
        if begun.exists():
            begun.replace(finished)


def _read(marker: pathlib.Path) -> object:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(marker.read_text())
    return None


def _folder(root: pathlib.Path, actor: int) -> pathlib.Path:
    return root / f"Actor_{actor:02d}"


def _missing(root: pathlib.Path, actors: int) -> dict[int, list[str]]:
    """The file names of the clips to be made, by actor."""
    missing = {
        actor: [t.file_name for t in script.takes_of(actor) if not (_folder(root, actor) / t.file_name).exists()]
        for actor in range(1, actors + 1)
    }
    return {actor: names for actor, names in missing.items() if names}


def _clear(root: pathlib.Path) -> None:
    """Deletes the clips of a sample corpus, finished or not, and nothing else."""
    for actor in range(1, MOST_ACTORS + 1):
        folder = _folder(root, actor)
        for take in script.takes_of(actor):
            for name in (take.file_name, script.unfinished(take.file_name)):
                (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _record(root: pathlib.Path, missing: dict[int, list[str]], *, seed: int, workers: int) -> None:
    """Makes the missing clips, each actor in a fresh process: only there does eSpeak NG repeat itself."""
    wanted = [_folder(root, actor) / name for actor, names in missing.items() for name in names]
    if not wanted:
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(missing)), multiprocessing.get_context("spawn"), max_tasks_per_child=1
    )
    try:
        waiting = {executor.submit(_act, _folder(root, actor), actor, names, seed) for actor, names in missing.items()}
        with tqdm.tqdm(total=len(wanted), desc="making the sample corpus", unit="clip") as bar:
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, timeout=0.5, return_when="FIRST_EXCEPTION")
                for future in done:
                    future.result()
                bar.update(sum(path.exists() for path in wanted) - bar.n)
    finally:
        executor.shutdown(cancel_futures=True)


def _act(folder: pathlib.Path, actor: int, names: list[str], seed: int) -> None:
    # Only the workers pay for OpenCV, PyAV and eSpeak NG.
    from fusion_emotion.corpora.sample import studio

    folder.mkdir(exist_ok=True)
    studio.make_actor(folder, actor, names, seed=seed)
