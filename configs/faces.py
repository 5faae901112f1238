"""Faces alone: FER+ (Barsoum et al. 2016), pictures of 48x48 px with the votes of ten raters.

    python launch.py --config=configs/faces.py --config.data.root=PATH

PATH holds the owners' folders FER2013Train, FER2013Valid and FER2013Test, or fer2013.csv and fer2013new.csv. The parts
are the owners'; they are not by person. The labels are the shares of the votes, tested against their majority. It
trains for 43 minutes on two cores of an AMD EPYC. Expect 83.6 to 84.0 % WAR and 56.2 to 56.8 % UAR on the test part: of
disgust and contempt, which are one picture in a hundred, none is recognised. docs/recipe.md has what was tried.
"""

from ml_collections import ConfigDict

from fusion_emotion.config import defaults


def get_config() -> ConfigDict:
    """Return the defaults with what stills need instead."""
    config = defaults()
    config.data.corpus = "ferplus"
    config.data.root = "data/ferplus"
    config.split.protocol = "given_takes"
    config.prepare.detector = "none"
    config.prepare.face_size = 48
    config.segment.seconds = config.segment.hop_s = 0.2
    config.model.modalities = "video"
    config.model.strip_network = "face"
    config.model.dropout_rate = 0.4
    config.augment.flip = 0.5
    config.augment.crop_jitter = 0.12
    config.augment.erase = 0.3
    config.train.batch_size = 128
    config.train.epochs = 20
    config.train.learning_rate = 3e-3
    config.train.warmup_epochs = 1.0
    config.train.weight_decay = 1e-4
    config.train.ema_decay = 0.999
    config.train.choose = "last"  # disgust and contempt are too rare in the validation part for its UAR to choose
    config.train.validate_every_epochs = 1
    return config
