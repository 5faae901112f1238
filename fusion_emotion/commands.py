"""What `launch.py --mode=...` does: each mode is one function of a config and a workdir."""

import contextlib
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusion_emotion import corpora
from fusion_emotion.errors import UserError
from fusion_emotion.files import atomic
from fusion_emotion.locks import held
from fusion_emotion.prepare.settings import NOT_IN_RECORDS

if TYPE_CHECKING:
    from fusion_emotion.experiments.crossval import Run
    from fusion_emotion.train.loop import Setup

CONFIG = "config.json"
REPORT = "report.html"
PREPARED = "prepared.html"
AUGMENTATION = "augmentation.html"

# What a workdir's model does not depend on, and so may differ when it is used again.
_FREE = {
    *(("data", name) for name in ("root", "download", "download_url", "keep_archives")),
    *(("prepare", name) for name in (*NOT_IN_RECORDS, "insightface_root")),
    ("inspect", "augment"),
    *(("crossval", name) for name in ("protocols", "seeds", "jobs", "baselines")),
    *(("train", name) for name in ("keep_every_epochs", "on_full_disk", "resident_gb", "log_every_steps")),
    ("profile", "steps"),
}
# What may differ when a training goes on, which then says so.
_ADJUSTABLE = {("train", "epochs"), ("train", "patience_epochs")}
# What --mode=crossval sets in each of its runs.
_SET_BY_CROSSVAL = {("seed",), ("split", "protocol"), ("split", "fold")}


