"""Cross-validation: every fold of every protocol with every seed, each a training in its own workdir and process.

    WORKDIR/kfold/fold-0-seed-0/    the workdir of one run, as --mode=train leaves it
    WORKDIR/kfold/baselines/        the answers of the baselines on the same splits

A finished run is not repeated, and an interrupted one continues from its checkpoint.
"""

import contextlib
import copy
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from fusion_emotion import locks
from fusion_emotion.cores import cores
from fusion_emotion.corpora import protocols
from fusion_emotion.corpora.protocols import Part, Protocol
from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.evaluate import answers
from fusion_emotion.evaluate.answers import RESULTS
from fusion_emotion.evaluate.baselines import baseline
from fusion_emotion.evaluate.table import percent
from fusion_emotion.input.data import Data
from fusion_emotion.input.membership import CLIPS, clip_ids, parts_of
from fusion_emotion.input.segments import Segments, is_placed, rows_for, usable_rows
from fusion_emotion.prepare.records import Row
from fusion_emotion.progress import bar
from fusion_emotion.train.writer import read_metrics

LOG = "log.txt"  # in the workdir of each run: its output

_POLL_EVERY_S = 0.25
_STOP_WITHIN_S = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One fold of one protocol with one seed."""

    protocol: Protocol
    fold: int
    seed: int
    config: dict[str, Any]
    workdir: pathlib.Path
    label_names: tuple[str, ...]
    parts: Mapping[Part, Segments]

    def __str__(self) -> str:
        fold = f", fold {self.fold}" if self.protocol.with_folds else ""
        return f"{self.protocol.name}{fold}, seed {self.seed}"

    @property
    def test_rows(self) -> Sequence[Row]:
        """The clips of the test part."""
        return self.parts["test"].rows

    @property
    def split_seed(self) -> int:
        """The seed that the split is drawn with."""
        return int(self.config["split"]["seed"])

    def baseline_path(self, name: str) -> pathlib.Path:
        """Return the file of a baseline's answers on this split, which runs of the same split share."""
        return self.workdir.parent / "baselines" / f"{name}-fold-{self.fold}-split-{self.split_seed}.jsonl"


def plan(config: Mapping[str, Any], workdir: pathlib.Path, folder: pathlib.Path) -> list[Run]:
    """List the runs of a config on the clips in `folder`, or on those of them that earlier runs in `workdir` keep.

    Raises UserError for a split that cannot be drawn, and for kept clips that vanished or changed.
    """
    rows, labels, _ = usable_rows(folder, config)
    # One run of each protocol: they differ in the corpora that they use.
    if earlier := {path.parent.parent: path.parent for path in sorted(workdir.glob(f"*/*/{CLIPS}"))}:
        kept_parts = [parts_of(config, rows, folder, run, label_names=labels.names) for run in earlier.values()]
        kept = set[str]().union(*map(clip_ids, kept_parts))
        corpora = {row.corpus for row in rows if row.clip_id in kept}
        new = {row.clip_id for row in rows if row.corpus in corpora and row.clip_id not in kept}
        if new:
            print(f"set aside  {len(new)} clips new since this cross-validation began")
        rows = [row for row in rows if row.clip_id not in new]
    split, runs = config["split"], []
    for name in config["crossval"]["protocols"]:
        protocol = protocols.protocol(name, field="crossval.protocols")
        used = rows_for(protocol, rows)
        placed = [row for row in used if is_placed(row, split)]
        folds = protocols.folds(placed, protocol, n_folds=split["n_folds"], seed=split["seed"])
        if not folds:
            raise UserError(f"crossval.protocols: {name} tests none of these speakers; choose kfold, takes or loso")
        for seed in config["crossval"]["seeds"]:
            for fold in folds:
                run_config = _config(config, protocol, fold, seed)
                run_workdir = workdir / name / f"fold-{fold}-seed-{seed}"
                parts = parts_of(run_config, used, folder, run_workdir, label_names=labels.names)
                runs.append(
                    Run(
                        protocol=protocol,
                        fold=fold,
                        seed=seed,
                        config=run_config,
                        workdir=run_workdir,
                        label_names=labels.names,
                        parts=parts,
                    )
                )
    return runs


def _config(config: Mapping[str, Any], protocol: Protocol, fold: int, seed: int) -> dict[str, Any]:
    run_config = copy.deepcopy(dict(config))
    run_config["seed"] = seed
    # A protocol without folds draws a new split for each seed.
    split_seed = config["split"]["seed"] if protocol.with_folds else seed
    run_config["split"] |= {"protocol": protocol.name, "fold": fold, "seed": split_seed}
    run_config["run"] |= {"download": False, "retry": False}  # the corpus is complete by now, the same for all runs
    return run_config


