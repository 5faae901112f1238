"""Faces and voices of RAVDESS: every default of fusion_emotion/config.py.

    python launch.py --config=configs/ravdess.py --config.data.root=PATH

PATH holds RAVDESS's files, flat or in Actor_*/ folders; with --config.run.download=True they are fetched (13 GB). The
protocol is the original description's, 80 % / 20 % of the shuffled takes, which has the same speakers on both sides;
--config.split.protocol=contiguous6 has not. A training step takes 254 ms on two cores of an AMD EPYC (252 segments a
second). There is no number on the full corpus yet.
"""

from ml_collections import ConfigDict

from fusion_emotion.config import defaults


def get_config() -> ConfigDict:
    """Return the defaults."""
    return defaults()
