"""What `launch.py --mode=...` does: each mode is one function of a config and a workdir."""

import importlib.util
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

from fusion_emotion import corpora
from fusion_emotion.errors import UserError
from fusion_emotion.prepare.records import atomic
from fusion_emotion.prepare.settings import NOT_IN_RECORDS

if TYPE_CHECKING:
    from fusion_emotion.train.loop import Setup

CONFIG = "config.json"
REPORT = "report.html"
PREPARED = "prepared.html"

# What a workdir's model does not depend on, and so may differ when it is used again.
_FREE = {
    *(("data", name) for name in ("root", "download", "download_url", "keep_archives")),
    *(("prepare", name) for name in (*NOT_IN_RECORDS, "insightface_root")),
}


def train(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Prepare what is not prepared, train, restore the best checkpoint, evaluate it, write the report."""
    from fusion_emotion.train import loop

    _check(config)
    _check_owner(config, workdir)
    setup = _set_up(config, workdir)
    _save_config(config, workdir)
    _guard(setup)
    loop.train(setup, workdir)
    _evaluate(setup, workdir)


def evaluate(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Restore the best checkpoint of the workdir, evaluate it, print and write the results and the report."""
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint: train first (--mode=train, the same --workdir)")
    _evaluate(_set_up(config, workdir), workdir)


def report(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Write the report of a workdir that has results."""
    from fusion_emotion.evaluate.evaluate import RESULTS

    if not (workdir / RESULTS).is_file():
        raise UserError(f"{workdir} holds no {RESULTS}: evaluate first (--mode=evaluate, the same --workdir)")
    _report(_set_up(config, workdir), workdir)


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
    """Prepare the corpus of a config unless it was before, and write a page that shows what came of it."""
    del workdir
    _check(config)
    folder = prepared(config)
    from fusion_emotion.evaluate.inspect import write_prepared

    write_prepared(folder, folder / PREPARED)
    print(f"prepared: {folder / PREPARED}")


def baselines(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Print what simple classifiers reach on the config's split: anyone's model must beat them."""
    from fusion_emotion import metrics
    from fusion_emotion.evaluate.baselines import MEANING, baseline
    from fusion_emotion.evaluate.table import percent, table

    _check(config)
    setup = _set_up(config, workdir)
    _guard(setup)
    rows = []
    for name, meaning in MEANING.items():
        if name == "egemaps" and importlib.util.find_spec("opensmile") is None:
            print("egemaps is left out: pip install -r requirements-baselines.txt")
            continue
        confusion = baseline(name, setup).clip_confusion
        rows.append([meaning, percent(metrics.uar(confusion)), percent(metrics.war(confusion))])
    print(f"\ntest part of protocol {config['split']['protocol']}, fold {config['split']['fold']}, clip level:\n")
    print(table(["baseline", "UAR", "WAR"], rows))


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
    "inspect": inspect,
    "baselines": baselines,
    "download": download,
}


def load_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The config that a workdir was trained with. Raises UserError where there is none."""
    try:
        return json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{workdir} holds no readable {CONFIG}: give --config, or the --workdir of a run") from error


def prepared(config: dict[str, Any]) -> pathlib.Path:
    """The folder of the records of a config's corpus, prepared now unless it was before."""
    from fusion_emotion.prepare.run import prepare
    from fusion_emotion.prepare.settings import Settings

    settings = Settings.from_config(config["prepare"])
    data = config["data"]
    root = _root(data)
    if data["corpus"] == "sample":
        from fusion_emotion.corpora.sample import make_corpus

        make_corpus(root, seed=0, workers=settings.workers or os.cpu_count() or 1)
    elif data["download"]:
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
    return prepare(clips, settings)


def _root(data: dict[str, Any]) -> pathlib.Path:
    if not data["root"]:
        raise UserError("data.root is empty: set --config.data.root to the folder of the corpus")
    return pathlib.Path(data["root"]).expanduser().absolute()


def _check(config: dict[str, Any]) -> None:
    """Raise UserError for what is wrong with a config whatever the data: a wrong name should not cost a preparation."""
    from fusion_emotion.corpora import protocols
    from fusion_emotion.models.fusion import create_model
    from fusion_emotion.models.strip_cnn import PATCH_SIZES
    from fusion_emotion.train.optimizer import create_schedule

    create_model(config["model"], n_classes=1)
    if config["model"]["strip_network"] == "patch" and (face_size := config["prepare"]["face_size"]) not in PATCH_SIZES:
        raise UserError(
            f"prepare.face_size={face_size} does not suit model.strip_network=patch: "
            f"choose a multiple of {PATCH_SIZES.step} from {PATCH_SIZES.start} px"
        )
    create_schedule(config["train"], n_steps=1, steps_per_epoch=1)
    for field, seed in (("seed", config["seed"]), ("split.seed", config["split"]["seed"])):
        if not 0 <= seed < 2**32:
            raise UserError(f"{field}={seed} is out of range: expected 0 to 2**32 - 1")
    protocols.check_settings(
        config["split"]["protocol"],
        test_fraction=config["split"]["test_fraction"],
        validation_fraction=config["split"]["validation_fraction"],
    )


def _check_owner(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Raise UserError if the workdir belongs to another config."""
    if (workdir / CONFIG).exists():
        differing = _differences(load_config(workdir), config)
        if differing:
            raise UserError(
                f"{workdir} belongs to another config ({'; '.join(differing)}): "
                "choose another --workdir, or give the config it was made with"
            )


def _save_config(config: dict[str, Any], workdir: pathlib.Path) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    with atomic(workdir / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    def leaves(tree: dict[str, Any], *path: str) -> dict[tuple[str, ...], Any]:
        found: dict[tuple[str, ...], Any] = {}
        for name, value in tree.items():
            found |= leaves(value, *path, name) if isinstance(value, dict) else {(*path, name): value}
        return found

    before, after = leaves(old), leaves(json.loads(json.dumps(new)))
    return [
        f"{'.'.join(path)} is {before.get(path)!r} there, {after.get(path)!r} here"
        for path in sorted(before.keys() | after.keys())
        if path not in _FREE and before.get(path) != after.get(path)
    ]


def _set_up(config: dict[str, Any], workdir: pathlib.Path) -> "Setup":
    """Prepare, draw the split, and print the block that says what runs."""
    folder = prepared(config)
    # JAX takes the accelerator's memory when first used: only after the detectors are done with it.
    import jax

    from fusion_emotion.train.loop import Setup

    setup = Setup.create(config, folder)
    split = config["split"]
    print(
        f"devices    {jax.device_count()} x {jax.devices()[0].device_kind}\n"
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
    from fusion_emotion.evaluate import evaluate

    print("\n" + evaluate.results_table(evaluate.evaluate(setup, workdir)) + "\n")
    _report(setup, workdir)


def _report(setup: "Setup", workdir: pathlib.Path) -> None:
    from fusion_emotion.evaluate.report import write_report

    write_report(setup, workdir, workdir / REPORT)
    print(f"report: {workdir / REPORT}")
