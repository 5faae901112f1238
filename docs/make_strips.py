"""The picture of the README: the faces of a test segment of each emotion, with the true and the predicted one.

PYTHONPATH=. python docs/make_strips.py runs/sample docs/strips.png
"""

import pathlib
import sys

import numpy as np
from matplotlib.figure import Figure

from fusion_emotion import commands, config
from fusion_emotion.evaluate import answers
from fusion_emotion.input.data import Data


def main() -> None:
    """Draw the faces of the workdir's test part into the picture that the command line names."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    workdir, picture = map(pathlib.Path, sys.argv[1:])
    values = config.load(workdir)
    data = Data.open(values, commands.prepared(values))
    found = answers.read(workdir / answers.PREDICTIONS)
    predicted = dict(zip(found.clip_ids, found.predicted, strict=True))
    source = data.source("test")
    segments = source.segments
    figure = Figure(figsize=(10, 5.2), dpi=110, layout="constrained")
    for axes, (label, name) in zip(figure.subplots(4, 2).flat, enumerate(data.label_names), strict=True):
        # The first clip of the emotion that has a picture, whatever was predicted of it, and its first segment.
        clip = next(i for i, row in enumerate(segments.rows) if row.label == label and row.n_frames)
        guess = predicted[segments.rows[clip].clip_id]
        axes.imshow(np.hstack([*source.segment(int(np.flatnonzero(segments.clip == clip)[0]))["faces"]]))
        verdict = "right" if guess == label else "wrong"
        axes.set_title(f"{name}, predicted {data.label_names[guess]} ({verdict})", fontsize=10)
        axes.set_axis_off()
    figure.savefig(picture)


if __name__ == "__main__":
    main()
