"""What is downloaded of each corpus, from a local server with the paths of its owner's host."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from download_kit import Server, cut, refuse, serve, serving, wrong_byte, zipped
from fusion_emotion import config
from fusion_emotion.corpora import catalogue, cremad, emodb, tess
from fusion_emotion.corpora.corpus import Remote, Wanted
from fusion_emotion.corpora.download import install, mirror
from fusion_emotion.errors import UserError

FILMS = Wanted(audio_alone=False, channel="speech")
SOUNDS = Wanted(audio_alone=True, channel="speech")
MEDIA = "/media/CheyneyComputerScience/CREMA-D/master/"
NAMES = [f"AudioWAV/1001_DFA_{code}_XX.wav" for code in ("ANG", "DIS", "FEA")]
LIST = "/api/datasets/:persistentId/versions/:latest/files?persistentId=doi:10.5683/SP2/E8H2MF"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        yield server


def of_config(name: str, server: Server, **data: Any) -> dict[str, Any]:
    values = config.defaults()
    values.data.update(corpus=name, **data)
    values.model.modalities, values.run.download_url = "audio", server.url
    return values.to_dict()


def content(name: str) -> bytes:
    return name.encode() * 1000


def files_in(root: pathlib.Path) -> set[str]:
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] != ".downloaded"}


@pytest.mark.parametrize(("url", "expected"), [("", ""), ("https://zenodo.org/", ""), ("http://mine/", "http://mine")])
def test_a_mirror_takes_the_place_of_every_host_and_the_default_of_none(url: str, expected: str) -> None:
    assert mirror({"run": {"download_url": url}}) == expected


# CREMA-D


def small(names: list[str]) -> list[Remote]:
    """Files of CREMA-D with another content."""
    remotes = {remote.name: remote for remote in cremad.remotes(SOUNDS)}
    sha256 = {name: f"sha256:{hashlib.sha256(content(name)).hexdigest()}" for name in names}
    return [dataclasses.replace(remotes[name], size_bytes=len(content(name)), digest=sha256[name]) for name in names]


def fetch(server: Server, root: pathlib.Path, remotes: list[Remote]) -> None:
    install(root, remotes, title="CREMA-D", mirror=server.url, keep_archives=False, backoff_s=0.0)


def test_the_packaged_table_has_every_film_and_wav_of_cremad() -> None:
    for wanted, size_bytes in ((FILMS, 2_443_021_141), (SOUNDS, 605_899_936)):
        remotes = cremad.remotes(wanted)
        assert len(remotes) == 7442
        assert sum(remote.size_bytes or 0 for remote in remotes) == size_bytes
        clips = [cremad.parse_name(pathlib.Path(remote.name)) for remote in remotes]
        assert {clip.modality for clip in clips} == {"a" if wanted.audio_alone else "av"}
        assert all(len(remote.digest or "") == len("sha256:") + 64 for remote in remotes)
    [one] = [remote for remote in remotes if remote.name == NAMES[0]]
    assert one.host + one.path == f"https://media.githubusercontent.com{MEDIA}{NAMES[0]}"
    some = cremad.remotes(dataclasses.replace(SOUNDS, actors=(1001, 1091), labels_by="votes"))
    assert {remote.name[9:13] for remote in some[:-1]} == {"1001", "1091"}
    assert some[-1].host + some[-1].path == (
        "https://raw.githubusercontent.com/CheyneyComputerScience/CREMA-D/master/processedResults/summaryTable.csv"
    )
    with pytest.raises(UserError, match=r"data\.actors.*1092"):
        cremad.remotes(dataclasses.replace(SOUNDS, actors=(1092,)))


def test_the_table_is_that_of_the_owners_pointers(real_data: pathlib.Path) -> None:
    lines = (real_data / "facts" / "cremad" / "cremad_lfs_sha256.tsv").read_text().splitlines()[1:]
    rows = {path: (int(size), f"sha256:{digest}") for path, digest, size in (line.split("\t") for line in lines)}
    for remote in (*cremad.remotes(FILMS), *cremad.remotes(SOUNDS)):
        assert rows[remote.name] == (remote.size_bytes, remote.digest)


def test_real_films_have_their_sha256(real_data: pathlib.Path, tmp_path: pathlib.Path, server: Server) -> None:
    films = {path.name: path.read_bytes() for path in (real_data / "data" / "cremad").glob("*.flv")}
    server.files = {f"{MEDIA}VideoFlash/{name}": film for name, film in films.items()}
    remotes = [remote for remote in cremad.remotes(FILMS) if pathlib.Path(remote.name).name in films]
    fetch(server, tmp_path, remotes)
    assert files_in(tmp_path) == {f"VideoFlash/{name}" for name in films}
    assert len(server.ranges) == 6


def test_single_files_are_resumed_checked_and_asked_for_once(tmp_path: pathlib.Path, server: Server) -> None:
    server.files = {MEDIA + name: content(name) for name in NAMES}
    pointer = tmp_path / NAMES[2]
    pointer.parent.mkdir()
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    server.acts = [cut(7), serve, wrong_byte, serve]
    for _ in range(2):
        fetch(server, tmp_path, small(NAMES))
    assert server.ranges == [None, "bytes=7-", None, None, None]
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == {n: content(n) for n in NAMES}
    (tmp_path / NAMES[1]).unlink()
    fetch(server, tmp_path, small(NAMES))
    assert len(server.ranges) == 6


def test_a_file_that_is_altered_on_the_way_is_never_put_into_place(tmp_path: pathlib.Path, server: Server) -> None:
    server.files, server.always = {MEDIA + NAMES[0]: content(NAMES[0])}, wrong_byte
    with pytest.raises(UserError, match=f"{NAMES[0]}.*sha256"):
        fetch(server, tmp_path, small(NAMES[:1]))
    assert not files_in(tmp_path)


def test_votes_come_without_a_checksum(tmp_path: pathlib.Path, server: Server) -> None:
    votes = cremad.remotes(dataclasses.replace(SOUNDS, labels_by="votes"))[-1]
    server.files = {votes.path: b"FileName,VoiceVote\n" * 100}
    server.acts = [cut(100)]
    for _ in range(2):
        fetch(server, tmp_path, [votes])
    assert (tmp_path / "processedResults/summaryTable.csv").read_bytes() == server.files[votes.path]
    assert server.ranges == [None, "bytes=100-"]


# EmoDB


def test_emodb_is_one_archive_checked_by_its_length_and_crcs(tmp_path: pathlib.Path, server: Server) -> None:
    members = {f"wav/03a0{i}Fa.wav": content(str(i)) for i in (1, 2)}
    others = {"erkennung.txt": b"1", "../wav/03a01Wa.wav": b"1", "wav/a/b.wav": b"1"}
    server.files = {"/download/download.zip": zipped(members | others)}
    server.acts = [cut(900), wrong_byte]
    for _ in range(2):
        catalogue.download(catalogue.corpus("emodb"), tmp_path, of_config("emodb", server))
    assert files_in(tmp_path) == members.keys()
    assert server.ranges == [None, "bytes=900-", None]
    [archive] = emodb.remotes(SOUNDS)
    assert archive.host == "http://emodb.bilderbar.info"


def test_an_archive_without_a_clip_is_told(tmp_path: pathlib.Path, server: Server) -> None:
    server.files = {"/download/download.zip": zipped({"emodb/wav/03a01Fa.wav": b"1"})}
    with pytest.raises(UserError, match=r"download\.zip.*none of the files"):
        catalogue.download(catalogue.corpus("emodb"), tmp_path, of_config("emodb", server))


# TESS


def entry(number: int, label: str, file: bytes, *, folder: str | None = None, algorithm: str = "MD5") -> dict[str, Any]:
    """A file in the list of a Dataverse."""
    value = hashlib.new(algorithm.replace("-", "").lower(), file).hexdigest()
    facts = {"id": number, "filename": label, "filesize": len(file), "checksum": {"type": algorithm, "value": value}}
    return {"label": label, "restricted": False, "dataFile": facts} | ({"directoryLabel": folder} if folder else {})


def test_tess_comes_by_the_list_of_its_dataverse(tmp_path: pathlib.Path, server: Server) -> None:
    archive = zipped({"YAF_sad/YAF_back_sad.wav": content("yaf"), "../YAF_bar_sad.wav": b"1", "/x.wav": b"1"})
    files = {
        1: entry(1, "OAF_back_angry.wav", content("oaf")),
        2: entry(2, "OAF_back_sad.wav", content("sad"), folder="OAF_Sad", algorithm="SHA-1"),
        3: entry(3, "YAF_sad.zip", archive),
        4: entry(4, "readme.txt", b"1"),
        5: entry(5, "evil.wav", b"1", folder="../.."),
    }
    server.files = {LIST: json.dumps({"status": "OK", "data": list(files.values())}).encode()}
    server.files |= {
        f"/api/access/datafile/{i + 1}": file for i, file in enumerate((content("oaf"), content("sad"), archive))
    }
    for _ in range(2):
        catalogue.download(catalogue.corpus("tess"), tmp_path, of_config("tess", server))
    expected = {"OAF_back_angry.wav", "OAF_Sad/OAF_back_sad.wav", "YAF_sad/YAF_back_sad.wav"}
    assert files_in(tmp_path) == expected
    assert len(server.ranges) == 2 + 3  # the list twice, each file once
    assert len(catalogue.find_clips(catalogue.corpus("tess"), tmp_path, SOUNDS).clips) == 3


@pytest.mark.parametrize(
    ("answer", "word"),
    [(b'{"status": "OK", "data": []}', "lists no sound"), (b'{"status": "ERROR"}', "no list"), (b"<html>", "LIST")],
)
def test_a_list_that_is_none_is_told(server: Server, answer: bytes, word: str) -> None:
    server.files = {LIST: answer}
    with pytest.raises(UserError, match=word.replace("LIST", "versions")):
        tess.remotes(SOUNDS, server.url)


def test_a_host_that_refuses_is_named(server: Server) -> None:
    server.files, server.always = {LIST: b"{}"}, refuse(401)
    with pytest.raises(UserError, match="401"):
        tess.remotes(SOUNDS, server.url)


# SAVEE


def test_of_savee_the_page_to_apply_at_is_named(tmp_path: pathlib.Path, server: Server) -> None:
    with pytest.raises(UserError, match=r"savee.*kahlan\.eps\.surrey\.ac\.uk") as raised:
        catalogue.download(catalogue.corpus("savee"), tmp_path, of_config("savee", server))
    assert "\n" not in str(raised.value)
    assert not server.ranges


# FER+


def test_the_votes_of_ferplus_are_those_of_its_owners(server: Server, real_data: pathlib.Path, tmp_path: pathlib.Path):
    votes = (real_data / "data" / "ferplus" / "fer2013new.csv").read_bytes()
    server.files = {"/microsoft/FERPlus/master/fer2013new.csv": votes}
    catalogue.download(catalogue.corpus("ferplus"), tmp_path, of_config("ferplus", server))
    assert (tmp_path / "fer2013new.csv").read_bytes() == votes
