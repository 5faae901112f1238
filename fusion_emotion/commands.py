"""The modes of launch.py: each is a function of a config and a workdir.

What is slow to import is imported where it is used.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from fusion_emotion import config as config_
from fusion_emotion import locks
from fusion_emotion.errors import UserError
from fusion_emotion.files import expanded

if TYPE_CHECKING:
    from fusion_emotion.experiments.crossval import Run
    from fusion_emotion.input.data import Data
    from fusion_emotion.models.fusion import FusionNet
    from fusion_emotion.prepare.settings import Settings
    from fusion_emotion.train.plan import Plan

Config = dict[str, Any]

# Pages: the first three in a workdir, the others beside the records.
REPORT, CROSSVAL, ANALYSIS = "report.html", "crossval.html", "analysis.html"
PREPARED, AUGMENTATION = "prepared.html", "augmentation.html"
_TRAINED = ("checkpoints", "model")  # either is enough to evaluate
_LAUNCH = pathlib.Path(__file__).parents[1] / "launch.py"


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked config with its data, network and plan."""

    config: Config
    workdir: pathlib.Path
    data: "Data"
    model: "FusionNet"
    plan: "Plan"


def train(config: Config, workdir: pathlib.Path) -> None:
    """Prepare the corpus if it is not prepared, train, evaluate the best checkpoint, and write the report."""
    check(config)
    check_owner(config, workdir)
    job = open_job(config, workdir)
    from fusion_emotion.input import membership
    from fusion_emotion.train import devices

    main = devices.is_main_process()
    with locks.held_workdir(workdir) if main else contextlib.nullcontext():
        # Keep the clips only after the guard: its remedy is to remove some, and a workdir refuses other clips.
        _guard(job.data)
        if main:
            config_.save(config, workdir)
            membership.keep(workdir, job.data.parts, label_names=job.data.label_names)
        train_job(job)
        _evaluate(job)


def evaluate(config: Config, workdir: pathlib.Path) -> None:
    """Evaluate the best checkpoint of the workdir, or its exported model; write the results and the report."""
    _evaluate(_reopen(config, workdir, needs=_TRAINED, made_by="train"))


def report(config: Config, workdir: pathlib.Path) -> None:
    """Write the report of a workdir that has results."""
    from fusion_emotion.evaluate.answers import RESULTS

    _report(_reopen(config, workdir, needs=(RESULTS,), made_by="evaluate"))


def analyse(config: Config, workdir: pathlib.Path) -> None:
    """Measure each modality's share in the workdir's best checkpoint, its saliency and its features; write the page."""
    job = _reopen(config, workdir, needs=_TRAINED, made_by="train")
    from fusion_emotion.analyse import analysis
    from fusion_emotion.pages.analysis import write_analysis

    results, material = analysis.analyse(job.model, job.data, config, workdir)
    write_analysis(results, material, workdir / ANALYSIS, corpus=job.data.corpus, protocol=job.data.protocol)
    print(f"\n{analysis.text(results)}\n\nanalysis: {workdir / ANALYSIS}")


def prepare(config: Config, workdir: pathlib.Path) -> None:
    """Prepare the corpus of a config and print what became of its clips."""
    from fusion_emotion.prepare.run import summary

    check(config)
    folder = prepared(config)
    print(f"{summary(folder)}\nrecords in {folder}")


def inspect(config: Config, workdir: pathlib.Path) -> None:
    """Prepare the corpus of a config and write a page of its clips, and of the augmentations if the config says so."""
    check(config)
    folder = prepared(config)
    from fusion_emotion.pages.augmentation import write_augmentation
    from fusion_emotion.pages.prepared import write_prepared

    write_prepared(folder, folder / PREPARED)
    print(f"prepared: {folder / PREPARED}")
    if config["run"]["show_augment"]:
        write_augmentation(folder, folder / AUGMENTATION, config)
        print(f"augmentation: {folder / AUGMENTATION}")


