"""The original's network and recipe on RAVDESS, protocol included: segments of one clip train and validate.

    python launch.py --config=configs/original.py --config.data.root=PATH

PATH holds RAVDESS's files. A training step takes 661 ms on two cores of an AMD EPYC (97 segments a second). There is no
number on the full corpus yet; the protocol measures how well segments of known clips are recognised, not of new people.
The original drew the segments with replacement before the cut; here each is on one side only.
"""

from ml_collections import ConfigDict

from fusion_emotion.config import defaults


def get_config() -> ConfigDict:
    """Return the defaults with the original's choices."""
    config = defaults()
    config.split.protocol = "random_windows"
    config.prepare.face_size = 50
    config.model.strip_network = "original"
    config.model.lstm_layers = 3
    config.model.dropout_rate = 0.0
    config.train.schedule = "constant"
    return config