@contextlib.contextmanager
def stoppable(workdir: pathlib.Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a Stopped that tells how to continue."""
    received = signal.SIGINT

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number)
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:
        remedy = f"finished runs and checkpoints are kept; continue with --mode=crossval --workdir={workdir}"
        raise Stopped(f"{received.name}: {remedy}", signal_number=received) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def execute(runs: Sequence[Run], *, command: Sequence[str], jobs: int, is_done: Callable[[Run], bool]) -> None:
    """Execute the runs that are not done, up to `jobs` at once; a failed run does not stop the others.

    `command` is the program that trains, without its flags. Raises UserError at the end if a run failed, and at the
    start if a run is still executed by an earlier cross-validation that was killed.
    """
    waiting = [run for run in runs if not is_done(run)]
    for run in waiting:
        # A process that has not locked its workdir yet is found by the run itself, which then fails.
        with locks.held_workdir(run.workdir):
            pass
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are done")
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failed: list[Run] = []
    with _progress(total=len(runs), initial=len(runs) - len(waiting)) as shown:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    running[run] = _start(run, command, jobs=jobs)
                time.sleep(_POLL_EVERY_S)
                for run in [run for run, process in running.items() if process.poll() is not None]:
                    if running.pop(run).returncode or not is_done(run):
                        failed.append(run)
                        shown.write(f"{run}: failed, see {run.workdir / LOG}")
                    else:
                        shown.write(f"{run}: {_scores(run)}")
                n_ended = len(runs) - len(waiting) - len(running)
                shown.update(n_ended + sum(map(_fraction_done, running)) - shown.n)
        finally:
            _stop(running.values())
    if failed:
        others = f" and {len(failed) - 1} others" if len(failed) > 1 else ""
        raise UserError(
            f"{failed[0]}{others} of {len(runs)} runs failed ({_reason(failed[0])}): see {failed[0].workdir / LOG}; "
            "the same command repeats only what is not done"
        )


def _progress(*, total: int, initial: int) -> Any:
    """A progress bar in runs."""
    return bar(
        total=total,
        initial=initial,
        desc="crossval",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]",
        disable=initial == total,
        smoothing=0,
        miniters=0,
        mininterval=1,
    )


def _start(run: Run, command: Sequence[str], *, jobs: int) -> subprocess.Popen[bytes]:
    # By default each process would take all cores and most of the device's memory: for XLA, NumPy and OpenMP.
    n_threads = str(max(1, cores() // jobs))
    limits = {
        **dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), n_threads),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / jobs:.3f}",
    }
    with (run.workdir / LOG).open("ab") as log:
        return subprocess.Popen(
            [*command, "--mode=train", f"--workdir={run.workdir}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**(limits if jobs > 1 else {}), **os.environ, "PYTHONUNBUFFERED": "1"},
            # Ctrl-C in a terminal must not reach a run: `_stop` sends SIGTERM, and a second signal would kill the run
            # while it saves.
            process_group=0,
        )


def _stop(processes: Collection[subprocess.Popen[bytes]]) -> None:
    """Let the processes save a checkpoint and end; kill those that take too long."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP_WITHIN_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _fraction_done(run: Run) -> float:
    """Return the fraction of a run's epochs that is done."""
    rows = read_metrics(run.workdir)
    return min(1.0, rows[-1]["epoch"] / run.config["train"]["epochs"]) if rows else 0.0


def _scores(run: Run) -> str:
    results = json.loads((run.workdir / RESULTS).read_text(encoding="utf-8"))
    clip = results["test"]["clip"]
    return (
        f"UAR {percent(clip['uar'])}, WAR {percent(clip['war'])} of {clip['count']} clips, "
        f"{results['train_seconds']:.0f} s of training"
    )


def _reason(run: Run) -> str:
    """Return the last error in the log of a failed run, or else its last line."""
    lines = [line for line in (run.workdir / LOG).read_text(errors="replace").splitlines() if line.strip()] or ["?"]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1].removeprefix("error: ")


def run_baselines(runs: Sequence[Run], names: Sequence[str], folder: pathlib.Path) -> None:
    """Write the answers of each baseline on each split that lacks them."""
    # Baselines see whole clips, so they have no answers if segments are split.
    splits = {run.baseline_path(""): run for run in runs if run.protocol.unit != "segment"}
    missing = [(name, run) for name in names for run in splits.values() if not run.baseline_path(name).exists()]
    for name, run in bar(missing, desc="baselines", unit="split", disable=not missing):
        run.baseline_path(name).parent.mkdir(exist_ok=True)
        answers.write(run.baseline_path(name), baseline(name, Data.open(run.config, folder, run.workdir), run.config))
