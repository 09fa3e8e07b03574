from pathlib import Path

import pytest

from edgept.atomic import atomic_folder, write_bytes
from edgept.errors import UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_half(folder: Path) -> None:
    (folder / "m").touch()
    (folder / "no" / "such" / "folder").touch()


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(tmp_path / "a", b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UsageError, match="No space left"):
        write_bytes(tmp_path / "a", b"new", overwrite=True)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("kept")
    with pytest.raises(UsageError, match="exists already"):
        write_bytes(tmp_path / "link", b"new")
    write_bytes(tmp_path / "link", b"new", overwrite=True)
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert not (tmp_path / "link").is_symlink()


def test_places_that_take_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write_bytes(tmp_path, b"", overwrite=True)
    with pytest.raises(UsageError, match="cannot write"):
        write_bytes(tmp_path / "no" / "such" / "folder", b"")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with pytest.raises(FileNotFoundError), atomic_folder(target, marker="m") as folder:
        fill_half(folder)
    assert names(tmp_path) == []
    with atomic_folder(target, marker="m") as folder:
        (folder / "m").write_text("1")
        assert not target.exists()
    assert names(tmp_path) == ["bundle"]


def test_an_existing_folder_is_replaced_only_if_it_is_of_the_kind(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    with atomic_folder(target, marker="m") as folder:  # an empty one is no loss
        (folder / "m").write_text("1")
    with pytest.raises(UsageError, match="exists already"), atomic_folder(target, marker="m"):
        pass
    with pytest.raises(RuntimeError), atomic_folder(target, marker="m", overwrite=True):
        raise RuntimeError
    assert (target / "m").read_text() == "1"
    with atomic_folder(target, marker="m", overwrite=True) as folder:
        (folder / "m").write_text("2")
    assert (target / "m").read_text() == "2"
    with (
        pytest.raises(UsageError, match="without other"),
        atomic_folder(target, marker="other", overwrite=True),
    ):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="no folder"),
        atomic_folder(tmp_path / "file", marker="m", overwrite=True),
    ):
        pass
    assert names(tmp_path) == ["bundle", "file"]
