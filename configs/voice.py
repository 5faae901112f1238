"""The voice of whole clips on RAVDESS speech, six folds of its speakers: a spectrogram's network joined by descriptors.

    python launch.py --config=configs/voice.py --mode=crossval --config.data.root=PATH

PATH holds RAVDESS's audio-only or audio-visual speech files. On the 1,080 takes of 18 actors a fold takes 3 minutes on
two cores of an AMD EPYC. Expect a clip-level UAR of 61.1 % of people never heard (mean of three seeds), and an expected
calibration error of 0.049 after temperature. docs/recipe.md has what each choice gave.
"""

from ml_collections import ConfigDict

from fusion_emotion.config import defaults


def get_config() -> ConfigDict:
    """Return the defaults with whole clips, both views of the voice, and what trains them."""
    config = defaults()
    config.split.protocol = "kfold"
    config.split.n_folds = 6
    config.crossval.compare = True
    config.segment.seconds = 5.2
    config.segment.hop_s = 5.2
    config.segment.pad_to_s = (3.4, 3.8, 4.2, 5.2)
    config.model.modalities = "audio"
    config.model.voice_network = "whole_clip"
    config.model.dropout_rate = 0.3
    config.model.mfcc.n_fft = 400
    config.model.mfcc.n_mels = 64
    config.model.mfcc.fmin = 50.0
    config.model.descriptors.share = 0.7
    config.model.descriptors.speeds = (0.92, 1.08)
    config.augment.time_mask_s = 0.3
    config.augment.mel_mask = 12
    config.augment.tempo = 0.1
    config.augment.pitch = 0.08
    config.augment.mixup = 0.2
    config.train.batch_size = 32
    config.train.epochs = 24
    config.train.learning_rate = 2e-3
    config.train.warmup_epochs = 5.0
    config.train.weight_decay = 0.01
    config.train.clip_norm = 5.0
    config.train.label_smoothing = 0.1
    config.train.choose = "last"
    config.train.validate_every_epochs = 12
    return config
