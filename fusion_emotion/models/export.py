"""A trained model as one file: ONNX or StableHLO, from pixels and samples to log-probabilities."""

import contextlib
import importlib.metadata
import io
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.files import atomic
from fusion_emotion.models.batch import Batch, batch_spec
from fusion_emotion.models.create import create_model
from fusion_emotion.models.weights import LoadedModel
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

SUFFIXES = (".onnx", ".stablehlo")
_TOLERANCE = 1e-5  # of probabilities
_INPUTS = {  # by modality, what the file takes of a batch
    "video": {"faces": "RGB crops at 5 Hz", "face_found": "False: no face was found then"},
    "audio": {"waveform": "16 kHz mono", "has_sound": "False: there is no sound"},
}

Function = Callable[..., jax.Array]


def export_model(loaded: LoadedModel, path: pathlib.Path, examples: Sequence[Batch] = ()) -> float:
    """Write a model to `path`, by its suffix, and its description to `path`.json; return its difference from JAX.

    The file takes whole windows, in batches of any size; front end and temperature are in it. The difference is the
    largest of the probabilities of `examples`, and of noise with and without faces and sound. Raises UserError.
    """
    check_path(path)
    names = [name for part in ("video", "audio") if part in _modalities(loaded) for name in _INPUTS[part]]
    try:
        with atomic(path) as partial:
            run = (_to_onnx if path.suffix == ".onnx" else _to_stablehlo)(loaded, names, partial)
            difference = _difference(loaded, names, run, examples)
            if difference > _TOLERANCE:
                said = f"{path.name} differs from JAX by {difference:.1e} in a probability, and is not kept"
                raise UserError(said if path.suffix == ".stablehlo" else f"{said}: choose --output=NAME.stablehlo")
        with atomic(path.with_name(f"{path.name}.json")) as partial:
            partial.write_text(json.dumps(_description(loaded, names), indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output={path} cannot be written ({error.strerror}): choose another folder") from error
    return difference


def check_path(path: pathlib.Path) -> None:
    """Make the folder of an exported model. Raises UserError if that cannot be, or the suffix is not known."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output={path}: give a name that ends with {' or '.join(SUFFIXES)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={path} cannot be written ({error.strerror}): choose another folder") from error


def _modalities(loaded: LoadedModel) -> list[str]:
    return list(loaded.config["model"]["modalities"].split("+"))


def _n_frames(loaded: LoadedModel) -> int:
    return round(loaded.config["segment"]["seconds"] * FRAME_RATE_HZ)


def _description(loaded: LoadedModel, names: list[str]) -> dict[str, Any]:
    """Return what a program needs to know to use the file."""
    meaning = {name: text for part in _INPUTS.values() for name, text in part.items()}
    inputs = [
        {"name": name, "type": spec.dtype.name, "shape": ["batch", *spec.shape[1:]], "meaning": meaning[name]}
        for name, spec in _specs(loaded, names, 1).items()
    ]
    return {
        "inputs": inputs,
        "output": "log_prob, float32 [batch, labels], after temperature",
        "window_s": _n_frames(loaded) / FRAME_RATE_HZ,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "face_margin": loaded.config["prepare"]["margin"],
        "faces_levelled": loaded.config["prepare"]["align"],  # turned until the eyes are level
        **{name: value for name, value in loaded.about.items() if name not in ("config", "films")},
    }


def _specs(loaded: LoadedModel, names: list[str], batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
    spec = batch_spec(loaded.config)
    spec["has_sound"] = spec["has_audio"]
    return {name: jax.ShapeDtypeStruct((batch, *spec[name].shape[1:]), spec[name].dtype) for name in names}


def _function(loaded: LoadedModel, names: list[str], *, fft: bool) -> Function:
    """Return the network of named inputs, by their order."""
    config = {
        **loaded.config,
        "model": {**loaded.config["model"], "mfcc": {**loaded.config["model"]["mfcc"], "fft": fft}},
    }
    net = create_model(config, n_classes=len(loaded.label_names))
    variables = jax.tree.map(jnp.asarray, dict(loaded.variables))
    n_frames, temperature = _n_frames(loaded), float(loaded.about["temperature"])

    def log_prob(*values: jax.Array) -> jax.Array:
        given = dict(zip(names, values, strict=True))
        # Made of an input, because an array of a size that is not known yet cannot be made of nothing.
        zero = given[names[0]].astype(jnp.int32).reshape(values[0].shape[0], -1)[:, 0] * 0
        absent = zero != 0
        batch = {
            "n_frames": zero + n_frames,
            "n_samples": zero + n_frames * SAMPLES_PER_FRAME,
            "has_video": given["face_found"].any(axis=1) if "face_found" in given else absent,
            "has_audio": given.pop("has_sound", absent),
            "label": zero,
            "clip": zero,
            "mask": zero == 0,
            **given,
        }
        logits: Any = net.apply(variables, batch, train=False)
        return jax.nn.log_softmax(logits / temperature)

    return log_prob


def _to_onnx(loaded: LoadedModel, names: list[str], path: pathlib.Path) -> Function:
    import onnx
    import onnxruntime

    (batch,) = jax.export.symbolic_shape("batch")
    specs = _specs(loaded, names, batch)
    function = _function(loaded, names, fft=False)
    with _without_chatter():
        try:
            import jax2onnx
        except ImportError as error:
            raise UserError("an export to ONNX needs jax2onnx: pip install -r requirements-export.txt") from error
        if jax.__version_info__ >= (0, 11) and importlib.metadata.version("jax2onnx").startswith("0.13."):
            raise UserError(
                f"jax {jax.__version__} is too new for an export to ONNX: pip install -r requirements-export.txt, or "
                "name a file *.stablehlo"
            )
        model = jax2onnx.to_onnx(function, list(specs.values()), input_names=names, output_names=["log_prob"])
    for name, value in (("labels", ",".join(loaded.label_names)), ("licence", str(loaded.about["licence"]))):
        model.metadata_props.add(key=name, value=value)
    onnx.save(model, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda *values: session.run(None, dict(zip(names, values, strict=True)))[0]


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep what jax2onnx prints and logs off the terminal: the plugins that it lacks, and debugging."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _to_stablehlo(loaded: LoadedModel, names: list[str], path: pathlib.Path) -> Function:
    (batch,) = jax.export.symbolic_shape("batch")
    function = jax.jit(_function(loaded, names, fft=True))
    exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(*_specs(loaded, names, batch).values())
    path.write_bytes(exported.serialize())
    return jax.export.deserialize(bytearray(path.read_bytes())).call


def _difference(loaded: LoadedModel, names: list[str], run: Function, examples: Sequence[Batch]) -> float:
    """Return the largest difference of a probability from the network itself, on noise and on examples."""
    rng = np.random.default_rng(0)
    noise: dict[str, np.ndarray] = {}
    for name, spec in _specs(loaded, names, 4).items():
        if spec.dtype == np.bool_:
            noise[name] = np.ones(spec.shape, np.bool_)
        else:
            low, high = (0, 256) if spec.dtype == np.uint8 else (-9000, 9000)
            noise[name] = rng.integers(low, high, spec.shape).astype(spec.dtype)
    for number, name in enumerate(name for name in noise if noise[name].dtype == np.bool_):
        noise[name][1 + number] = False
    fields = {name: "has_audio" if name == "has_sound" else name for name in names}
    given = [[np.stack([one[field]]) for field in fields.values()] for one in examples]
    expected = jax.jit(_function(loaded, names, fft=True))
    return max(
        float(np.abs(np.exp(np.asarray(run(*values))) - np.exp(np.asarray(expected(*values)))).max())
        for values in [[*noise.values()], *given]
    )
