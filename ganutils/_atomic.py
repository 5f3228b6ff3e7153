"""How does a file appear whole, or not at all?"""

import contextlib
import errno
import io
import os
import tempfile
from pathlib import Path

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a place you may write to"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "Make the folder first"),
    errno.EISDIR: "Choose another name",
}


@contextlib.contextmanager
def _explained(path):
    """Say of any trouble with the disk which file it hit, what it left, and what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno, "Check the disk, or choose another one")
        said = f"{path} was not written: {error.strerror or error}. What was there before is as it"
        # The number makes it a PermissionError, a FileNotFoundError and so on, as before.
        raise OSError(error.errno, f"{said} was. {advice}, then run this again.") from error


@contextlib.contextmanager
def whole_file(path):
    """Give an `io.BytesIO` to write to; when the block has ended well, its bytes are the file.

    They go to a file beside the old one, which then takes its place at once; a link stays a link.
    In memory until then, since libraries that write to a disk themselves lose the reason when it
    is full. An OSError says what to do, before the block where it can be known; the old file is
    intact, and nothing is left beside it.
    """
    content, target = io.BytesIO(), Path(os.path.realpath(path))
    with _explained(path):
        if target.exists() and not target.is_file():
            raise IsADirectoryError(errno.EISDIR, "it is a folder or a device, not a file")
        if target.exists():
            target.open("r+b").close()  # or a file that its owner protected would be replaced
        beside = tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target.parent)
    with beside as folder:
        yield content
        with _explained(path):
            whole = Path(folder, target.name)
            with whole.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                try:  # or a power cut could leave the name without the content
                    os.fsync(file.fileno())
                except OSError as error:  # some network drives cannot
                    if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                        raise
            os.replace(whole, target)
