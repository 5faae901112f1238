"""Your own recordings: films, sounds and pictures, with a table of them or in folders named after emotions.

    python launch.py --config=configs/folder.py --config.data.root=DIR --config.data.table=labels.csv

The table has the columns path and emotion, and any of speaker, sex, start_s, end_s, split, corpus, intensity and
statement; without a table the folders are EMOTION/** or SPEAKER/EMOTION/**. Clips that lack a face or sound keep what
they have. The protocol is kfold over speakers; without speakers give --config.split.protocol=takes, which does not say
how well the model does on people it has never seen. Time and number depend on the data.
"""

from ml_collections import ConfigDict

from configs import ravdess


def get_config() -> ConfigDict:
    """Return configs/ravdess.py with what data of any kind need instead."""
    config = ravdess.get_config()
    config.data.corpus = "folder"
    config.data.root = "data/own"
    config.split.protocol = "kfold"
    config.prepare.missing = "keep"
    config.prepare.min_found_share = 0.25
    config.train.epochs = 40
    return config
