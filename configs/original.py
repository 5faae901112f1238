"""The original's network and recipe on RAVDESS, protocol included: windows of one clip train and validate.

    python launch.py --config=configs/original.py --config.data.root=PATH

Its number says how well windows of known clips are recognised. The original drew the windows with replacement before
the cut; here each window is on one side only.
"""

from ml_collections import ConfigDict

from configs import ravdess


def get_config() -> ConfigDict:
    """`configs/ravdess.py` with the original's choices."""
    config = ravdess.get_config()
    config.split.protocol = "random_windows"
    config.prepare.face_size = 50
    config.model.strip_network = "original"
    config.model.lstm_layers = 3
    config.model.dropout_rate = 0.0
    config.train.schedule = "constant"
    return config
