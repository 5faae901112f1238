"""Every fold of every protocol, times every seed: each is a run in a workdir and a process of its own.

    WORKDIR/kfold/fold-0-seed-0/    what --mode=train makes of the config with that fold and that seed
    WORKDIR/kfold/baselines/        what the baselines say on the same splits

A run that is finished is not run again, one that was stopped goes on.
"""

import collections
import contextlib
import copy
import ctypes
import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from tqdm import tqdm

from fusion_emotion import locks
from fusion_emotion.corpora import protocols
from fusion_emotion.errors import Stopped, UserError, did_you_mean
from fusion_emotion.evaluate import answers as predictions
from fusion_emotion.evaluate.baselines import MEANING, baseline, left_out
from fusion_emotion.evaluate.results import RESULTS
from fusion_emotion.evaluate.table import percent
from fusion_emotion.input.segments import items_of, split_windows, usable_rows
from fusion_emotion.prepare.records import Row
from fusion_emotion.train.loop import Setup
from fusion_emotion.train.writer import read_metrics

LOG = "log.txt"

_LAUNCH = pathlib.Path(__file__).parents[2] / "launch.py"
_LOOK_EVERY_S = 0.5
_STOP_WITHIN_S = 30.0
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
# Loaded here, for between a fork and an exec little may be done.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One fold of one protocol with one seed."""

    protocol: str
    fold: int
    seed: int
    config: dict[str, Any]
    workdir: pathlib.Path
    test_rows: Sequence[Row]

    def __str__(self) -> str:
        fold = f", fold {self.fold}" if self.protocol in protocols.WITH_FOLDS else ""
        return f"{self.protocol}{fold}, seed {self.seed}"

    @property
    def split_seed(self) -> int:
        """The seed that the split is drawn with."""
        return int(self.config["split"]["seed"])

    def baseline_path(self, name: str) -> pathlib.Path:
        """Where the predictions of a baseline on this split are kept; runs of the same split share them."""
        return self.workdir.parent / "baselines" / f"{name}-fold-{self.fold}-split-{self.split_seed}.jsonl"


def check(section: Mapping[str, Any]) -> None:
    """Raise UserError for what is wrong with a config's `crossval` section whatever the data."""
    for name in section["protocols"]:
        if name not in protocols.PROTOCOLS:
            raise did_you_mean("crossval.protocols", name, protocols.PROTOCOLS)
    for field in ("protocols", "seeds"):
        values = section[field]
        if not values or len(set(values)) < len(values):
            raise UserError(f"crossval.{field}={values!r} is not a list of runs: expected one or more, each once")
    for seed in section["seeds"]:
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UserError(f"crossval.seeds holds {seed!r}: expected integers from 0 to 2**32 - 1")
    if section["jobs"] < 1:
        raise UserError(f"crossval.jobs={section['jobs']} is out of range: expected 1 or more runs at once")


def plan(config: dict[str, Any], workdir: pathlib.Path, folder: pathlib.Path) -> list[Run]:
    """The runs of a config on the records in `folder`. Raises UserError for a split that cannot be drawn."""
    rows, _ = usable_rows(folder, config["model"]["modalities"])
    section, split = config["crossval"], config["split"]
    runs = []
    for protocol in section["protocols"]:
        folds = protocols.folds(items_of(rows), protocol, n_folds=split["n_folds"], seed=split["seed"])
        if not folds:
            raise UserError(f"crossval.protocols: {protocol} tests none of these speakers; choose kfold, takes or loso")
        for seed in section["seeds"]:
            for fold in folds:
                # Without folds, other splits are what other seeds are for.
                split_seed = split["seed"] if protocol in protocols.WITH_FOLDS else seed
                of_run = copy.deepcopy(config)
                of_run["seed"] = seed
                of_run["split"] |= {"protocol": protocol, "fold": fold, "seed": split_seed}
                # It is there by now.
                of_run["data"]["download"] = False
                runs.append(
                    Run(
                        protocol=protocol,
                        fold=fold,
                        seed=seed,
                        config=of_run,
                        workdir=workdir / protocol / f"fold-{fold}-seed-{seed}",
                        test_rows=split_windows(rows, of_run["split"])["test"].rows,
                    )
                )
    return runs


def held(workdir: pathlib.Path) -> contextlib.AbstractContextManager[int]:
    """Hold a workdir, also for the runs, which inherit the descriptor. Raises UserError where another process does.

    Runs whose cross-validation was killed save what they have and end: they are waited for.
    """
    busy = (
        f"{workdir} is in use by process {{process}} or the runs that it began: "
        "wait for them, then give the same command again"
    )
    return locks.held(workdir / ".lock", busy, wait_for_heirs_s=_STOP_WITHIN_S)


