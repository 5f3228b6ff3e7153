"""A file appears whole or not at all, whatever the disk does; and the error says what to do."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import disks
import matplotlib
import numpy as np
import pytest

from ganutils import _atomic, figures

matplotlib.use("Agg")


def listing(folder):
    """Every file below a folder, and its bytes."""
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def write_bytes(path, seed):
    with _atomic.whole_file(path) as file:
        file.write(np.random.default_rng(seed).bytes(100_000))


def write_gif(path, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (10, 100, 100), np.uint8)
    figures.write_gif(path, frames)


def save_figure(path, seed):
    figure = matplotlib.figure.Figure()
    figure.subplots().imshow(np.random.default_rng(seed).uniform(size=(100, 100)))
    figures.save_figure(figure, path)


WRITERS = {
    "x.bin": write_bytes,
    "x.gif": write_gif,
    "x.png": save_figure,
    "x.pdf": save_figure,
    "x.svg": save_figure,
}
ADVICE = {
    errno.ENOSPC: "No space left.*Free some space",
    errno.EFBIG: "too large.*Free some space",
    errno.EACCES: "Permission denied.*a place you may write to",
    errno.EROFS: "Read-only.*a place you may write to",
}


def check_every_writer(folder, trouble, number):
    """In the child: nothing is lost, nothing is left, and afterwards the same line works."""
    for name, write in WRITERS.items():  # libraries open files of their own the first time
        write(folder / name, seed=0)
        (folder / name).unlink()
    for name, write in WRITERS.items():
        path = folder / name
        for old in (False, True):
            before = listing(folder)
            assert (name in before) == old
            with trouble():
                try:
                    write(path, seed=1)
                except OSError as error:
                    caught = error
                assert listing(folder) == before
            assert caught.errno == number
            expected = f"{path} was not written.*{ADVICE[number]}.*run this again"
            assert re.search(expected, str(caught)), caught
            del caught
            if not old:
                write(path, seed=0)
        write(path, seed=1)
        assert path.read_bytes() != before[name]
        assert listing(folder).keys() == before.keys()
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("kind", disks.TROUBLES)
def test_trouble_with_the_disk_costs_nothing_and_is_explained(kind):
    assert disks.run(__file__, kind, "check_every_writer") == ""


def fail(*_, **__):
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("where", ["mkdir", "open", "fsync", "replace"])
def test_each_call_to_the_disk_may_fail(tmp_path, monkeypatch, where):
    path = tmp_path / "x.bin"
    write_bytes(path, 0)
    before = listing(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path if where == "open" else os, where, fail)
        with pytest.raises(OSError, match="x.bin was not written: Input/output.*Check") as caught:
            write_bytes(path, 1)
    assert caught.value.errno == errno.EIO
    assert listing(tmp_path) == before


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_drive_that_knows_no_fsync_is_written_all_the_same(tmp_path, monkeypatch, number):
    def refuse(_):
        raise OSError(number, "not on this drive")

    monkeypatch.setattr(os, "fsync", refuse)
    write_bytes(tmp_path / "x.bin", 0)
    assert listing(tmp_path) == {"x.bin": np.random.default_rng(0).bytes(100_000)}


class FailingFile:
    """A file that takes a part of what it is given, and then no more."""

    def __init__(self, file):
        self.file = file
        self.close = file.close

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, content):
        self.file.write(content[:1000])
        fail()


def test_a_file_object_that_fails_half_way(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    write_bytes(path, 0)
    before = listing(tmp_path)
    really_open = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: FailingFile(really_open(path, mode)))
        with pytest.raises(OSError, match="Input/output error"):
            write_bytes(path, 1)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("error", [RuntimeError("the work fails"), OSError("of another file")])
def test_what_goes_wrong_in_the_block_is_handed_on_as_it_is(tmp_path, error):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, _atomic.whole_file(path) as file:
        file.write(b"half")
        raise error
    assert caught.value is error
    assert listing(tmp_path) == {"x.bin": b"old"}


def test_a_block_that_ends_well_leaves_one_file_of_the_usual_rights(tmp_path):
    with _atomic.whole_file(str(tmp_path / "x.bin")) as file:
        file.write(b"half ")
        during = listing(tmp_path)
        file.write(b"whole")
    assert "x.bin" not in during
    assert listing(tmp_path) == {"x.bin": b"half whole"}
    (tmp_path / "y.bin").write_bytes(b"")
    assert (tmp_path / "x.bin").stat().st_mode == (tmp_path / "y.bin").stat().st_mode


def untouched(path, error, message):
    """Check that a path is refused before the block."""
    with pytest.raises(error, match=message):
        with _atomic.whole_file(path):
            raise AssertionError("The work was done for nothing.")


def test_what_can_be_known_beforehand_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    untouched(tmp_path / "folder", IsADirectoryError, "not a file.*Choose another name")
    untouched(tmp_path / "no" / "x", FileNotFoundError, "Make the folder first")
    untouched(tmp_path / "file" / "x", NotADirectoryError, "Make the folder first")
    monkeypatch.chdir(tmp_path)
    untouched("", IsADirectoryError, "Choose another name")
    untouched("no/x.gif", FileNotFoundError, "no/x.gif was not written: No such file")
    assert listing(tmp_path) == {"folder": False, "file": b""}


@pytest.mark.skipif(os.name != "posix", reason="no such device")
def test_a_device_is_not_replaced():
    untouched(os.devnull, IsADirectoryError, "a device, not a file")
    assert not Path(os.devnull).is_file()


def check_read_only_file(folder, trouble, number):
    """In the child: a file that its owner protected, in a folder that may be written."""
    path = folder / "x.bin"
    path.write_bytes(b"kept")
    path.chmod(0o444)
    with trouble():
        pass  # as the user that it runs as
    if os.getuid() == 0:
        folder.chmod(0o777)
        os.setresuid(disks.NOBODY, disks.NOBODY, disks.NOBODY)
    try:
        write_bytes(path, 0)
    except PermissionError as error:
        assert f"{path} was not written: Permission denied" in str(error)
    else:
        raise AssertionError("A read-only file was replaced.")
    assert listing(folder) == {"x.bin": b"kept"}


@pytest.mark.slow
def test_a_read_only_file_is_not_replaced():
    disks.run(__file__, "no permission", "check_read_only_file")


@pytest.mark.skipif(os.name != "posix", reason="links need rights on other systems")
def test_a_link_stays_one_and_the_file_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.bin").write_bytes(b"old")
    link = tmp_path / "link.bin"
    link.symlink_to("folder/x.bin")
    with _atomic.whole_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert (tmp_path / "folder" / "x.bin").read_bytes() == link.read_bytes() == b"new"
    assert len(listing(tmp_path)) == 3


KILLED = """
import os, signal, sys
from ganutils import _atomic
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
with _atomic.whole_file(sys.argv[1]) as file:
    file.write(b"new")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="no SIGKILL")
def test_a_process_killed_while_writing_leaves_the_old_file_and_a_folder_that_tells(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    child = subprocess.run([sys.executable, "-c", KILLED, path])
    assert child.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (folder,) = set(tmp_path.iterdir()) - {path}
    assert folder.name.startswith(".unfinished-")


if __name__ == "__main__":
    disks.main(globals())
