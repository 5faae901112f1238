"""A trained model as a folder that stands alone: `model.json` and `weights.safetensors`, read without running code."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, PyTree

from fusion_emotion.errors import UserError
from fusion_emotion.files import atomic, expanded
from fusion_emotion.models.batch import Spec, batch_spec
from fusion_emotion.models.create import create_model
from fusion_emotion.models.fusion import FusionNet

FOLDER, ABOUT, WEIGHTS = "model", "model.json", "weights.safetensors"
SECTIONS = ("model", "segment", "prepare", "augment")  # of the config, kept in model.json
PARTS = {"audio": "audio", "video": "video", "head": "Dense_0"}  # that can be loaded alone, by their names in the tree
_FORMAT, _WITH_FILMS = 1, 2  # of model.json
_FILMS = "films/"  # before the names of the head for films


class Head(NamedTuple):
    """A last layer: features to logits."""

    kernel: Float[np.ndarray, "features classes"]
    bias: Float[np.ndarray, "classes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A trained model: a network, its variables, and their description."""

    net: FusionNet
    variables: Mapping[str, PyTree]
    label_names: tuple[str, ...]
    config: Mapping[str, Any]  # the sections `SECTIONS`
    about: Mapping[str, Any]  # model.json: licence, commit, temperature, numbers with their protocol
    films: Head | None = None  # of a model of pictures, in place of its own on films (`models.films`)


def save_model(
    folder: pathlib.Path, variables: Mapping[str, PyTree], config: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write `model.json` and `weights.safetensors` to `folder`; `about` names at least `label_names`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.asarray(value, order="C") for name, value in _flat(variables).items()}
    with atomic(folder / WEIGHTS) as partial:
        partial.write_bytes(safetensors.numpy.save(tensors))
    described = {"format": _FORMAT, **about, "config": {name: config[name] for name in SECTIONS}}
    with atomic(folder / ABOUT) as partial:
        partial.write_text(json.dumps(described, indent=1, ensure_ascii=False), encoding="utf-8")


def load_model(path: str | pathlib.Path) -> LoadedModel:
    """Load the model of a workdir, or of a folder that holds `model.json`; no corpus is needed.

    Raises UserError where there is none, or its weights are not those of the network that it names.
    """
    folder = model_folder(expanded(str(path), field="model.init"))
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] > _WITH_FILMS:
            raise UserError(f"{folder / ABOUT} was made by a newer version of this project: update it")
        config, label_names = about["config"], tuple(about["label_names"])
        net = create_model(config, n_classes=len(label_names))
        flat = read_weights(folder)
        films = _films(flat)
        variables = _nested({name: value for name, value in flat.items() if not name.startswith(_FILMS)})
        difference = misfit(net, batch_spec(config), variables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / ABOUT} cannot be read ({type(error).__name__}: {error}): export the model again "
            "(--mode=evaluate --workdir=WORKDIR)"
        ) from error
    if difference:
        raise UserError(f"{folder / WEIGHTS} does not fit the network of {ABOUT}: {difference}")
    return LoadedModel(
        net=net,
        variables={"batch_stats": {}, **variables},
        label_names=label_names,
        config=config,
        about=about,
        films=films,
    )


def read_weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a model by their path, e.g. "params/audio/LSTM_0/recurrent". Raises UserError."""
    path = folder / WEIGHTS
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected the weights of a trained model") from error


def with_films(
    folder: pathlib.Path, head: Head, films: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return model.json and the arrays of a model with a head for films, which `films` describes."""
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    arrays = {f"{_FILMS}{name}": value.astype(np.float32) for name, value in head._asdict().items()}
    return {**about, "format": _WITH_FILMS, "films": films}, {**read_weights(folder), **arrays}


def _films(flat: Mapping[str, np.ndarray]) -> Head | None:
    """Return the head for films among the arrays of a model. Raises ValueError if it is not like the model's own."""
    own = f"params/{PARTS['head']}/"
    given = {name.removeprefix(_FILMS): value for name, value in flat.items() if name.startswith(_FILMS)}
    if not given:
        return None
    wanted = {name.removeprefix(own): value for name, value in flat.items() if name.startswith(own)}
    if difference := differences(wanted, given):
        raise ValueError(f"the head for films: {difference}")
    return Head(**given)


def with_loaded_parts(
    variables: Mapping[str, PyTree], config: Mapping[str, Any], *, label_names: Sequence[str]
) -> Mapping[str, PyTree]:
    """Replace parts of new variables by those of the trained models that the section `model.init` names.

    Raises UserError, with the differences, unless a part has the names and shapes of the new one, and its settings.
    """
    flat = _flat(variables)
    for part, path in config["model"]["init"].items():
        if not path:
            continue
        loaded = load_model(path)
        wanted, given = (
            # Names are "collection/part/…": the part of every collection.
            {name: value for name, value in values.items() if name.split("/")[1:2] == [PARTS[part]]}
            for values in (flat, _flat(loaded.variables))
        )
        if not wanted:
            raise UserError(f"model.init.{part}={path} is given, but this model has no {part} part: set it to ''")
        settings, other = _settings(part, config, label_names), _settings(part, loaded.config, loaded.label_names)
        unlike = [
            f"{name} is {other.get(name)}, expected {value}"
            for name, value in settings.items()
            if other.get(name) != value
        ]
        if difference := "; ".join(filter(None, [differences(wanted, given), *unlike])):
            raise UserError(f"model.init.{part}={path}: the {part} part does not fit this model: {difference}")
        flat |= {name: jnp.asarray(value) for name, value in given.items()}
    return {"batch_stats": {}, **_nested(flat)}


def misfit(net: FusionNet, spec: Spec, variables: Mapping[str, PyTree]) -> str:
    """Describe how variables differ from those of a network in names, shapes and types; "" if they do not."""
    expected = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), spec)
    return differences(_flat(expected), _flat(variables))


def differences(expected: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Describe the arrays that are missing, unknown or of another shape or type; "" if there are none."""
    lines = [f"it lacks {name}" for name in sorted(expected.keys() - given.keys())]
    lines += [f"it has unknown {name}" for name in sorted(given.keys() - expected.keys())]
    for name in sorted(expected.keys() & given.keys()):
        actual, wanted = (f"{np.dtype(array.dtype)}{list(array.shape)}" for array in (given[name], expected[name]))
        if actual != wanted:
            lines.append(f"{name} is {actual}, expected {wanted}")
    return "; ".join(lines)


def model_folder(path: pathlib.Path) -> pathlib.Path:
    """Return the folder of a model, which is `path` or within it. Raises UserError if there is none."""
    for folder in (path, path / FOLDER):
        if (folder / ABOUT).is_file():
            return folder
    raise UserError(f"{path} holds no model: expected {ABOUT} and {WEIGHTS}, or the --workdir of a finished training")


def _settings(part: str, config: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, Any]:
    """The settings that a part was trained for and that its shapes do not show."""
    return {"audio": {**config["model"]["mfcc"]}, "head": {"label_names": tuple(label_names)}}.get(part, {})


def _flat(tree: Mapping[str, PyTree]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(dict(tree), sep="/")


def _nested(flat: Mapping[str, Any]) -> dict[str, PyTree]:
    return flax.traverse_util.unflatten_dict(dict(flat), sep="/")
