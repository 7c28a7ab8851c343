"""Writing: everything, or the folder as it was."""

import os
from pathlib import Path

import pytest

from kprune.c.files import write_files


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_write_files_writes_text_and_bytes_and_gives_the_paths(tmp_path):
    paths = write_files({"b.h": "µ\n", "a.tflite": b"\0\xff"}, tmp_path / "new" / "folder")

    assert paths == [tmp_path / "new" / "folder" / name for name in ("b.h", "a.tflite")]
    assert content(tmp_path / "new" / "folder") == {"b.h": b"\xc2\xb5\n", "a.tflite": b"\0\xff"}


def test_write_files_replaces_its_own_files_and_leaves_others_alone(tmp_path):
    write_files({"a.c": "1", "b.c": "2"}, tmp_path)
    (tmp_path / "mine.c").write_text("mine")

    write_files({"a.c": "3"}, tmp_path)

    assert content(tmp_path) == {"a.c": b"3", "b.c": b"2", "mine.c": b"mine"}


def test_a_file_that_cannot_be_written_leaves_the_folder_as_it_was(tmp_path):
    write_files({"a.c": "old"}, tmp_path)

    with pytest.raises(OSError, match=r"write_files cannot write to .*too long"):
        write_files({"a.c": "new", "b" * 300 + ".c": "new"}, tmp_path)

    assert content(tmp_path) == {"a.c": b"old"}


def test_a_name_that_is_a_folder_there_leaves_the_folder_as_it_was(tmp_path):
    write_files({"a.c": "old"}, tmp_path)
    (tmp_path / "b.c").mkdir()

    with pytest.raises(IsADirectoryError, match=r"'b\.c' is a folder there"):
        write_files({"a.c": "new", "b.c": "new"}, tmp_path)

    assert content(tmp_path) == {"a.c": b"old"}


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_failure_while_replacing_restores_every_file(tmp_path, monkeypatch, failing):
    write_files({"a.c": "old a", "b.c": "old b"}, tmp_path)
    rename, calls = Path.rename, []

    def fail_once(path, target):
        calls.append(path)
        if len(calls) == failing:
            raise OSError(None, "disk on fire")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)

    with pytest.raises(OSError, match="disk on fire"):
        write_files({"new.c": "new", "a.c": "new a", "b.c": "new b"}, tmp_path)

    assert content(tmp_path) == {"a.c": b"old a", "b.c": b"old b"}


def test_an_interrupt_leaves_nothing_and_no_folder(tmp_path):
    class Interrupting(str):
        def encode(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_files({"a.c": "1", "b.c": Interrupting()}, tmp_path / "made" / "for it")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "firmware").write_text("")

    with pytest.raises(NotADirectoryError, match="firmware': it is a file"):
        write_files({"a.c": ""}, tmp_path / "firmware")
    with pytest.raises(NotADirectoryError, match="cannot write to"):
        write_files({"a.c": ""}, tmp_path / "firmware" / "deeper")


def test_a_folder_without_permission_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match=r"Permission denied\. Nothing was written"):
            write_files({"a.c": ""}, tmp_path / "firmware")
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["", "..", "sub/a.c", "/etc/a.c", "sub\\a.c", "C:a.c", "a\0.c"])
def test_a_name_with_a_folder_in_it_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="expected a plain name"):
        write_files({"a.c": "", name: ""}, tmp_path)

    assert list(tmp_path.iterdir()) == []
