"""Every field of a config, once: its name, default, unit and check. The files in configs/ only override.

A field added here works at once in every config and on the command line, and workdirs made before it still load: a
field that their config.json lacks has its default, which by rule means "as before".
"""

import json
import math
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from fusion_emotion.errors import UserError, unknown_name
from fusion_emotion.files import atomic, is_utf8
from fusion_emotion.units import SAMPLE_RATE_HZ

CONFIG = "config.json"  # in a workdir
RELEASED_MODEL = "av-base"  # in the package: the model of a prediction that names none
# A workdir belongs to one config; these sections and fields, which say where and how to run, may change.
NOT_OWNED = ("run", "crossval", "predict", "serve", "data.root", "data.roots")
# These may differ when a training goes on, which then prints the change.
MAY_GROW = ("train.epochs", "train.patience_epochs")
# --mode=crossval sets these in each of its runs, so its own workdir is not bound to them.
SET_BY_CROSSVAL = ("seed", "split.protocol", "split.fold")


class Check(NamedTuple):
    """A condition on a value, and its description; `names` are those of `one_of`."""

    holds: Callable[[Any], bool]
    expected: str
    names: tuple[str, ...] = ()


ANY = Check(lambda value: True, "anything")


class Field(NamedTuple):
    """The default of a field, which also gives its type, and its check."""

    default: Any
    check: Check = ANY


def one_of(*names: str) -> Check:
    """A name of a closed list."""
    return Check(lambda value: value in names, f"one of {', '.join(names)}", names)


def between(low: float, high: float, ends: str = "[]", unit: str = "") -> Check:
    """A number from `low` to `high`; a round bracket in `ends` excludes that end, as in mathematics."""
    excluded = [end for end, bracket in zip((low, high), ends, strict=True) if bracket in "()"]
    without = f", not {' or '.join(map(str, excluded))}" if excluded else ""
    return Check(lambda value: low <= value <= high and value not in excluded, f"{low} to {high}{unit}{without}")


def whole(low: int, high: int, unit: str = "") -> Check:
    """An integer from `low` to `high`."""
    return Check(lambda value: type(value) is int and low <= value <= high, f"an integer, {low} to {high}{unit}")


def multiple_of(step: float, within: Check) -> Check:
    """A multiple of `step`, up to rounding, that passes `within`."""
    return Check(
        lambda value: within.holds(value) and math.isclose(value / step, round(value / step)),
        f"a multiple of {step}, {within.expected}",
    )


def several(check: Check, *, count: int = 0, ascending: bool = False, once: bool = False, none: bool = False) -> Check:
    """One or more values that pass `check`, or `count` of them, ascending, without repetition; `none` allows () too."""

    def holds(values: Sequence[Any]) -> bool:
        return (none and len(values) == 0) or (
            len(values) == (count or len(values)) > 0
            and (not ascending or list(values) == sorted(values))
            and (not once or len(set(values)) == len(values))
            and all(map(check.holds, values))
        )

    rule = ", ascending" * ascending + ", each once" * once + f", each {check.expected}" * (check is not ANY)
    return Check(holds, f"{'() or ' * none}{count or 'one or more'} values{rule}")


_SEED = Check(lambda value: type(value) is int and 0 <= value < 2**32, "an integer from 0 to 2**32 - 1")
_PROBABILITY = Check(lambda value: 0 <= value <= 1, "a probability, 0 to 1")
_HERTZ = between(0, SAMPLE_RATE_HZ / 2, unit=" Hz")
_SECONDS = multiple_of(0.2, between(0.2, 60, unit=" s"))  # whole frames
_PATCHES = multiple_of(4, between(32, 512, unit=" px"))  # that the strip network "patch" can pool
_STRIDES = multiple_of(32, whole(32, 4096, " px"))  # that InsightFace's detectors can pool
_EPOCHS, _SOME_EPOCHS = whole(0, 10**6), whole(1, 10**6)
FORMATS = ("csv", "json", "html", "eaf", "textgrid", "vtt", "srt", "parquet", "png", "mp4")  # of a prediction
_ACTOR = Check(lambda value: str(value).isdecimal() and 1 <= int(value) < 10**4, "a number, 1 to 9999")  # 5, or "05"
_FOLDER = Check(lambda value: bool(str.strip(value)) and "\0" not in value, "the path of a folder")
_PROTOCOL = Check(lambda value: bool(str.strip(value)), "the name of a protocol")
_CORPUS = Check(lambda value: bool(str.strip(value)), "the name of a corpus")
_URL = Check(
    lambda value: not value or value.startswith(("https://", "http://")), "'' or an address with https:// or http://"
)
_WRITTEN = Check(lambda value: _FOLDER.holds(value) and is_utf8(value), f"{_FOLDER.expected}, in UTF-8")

