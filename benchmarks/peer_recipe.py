"""The preparation that PyTorch projects on RAVDESS use, written plainly: the peer of `benchmarks/prepare.py`.

OpenCV reads the clip, facenet-pytorch's MTCNN looks for the face in 15 frames of it at full size, librosa loads and
resamples the sound; one process, as they do it.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

FRAMES = 15


def create() -> Callable[[pathlib.Path], int]:
    """The function that prepares one clip and returns the number of faces found."""
    import imageio_ffmpeg
    import librosa
    import torch

    # librosa looks for a program of this name.
    folder = tempfile.mkdtemp()
    os.symlink(imageio_ffmpeg.get_ffmpeg_exe(), os.path.join(folder, "ffmpeg"))
    os.environ["PATH"] += os.pathsep + folder
    mtcnn = _mtcnn(torch)

    def prepare(path: pathlib.Path) -> int:
        reader = cv2.VideoCapture(str(path))
        frames = []
        while True:
            there, frame = reader.read()
            if not there:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        found = 0
        for index in np.linspace(0, len(frames) - 1, FRAMES).astype(int):
            boxes, _ = mtcnn.detect(frames[index])
            if boxes is not None:
                left, top, right, bottom = boxes[0].clip(0).astype(int)
                cv2.resize(frames[index][top:bottom, left:right], (224, 224))
                found += 1
        librosa.load(path, sr=16_000)
        return found

    return prepare


def _mtcnn(torch: Any) -> Any:
    """MTCNN with its defaults; where torchvision came without its compiled operators, with OpenCV's NMS for them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        import torchvision
    except RuntimeError:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

        def nms(boxes: Any, scores: Any, threshold: float) -> Any:
            corners = boxes.numpy().astype(float)
            sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
            kept = cv2.dnn.NMSBoxes(sizes.tolist(), scores.tolist(), 0.0, threshold)
            return torch.as_tensor(np.asarray(kept).reshape(-1), dtype=torch.int64)

        library.impl("nms", nms, "CPU")
        import torchvision

        torchvision.ops.boxes._assert_has_ops = lambda: None
    from facenet_pytorch import MTCNN

    mtcnn = MTCNN(post_process=False)
    mtcnn.keep_library = library  # the operators go with it
    return mtcnn
