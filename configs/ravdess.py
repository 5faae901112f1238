"""Faces and voices of RAVDESS: the default run, and every field there is.

    python launch.py --config=configs/ravdess.py --config.data.root=PATH

PATH holds RAVDESS's files, flat or in Actor_*/ folders. Its protocol is the original description's, 80 % / 20 % of the
shuffled takes, which has the same speakers on both sides; `--config.split.protocol=contiguous6` is one that has not.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The configuration; `launch.py` locks it."""
    config = ConfigDict()
    config.seed = 0  # of the initial parameters, the order and the cutting of windows, and dropout

    config.data = data = ConfigDict()
    data.corpus = "ravdess"  # ravdess, sample
    data.root = "data/ravdess"
    data.channel = "speech"  # speech, song, both
    data.actors = ()  # numbers of the actors wanted; (): all
    data.download = False  # fetch from Zenodo what is not in data.root; --mode=download does only that
    data.download_url = "https://zenodo.org"  # or a mirror
    data.keep_archives = False  # after they are unpacked

    config.split = split = ConfigDict()
    split.protocol = "random"  # random, random_windows, luna5, contiguous6, emobox6, chumachenko, loso, kfold
    split.fold = 0  # of a protocol with folds: which one is the test part
    split.n_folds = 5  # of kfold
    split.test_fraction = 0.2  # of the takes (random) or windows (random_windows)
    split.validation_fraction = 0.125  # of what is left to train on: it chooses the checkpoint
    split.seed = 0

    config.prepare = prepare = ConfigDict()
    prepare.detector = "insightface"  # insightface, centerface (embedded, no download)
    prepare.detector_sizes = (
        192,
        512,
    )  # longer side of the detector's input, px; the next where one finds no face
    prepare.detector_threshold = 0.5
    prepare.insightface_pack = "buffalo_sc"
    prepare.insightface_root = "~/.insightface"
    prepare.detect_every = 2  # look for the face in every 2nd sampled frame, and between where it is not steady
    prepare.align = False  # turn each crop until the eyes are level
    prepare.face_size = 64  # side of a crop, px (the original: 50)
    prepare.margin = 0.05  # on each side of the face box, in shares of its longer side
    prepare.missing = "quarantine"  # a clip without face or sound: quarantine, or keep what it has
    prepare.min_found_share = 0.5  # below this share of frames with a face, the clip counts as one without
    prepare.decoder = "auto"  # of video: cpu, gpu (NVDEC), or auto: gpu where decord was built for it
    prepare.provider = "auto"  # of the detector: cpu, cuda, or auto: cuda where onnxruntime-gpu runs
    prepare.engine = "local"  # local: this machine; ray: as many as there are, see docs/scale.md
    prepare.ray_address = ""  # of the head node; "": start Ray on this machine, "auto": the cluster this machine is in
    prepare.cache = "cache"  # folder of prepared corpora
    prepare.workers = 0  # processes on this machine; 0: one per core
    prepare.clip_timeout_s = 600.0  # a clip that takes longer is quarantined

    config.model = model = ConfigDict()
    model.modalities = "audio+video"  # audio+video, audio, video
    model.features = 200  # of each modality
    model.strip_network = "patch"  # patch, original
    model.lstm_layers = 1  # (the original: 3)
    model.dropout_rate = 0.5  # of the concatenated features
    model.dtype = "float32"  # of the computation: float32, bfloat16
    # librosa's names; frames and mel bands are the original's
    model.mfcc = ConfigDict(
        {"n_mfcc": 40, "n_fft": 1024, "hop_length": 256, "n_mels": 80, "fmin": 80.0, "fmax": 8000.0}
    )

    config.train = train = ConfigDict()
    train.batch_size = 64  # windows, over all devices
    train.epochs = 100
    train.learning_rate = 1e-3  # Adam's
    train.schedule = "cosine"  # cosine (to zero, after a warm-up), constant
    train.warmup_epochs = 2.0
    train.validate_every_epochs = 5
    train.log_every_steps = 10
    return config