@contextlib.contextmanager
def stoppable(workdir: pathlib.Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a Stopped that says how to go on."""
    received = signal.SIGINT

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal received
        del frame
        received = signal.Signals(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["python", "launch.py", "--mode=crossval", f"--workdir={workdir}"])
        raise Stopped(
            f"{received.name}: what is done is kept, and this goes on: {command}", signal_number=received
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def execute(runs: Sequence[Run], *, jobs: int, is_done: Callable[[Run], bool], lock: int) -> None:
    """Run what is not done, `jobs` at once; the others go on when one fails.

    Raises UserError at the end where runs failed.
    """
    todo = collections.deque(run for run in runs if not is_done(run))
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failed: list[Run] = []
    n_before = len(runs) - len(todo)
    if n_before:
        print(f"{n_before} of {len(runs)} runs are done")
    ended = n_before
    bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]"
    with tqdm(
        total=len(runs),
        initial=n_before,
        desc="crossval",
        bar_format=bar_format,
        disable=not todo,
        smoothing=0,
        miniters=0,
        # A log needs fewer lines than a terminal.
        mininterval=1 if sys.stderr.isatty() else 30,
    ) as bar:
        try:
            while todo or running:
                while todo and len(running) < jobs:
                    run = todo.popleft()
                    running[run] = _start(run, jobs=jobs, lock=lock)
                time.sleep(_LOOK_EVERY_S)
                for run, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[run]
                    ended += 1
                    if process.returncode or not is_done(run):
                        failed.append(run)
                        bar.write(f"{run}: failed, see {run.workdir / LOG}")
                    else:
                        bar.write(f"{run}: {_in_short(run)}")
                bar.update(ended + sum(map(_share_done, running)) - bar.n)
        finally:
            _stop(list(running.values()))
    if failed:
        others = f" and {len(failed) - 1} others" if len(failed) > 1 else ""
        raise UserError(
            f"{failed[0]}{others} of {len(runs)} runs failed ({_reason(failed[0])}): see {failed[0].workdir / LOG}; "
            "the same command runs only what is not done"
        )


def _start(run: Run, *, jobs: int, lock: int) -> subprocess.Popen[bytes]:
    share = max(1, (os.cpu_count() or 1) // jobs)
    # Of XLA's pool of threads, of NumPy's and of OpenMP's; each process would take all cores.
    threads = dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(share))
    shares = {**threads, "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / jobs:.3f}"} if jobs > 1 else {}
    with (run.workdir / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(_LAUNCH), "--mode=train", f"--workdir={run.workdir}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**shares, **os.environ, "PYTHONUNBUFFERED": "1"},
            pass_fds=[lock],
            # A second signal kills a run that is saving: Ctrl-C must reach it by `_stop` alone.
            process_group=0,
            preexec_fn=_end_with_parent if _LIBC else None,
        )


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent is killed, which can then tell nobody."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP_WITHIN_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _share_done(run: Run) -> float:
    """How much of a run's training is done."""
    rows = read_metrics(run.workdir)
    return min(1.0, rows[-1]["epoch"] / run.config["train"]["epochs"]) if rows else 0.0


def _in_short(run: Run) -> str:
    results = json.loads((run.workdir / RESULTS).read_text(encoding="utf-8"))
    clip = results["test"]["clip"]
    return (
        f"UAR {percent(clip['uar'])}, WAR {percent(clip['war'])} of {clip['count']} clips, "
        f"{results['train_seconds']:.0f} s of training"
    )


def _reason(run: Run) -> str:
    """The error that a failed run's log ends with, or its last line."""
    lines = [line for line in (run.workdir / LOG).read_text(errors="replace").splitlines() if line.strip()] or ["?"]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1].removeprefix("error: ")


def baseline_names(runs: Sequence[Run]) -> list[str]:
    """The baselines that can be run on the sound of these clips; says which cannot, and why."""
    missing = left_out()
    for name, package in missing.items():
        print(f"{name} is left out: it needs {package} (pip install -r requirements-baselines.txt)")
    if not any(row.n_samples for run in runs for row in run.test_rows):
        print("the baselines on sound are left out: no clip has any")
        return ["majority"]
    return [name for name in MEANING if name not in missing]


def run_baselines(runs: Sequence[Run], names: Sequence[str], folder: pathlib.Path) -> None:
    """Write what each baseline says on each split where it is not written yet."""
    splits = {run.baseline_path(""): run for run in runs if run.protocol != "random_windows"}
    todo = [(name, run) for name in names for run in splits.values() if not run.baseline_path(name).exists()]
    for name, run in tqdm(todo, desc="baselines", unit="split", disable=not todo):
        outcome = baseline(name, Setup.create(run.config, folder))
        path = run.baseline_path(name)
        path.parent.mkdir(exist_ok=True)
        predictions.write(path, outcome.windows, outcome.clip_log_prob)
