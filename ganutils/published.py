"""Where are MNIST and Fashion-MNIST? In a folder, in Keras' cache, or to be downloaded; checked."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ganutils import readers

# name: (title, download size, files below the "datasets" folder of Keras' cache)
SETS = {
    "mnist": ("MNIST", "11 MB", ("mnist.npz",)),
    "fashion_mnist": (
        "Fashion-MNIST",
        "30 MB",
        (
            "fashion-mnist/train-images-idx3-ubyte.gz",
            "fashion-mnist/train-labels-idx1-ubyte.gz",
            "fashion-mnist/t10k-images-idx3-ubyte.gz",
            "fashion-mnist/t10k-labels-idx1-ubyte.gz",
        ),
    ),
}
SPLITS = {"train": 60_000, "test": 10_000}  # of both built-in sets
# md5 of the uncompressed idx files that MNIST was published as, whatever container holds it now.
_MNIST_MD5 = {
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}

# Run by a child process: a stalled connection can be cut off only from outside.
_FETCH = "import keras; keras.datasets.{name}.load_data()"
_FETCH_SECONDS = 55
_failed_downloads = {}  # name: reason, so that "auto" waits for a dead network only once


def find(name, split, *, retry=True):
    """Find a published set in a user's folder or Keras' cache, or download it, and check it.

    Args:
        name: key of `SETS`.
        split: key of `SPLITS`.
        retry: whether to try a download that has failed in this process before.

    Returns:
        images, float32 (N, 28, 28, 1) in [-1, 1]; labels, int32 (N,) in 0..9.

    Raises:
        FileNotFoundError: it is neither on this machine nor to be downloaded.
        ValueError: a file of it is damaged.
    """
    title, _, members = SETS[name]
    cache = _keras_home() / "datasets"
    places = [[cache / member for member in members]]
    if os.environ.get("GANUTILS_DATA"):
        places.insert(0, [Path(os.path.expanduser(os.environ["GANUTILS_DATA"]), f"{name}.npz")])
    for files in places:
        if all(os.path.exists(file) for file in files):
            try:
                return _read_built_in(name, files, split)
            except ValueError as error:
                raise ValueError(
                    f"{title} is damaged. {error}. Replace the file, or delete it, so that it is "
                    "looked for elsewhere and downloaded anew."
                ) from error
    try:
        if os.environ.get("GANUTILS_OFFLINE", "0") not in ("", "0"):
            raise RuntimeError("not tried, since GANUTILS_OFFLINE is set")
        if not retry and name in _failed_downloads:
            raise RuntimeError(f"not tried again after: {_failed_downloads[name]}")
        return _download(name, split, cache)
    except (OSError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(
            f"{title} not found: no {' and no '.join(str(files[0]) for files in places)}; "
            f"download: {str(error).rstrip('.')}. To provide it, (1) put {name}.npz (arrays "
            f"x_train, y_train, x_test, y_test) in a folder and set GANUTILS_DATA to that folder, "
            f"or pass the file's path as source; (2) put Keras' own copy in {cache}; or (3) allow "
            f"the download: connect, and unset GANUTILS_OFFLINE."
        ) from error


def _keras_home():
    """Keras' cache folder by Keras' own rule, which Keras applies only once, when imported."""
    if "KERAS_HOME" in os.environ:
        return Path(os.path.expanduser(os.environ["KERAS_HOME"]))
    return (Path.home() if os.access(Path.home(), os.W_OK) else Path("/tmp")) / ".keras"


def _download(name, split, cache):
    title, size, members = SETS[name]
    try:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # On the cache's own file system, so that a file enters the cache whole or not at all.
            scratch = tempfile.TemporaryDirectory(
                prefix="download-", dir=cache.parent, ignore_cleanup_errors=True
            )
        except OSError as error:
            raise RuntimeError(f"the cache folder {cache} is not writable ({error})") from error
        with scratch as home:
            print(f"Downloading {title} ({size}) to {cache}", file=sys.stderr, flush=True)
            child = subprocess.run(
                [sys.executable, "-c", _FETCH.format(name=name)],
                env={**os.environ, "KERAS_HOME": home},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_FETCH_SECONDS,
                check=False,
            )
            if child.returncode:
                lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
                raise RuntimeError(lines[-1])
            fetched = [Path(home, "datasets", member) for member in members]
            arrays = _read_built_in(name, fetched, split)
            for file, member in zip(fetched, members, strict=True):
                (cache / member).parent.mkdir(exist_ok=True)
                os.replace(file, cache / member)
            return arrays
    except subprocess.TimeoutExpired:
        _failed_downloads[name] = f"not complete after {_FETCH_SECONDS} s, given up"
        raise RuntimeError(_failed_downloads[name]) from None
    except (OSError, RuntimeError, ValueError) as error:
        _failed_downloads[name] = str(error)
        raise


def _read_built_in(name, files, split):
    keys = f"x_{split}", f"y_{split}"
    if len(files) == 1:
        arrays = readers.read_npz(files[0], split)
        places = [f"{files[0]}: {key}" for key in keys]
    else:
        places = files[:2] if split == "train" else files[2:]
        arrays = [readers.read_idx(place) for place in places]
    shapes = (SPLITS[split], 28, 28), (SPLITS[split],)
    for array, place, shape, key in zip(arrays, places, shapes, keys, strict=True):
        if array is None or array.dtype != np.uint8 or array.shape != shape:
            found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise readers.refusal(place, found, f"uint8 of shape {shape}")
        if name == "mnist" and (found := readers.idx_md5(array)) != _MNIST_MD5[key]:
            raise readers.refusal(place, f"checksum {found}", f"MNIST's, {_MNIST_MD5[key]}")
    images, labels = arrays
    if labels.max() > 9:
        raise readers.refusal(places[1], f"label {labels.max()}", "labels in 0..9")
    return readers.scaled(images, places[0]), labels.astype(np.int32)
