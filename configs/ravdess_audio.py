"""The audio branch alone, MFCC and LSTM as the description has them, on RAVDESS's speech: six folds of its speakers.

    python launch.py --config=configs/ravdess_audio.py --mode=crossval --config.data.root=PATH

PATH holds RAVDESS's audio-only or audio-visual speech files. Three seeds of each fold, and for comparison of `random`,
which has the same speakers on both sides; the baselines on the same splits. On the 1,080 takes of 18 actors it trains
for 80 minutes on two cores of an AMD EPYC. Expect a clip-level UAR of 34.5 % by speakers, less than logistic
regressions reach (39.7 % on MFCC statistics, 46.7 % on eGeMAPS), and of 54.9 % with the same speakers on both sides.
"""

from ml_collections import ConfigDict

from fusion_emotion.config import defaults


def get_config() -> ConfigDict:
    """Return the defaults with sound alone, and the runs of `--mode=crossval`."""
    config = defaults()
    config.model.modalities = "audio"
    config.split.protocol = "kfold"
    config.split.n_folds = 6
    config.crossval.protocols = ("kfold", "random")
    config.crossval.seeds = (0, 1, 2)
    config.train.epochs = 24
    config.train.validate_every_epochs = 3
    return config
