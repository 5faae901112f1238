"""What there is: file names to clips, labels, speakers and takes; downloads; named protocols."""

import pathlib
from collections.abc import Sequence

from fusion_emotion.corpora import ravdess
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError, did_you_mean

CORPORA = ("ravdess", "sample")
CHANNELS = ("speech", "song", "both")


def label_names(corpus: str) -> tuple[str, ...]:
    """The emotions of a corpus; a clip's `label` is an index into them."""
    if corpus not in CORPORA:
        raise did_you_mean("data.corpus", corpus, CORPORA)
    return ravdess.LABEL_NAMES


def find_clips(
    corpus: str, root: pathlib.Path, *, audio_alone: bool, channel: str, actors: Sequence[str] = ()
) -> tuple[list[Clip], list[tuple[str, str]]]:
    """The clips below `root` of a channel and of `actors` (all where none is named), and what was passed over.

    Fusion and video take audio-video files (RAVDESS modality 01). `audio_alone` takes the audio-only files (03) where
    there are any, else the sound of the audio-video ones: never both, for they are the same takes.
    """
    if corpus not in CORPORA:
        raise did_you_mean("data.corpus", corpus, CORPORA)
    if channel not in CHANNELS:
        raise did_you_mean("data.channel", channel, CHANNELS)
    if not root.is_dir():
        raise UserError(f"data.root={str(root)!r} is not a folder: set --config.data.root to the folder of the corpus")
    found, passed_over = ravdess.find_clips(root, corpus=corpus)
    if not found:
        why = f" ({len(passed_over)} names break its grammar, the first: {passed_over[0][0]})" if passed_over else ""
        raise UserError(
            f"data.root={str(root)!r} holds no {corpus} clip{why}: "
            "expected .mp4, .wav or .flac files named MM-VV-EE-II-SS-RR-AA, flat or in Actor_*/ folders"
        )
    there = {clip.modality for clip in found}
    wanted = "a" if audio_alone and "a" in there else "av"
    clips = [clip for clip in found if clip.modality == wanted and channel in (clip.channel, "both")]
    if actors and not (clips := [clip for clip in clips if clip.speaker in actors]):
        raise UserError(f"data.root={str(root)!r} holds no {channel} clip of actors {', '.join(actors)} (data.actors)")
    if not clips:
        remedy = (
            "--config.model.modalities=audio uses the audio-only files"
            if "a" in there
            else f"it holds modality {', '.join(sorted(there))}; get the audio-video files (01-*.mp4)"
        )
        raise UserError(
            f"data.root={str(root)!r} holds no {channel} clip with both sound and picture (01-*.mp4): {remedy}"
            if wanted not in there
            else f"data.root={str(root)!r} holds no {channel} clip: set --config.data.channel=both"
        )
    return clips, passed_over
