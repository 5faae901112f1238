"""What readers of corpora share: from the files below a folder to clips, and to those that a config asks for."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

from fusion_emotion.corpora.clip import FILM_SUFFIXES, SOUND_SUFFIXES, Clip, by_id
from fusion_emotion.corpora.corpus import Found, Wanted
from fusion_emotion.errors import UserError

# Of two formats of one clip the earlier is used, so a sound without loss comes before one with.
_SUFFIXES = FILM_SUFFIXES + SOUND_SUFFIXES


def is_film(path: pathlib.Path) -> bool:
    """True if the extension is of a film, and not of a sound."""
    return path.suffix.lower() in FILM_SUFFIXES


def find_all(root: pathlib.Path, parse: Callable[[pathlib.Path], Clip]) -> Found:
    """Find every clip below `root`, and the files that `parse` refuses with a ValueError.

    Symbolic links are followed, but no folder is entered twice, so the walk ends in a loop of links too. Of several
    files of one clip id one is used: of the first format in which they are, the first by folder.
    """
    clips: dict[str, Clip] = {}
    passed_over: list[tuple[str, str]] = []
    entered = {os.path.realpath(root)}

    def unreadable(error: OSError) -> None:
        passed_over.append((str(error.filename), f"the folder cannot be read: {error.strerror}"))

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        # Of two links to one folder the first by name is followed.
        real = {os.path.realpath(os.path.join(folder, name)): name for name in sorted(subfolders, reverse=True)}
        subfolders[:] = sorted(name for path, name in real.items() if path not in entered)
        entered |= real.keys()
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            if path.suffix.lower() not in _SUFFIXES or name.startswith("."):
                continue
            try:
                clip = parse(path)
            except ValueError as error:
                passed_over.append((str(path), str(error)))
                continue
            other = clips.setdefault(clip.clip_id, clip)
            if other is clip:
                continue
            used, left = (clip, other) if _rank(clip) < _rank(other) else (other, clip)
            clips[clip.clip_id] = used
            passed_over.append((str(left.path), _reason(used, left)))
    return Found(clips=sorted(clips.values(), key=by_id), passed_over=passed_over)


def _rank(clip: Clip) -> int:
    return _SUFFIXES.index(clip.path.suffix.lower())


def _reason(used: Clip, left: Clip) -> str:
    if _rank(used) == _rank(left):
        return "a copy of a clip that is in another folder too"
    return f"the {used.path.suffix.lower()} file of the same take is used"


def choose(below: Found, root: pathlib.Path, wanted: Wanted, *, films: str) -> Found:
    """Choose from the clips below `root` those of a modality, a channel and some actors.

    Audio alone takes the sound file of a take if there is one, else the sound of its film. Any other config takes the
    films; `films` is the pattern of their names. "" stands for a corpus without films, whose sounds serve every config.
    Raises UserError if no clip is as wanted.
    """
    modalities = {clip.modality for clip in below.clips}
    # By take; of two files the later entry stays, so "a" comes after "av".
    usable = ("av", "a") if wanted.audio_alone or not films else ("av",)
    of_modality = {clip.take_id: clip for modality in usable for clip in below.clips if clip.modality == modality}
    of_channel = sorted((clip for clip in of_modality.values() if wanted.channel in (clip.channel, "both")), key=by_id)
    clips = [clip for clip in of_channel if not wanted.actors or _number(clip.speaker) in wanted.actors]
    if wanted.audio_alone:
        clips = [dataclasses.replace(clip, modality="a") for clip in clips]  # no picture is read
    if clips or not below.clips:
        return Found(clips=clips, passed_over=below.passed_over)
    lack = f"data.root={str(root)!r} holds no {wanted.channel} clip"
    if of_channel:
        raise UserError(f"{lack} of actors {', '.join(map(str, wanted.actors))} (data.actors)")
    if of_modality:
        raise UserError(f"{lack}: set --config.data.channel=both")
    remedy = (
        "--config.model.modalities=audio uses the audio-only files"
        if "a" in modalities
        else f"it holds modality {', '.join(sorted(modalities))}; get the audio-video files ({films})"
    )
    raise UserError(f"{lack} with both sound and picture ({films}): {remedy}")


def _number(speaker: str) -> int | None:
    """The number in the id of a speaker, as of "ravdess/05"; None if it has none."""
    name = speaker.rpartition("/")[2]
    return int(name) if name.isdecimal() else None