def train(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Prepare what is not prepared, train, restore the best checkpoint, evaluate it, write the report."""
    from fusion_emotion.train import devices, loop

    _check(config)
    _check_owner(config, workdir)
    setup = _set_up(config, workdir)
    busy = f"{workdir} is in use by process {{process}}: wait for it, or choose another --workdir"
    with held(workdir / ".lock", busy) if devices.leads() else contextlib.nullcontext():
        if devices.leads():
            _save_config(config, workdir)
        _guard(setup)
        loop.train(setup, workdir)
        _evaluate(setup, workdir)


def evaluate(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Restore the best checkpoint of the workdir, evaluate it, print and write the results and the report."""
    _evaluate(_set_up_again(config, workdir, left="checkpoints", by="train"), workdir)


def report(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Write the report of a workdir that has results."""
    from fusion_emotion.evaluate.results import RESULTS

    _report(_set_up_again(config, workdir, left=RESULTS, by="evaluate"), workdir)


def analyse(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Write what each modality is worth to the workdir's best checkpoint, where it looked, what its features hold."""
    setup = _set_up_again(config, workdir, left="checkpoints", by="train")
    from fusion_emotion.analyse import analysis

    print("\n" + analysis.text(analysis.analyse(setup, workdir)) + "\n")
    print(f"analysis: {workdir / analysis.PAGE}")


def prepare(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Prepare the corpus of a config and say what became of each clip."""
    del workdir
    from fusion_emotion.prepare.run import summary

    _check(config)
    folder = prepared(config)
    counts = summary(folder)
    share = counts["face_found_share"]
    print(f"found {counts['found']} = ok {counts['ok']} + quarantined {len(counts['quarantined'])}")
    if share is not None:
        print(f"face found in {share:.1%} of the sampled frames")
    for title in ("quarantined", "lacking"):
        by_reason: dict[str, list[str]] = {}
        for clip_id, reason in counts[title].items():
            by_reason.setdefault(reason, []).append(clip_id)
        for reason, clip_ids in by_reason.items():
            others = f" and {len(clip_ids) - 3} more" if len(clip_ids) > 3 else ""
            print(f"{title}: {reason}: {', '.join(clip_ids[:3])}{others}")
    print(f"records in {folder}")


def inspect(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Prepare the corpus of a config unless it was before, and write a page that shows what came of it.

    With `inspect.augment` also one that shows what the augmentations make of it.
    """
    del workdir
    _check(config)
    folder = prepared(config)
    from fusion_emotion.pages.prepared import write_prepared

    write_prepared(folder, folder / PREPARED)
    print(f"prepared: {folder / PREPARED}")
    if config["inspect"]["augment"]:
        from fusion_emotion.input.augment import Augmentation
        from fusion_emotion.pages.augmentation import write_gallery

        write_gallery(
            folder,
            folder / AUGMENTATION,
            Augmentation.from_config(config),
            modalities=config["model"]["modalities"],
            mfcc=config["model"]["mfcc"],
            corpus=config["data"]["corpus"],
        )
        print(f"augmentation: {folder / AUGMENTATION}")


def baselines(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Print what simple classifiers reach on the config's split: anyone's model must beat them."""
    from fusion_emotion.evaluate import metrics
    from fusion_emotion.evaluate.baselines import MEANING, baseline, left_out
    from fusion_emotion.evaluate.table import percent, table

    _check(config)
    setup = _set_up(config, workdir)
    _guard(setup)
    rows = []
    missing = left_out()
    for name, meaning in MEANING.items():
        if name in missing:
            print(f"{name} is left out: it needs {missing[name]} (pip install -r requirements-baselines.txt)")
            continue
        confusion = baseline(name, setup).clip_confusion
        rows.append([meaning, percent(metrics.uar(confusion)), percent(metrics.war(confusion))])
    print(f"\ntest part of protocol {config['split']['protocol']}, fold {config['split']['fold']}, clip level:\n")
    print(table(["baseline", "UAR", "WAR"], rows))


def crossval(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Run every fold of the config's protocols with every seed, and the baselines; print and write what comes of it."""
    from fusion_emotion.experiments import crossval, summary
    from fusion_emotion.pages import crossval as crossval_report

    _check(config)
    crossval.check(config["crossval"])
    if (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds a single run: choose another --workdir for a cross-validation")
    _check_owner(config, workdir, free=_SET_BY_CROSSVAL)
    folder = prepared(config)
    runs = crossval.plan(config, workdir, folder)
    print(f"workdir    {workdir}\nrecords    {folder}\nruns       {len(runs)}")
    with crossval.held(workdir) as lock, crossval.stoppable(workdir):
        _save_config(config, workdir)
        for run in runs:
            _check_owner(run.config, run.workdir)
            _save_config(run.config, run.workdir)
        crossval.execute(runs, jobs=config["crossval"]["jobs"], is_done=_is_done, lock=lock)
        names = crossval.baseline_names(runs) if config["crossval"]["baselines"] else []
        crossval.run_baselines(runs, names, folder)
        results = summary.summarise(config, runs, names)
        summary.write(results, workdir)
        crossval_report.write_report(results, workdir)
    print("\n" + summary.text(results) + "\n")
    print(f"results: {workdir / summary.RESULTS}\nreport: {workdir / crossval_report.REPORT}")


def compare(workdirs: Sequence[pathlib.Path]) -> None:
    """Print whether the first of two workdirs is better than the second on the same clips."""
    from fusion_emotion.experiments.compare import compare

    if len(workdirs) != 2:
        raise UserError(
            f"--workdirs names {len(workdirs)} runs: give two, with a comma between (--workdirs=runs/a,runs/b)"
        )
    print(compare(*workdirs))


def download(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Fetch what the config needs of RAVDESS into data.root; what is there already is not fetched again."""
    del workdir
    from fusion_emotion.corpora.download import download

    data = config["data"]
    if data["corpus"] != "ravdess":
        raise UserError(f"data.corpus={data['corpus']!r} is not downloaded: --mode=download fetches ravdess")
    download(
        _root(data),
        base_url=data["download_url"],
        channel=data["channel"],
        modality="a" if config["model"]["modalities"] == "audio" else "av",
        actors=[int(actor) for actor in data["actors"]] or range(1, 25),
        keep_archives=data["keep_archives"],
    )


MODES = {
    "train": train,
    "prepare": prepare,
    "evaluate": evaluate,
    "report": report,
    "analyse": analyse,
    "inspect": inspect,
    "baselines": baselines,
    "crossval": crossval,
    "download": download,
}


def load_config(workdir: pathlib.Path, *, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config that a workdir was trained with; it must have the fields of `like`. Raises UserError."""
    try:
        config = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{workdir} holds no readable {CONFIG}: give --config, or the --workdir of a run") from error
    missing = sorted(_leaves(like or {}).keys() - _leaves(config).keys())
    if missing:
        raise UserError(
            f"{workdir / CONFIG} lacks {'.'.join(missing[0])}: another version of this project made it, and only that "
            "one can read its checkpoints (results.json names the commit); or train again in a new --workdir"
        )
    return config


def prepared(config: dict[str, Any]) -> pathlib.Path:
    """The folder of the records of a config's corpus, prepared now unless it was before."""
    from fusion_emotion.prepare.run import is_prepared, prepare
    from fusion_emotion.prepare.settings import Settings
    from fusion_emotion.train import cluster

    settings = Settings.from_config(config["prepare"])
    data = config["data"]
    root = _root(data)
    together = cluster.joined()
    if data["corpus"] == "sample" and not together:
        from fusion_emotion.corpora.sample import make_corpus

        make_corpus(root, seed=0, workers=settings.workers or os.cpu_count() or 1)
    elif data["download"] and not together:
        download(config, root)
    clips, passed_over = corpora.find_clips(
        data["corpus"],
        root,
        audio_alone=config["model"]["modalities"] == "audio",
        channel=data["channel"],
        actors=[f"{int(actor):02d}" for actor in data["actors"]],
    )
    for path, reason in passed_over:
        print(f"passed over: {path}: {reason}")
    # Accelerators of many machines would wait while one machine prepares.
    if together and not is_prepared(clips, settings):
        raise UserError(
            "processes that train together want a prepared corpus: first run this config with --mode=prepare"
        )
    return prepare(clips, settings)


def _root(data: dict[str, Any]) -> pathlib.Path:
    if not data["root"]:
        raise UserError("data.root is empty: set --config.data.root to the folder of the corpus")
    return pathlib.Path(data["root"]).expanduser().absolute()


def _check(config: dict[str, Any]) -> None:
    """Raise UserError for what is wrong with a config whatever the data: a wrong name should not cost a preparation."""
    from fusion_emotion.corpora import protocols
    from fusion_emotion.input.augment import Augmentation
    from fusion_emotion.models.fusion import create_model
    from fusion_emotion.models.strip import PATCH_SIZES
    from fusion_emotion.train import settings

    create_model(config["model"], n_classes=1)
    if config["model"]["strip_network"] == "patch" and (face_size := config["prepare"]["face_size"]) not in PATCH_SIZES:
        raise UserError(
            f"prepare.face_size={face_size} does not suit model.strip_network=patch: "
            f"choose a multiple of {PATCH_SIZES.step} from {PATCH_SIZES.start} px"
        )
    settings.check(config)
    Augmentation.from_config(config)
    for field, seed in (("seed", config["seed"]), ("split.seed", config["split"]["seed"])):
        if not 0 <= seed < 2**32:
            raise UserError(f"{field}={seed} is out of range: expected 0 to 2**32 - 1")
    protocols.check_settings(
        config["split"]["protocol"],
        test_fraction=config["split"]["test_fraction"],
        validation_fraction=config["split"]["validation_fraction"],
    )


def _check_owner(config: dict[str, Any], workdir: pathlib.Path, *, free: Collection[tuple[str, ...]] = ()) -> None:
    """Raise UserError if the workdir belongs to another config, which may differ in the fields `free`."""
    if not (workdir / CONFIG).exists():
        return
    changed = _differences(load_config(workdir), config, free=free)
    if differing := [said for path, said in changed.items() if path not in _ADJUSTABLE]:
        raise UserError(
            f"{workdir} belongs to another config ({'; '.join(differing)}): "
            "choose another --workdir, or give the config it was made with"
        )
    for said in changed.values():
        print(f"changed    {said}")


def _is_done(run: "Run") -> bool:
    """Whether a run of a cross-validation is finished, with this config."""
    from fusion_emotion.evaluate.results import RESULTS

    try:
        results = json.loads((run.workdir / RESULTS).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    # The report is the last thing that a run writes.
    return not _differences(results["config"], run.config) and (run.workdir / REPORT).exists()


def _save_config(config: dict[str, Any], workdir: pathlib.Path) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    with atomic(workdir / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _differences(
    old: dict[str, Any], new: dict[str, Any], *, free: Collection[tuple[str, ...]] = ()
) -> dict[tuple[str, ...], str]:
    before, after = _leaves(old), _leaves(json.loads(json.dumps(new)))
    return {
        path: f"{'.'.join(path)} is {before.get(path)!r} there, {after.get(path)!r} here"
        for path in sorted(before.keys() | after.keys())
        if path not in _FREE and path not in free and before.get(path) != after.get(path)
    }


def _leaves(tree: Mapping[str, Any], *path: str) -> dict[tuple[str, ...], Any]:
    """The fields of a config by their path."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in tree.items():
        found |= _leaves(value, *path, name) if isinstance(value, dict) else {(*path, name): value}
    return found


def _set_up_again(config: dict[str, Any], workdir: pathlib.Path, *, left: str, by: str) -> "Setup":
    """The set-up of what mode `by` left in a workdir. Raises UserError where it did not, or for another config."""
    if not (workdir / left).exists():
        raise UserError(f"{workdir} holds no {left}: {by} first (--mode={by}, the same --workdir)")
    _check_owner(config, workdir)
    return _set_up(config, workdir)


def _set_up(config: dict[str, Any], workdir: pathlib.Path) -> "Setup":
    """Prepare, draw the split, and print the block that says what runs."""
    folder = prepared(config)
    # JAX takes the accelerator's memory when first used: only after the detectors are done with it.
    import jax

    from fusion_emotion.train import devices
    from fusion_emotion.train.loop import Setup

    devices.keep_memory()
    devices.keep_compiled(pathlib.Path(config["prepare"]["cache"]) / "compiled")

    setup = Setup.create(config, folder)
    split = config["split"]
    processes = f", in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    print(
        f"devices    {jax.device_count()} x {jax.devices()[0].device_kind}{processes}\n"
        f"workdir    {workdir}\n"
        f"corpus     {config['data']['corpus']}, {config['model']['modalities']}, records in {folder}\n"
        f"protocol   {split['protocol']}, fold {split['fold']}, seed {split['seed']}"
    )
    for part, windows in setup.windows.items():
        speakers = sorted({row.speaker for row in windows.rows})
        named = "s " + ", ".join(speakers) if len(speakers) <= 24 else f"s: {len(speakers)}"
        print(f"{part:<10} {windows.n_clips} clips, {len(windows)} windows, speaker{named}")
    if setup.set_aside:
        print("set aside  " + ", ".join(f"{count} {reason}" for reason, count in setup.set_aside.items()))
    return setup


def _guard(setup: "Setup") -> None:
    """Print what the parts of the split share. Raises UserError where the protocol promises that they do not."""
    from fusion_emotion.input.leaks import check_split

    found = check_split(setup.folder, setup.windows, protocol=setup.config["split"]["protocol"])
    print(found.text())
    found.raise_errors()


def _evaluate(setup: "Setup", workdir: pathlib.Path) -> None:
    from fusion_emotion.evaluate import results as evaluate
    from fusion_emotion.train import devices

    print("\n" + evaluate.results_table(evaluate.evaluate(setup, workdir)) + "\n")
    if devices.leads():
        _report(setup, workdir)


def _report(setup: "Setup", workdir: pathlib.Path) -> None:
    from fusion_emotion.pages.run import write_report

    write_report(setup, workdir, workdir / REPORT)
    print(f"report: {workdir / REPORT}")
