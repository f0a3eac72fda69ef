"""Folders and zips are listed alike, and dangerous archives are refused whole."""

from __future__ import annotations

import hashlib
import pickle
import time
import zipfile
from pathlib import Path

import pytest

from infogan import sources
from infogan.errors import UserError
from infogan.sources import PhotoFiles, read_again


def make_folder(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_jpg", ".jpg").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def make_zip(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_jpg", ".jpg"), data)
    return path


def test_a_folder_lists_its_photos_sorted_and_nothing_else(tmp_path: Path) -> None:
    make_folder(tmp_path, b_jpg=b"2", a__z_jpg=b"1", notes_txt=b"", **{".hidden_jpg": b"", "__MACOSX__x_jpg": b""})
    files = PhotoFiles(tmp_path)
    assert files.names == ["a/z.jpg", "b.jpg"]
    assert [files.read(i) for i in range(len(files))] == [b"1", b"2"]


def test_a_zip_reads_like_the_folder_it_was_packed_from(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", b_jpg=b"2", a__z_jpg=b"1")
    packed = PhotoFiles(make_zip(tmp_path / "f.zip", b_jpg=b"2", a__z_jpg=b"1"))
    assert packed.names == PhotoFiles(folder).names
    assert packed.read(0) == b"1"


def test_a_part_reads_the_same_in_another_process(tmp_path: Path) -> None:
    one, two = (
        make_folder(tmp_path / "one", a_jpg=b"1", b_jpg=b"2"),
        make_zip(tmp_path / "two.zip", a_jpg=b"3", b_jpg=b"4"),
    )
    part = pickle.loads(pickle.dumps(PhotoFiles([one, two]).part([0, 3])))
    assert part.names == ["one/a.jpg", "two/b.jpg"] and [part.read(row) for row in range(len(part))] == [b"1", b"4"]
    assert [part.root(row) for row in range(len(part))] == [str(one), str(two)]


def test_several_roots_are_told_apart_by_their_names(tmp_path: Path) -> None:
    one, two = make_folder(tmp_path / "one", a_jpg=b"1"), make_zip(tmp_path / "two.zip", a_jpg=b"2")
    assert PhotoFiles([one, two]).names == ["one/a.jpg", "two/a.jpg"]
    with pytest.raises(UserError, match="twice"):
        PhotoFiles([one, one])


def test_roots_without_a_name_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = make_folder(tmp_path / "shop" / "here", a_jpg=b"1")
    make_folder(tmp_path / "old", a_jpg=b"3")
    make_folder(tmp_path / "shop", b_jpg=b"2")
    monkeypatch.chdir(here)
    files = PhotoFiles([".", "..", "../../old"])
    assert files.names == ["here/a.jpg", "old/a.jpg", "shop/b.jpg", "shop/here/a.jpg"]
    for row, content in enumerate((b"1", b"3", b"2", b"1")):
        assert read_again(files.root(row), files.names[row], bytes(32)) == content


def test_a_file_that_may_be_read_now_is_another(tmp_path: Path) -> None:
    photo = make_folder(tmp_path, a_jpg=b"1") / "a.jpg"
    photo.chmod(0)
    before = PhotoFiles(tmp_path).listing_key()
    time.sleep(0.02)  # kernels before 6.13 count in ticks of up to 4 ms
    photo.chmod(0o644)
    assert PhotoFiles(tmp_path).listing_key() != before


def test_links_are_followed_once_and_dangling_ones_are_listed(tmp_path: Path) -> None:
    make_folder(tmp_path / "real", a_jpg=b"1", b_jpg=b"2")
    photos = make_folder(tmp_path / "photos", c_jpg=b"3")
    (photos / "linked").symlink_to(tmp_path / "real")
    (photos / "around").symlink_to(photos)
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    files = PhotoFiles(photos)
    assert files.names == ["c.jpg", "gone.jpg", "linked/a.jpg", "linked/b.jpg"]
    with pytest.raises(OSError):
        files.read(1)
    assert files.content_key() != PhotoFiles(tmp_path / "real").content_key()


def test_a_single_photo_is_a_source_too(tmp_path: Path) -> None:
    assert PhotoFiles(make_folder(tmp_path, a_jpg=b"1") / "a.jpg").names == ["a.jpg"]


def test_keys_follow_contents_not_places(tmp_path: Path) -> None:
    one = make_folder(tmp_path / "one", a_jpg=b"1", b_jpg=b"2")
    copy = make_folder(tmp_path / "copy", a_jpg=b"1", b_jpg=b"2")
    other = make_folder(tmp_path / "other", a_jpg=b"1", b_jpg=b"3")
    keys = {path: PhotoFiles(path).content_key() for path in (one, copy, other)}
    assert keys[one] == keys[copy] != keys[other]
    packed = make_zip(tmp_path / "one.zip", a_jpg=b"1", b_jpg=b"2")
    assert PhotoFiles(packed).content_key() == keys[one]
    assert PhotoFiles(one).listing_key() != PhotoFiles(copy).listing_key()


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "x/../../a.jpg", "C:\\a.jpg", "..\\a.jpg"])
def test_unsafe_paths_in_a_zip_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(UserError, match="unsafe path"):
        PhotoFiles(tmp_path / "bad.zip")


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", a_jpg=b"1" * 1000)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="truncated"):
        PhotoFiles(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", a_jpg=b"1" * 1000)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 0x1  # the flag that zip programs set on encrypted members
    path.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        PhotoFiles(path)


def test_odd_members_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_PHOTO_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(".", b"")
        archive.writestr("data.bin", bytes(2 << 20))
        archive.writestr("a.jpg", b"1")
    assert PhotoFiles(tmp_path / "odd.zip").names == ["a.jpg"]


def test_zip_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "UNPACK_ALLOWANCE", 10 << 20)  # or packing the bombs would take a minute
    monkeypatch.setattr(sources, "MAX_PHOTO_BYTES", 8 << 20)
    for name, count, size, words in (("one", 1, 9, "a0.jpg claims 9 MiB"), ("many", 10, 8, "unpack to")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(count):
                archive.writestr(f"a{number}.jpg", bytes(size << 20))
        with pytest.raises(UserError, match=f"{words}.*zip bomb"):
            PhotoFiles(tmp_path / f"{name}.zip")


def test_nothing_there_is_said_plainly(tmp_path: Path) -> None:
    for root, words in ((tmp_path, "no photos"), (tmp_path / "gone", "no such"), ([], "no photos given")):
        with pytest.raises(UserError, match=words):
            PhotoFiles(root)
    (tmp_path / "list.csv").write_text("a")
    with pytest.raises(UserError, match="not a readable zip"):
        PhotoFiles(tmp_path / "list.csv")


def test_what_was_listed_is_read_again(tmp_path: Path) -> None:
    folder, packed = tmp_path / "boots", tmp_path / "shoes.zip"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.jpg").write_bytes(b"one")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("b/2.jpg", b"two")
    roots: list[list[Path]] = [[folder], [packed], [folder, packed], [folder / "a" / "1.jpg"]]
    for some in roots:
        files = PhotoFiles(some)
        for row, name in enumerate(files.names):
            content = files.read(row)
            for digest in (hashlib.sha256(content).digest(), bytes(32)):
                assert read_again(files.root(row), name, digest) == content
            assert read_again(files.root(row), name, b"1" * 32) is None
    for root, name in (
        (folder / "a", "../a/1.jpg"),
        (tmp_path, str(folder / "a" / "1.jpg")),
        (packed, "b/3.jpg"),
        (tmp_path / "no", "1.jpg"),
    ):
        assert read_again(str(root), name, bytes(32)) is None
    packed.write_bytes(b"no archive any more")
    assert read_again(str(packed), "b/2.jpg", bytes(32)) is None
