"""The fields of a config: wrong values, what belongs to a workdir, workdirs of before, and every file in configs/."""

import contextlib
import functools
import importlib
import json
import math
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import sample
from conftest import ROOT
from fusion_emotion import config as fields
from fusion_emotion.config import FIELDS, NOT_OWNED, changes, check, completed, defaults, dotted, load, save
from fusion_emotion.corpora import catalogue, protocols
from fusion_emotion.errors import UserError
from fusion_emotion.prepare.settings import Settings

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))


def config_of(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config()


def changed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with other values by dotted name; nothing checks their types."""
    config = defaults().to_dict()
    for name, value in values.items():
        *sections, last = name.split(".")
        functools.reduce(dict.__getitem__, sections, config)[last] = value
    return config


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, tuple):
        return (*value, 7)
    return f"{value}-" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1


# Wrong values

# A value, a word of what is expected, and the fields for which it is wrong
WRONG: list[tuple[Any, str, str]] = [
    (-1, "2**32", "seed split.seed"),
    (2**32, "2**32", "seed"),
    (0.5, "integer", "seed"),
    ("0", "integer", "split.seed"),
    ((-1,), "integer", "crossval.seeds"),
    (("a",), "integer", "crossval.seeds"),
    ((1, 1), "once", "crossval.seeds"),
    (("kfold", "kfold"), "once", "crossval.protocols"),
    ((), "one or more", "crossval.protocols crossval.seeds prepare.detector_sizes"),
    ((192, 16), "32 to 4096", "prepare.detector_sizes"),
    ((100,), "multiple of 32", "prepare.detector_sizes"),
    (("all",), "1 to 9999", "data.actors"),
    ((5.5,), "1 to 9999", "data.actors"),
    (-1, "0 to", "split.fold augment.mel_mask train.warmup_epochs run.workers run.resident_gb"),
    (0, "1 to", "crossval.jobs prepare.detect_every model.features model.lstm_layers model.mfcc.n_mels"),
    (0, "1 to", "train.batch_size train.accumulate_steps run.log_every_steps train.epochs"),
    (1, "2 to", "split.n_folds model.mfcc.n_fft"),
    (0, "16 to", "model.mfcc.hop_length"),
    (0, "not 0", "run.clip_timeout_s train.learning_rate"),
    ("many", "an integer", "train.epochs"),
    (10**9, "to 4096", "model.features"),
    (10**9, "to 65536", "train.batch_size"),
    (1.5, "0 to 1", "model.dropout_rate"),
    (9000.0, "8000", "model.mfcc.fmax"),
    ("", "folder", "data.root run.cache run.insightface_root prepare.insightface_pack"),
    ("cache\udcff", "UTF-8", "run.cache"),
    ("ftp://mirror", "https", "run.download_url"),
    (0.0, "not 0 or 1", "split.test_fraction split.validation_fraction"),
    (1.0, "not 0 or 1", "split.test_fraction split.validation_fraction prepare.detector_threshold"),
    (1.0, "not 1", "model.dropout_rate train.label_smoothing"),
    (-0.1, "not 1", "train.ema_decay"),
    (1.1, "probability", "augment.flip augment.erase augment.modality_dropout"),
    (1.5, "0 to 1", "prepare.min_found_share augment.time_shift_s augment.time_mask_s augment.colour"),
    (-1.0, "0 to 2", "prepare.margin"),
    (0.6, "0.5", "augment.crop_jitter"),
    (-6.0, "0 to 40 dB", "augment.gain_db"),
    (float("nan"), "0 to 100", "augment.mixup"),
    ((10.0,), "2 values", "augment.noise_snr_db augment.erase_size run.profile_steps"),
    ((), "2 values", "augment.erase_size"),
    ((20.0, 5.0), "ascending", "augment.noise_snr_db run.profile_steps"),
    ((0.0, 0.5), "not 0", "augment.erase_size"),
    (8, "16 to 512", "prepare.face_size"),
    (50, "multiple of 4", "prepare.face_size"),
    (80.0, "0.2 to 60", "segment.seconds"),
    (0.3, "multiple of 0.2", "segment.seconds segment.hop_s"),
    (2.0, "strip", "segment.seconds"),
    (2.0, "segment.seconds", "segment.hop_s"),
    ((1.0, 0.4), "ascending", "segment.pad_to_s"),
    ((0.4, 0.8), "segment.seconds", "segment.pad_to_s"),
    (100, "n_mels=80", "model.mfcc.n_mfcc augment.mel_mask"),
    (9000.0, "8000", "model.mfcc.fmin"),
    (80.0, "fmin", "model.mfcc.fmax"),
    (64, "n_fft=64", "model.mfcc.n_fft"),
    (2048, "n_fft=1024", "model.mfcc.hop_length"),
    (7, "train.validate_every_epochs=5", "run.keep_every_epochs"),
]


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [(name, value, word) for value, word, names in WRONG for name in names.split()]
    + [(name, "eyes", ", ".join(field.check.names)) for name, field in FIELDS.items() if field.check.names],
)
def test_a_wrong_value_is_refused_in_one_line(name: str, value: Any, word: str) -> None:
    with pytest.raises(UserError) as error:
        check(changed({name: value}))
    message = str(error.value)
    assert f"{name}={value!r}" in message
    assert word in message
    assert "\n" not in message


# Of a field by the type of its default: no value of these is right.
NONSENSE: dict[type, list[Any]] = {
    bool: [0, 1, "True", None],
    int: [-1, math.nan, math.inf, 10**400, 1e9, "", "1", True, None, (1,)],
    float: [-1.0, math.nan, math.inf, -math.inf, 1e31, 10**400, "", "1", True, None, (1.0,)],
    str: [5, None, ("a",), True],
    tuple: ["abc", 5, None, (None,), (math.nan, math.nan), (math.inf,), ([],), ("",)],
}


@pytest.mark.parametrize("name", FIELDS)
def test_no_field_takes_a_value_of_another_type_nor_one_that_is_no_number(name: str) -> None:
    for value in NONSENSE[type(FIELDS[name].default)]:
        if name != "crossval.protocols" or not isinstance(value, tuple):  # whose names their own room checks
            with pytest.raises(UserError, match=name):
                check(changed({name: value}))


@hypothesis.settings(max_examples=300)
@given(
    st.sampled_from(sorted(FIELDS)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda values: st.lists(values).map(tuple)
    ),
)
def test_any_value_is_refused_or_can_be_written(name: str, value: Any) -> None:
    with contextlib.suppress(UserError):
        check(changed({name: value}))
        json.dumps(value, allow_nan=False)


def test_fields_that_are_only_wrong_together() -> None:
    check(changed({"augment.modality_dropout": 0.2}))
    with pytest.raises(UserError, match=r"modality_dropout=0\.2 needs model\.modalities"):
        check(changed({"augment.modality_dropout": 0.2, "model.modalities": "audio"}))
    with pytest.raises(UserError, match=r"patience_epochs=2 .* train\.choose is last: set it to 0"):
        check(changed({"train.patience_epochs": 2, "train.choose": "last"}))
    sound = {"model.modalities": "audio", "prepare.face_size": 50, "segment.seconds": 3.0}
    check(changed({**sound, "segment.pad_to_s": (0.6, 3.0), "segment.hop_s": 0.2}))


# The files in configs/


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_checks_clean_and_is_locked(name: str) -> None:
    config = config_of(name)
    check(config.to_dict())
    assert completed(config.to_dict()) == config.to_dict()
    for wrong, value in (("epoch", 3), ("epochs", "many")):
        with pytest.raises((AttributeError, KeyError, TypeError)):
            setattr(config.train, wrong, value)


def test_a_section_that_was_overridden_by_a_plain_dict_is_completed() -> None:
    config = defaults()
    config.model.init = {"video": "runs/a"}
    assert completed(config.to_dict())["model"]["init"] == {"audio": "", "video": "runs/a", "head": ""}
    config.model.init = {"vidio": "runs/a"}
    with pytest.raises(UserError, match=r"model\.init\.vidio"):
        completed(config.to_dict())


def test_every_option_is_used_by_a_config_or_a_test() -> None:
    paths = [*(ROOT / "configs").glob("*.py"), *(ROOT / "tests").glob("*.py")]
    source = "\n".join(path.read_text() for path in paths if path.name != pathlib.Path(__file__).name)
    unused = {
        name
        for name in FIELDS
        if not re.search(rf"{name}\b|{name.replace('.', '__')}\b|\b{name.split('.')[-1]}(\"\]?)?(=| = |: )", source)
    }
    assert not unused


def test_the_names_in_the_table_are_those_of_what_there_is() -> None:
    from fusion_emotion.models.create import STRIP_NETWORKS
    from fusion_emotion.prepare import detectors
    from fusion_emotion.prepare.run import ENGINES
    from fusion_emotion.train.optimizer import create_schedule

    own = [value for value in vars(detectors).values() if getattr(value, "__module__", "") == detectors.__name__]
    for name, names in {
        "model.strip_network": STRIP_NETWORKS,
        "prepare.detector": ["none", *(v.__name__.lower() for v in own if "__call__" in vars(v))],
        "run.engine": ENGINES,
    }.items():
        assert set(names) == set(FIELDS[name].check.names), name
    train = defaults().train.to_dict()
    rates = [
        float(create_schedule({**train, "schedule": name}, n_steps=100, steps_per_epoch=5)(50))
        for name in FIELDS["train.schedule"].check.names
    ]
    assert len(set(rates)) == len(rates)
    # These two are checked by their own room, and only the comments list them.
    source = pathlib.Path(fields.__file__).read_text().replace(",\n    # ", ", ")
    for name, names in (("data.corpus", catalogue.MODULES), ("split.protocol", protocols.PROTOCOLS)):
        assert re.search(rf'{", ".join(names)}\n    "{name}"|"{name}".*# {", ".join(names)}\n', source), name


# Workdirs


@pytest.mark.parametrize("name", FIELDS)
def test_a_workdir_owns_what_a_model_depends_on(name: str) -> None:
    new = changed({name: other(FIELDS[name].default)})
    free = name.startswith(("run.", "crossval.", "predict.", "serve.")) or name in ("data.root", "data.roots")
    assert set(changes(defaults().to_dict(), new)) == (set() if free else {name})
    assert not changes(defaults().to_dict(), new, ignored=[name])
    assert set(NOT_OWNED) == {"run", "crossval", "predict", "serve", "data.root", "data.roots"}


def test_a_config_comes_back_as_it_was_saved(tmp_path: pathlib.Path) -> None:
    config = sample.get_config().to_dict()
    save(config, tmp_path / "run")
    assert load(tmp_path / "run") == config
    assert [path.name for path in (tmp_path / "run").iterdir()] == [fields.CONFIG]


def test_a_workdir_of_before_loads_with_moved_and_new_fields(tmp_path: pathlib.Path) -> None:
    shutil.copy(ROOT / "tests" / "data" / "old_config.json", tmp_path / fields.CONFIG)
    config = load(tmp_path)
    check(config)
    today = dotted(sample.get_config().to_dict())
    assert {name: value for name, value in dotted(config).items() if value != today[name]} == {
        "run.workers": 3,
        "run.download_url": "https://mirror.example",
        "run.log_every_steps": 5,
        "run.profile_steps": (10, 20),
        "run.show_augment": True,
    }
    assert config["segment"] == defaults().segment.to_dict()
    assert not changes(json.loads((tmp_path / fields.CONFIG).read_text()), sample.get_config().to_dict())


@pytest.mark.parametrize("text", [None, "{", "[]", '{"train": {"newer": 1}}'])
def test_a_workdir_that_cannot_be_read_is_named(tmp_path: pathlib.Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / fields.CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"train\.newer" if text and "newer" in text else "no readable"):
        load(tmp_path)


# The store of prepared clips


@pytest.mark.parametrize("name", [name for name in FIELDS if name.startswith(("prepare.", "run."))])
def test_what_is_prepared_names_the_store_and_where_and_how_do_not(name: str) -> None:
    before, after = (
        Settings.from_config(config).store("ravdess")
        for config in (changed({}), changed({name: other(FIELDS[name].default)}))
    )
    assert (before.name != after.name) == name.startswith("prepare.")
