"""Where are MNIST and Fashion-MNIST? In a folder, in Keras' cache, or to be downloaded; checked."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ganutils import _image_files, validation

_IDX = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
# name: (title, download size, files below the "datasets" folder of Keras' cache)
SETS = {
    "mnist": ("MNIST", "11 MB", ("mnist.npz",)),
    "fashion_mnist": ("Fashion-MNIST", "30 MB", [f"fashion-mnist/{x}-ubyte.gz" for x in _IDX]),
}
CLASSES = {
    "fashion_mnist": (
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
        + ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    )
}
SPLITS = {"train": 60_000, "test": 10_000}  # of both
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


def places(name):
    """Where the files of a set may lie, the first place first: a list of lists of paths."""
    found = [[_keras_home() / "datasets" / member for member in SETS[name][2]]]
    if named := os.environ.get("GANUTILS_DATA"):
        found.insert(0, [Path(os.path.expanduser(named), f"{name}.npz")])
    return found


def find(name, split, *, retry=True):
    """Find a published set in a user's folder or Keras' cache, or download it, and check it.

    Images, float32 (N, 28, 28, 1) in [-1, 1], and labels, int32 (N,) in 0..9. FileNotFoundError
    where it is neither here nor to be downloaded (again only with `retry`), ValueError where a
    file of it is damaged.
    """
    title, cache = SETS[name][0], _keras_home() / "datasets"
    for files in places(name):
        if all(file.exists() for file in files):
            try:
                return _read(name, files, split)
            except ValueError as error:
                advice = "Replace the file, or delete it to have it looked for elsewhere"
                raise ValueError(f"{title} is damaged. {error}. {advice}.") from error
    if os.environ.get("GANUTILS_OFFLINE", "0") not in ("", "0"):
        reason = "not tried, since GANUTILS_OFFLINE is set"
    elif name in _failed_downloads and not retry:
        reason = f"not tried again after: {_failed_downloads[name]}"
    else:
        try:
            return _download(name, split, cache)
        except subprocess.TimeoutExpired:
            reason = f"not complete after {_FETCH_SECONDS} s, given up"
        except subprocess.CalledProcessError as error:
            reason = [f"exit status {error.returncode}", *error.stderr.strip().splitlines()][-1]
        except (OSError, ValueError) as error:
            reason = str(error)
        _failed_downloads[name] = reason
    missing = " and no ".join(str(files[0]) for files in places(name))
    raise FileNotFoundError(
        f"{title} not found: no {missing}; download: {reason.rstrip('.')}. To provide it, (1) put "
        f"{name}.npz (arrays x_train, y_train, x_test, y_test) in a folder and name that folder in "
        f"GANUTILS_DATA, or pass the file's path as source; (2) put Keras' own copy in {cache}; or "
        f"(3) allow the download: connect, and unset GANUTILS_OFFLINE."
    )


def _keras_home():
    """Keras' cache folder by Keras' own rule, which Keras applies only once, when imported."""
    home = os.path.expanduser("~")
    base = Path(home if os.access(home, os.W_OK) else "/tmp")
    return Path(os.path.expanduser(os.environ.get("KERAS_HOME", base / ".keras")))


def _download(name, split, cache):
    """Let Keras download a set, within a minute, and move it into the cache if it is right."""
    title, size, members = SETS[name]
    cache.mkdir(parents=True, exist_ok=True)
    # On the cache's own file system, so that a file enters the cache whole or not at all.
    with tempfile.TemporaryDirectory(prefix="download-", dir=cache.parent) as home:
        print(f"Downloading {title} ({size}) to {cache}", file=sys.stderr, flush=True)
        command = [sys.executable, "-c", _FETCH.format(name=name)]
        env = {**os.environ, "KERAS_HOME": home}
        subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=True
        )
        fetched = [Path(home, "datasets", member) for member in members]
        arrays = _read(name, fetched, split)
        for file, member in zip(fetched, members, strict=True):
            (cache / member).parent.mkdir(exist_ok=True)
            os.replace(file, cache / member)
        return arrays


def _read(name, files, split):
    """The images and labels of one split in a set's files, checked."""
    shapes = (SPLITS[split], 28, 28), (SPLITS[split],)
    if len(files) == 1:
        places = f"{files[0]}: x_{split}", f"{files[0]}: y_{split}"
        arrays = _image_files.read_npz(files[0], split)
    else:
        places = files[:2] if split == "train" else files[2:]
        arrays = [_image_files.read_idx(*pair) for pair in zip(places, shapes, strict=True)]
    for array, place, shape, key in zip(arrays, places, shapes, "xy", strict=True):
        if array is None or array.dtype != np.uint8 or array.shape != shape:
            found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise _image_files.refusal(place, found, f"uint8 of shape {shape}")
        expected = _MNIST_MD5[f"{key}_{split}"]
        if name == "mnist" and _image_files.idx_md5(array) != expected:
            raise _image_files.refusal(place, "another checksum", f"MNIST's, {expected}")
    labels = validation.as_labels(arrays[1], len(arrays[1]), 10, places[1])
    return _image_files.scaled(arrays[0], places[0]), labels