def baselines(config: Config, workdir: pathlib.Path) -> None:
    """Print the scores of simple classifiers on the config's split, which a model must beat.

    The split is that of the run in the workdir, if this config made it.
    """
    from fusion_emotion.evaluate import baselines

    check(config)
    is_its_run = (workdir / config_.CONFIG).exists() and not config_.changes(config_.load(workdir), config)
    job = open_job(config, workdir, drawn_anew=not is_its_run)
    _guard(job.data)
    systems = {name: baselines.baseline(name, job.data, config) for name in baselines.available(job.data.rows)}
    protocol, fold = job.data.protocol.name, config["split"]["fold"]
    print(f"\ntest part of protocol {protocol}, fold {fold}, clip level:\n\n{baselines.text(systems)}")


def crossval(config: Config, workdir: pathlib.Path) -> None:
    """Run every fold of the config's protocols with every seed, and the baselines; write the summary."""
    from fusion_emotion.experiments import crossval
    from fusion_emotion.input import membership

    check(config)
    if (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds a single run: choose another --workdir for a cross-validation")
    check_owner(config, workdir, ignored=config_.SET_BY_CROSSVAL)
    folder = prepared(config)
    runs = crossval.plan(config, workdir, folder)
    print(f"workdir    {workdir}\nrecords    {folder}\nruns       {len(runs)}")
    with locks.held_workdir(workdir), crossval.stoppable(workdir):
        config_.save(config, workdir)
        for run in runs:
            check_owner(run.config, run.workdir)
            config_.save(run.config, run.workdir)
            membership.keep(run.workdir, run.parts, label_names=run.label_names)
        crossval.execute(runs, command=[sys.executable, str(_LAUNCH)], jobs=config["crossval"]["jobs"], is_done=is_done)
        _summarise(config, workdir, folder, runs)


def _summarise(config: Config, workdir: pathlib.Path, folder: pathlib.Path, runs: "Sequence[Run]") -> None:
    """Run the baselines of a finished cross-validation, and write its numbers and its page."""
    from fusion_emotion.corpora.catalogue import corpus_of
    from fusion_emotion.evaluate import baselines
    from fusion_emotion.experiments import crossval, summary
    from fusion_emotion.pages.crossval import write_report

    settings, tested = config["crossval"], (row for run in runs for row in run.test_rows)
    names = baselines.available(tested, compare=settings["compare"]) if settings["baselines"] else []
    crossval.run_baselines(runs, names, folder)
    results = summary.summarise(config, runs, names)
    summary.write(results, workdir)
    caveats = summary.notes(results)
    write_report(results, workdir / CROSSVAL, corpus=corpus_of(config), caveats=caveats)
    print(f"\n{summary.text(results)}\n\nresults: {workdir / summary.RESULTS}\nreport: {workdir / CROSSVAL}")


def release(workdir: pathlib.Path, output: pathlib.Path) -> None:
    """Write a model with its numbers and a card: of a training whose test part is given, or of a cross-validation.

    For a cross-validation it is trained on every clip with the same config.
    """
    from fusion_emotion.experiments import release

    if release.is_tested(workdir):
        release.release_tested(workdir, output)
        print(f"released: {output}")
        return
    everything = workdir / "everything"
    train(release.config_of(workdir), everything)
    release.release(everything, workdir, output)
    print(f"released: {output} (its numbers are the cross-validation's, not those above)")


def films(config: Config, *, model: str, output: pathlib.Path) -> None:
    """Fit a head for films to a model of pictures, print how good it is, and write the model with it."""
    check(config)
    from fusion_emotion.experiments import films, release
    from fusion_emotion.predict.recognizer import find

    folder = find(model)[-1]  # of a voice and a face the face
    config = films.config_for(config, folder)
    release.make_folder(output)
    print(f"\n{films.release_head(config, prepared(config), folder, output)}\n\nreleased: {output}")


def compare(workdirs: Sequence[pathlib.Path]) -> None:
    """Print a paired comparison of two workdirs on the same clips."""
    from fusion_emotion.experiments.compare import compare

    if len(workdirs) != 2:
        raise UserError(f"--workdirs names {len(workdirs)} runs: give two (--workdirs=runs/a,runs/b)")
    print(compare(*workdirs))


def predict(config: Config, *, given: str, model: str, output: pathlib.Path) -> None:
    """Judge the recordings that `given` names by a trained model, and write their timelines to `output`."""
    check(config)
    from fusion_emotion.predict import batch
    from fusion_emotion.predict.recognizer import Recognizer, find
    from fusion_emotion.train import kept

    batch.recordings(given, output)  # a wrong path is said before the model is compiled
    kept.keep_memory()
    kept.keep_compiled(expanded(config["run"]["cache"], field="run.cache") / "compiled")
    recognizer = Recognizer(find(model), config["predict"], config["run"])
    print(f"model      {model}, trained on {recognizer.about['trained_on']}, {recognizer.about['licence']}")
    batch.predict(recognizer, given, output)


def serve(config: Config, *, model: str) -> None:
    """Serve a page on this machine where recordings and a camera are judged by a trained model, until Ctrl-C."""
    check(config)
    from fusion_emotion.serve import page

    page.check_possible(config["serve"]["port"])  # before the model is loaded
    from fusion_emotion.predict.recognizer import Recognizer, find
    from fusion_emotion.train import kept

    kept.keep_compiled(expanded(config["run"]["cache"], field="run.cache") / "compiled")
    recognizer = Recognizer(find(model), config["predict"], config["run"])
    page.serve(recognizer, config["serve"])


def export(config: Config, *, given: str, model: str, output: pathlib.Path) -> None:
    """Write a trained model as one file, and check it against JAX on a recording, by default one that is made here."""
    check(config)
    from fusion_emotion.corpora.sample import make_clip
    from fusion_emotion.predict.recognizer import Recognizer, find

    # The detector that needs no download: any faces will do.
    recognizer = Recognizer(find(model), {**config["predict"], "detector": "centerface"}, config["run"])
    with tempfile.TemporaryDirectory() as scratch:
        difference = recognizer.export(output, given or str(make_clip(pathlib.Path(scratch))))
    print(f"exported   {output}, probabilities within {difference:.1e} of JAX's; inputs and labels in {output}.json")


def download(config: Config, workdir: pathlib.Path) -> None:
    """Download the files of the corpus that data.root lacks."""
    from fusion_emotion.corpora import catalogue

    check(config)
    for name, root in catalogue.members(config).items():
        catalogue.download(catalogue.corpus(name), expanded(root, field="data.root"), config)


_MODES = (train, prepare, evaluate, report, analyse, inspect, baselines, crossval, download)
MODES = {mode.__name__: mode for mode in _MODES}


def check(config: Config) -> None:
    """Check all that needs no data, so that a wrong value does not cost a preparation. Raises UserError."""
    from fusion_emotion.corpora import catalogue, labels, protocols

    config_.check(config)
    catalogue.corpus_of(config)
    if config["data"]["labels"]:
        labels.parse(config["data"]["labels"])
    protocols.protocol(config["split"]["protocol"])
    for name in config["crossval"]["protocols"]:
        protocols.protocol(name, field="crossval.protocols")


def check_owner(config: Config, workdir: pathlib.Path, *, ignored: Collection[str] = ()) -> None:
    """Raise UserError if the workdir belongs to another config; print the changes that are allowed."""
    if not (workdir / config_.CONFIG).exists():
        return
    changes = config_.changes(config_.load(workdir), config, ignored=ignored)
    text = {name: f"{name} is {old!r} there, {new!r} here" for name, (old, new) in changes.items()}
    if refused := [line for name, line in text.items() if name not in config_.MAY_GROW]:
        raise UserError(
            f"{workdir} belongs to another config ({'; '.join(refused)}): "
            "choose another --workdir, or give the config it was made with"
        )
    for line in text.values():
        print(f"changed    {line}")


def prepared(config: Config) -> pathlib.Path:
    """Prepare the corpora of a config that are not prepared; return the folder of their records."""
    from fusion_emotion.corpora.catalogue import members
    from fusion_emotion.prepare.run import join
    from fusion_emotion.prepare.settings import Settings

    settings = Settings.from_config(config)
    folders = [_prepared(config, settings, name, root) for name, root in members(config).items()]
    return folders[0] if len(folders) == 1 else join(folders, settings)


def _prepared(config: Config, settings: "Settings", name: str, given_root: str) -> pathlib.Path:
    """Prepare one corpus if it is not prepared; return the folder of its records."""
    from fusion_emotion.corpora import catalogue
    from fusion_emotion.prepare.run import is_prepared, prepare
    from fusion_emotion.train import cluster

    corpus, root, together = catalogue.corpus(name), expanded(given_root, field="data.root"), cluster.joined()
    if not together:
        catalogue.fetch(corpus, root, config)
    found = catalogue.find_clips(corpus, root, catalogue.Wanted.from_config(config))
    for reason, paths in found.passed_over_by_reason().items():
        print(f"passed over: {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {reason}")
    # Accelerators of many machines would wait while one machine prepares.
    if together and not is_prepared(found.clips, settings, corpus=name):
        raise UserError("several processes need a prepared corpus: first run this config with --mode=prepare")
    # Nor may one process try clips again, and so change the set, while another reads it.
    settings = dataclasses.replace(settings, retry=settings.retry and not together)
    return prepare(found.clips, settings, corpus=name)


def is_done(run: "Run") -> bool:
    """True if a run of a cross-validation is finished, with this config."""
    from fusion_emotion.evaluate.answers import RESULTS

    try:
        results = json.loads((run.workdir / RESULTS).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    # The report is the last file that a run writes.
    return not config_.changes(results["config"], run.config) and (run.workdir / REPORT).exists()


def _reopen(config: Config, workdir: pathlib.Path, *, needs: Sequence[str], made_by: str) -> Job:
    """Open a workdir that holds one of `needs`. Raises UserError if it does not, or belongs to another config."""
    if not any((workdir / name).exists() for name in needs):
        raise UserError(f"{workdir} holds no {needs[0]}: {made_by} first (--mode={made_by}, the same --workdir)")
    check(config)
    check_owner(config, workdir)
    return open_job(config, workdir)


def open_job(config: Config, workdir: pathlib.Path, *, drawn_anew: bool = False) -> Job:
    """Prepare, take the parts that the workdir keeps or draw them, build the network, and print what runs.

    With `drawn_anew` the parts are drawn in any case.
    """
    folder = prepared(config)
    # JAX takes the accelerator's memory when first used: only after the detectors have ended.
    from fusion_emotion.input.data import Data
    from fusion_emotion.input.membership import CLIPS, is_trained
    from fusion_emotion.models.create import create_model
    from fusion_emotion.train import devices, kept
    from fusion_emotion.train.plan import Plan

    kept.keep_memory()
    kept.keep_compiled(expanded(config["run"]["cache"], field="run.cache") / "compiled")
    devices.check_batch_size(config)
    data = Data.open(config, folder, None if drawn_anew else workdir)
    plan = Plan(config, len(data.parts["train"]))
    model = create_model(config, n_classes=len(data.label_names), axis_name=devices.AXIS)
    print(f"{devices.text()}\nworkdir    {workdir}\n{data.text(config)}")
    if not drawn_anew and (workdir / CLIPS).exists():
        print(f"clips      those of {workdir / CLIPS}")
    elif not drawn_anew and is_trained(workdir):
        print(f"clips      not listed in {workdir}, which an earlier version made: drawn from those that are there now")
    return Job(config, workdir, data, model, plan)


def _guard(data: "Data") -> None:
    """Print what the parts of the split share. Raises UserError if the protocol promises otherwise."""
    from fusion_emotion.input.leaks import check_split

    leaks = check_split(data.folder, data.parts, data.protocol)
    print(leaks.text())
    leaks.raise_errors()


def train_job(job: Job) -> None:
    """Train a job, from its newest checkpoint if there is one."""
    from fusion_emotion.evaluate.evaluator import Evaluator
    from fusion_emotion.train.loop import train

    train(job.model, job.data, job.plan, job.workdir, Evaluator(job.model, job.data.source("validation"), job.config))


def _evaluate(job: Job) -> None:
    from fusion_emotion.evaluate.results import evaluate, results_table
    from fusion_emotion.train import devices

    results = evaluate(job.model, job.data, job.config, job.workdir)
    print(f"\n{results_table(results)}\n")
    if devices.is_main_process():
        _report(job)


def _report(job: Job) -> None:
    from fusion_emotion.pages.run import write_report
    from fusion_emotion.train.writer import read_metrics

    write_report(job.workdir, job.workdir / REPORT, data=job.data, log=read_metrics(job.workdir))
    print(f"report: {job.workdir / REPORT}")
