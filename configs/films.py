"""The last layer of `face-base` for films: acted speech of people who are seen.

    python launch.py --config=configs/films.py --mode=films --model=face-base --output=DIR \
        --config.data.roots="('RAVDESS','CREMAD')"

RAVDESS and CREMAD hold films of those corpora. DIR is the model with the layer, and a card with its numbers. Once 70
clips are prepared it takes seconds. docs/recipe.md has what to expect of the 70 of four people that `face-base` was
released with.
"""

from ml_collections import ConfigDict

from fusion_emotion.config import defaults


def get_config() -> ConfigDict:
    """Return the defaults with the labels of `face-base`, and the detector that films are judged with."""
    config = defaults()
    config.data.corpora = ("ravdess", "cremad")
    config.data.roots = ("data/ravdess", "data/cremad")
    config.data.labels = "neutral=neutral+calm, happy, sad, angry, fearful, disgust, surprised, contempt"
    config.model.modalities = "video"
    config.prepare.detector = "centerface"
    config.prepare.detector_sizes = (320, 640)
    return config
