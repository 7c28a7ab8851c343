"""Writing: everything, or the folder as it was."""

import os
import socket
import stat
import subprocess
import sys
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


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "1.c").write_text("old")
    (tmp_path / "a.c").symlink_to("versions/1.c")
    (tmp_path / "b.c").symlink_to("versions/2.c")

    write_files({"a.c": "new", "b.c": "new too"}, tmp_path)

    assert (tmp_path / "a.c").readlink() == Path("versions/1.c")
    assert content(tmp_path / "versions") == {"1.c": b"new", "2.c": b"new too"}


@pytest.mark.parametrize("mode", [0o444, 0o600, 0o755])
def test_a_file_keeps_its_permissions_and_a_new_one_has_the_usual_ones(tmp_path, mode):
    (tmp_path / "a.c").write_text("old")
    (tmp_path / "a.c").chmod(mode)
    umask = os.umask(0o027)
    try:
        write_files({"a.c": "new", "b.c": "new"}, tmp_path)
    finally:
        os.umask(umask)

    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.c", "b.c")] == [
        mode,
        0o640,
    ]
    assert (tmp_path / "a.c").read_text() == "new"


def test_a_device_is_written_into_and_stays_a_device(tmp_path):
    try:  # /dev/null, as a node of its own
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (tmp_path / "null").write_bytes(b"")
    except PermissionError:
        pytest.skip("no devices may be made, or used, here")
    (tmp_path / "link").symlink_to("null")

    write_files({"null": "gone", "link": "gone too", "a.c": "kept"}, tmp_path)

    assert stat.S_ISCHR((tmp_path / "null").lstat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path) == {"a.c": b"kept"}


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    write_files({"pipe": "through", "a.c": "kept"}, tmp_path)

    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert content(tmp_path) == {"a.c": b"kept"}


def test_a_socket_is_refused_and_leaves_the_folder_as_it_was(tmp_path):
    write_files({"a.c": "old"}, tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))

        with pytest.raises(OSError, match=r"write_files cannot write to .* No such device"):
            write_files({"a.c": "new", "socket": "x"}, tmp_path)

    assert stat.S_ISSOCK((tmp_path / "socket").lstat().st_mode)
    assert content(tmp_path) == {"a.c": b"old"}


def test_what_stands_for_stdout_is_written_to_stdout(tmp_path):
    # As /dev/stdout: a link to /proc/self/fd/1.
    (tmp_path / "out").symlink_to("/proc/self/fd/1")
    program = f"import kprune; kprune.write_files({{'out': 'x'}}, {str(tmp_path)!r}); print('y')"
    command = [sys.executable, "-c", program]
    log = tmp_path / "log"
    log.write_text("before\n")

    with log.open("ab") as file:
        subprocess.run(command, stdout=file, check=True)
    piped = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout

    assert (tmp_path / "out").is_symlink()
    assert (log.read_text(), piped) == ("before\nxy\n", b"xy\n")