# The types of a value by that of the default, and their name.
_TYPES = {
    bool: ((bool,), "True or False"),
    int: ((int,), "an integer"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    tuple: ((tuple, list), "several values"),
}

FIELDS: dict[str, Field] = {
    "seed": Field(0, _SEED),  # of the initial parameters, the order and cutting of segments, and dropout
    # --- data: which clips ---
    "data.corpus": Field("ravdess"),  # ravdess, sample, cremad, savee, tess, emodb, ferplus, folder
    "data.root": Field("data/ravdess", _FOLDER),  # folder of the corpus
    "data.table": Field(""),  # of your recordings: csv or parquet with the columns path and emotion; "": by folders
    # ravdess8, basic7, basic6, iemocap4, valence3, or "negative=sad+angry, positive=happy"; "": the corpus's own words
    "data.labels": Field(""),
    "data.labels_by": Field("acted", one_of("acted", "votes")),  # who names the emotion: the actor's task, or raters
    "data.corpora": Field((), several(_CORPUS, once=True, none=True)),  # several, in place of data.corpus
    "data.roots": Field((), several(_FOLDER, none=True)),  # their folders, in the same order
    # how often a segment of each is drawn in training, against one of weight 1; (): all alike
    "data.weights": Field((), several(between(0, 1000, "(]"), none=True)),
    "data.channel": Field("speech", one_of("speech", "song", "both")),
    "data.actors": Field((), several(_ACTOR, none=True)),  # numbers of the actors to use; (): all
    # --- split: which clips train and which test ---
    # given and given_takes: the parts that the corpus or the table names; also "train:A+B test:C", of corpora
    # random, random_windows, takes, luna5, contiguous6, emobox6, chumachenko, loso, leave_one_corpus_out, everything,
    # given, given_takes, kfold
    "split.protocol": Field("random"),
    "split.fold": Field(0, whole(0, 9999)),  # the fold that is tested, of a protocol with folds
    "split.n_folds": Field(5, whole(2, 9999)),  # of kfold and takes
    "split.test_fraction": Field(0.2, between(0, 1, "()")),  # of the takes (random) or segments (random_windows)
    "split.validation_fraction": Field(0.125, between(0, 1, "()")),  # of the rest; it chooses the checkpoint
    "split.seed": Field(0, _SEED),
    # of data.corpora, those whose clips the protocol places; the others only train; (): all
    "split.corpora": Field((), several(_CORPUS, once=True, none=True)),
    # --- crossval: the runs of --mode=crossval ---
    # every fold of each; a protocol without folds: one split a seed
    "crossval.protocols": Field(("kfold",), several(_PROTOCOL, once=True)),
    "crossval.seeds": Field((0,), several(_SEED, once=True)),  # every fold is run with each
    "crossval.jobs": Field(1, whole(1, 256)),  # runs at once; they share the cores and the accelerator's memory
    "crossval.baselines": Field(True),  # also majority class and logistic regressions on the same splits
    "crossval.compare": Field(False),  # among them ComParE's 6,373 functionals, which take minutes
    # --- prepare: the content of the records; each field changes the name of the cache folder ---
    # centerface: embedded, no download; none: pictures are crops of faces already
    "prepare.detector": Field("insightface", one_of("insightface", "centerface", "none")),
    "prepare.detector_sizes": Field((192, 512), several(_STRIDES)),  # px, longer side of the input; tried in turn
    "prepare.detector_threshold": Field(0.5, between(0, 1, "()")),  # lowest score of a face
    "prepare.insightface_pack": Field("buffalo_sc", _FOLDER),
    "prepare.detect_every": Field(2, whole(1, 1000)),  # sampled frames; those between only where the face is not steady
    "prepare.align": Field(False),  # rotate each crop until the eyes are level
    "prepare.face_size": Field(64, whole(16, 512, " px")),  # side of a crop, px (the original: 50)
    "prepare.margin": Field(0.05, between(0, 2)),  # on each side of the face box, as a share of its longer side
    "prepare.missing": Field("quarantine", one_of("quarantine", "keep")),  # a clip that lacks faces or sound
    "prepare.min_found_share": Field(0.5, between(0, 1)),  # below this share of frames with a face, a clip has no faces
    # --- segment: how clips are cut for the model ---
    "segment.seconds": Field(1.0, _SECONDS),  # longest piece of a clip that the model sees at once, s
    "segment.hop_s": Field(1.0, _SECONDS),  # from one piece to the next in evaluation, s
    # a batch is padded to the shortest of these that holds it, s; (): always to segment.seconds
    "segment.pad_to_s": Field((), several(_SECONDS, ascending=True, none=True)),
    "segment.random_start": Field(True),  # training cuts its pieces anywhere in a clip
    # --- model: the network ---
    "model.modalities": Field("audio+video", one_of("audio+video", "audio", "video")),
    "model.features": Field(200, whole(1, 4096)),  # of each modality
    # patch_norm: patch with batch normalisation; face: a network of one face, over the strip, for any length and stills
    "model.strip_network": Field("patch", one_of("patch", "patch_norm", "original", "face")),
    "model.face_colour": Field(False),  # of the network "face"; False: grey
    # lstm: the description's, of segments; whole_clip: convolutions and a two-way LSTM, of whole clips
    "model.voice_network": Field("lstm", one_of("lstm", "whole_clip")),
    "model.lstm_layers": Field(1, whole(1, 16)),  # (the original: 3)
    "model.dropout_rate": Field(0.5, between(0, 1, "[)")),  # of the concatenated features
    "model.dtype": Field("float32", one_of("float32", "bfloat16")),  # of the computation
    # The names are librosa's; frames and mel bands are the original's.
    "model.mfcc.n_mfcc": Field(40, whole(1, 512)),
    "model.mfcc.n_fft": Field(1024, whole(2, 2**15)),  # samples
    "model.mfcc.hop_length": Field(256, whole(16, 2**15)),  # samples
    "model.mfcc.n_mels": Field(80, whole(1, 512)),
    "model.mfcc.fmin": Field(80.0, _HERTZ),
    "model.mfcc.fmax": Field(8000.0, _HERTZ),
    # A logistic regression on statistics of the voice's descriptors, fitted before the first step.
    "model.descriptors.share": Field(0.0, _PROBABILITY),  # of the log-probabilities; 0: none, 1: it alone answers
    "model.descriptors.strength": Field(1e-3, between(0, 1e6, "(]")),  # of the fit: scikit-learn's C
    # the fit also hears each clip played at these speeds
    "model.descriptors.speeds": Field((), several(between(0.5, 2), once=True, none=True)),
    "model.init.audio": Field(""),  # folder of a trained model whose audio branch to start from; "": random
    "model.init.video": Field(""),  # likewise, the video branch
    "model.init.head": Field(""),  # likewise, the head
    # --- augment: of training segments, in the training step; 0 and (): off. --config.run.show_augment shows them ---
    "augment.time_shift_s": Field(0.0, between(0, 1, unit=" s")),  # largest shift of the sound, s; zeros fill the gap
    "augment.gain_db": Field(0.0, between(0, 40, unit=" dB")),  # largest change of loudness, dB
    # lowest and highest signal-to-noise ratio of added noise (white to brown), dB
    "augment.noise_snr_db": Field((), several(between(-40, 100, unit=" dB"), count=2, ascending=True, none=True)),
    "augment.time_mask_s": Field(0.0, between(0, 1, unit=" s")),  # SpecAugment: longest span masked, s
    "augment.mel_mask": Field(0, whole(0, 512)),  # SpecAugment: most neighbouring mel bands masked
    "augment.tempo": Field(0.0, between(0, 0.5)),  # most that voice_network=whole_clip stretches time
    "augment.pitch": Field(0.0, between(0, 0.5)),  # most that it stretches the mel bands, as of another vocal tract
    "augment.flip": Field(0.0, _PROBABILITY),  # of mirrored faces
    "augment.colour": Field(0.0, between(0, 1)),  # brightness, contrast and saturation times 1 - colour to 1 + colour
    "augment.crop_jitter": Field(0.0, between(0, 0.5)),  # largest zoom and shift, as a share of a face's side
    "augment.erase": Field(0.0, _PROBABILITY),  # of a blank rectangle in the faces
    "augment.erase_size": Field((0.1, 0.4), several(between(0, 1, "(]"), count=2, ascending=True)),  # shares of a side
    "augment.mixup": Field(0.0, between(0, 100)),  # alpha of the Beta distribution that mixes two neighbours of a batch
    "augment.modality_dropout": Field(0.0, _PROBABILITY),  # that a segment with faces and sound loses one of them
    # --- train: the optimization ---
    "train.batch_size": Field(64, whole(1, 2**16)),  # segments, over all devices
    "train.epochs": Field(100, _SOME_EPOCHS),
    "train.learning_rate": Field(1e-3, between(0, 1e30, "(]")),  # Adam's
    "train.schedule": Field("cosine", one_of("cosine", "constant")),  # cosine: to zero, after a warm-up
    "train.warmup_epochs": Field(2.0, between(0, 10**6)),
    "train.weight_decay": Field(0.0, between(0, 100)),  # decoupled; of kernels only
    "train.clip_norm": Field(0.0, between(0, 1e30)),  # of all gradients together; 0: off
    "train.accumulate_steps": Field(1, whole(1, 10**4)),  # batches whose mean gradient makes one update
    "train.label_smoothing": Field(0.0, between(0, 1, "[)")),
    "train.class_weights": Field(False),  # weight each class's loss by the inverse of its share of training segments
    # decay of a moving average of the parameters, which is evaluated; (1 + step) / (10 + step) if less; 0: off
    "train.ema_decay": Field(0.0, between(0, 1, "[)")),
    # the checkpoint to evaluate: of the best validation (UAR, then loss), or the last
    "train.choose": Field("best", one_of("best", "last")),
    "train.patience_epochs": Field(0, _EPOCHS),  # stop so long after the best validation (UAR, then loss); 0: never
    "train.validate_every_epochs": Field(5, _SOME_EPOCHS),  # and save a checkpoint
    # --- predict: --mode=predict on any film or sound ---
    "predict.people": Field("main", one_of("main", "all")),  # whose rows are written
    "predict.smoothing_s": Field(0.4, between(0, 60, unit=" s")),  # width (standard deviation) in time, s; 0: off
    "predict.uncertain_below": Field(0.4, _PROBABILITY),  # confidence under which the label is "uncertain"
    "predict.film_temperature": Field(2.0, between(0, 100, "(]")),  # of a model of faces without a head for films
    "predict.face_weight": Field(0.4, between(0, 100)),  # of the face beside the voice, of two models together
    "predict.detector": Field("", one_of("", "insightface", "centerface")),  # "": that of the model's training
    "predict.formats": Field(("csv", "json", "html"), several(one_of(*FORMATS), once=True)),
    # --- serve: the page of --mode=serve ---
    "serve.port": Field(7860, whole(1, 65535)),  # of http://127.0.0.1:PORT
    "serve.max_upload_mb": Field(500, whole(1, 10**6, " MB")),  # a larger file is refused while it comes in
    # --- run: where and how to run; no field here changes a record or a model ---
    "run.cache": Field("cache", _WRITTEN),  # folder of prepared corpora
    "run.workers": Field(0, whole(0, 1024)),  # processes that prepare on this machine; 0: one per core
    "run.engine": Field("local", one_of("local", "ray")),  # local: this machine; ray: many, see docs/scale.md
    "run.ray_address": Field(""),  # of the head node; "": start Ray here, "auto": the cluster this machine is in
    "run.decoder": Field("auto", one_of("auto", "cpu", "gpu")),  # of video; auto: gpu if decord was built for it
    "run.provider": Field("auto", one_of("auto", "cpu", "cuda")),  # of the detector; auto: cuda if onnxruntime-gpu runs
    "run.clip_timeout_s": Field(600.0, between(0, 10**6, "(]", unit=" s")),  # a clip that takes longer is quarantined
    "run.retry": Field(True),  # try clips again that took too long, or that memory or permission was lacking for
    "run.full_digest": Field(False),  # know changed files by their whole content, not by 64 kB at both ends and time
    "run.insightface_root": Field("~/.insightface", _FOLDER),  # folder of InsightFace's packs
    "run.download": Field(False),  # fetch the files that data.root lacks; --mode=download does only that
    "run.download_url": Field("", _URL),  # a mirror, with the paths of the owners' hosts; "": the owners' hosts
    "run.keep_archives": Field(False),  # after they are unpacked
    "run.resident_gb": Field(4.0, between(0, 10**4)),  # a prepared corpus up to this size is kept on each device
    "run.log_every_steps": Field(10, whole(1, 10**6)),
    "run.keep_every_epochs": Field(0, _EPOCHS),  # also keep these checkpoints; 0: only the newest and the best
    "run.on_full_disk": Field("stop", one_of("stop", "go_on")),  # if a checkpoint, except the last, cannot be written
    # first and last step to trace into WORKDIR/profile, as (10, 20)
    "run.profile_steps": Field((), several(whole(1, 10**9), count=2, ascending=True, none=True)),
    "run.show_augment": Field(False),  # --mode=inspect also writes augmentation.html
}

# Former names, in the config.json of older workdirs, to today's.
MOVED = {
    f"{section}.{name}": f"run.{name}"
    for section, names in {
        "data": "download download_url keep_archives",
        "prepare": "cache workers engine ray_address decoder provider clip_timeout_s insightface_root",
        "train": "resident_gb log_every_steps keep_every_epochs on_full_disk",
    }.items()
    for name in names.split()
} | {"profile.steps": "run.profile_steps", "inspect.augment": "run.show_augment"}


def defaults() -> ConfigDict:
    """Return the config with every field at its default, locked and type-safe; configs/*.py override it."""
    return ConfigDict(_nested({name: field.default for name, field in FIELDS.items()})).lock()


get_config = defaults  # this file itself is a config, of modes that need no other


def check(config: Mapping[str, Any]) -> None:
    """Check each field, and fields against each other, as far as that needs no data. Raises UserError."""
    values = dotted(config)
    for name, (default, field_check) in FIELDS.items():
        types, kind = _TYPES[type(default)]
        try:
            holds = type(values[name]) in types and field_check.holds(values[name])
        except (TypeError, ValueError):  # an element of another type
            holds = False
        if not holds and field_check.names:
            raise unknown_name(name, values[name], field_check.names)
        if not holds:
            expected = kind if field_check is ANY else field_check.expected
            raise UserError(f"{name}={values[name]!r} is out of range: expected {expected}")
    given = {name: f"{name}={value!r}" for name, value in values.items()}
    for name, limit in (
        ("model.mfcc.n_mfcc", "model.mfcc.n_mels"),
        ("model.mfcc.hop_length", "model.mfcc.n_fft"),  # else samples would be skipped
        ("augment.mel_mask", "model.mfcc.n_mels"),
        ("segment.hop_s", "segment.seconds"),  # else evaluation would skip parts of a clip
    ):
        if values[name] > values[limit]:
            raise UserError(f"{given[name]} is more than {given[limit]}: choose at most that")
    mfcc = config["model"]["mfcc"]
    if (mfcc["fmax"] - mfcc["fmin"]) * mfcc["n_fft"] / SAMPLE_RATE_HZ < mfcc["n_mels"]:
        at = ", ".join(given[f"model.mfcc.{name}"] for name in ("fmin", "fmax", "n_fft"))
        raise UserError(f"{given['model.mfcc.n_mels']} is more than the frequencies of {at}: choose fewer bands")
    if (n := len(values["data.corpora"])) == 1:
        raise UserError(f"{given['data.corpora']} names one corpus: set data.corpus and data.root instead")
    for name, remedy in (("data.roots", "name a folder for each"), ("data.weights", "one for each, or ()")):
        if len(values[name]) != n and (values[name] or (n and name == "data.roots")):
            raise UserError(f"{given[name]} does not go with {given['data.corpora']}: {remedy}")
    if n and not values["data.labels"]:
        raise UserError(f"{given['data.corpora']} have words of their own: set data.labels to one set for all (basic7)")
    seconds = values["segment.seconds"]
    if values["segment.pad_to_s"] and not math.isclose(values["segment.pad_to_s"][-1], seconds):
        raise UserError(f"{given['segment.pad_to_s']} must end with {given['segment.seconds']}, the longest piece")
    kept, validated = "run.keep_every_epochs", "train.validate_every_epochs"
    if not multiple_of(values[validated], ANY).holds(values[kept]):
        raise UserError(f"{given[kept]} is not a multiple of {given[validated]}: checkpoints are saved at validations")
    if values["train.patience_epochs"] and values["train.choose"] == "last":
        raise UserError(f"{given['train.patience_epochs']} waits for a best, and train.choose is last: set it to 0")
    if values["augment.modality_dropout"] and values["model.modalities"] != "audio+video":
        raise UserError(f"{given['augment.modality_dropout']} needs model.modalities=audio+video: set it to 0")
    for name in ("augment.tempo", "augment.pitch"):
        if values[name] and values["model.voice_network"] == "lstm":
            raise UserError(f"{given[name]} needs model.voice_network=whole_clip: set it to 0")
    if "video" in values["model.modalities"]:
        network = given["model.strip_network"]
        if values["model.strip_network"] != "original" and not _PATCHES.holds(values["prepare.face_size"]):
            raise UserError(f"{given['prepare.face_size']} does not fit {network}: choose {_PATCHES.expected}")
        if seconds != 1 and values["model.strip_network"] != "face":
            raise UserError(f"{given['segment.seconds']} does not fit {network}: its strip is 1.0 s")


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with every field: moved ones under today's name, missing ones with their default.

    Lists become tuples. Raises UserError for a field that does not exist.
    """
    given = {MOVED.get(name, name): value for name, value in dotted(config).items()}
    if unknown := sorted(given.keys() - FIELDS.keys()):
        raise UserError(f"the config has no field {unknown[0]}: fusion_emotion/config.py lists them all")
    values = {name: given.get(name, field.default) for name, field in FIELDS.items()}
    return _nested({name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def load(workdir: pathlib.Path) -> dict[str, Any]:
    """Return the config that a workdir was made with, with every field of today. Raises UserError."""
    return read(workdir / CONFIG)


def read(path: pathlib.Path) -> dict[str, Any]:
    """Return the config in a file that `save` wrote, with every field of today. Raises UserError."""
    try:
        return completed({**json.loads(path.read_text(encoding="utf-8"))})
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"no readable config in {path}: give --config, or the --workdir of a run") from error
    except UserError as error:
        raise UserError(
            f"{path}: {error}. If a newer version of this project made it, use that one (results.json names its "
            "commit), or train again in a new --workdir"
        ) from error


def save(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Write a config into a workdir, which is made if it does not exist."""
    workdir.mkdir(parents=True, exist_ok=True)
    with atomic(workdir / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=1), encoding="utf-8")


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], *, ignored: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Return the old and new value of each field that differs, by dotted name, but for NOT_OWNED and `ignored`.

    Fields that `old` lacks have their default.
    """
    before, after = dotted(completed(old)), dotted(completed(new))
    free = tuple(f"{name}." for name in (*NOT_OWNED, *ignored))
    differing = (name for name, value in after.items() if value != before[name])
    return {name: (before[name], after[name]) for name in differing if not f"{name}.".startswith(free)}


def dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields of a nested config by their dotted names."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        fields |= dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return fields


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested config of fields by dotted name."""
    config: dict[str, Any] = {}
    for name, value in fields.items():
        *sections, last = name.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return config
