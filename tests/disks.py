"""Disks in trouble: full, or not to be written. For tests; each is real, in a process of its own.

A test file calls `run(__file__, kind, case)`; its last lines hand over to `main`, which
calls the case in the child, as function of a folder, of a `trouble`, a context manager inside
which that folder is in trouble, and behind which it is well again, and of the error's number.
"""

import contextlib
import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SIZE = 600 * 1024  # bytes, of a small disk
ROOM = 4096  # bytes left on a full one: what is written breaks off half-way
NOBODY = 65534

# A disk of a few hundred KB, seen by the child alone, which is root there.
SMALL_DISK = f'mount -t tmpfs -o size={SIZE} none "$0" && exec "$@"'


@contextlib.contextmanager
def _full(folder, room=ROOM):
    """A file in the way, beside the folder, but for so many bytes."""
    ballast = folder.parent / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(bytes(free - room))
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def _limited(folder, room=100):
    """No file of this process may grow beyond so many bytes."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def _denied(folder):
    """The folder may be read only, and the process is not root, whom nothing is denied."""
    root = os.getuid() == 0
    folder.chmod(0o555)
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
        folder.chmod(0o755)


@contextlib.contextmanager
def _read_only(folder):
    """The whole disk may be read only."""
    disk = str(folder.parent)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


TROUBLES = {
    "full disk": (_full, errno.ENOSPC),
    "size limit": (_limited, errno.EFBIG),
    "no permission": (_denied, errno.EACCES),
    "read-only disk": (_read_only, errno.EROFS),
}
ON_SMALL_DISK = ("full disk", "read-only disk")


def _small_disk(folder):
    """Command that runs another one with a small disk mounted at the folder; skips without."""
    for options in ("-Urm", "-m"):
        command = ["unshare", options, "sh", "-c", SMALL_DISK, str(folder)]
        with contextlib.suppress(OSError):
            if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
                return command
    pytest.skip("this machine does not let its users mount a small disk")


def run(script, kind, case):
    """Run one case of a test file in one kind of trouble; skip where the machine has no such.

    Returns:
        What the child wrote to its error stream.
    """
    if os.name != "posix" or (kind == "no permission" and not hasattr(os, "setresuid")):
        pytest.skip("this system knows no such trouble")
    disk = Path(tempfile.mkdtemp())  # pytest's folders cannot be entered by another user
    disk.chmod(0o755)
    try:
        prefix = _small_disk(disk) if kind in ON_SMALL_DISK else []
        command = [sys.executable, "-W", "error", script, kind, case, str(disk)]
        child = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=300)
    finally:
        shutil.rmtree(disk)
    assert child.returncode == 0, child.stderr
    return child.stderr


def main(cases):
    """The child: call a case."""
    kind, case, disk = sys.argv[1:]
    folder = Path(disk, "folder")
    folder.mkdir()
    trouble, number = TROUBLES[kind]
    cases[case](folder, functools.partial(trouble, folder), number)
