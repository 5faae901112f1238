"""Writes pictures and sound to an .mp4 of H.264 and AAC."""

import pathlib
from collections.abc import Iterable
from fractions import Fraction

import av
import cv2
import numpy as np
from jaxtyping import Float32, UInt8


def write_mp4(
    path: pathlib.Path,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    wave: Float32[np.ndarray, "N"],
    *,
    frame_rate: int,
    sample_rate_hz: int,
) -> None:
    """Write RGB frames and a mono wave in [-1, 1]. The same input gives the same bytes."""
    with av.open(path, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        container.metadata["comment"] = "synthetic: sample corpus of fusion_emotion"
        video = container.add_stream("libx264", rate=frame_rate)
        audio = container.add_stream("aac", rate=sample_rate_hz, layout="mono")
        audio.bit_rate = 64_000
        audio.options = {"aac_coder": "fast"}
        # No B frames and a short GOP, as in RAVDESS; one thread, because the workers run in parallel.
        video.options = {"preset": "veryfast", "crf": "22", "bf": "0", "g": "30", "threads": "1"}
        video.pix_fmt = "yuv420p"
        video.thread_count = 1
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None]), format="fltp", layout="mono")
        sound.sample_rate = sample_rate_hz
        sound.pts = 0
        for number, frame in enumerate(frames):
            if number == 0:
                video.height, video.width = frame.shape[:2]
            planes = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), np.uint8)
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, frame_rate)
            container.mux(video.encode(picture))
        container.mux(video.encode())
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
