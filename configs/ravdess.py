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
    split.protocol = "random"  # random, random_windows, takes, luna5, contiguous6, emobox6, chumachenko, loso, kfold
    split.fold = 0  # of a protocol with folds: which one is the test part
    split.n_folds = 5  # of kfold and takes
    split.test_fraction = 0.2  # of the takes (random) or windows (random_windows)
    split.validation_fraction = 0.125  # of what is left to train on: it chooses the checkpoint
    split.seed = 0

    config.crossval = crossval = ConfigDict()  # of --mode=crossval, which sets split.protocol, split.fold and seed
    crossval.protocols = ("kfold",)  # every fold of each; random and random_windows: a split for each seed
    crossval.seeds = (0,)  # each is a run of every fold
    crossval.jobs = 1  # runs at once, which share the cores and the accelerator's memory
    crossval.baselines = True  # majority class and logistic regressions on the same splits

    config.prepare = prepare = ConfigDict()
    prepare.detector = "insightface"  # insightface, centerface (embedded, no download)
    # longer side of the detector's input, px; the next where one finds no face
    prepare.detector_sizes = (192, 512)
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

    # Of training windows, inside the step; 0 and (): off. --mode=inspect --config.inspect.augment=True shows them
    config.augment = augment = ConfigDict()
    augment.time_shift_s = 0.0  # the sound earlier or later, at most, s; zeros move in
    augment.gain_db = 0.0  # louder or quieter, at most, dB
    augment.noise_snr_db = ()  # signal-to-noise ratio of added noise (white to brown): lowest, highest, dB
    augment.time_mask_s = 0.0  # SpecAugment: longest span of the log-mel spectrogram to hide, s
    augment.mel_mask = 0  # SpecAugment: most neighbouring mel bands to hide
    augment.flip = 0.0  # probability that the faces are mirrored
    augment.colour = 0.0  # brightness, contrast and saturation times 1 - colour to 1 + colour
    augment.crop_jitter = 0.0  # zoom and shift of the faces, at most, shares of a face's side
    augment.erase = 0.0  # probability that a rectangle of the faces is blanked
    augment.erase_size = (0.1, 0.4)  # of the rectangle's sides: lowest, highest, shares of a face's side
    augment.mixup = 0.0  # alpha of the Beta distribution of the shares in which two neighbours of a batch are mixed
    augment.modality_dropout = 0.0  # probability that a window with faces and sound loses one of them

    config.train = train = ConfigDict()
    train.batch_size = 64  # windows, over all devices
    train.epochs = 100
    train.learning_rate = 1e-3  # Adam's
    train.schedule = "cosine"  # cosine (to zero, after a warm-up), constant
    train.warmup_epochs = 2.0
    train.weight_decay = 0.0  # decoupled, of kernels alone
    train.clip_norm = 0.0  # of all gradients; 0: they are not clipped
    train.accumulate_steps = 1  # batches whose mean gradient makes one update
    train.label_smoothing = 0.0
    train.class_weights = False  # weigh each class's loss by the inverse of its share of the training windows
    train.ema_decay = 0.0  # a batch, of a moving average of the parameters, which is then evaluated; 0: none
    train.patience_epochs = 0  # stop when the best validation (UAR, then loss) is this long ago; 0: never
    train.validate_every_epochs = 5  # and save a checkpoint
    train.keep_every_epochs = 0  # keep these checkpoints beside the newest and the best; 0: only those two
    train.on_full_disk = "stop"  # when a checkpoint cannot be written: stop, go_on (but for the last one)
    train.resident_gb = 4.0  # a prepared corpus up to this size lies on each device; a larger one is read as it goes
    train.log_every_steps = 10

    config.profile = ConfigDict({"steps": ()})  # first and last step to trace into WORKDIR/profile, as (10, 20)

    config.inspect = ConfigDict({"augment": False})  # --mode=inspect also shows the augmentations (augmentation.html)
    return config
