"""The voice of configs/ravdess.py alone, in segments of one second, on RAVDESS's speech: six folds of its speakers.

    python launch.py --config=configs/ravdess_audio.py --mode=crossval --config.data.root=PATH

PATH holds RAVDESS's audio-only or audio-visual speech files. MFCC and LSTM are as the description has them; beside them
the descriptors of configs/voice.py are heard in each second. For comparison `random`, which has the same speakers on
both sides, and the baselines on the same splits. On the 1,080 takes of 18 actors it takes 15 minutes on two cores of an
AMD EPYC. Expect a clip-level UAR of 50.9 % by speakers (eGeMAPS with logistic regression: 46.5 %), and of 56.3 % with
the same speakers on both sides (means of three seeds: `--config.crossval.seeds="(0,1,2)"`).
"""

from ml_collections import ConfigDict

from configs import ravdess


def get_config() -> ConfigDict:
    """Return configs/ravdess.py with sound alone, and the runs of `--mode=crossval`."""
    config = ravdess.get_config()
    config.model.modalities = "audio"
    config.model.descriptors.share = 0.7
    config.split.protocol = "kfold"
    config.split.n_folds = 6
    config.crossval.protocols = ("kfold", "random")
    config.train.epochs = 12
    config.train.validate_every_epochs = 3
    return config
