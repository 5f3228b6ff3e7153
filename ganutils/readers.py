"""What is in a file, and is it what it should be? Readers that refuse, naming what they found."""

import gzip
import hashlib
import io
import math
import os
import warnings
import zipfile

import numpy as np
from PIL import Image, ImageOps

_SPLITS = ("train", "test")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Others stay closed, whatever the name says: for some, Pillow starts another program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
# An array that would be larger is refused unread: a file of a few kB can unfold to terabytes.
# uint8 becomes four times that as float32. MNIST has 47 MB.
_MOST_BYTES = 2**30


def refusal(where, found, expected):
    """The error for data at `where` that are not what they should be; to be raised."""
    return ValueError(f"{where}: found {found}; expected {expected}")


def idx_md5(array):
    """md5 of the idx file that would hold a uint8 array: magic number, sizes, bytes."""
    header = np.array([2048 + array.ndim, *array.shape], ">u4").tobytes()
    return hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()


def read_idx(path):
    """Read a gzipped idx file as an array.

    Args:
        path: `pathlib.Path` of the file.

    Returns:
        uint8 array of the shape that the file states.

    Raises:
        ValueError: the file cannot be read, is damaged, or unfolds to more than 1 GiB.
    """
    expected = f"a gzipped idx file of at most {_MOST_BYTES:,} bytes"
    _refuse_devices(path, expected)
    try:
        with gzip.open(path) as file:
            zeros, kind, rank = file.read(2), *file.read(2)
            shape = tuple(np.frombuffer(file.read(4 * rank), ">u4").tolist())
            if zeros != b"\0\0" or kind != 8 or len(shape) != rank:
                raise ValueError("not the idx header of unsigned bytes")
            size = _small_enough(math.prod(shape))
            raw = file.read(size + 1)  # beyond the last byte comes the checksum
        return np.frombuffer(raw, np.uint8).reshape(shape)
    except Exception as error:  # gzip, zlib and numpy each complain in their own way
        raise refusal(path, f"damaged data ({error})", expected) from error


def read_npz(path, split):
    """Read one split of an `.npz` in Keras' layout; pickled objects are never loaded.

    Args:
        path: `pathlib.Path` of the file.
        split: "train" or "test".

    Returns:
        The arrays x_{split} and y_{split} as they are, None for missing labels.

    Raises:
        ValueError: the file cannot be read, is no whole zip, is damaged, holds pickles, lacks the
            images, or one of the two arrays has more than 1 GiB.
    """
    _refuse_devices(path, "an .npz file, whole")
    wanted = f"x_{split}", f"y_{split}"
    try:
        # The warnings are of arrays that Python 2 wrote, and of odd escapes.
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings(action="ignore"):
            for entry in archive.infolist():  # or a flipped bit could hide the labels
                archive.open(entry).close()  # compares its name here with that at its place
                if b"PK\1\2" in entry.extra + entry.comment:
                    raise zipfile.BadZipFile("one entry of its directory covers another")
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            images, labels = (
                _read_member(archive, members[key]) if key in members else None for key in wanted
            )
    except zipfile.BadZipFile as error:
        found = f"no complete zip archive (cut short? a web page? {error})"
        raise refusal(path, found, "an .npz file, whole") from error
    except Exception as error:  # zipfile, zlib and numpy each complain in their own way
        raise refusal(path, f"unreadable data ({error})", "plain numeric arrays") from error
    if images is None:
        raise refusal(path, f"arrays {list(members)}", f"one named {wanted[0]}")
    return images, labels


def _read_member(archive, name):
    """The array in a member of an `.npz`; what `np.load` does, within bounds."""
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is not compressed as np.savez_compressed does it")  # no bounds
    with archive.open(entry) as member:
        # To the end, where the checksum is compared, and never more than is said to be there.
        raw = member.read(_small_enough(entry.file_size))
    start = io.BytesIO(raw)
    version = np.lib.format.read_magic(start)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} has format {version}; plain arrays have 1.0 or 2.0")
    header = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header[version[0] - 1](start)
    if dtype.hasobject:
        raise ValueError(f"{name} holds pickled objects, which could run any program")
    if len(raw) - start.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} is not of the size that its shape {shape} takes")
    return np.ndarray(shape, dtype, raw, start.tell(), order="F" if by_columns else "C")


def _small_enough(size):
    if size > _MOST_BYTES:
        raise ValueError(f"{size:,} bytes in one array; the limit is {_MOST_BYTES:,}")
    return size


def _refuse_devices(path, expected):
    if not os.path.isfile(path):  # to read from a pipe could take forever
        exists = os.path.lexists(path)
        found = "a folder, a pipe, a device or a broken link" if exists else "no file"
        raise refusal(path, found, expected)


def scaled(images, where):
    """Bring images to float32 of shape (N, H, W, 1 or 3) in [-1, 1].

    Args:
        images: (N, H, W) or (N, H, W, 1 or 3), uint8 in 0..255 or floats already in [-1, 1].
        where: what to call them in an error.

    Returns:
        float32 array (N, H, W, 1 or 3).

    Raises:
        ValueError: another shape, type or range, NaN, or no image at all.
    """
    found = f"{images.dtype} of shape {images.shape}"
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.size == 0:
        raise refusal(where, found, "one image or more, shape (N, H, W) or (N, H, W, 1 or 3)")
    if images.dtype == np.uint8:
        images = images.astype(np.float32)
        images /= 127.5  # in place: MNIST alone is 188 MB
        images -= 1
        return images
    if images.dtype.kind != "f":
        raise refusal(where, found, "uint8 in 0..255 or floats in [-1, 1]")
    low, high = images.min(), images.max()
    if not -1 <= low <= high <= 1:  # NaN fails this, too
        raise refusal(
            where, f"floats from {low} to {high}", "floats already in [-1, 1], or uint8 in 0..255"
        )
    return images.astype(np.float32)


def checked_labels(labels, count, where):
    """Bring labels to int32 of shape (count,).

    Args:
        labels: integers (count,) or (count, 1), or None for all 0.
        count: number of images.
        where: what to call them in an error.

    Returns:
        int32 array (count,).

    Raises:
        ValueError: another shape or type, or beyond the range of int32.
    """
    if labels is None:
        return np.zeros(count, np.int32)
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        found = f"{labels.dtype} of shape {labels.shape}"
        raise refusal(where, found, f"integers of shape ({count},), one for each image")
    low, high = int(labels.min()), int(labels.max())
    if not -(2**31) <= low <= high < 2**31:
        raise refusal(where, f"labels from {low} to {high}", "numbers of classes, below 2**31")
    return labels.reshape(count).astype(np.int32)


def read_digits(split):
    """Read scikit-learn's 8x8 digits, enlarged to 20x20 in the middle of 28x28.

    Args:
        split: "train" (1,500 images) or "test" (297, the same share of every digit).

    Returns:
        images, float32 (N, 28, 28, 1) in [-1, 1], and labels, int32 (N,).
    """
    from sklearn.datasets import load_digits  # a second to import, and only this source needs it

    digits = load_digits()
    # Evenly spaced in the order of labels: the same share of every digit goes to the test split.
    by_label = np.argsort(digits.target, kind="stable")
    in_test = np.zeros(len(by_label), bool)
    in_test[by_label[np.linspace(0, len(by_label) - 1, 297).astype(int)]] = True
    chosen = in_test if split == "test" else ~in_test
    images = np.full((chosen.sum(), 28, 28, 1), -1, np.float32)
    for image, digit in zip(images, digits.images[chosen].astype(np.float32), strict=True):
        large = Image.fromarray(digit).resize((20, 20), Image.Resampling.BICUBIC)
        image[4:24, 4:24, 0] = np.clip(np.asarray(large) / 8 - 1, -1, 1)  # 0..16 to -1..1
    return images, digits.target[chosen].astype(np.int32)


def read_folder(folder, split):
    """Read a folder of pictures as gray 28x28 images, as `data.load_images` describes.

    Args:
        folder: `pathlib.Path` of the folder.
        split: "train" or "test".

    Returns:
        images, uint8 (N, 28, 28), and labels, integers (N,): the index of the class folder.

    Raises:
        ValueError: no pictures, loose ones beside class folders, a folder or picture that cannot
            be read, or a picture of more than `PIL.Image.MAX_IMAGE_PIXELS` pixels (89 million).
    """
    try:
        files = _labeled_files(folder, split)
    except OSError as error:
        raise refusal(folder, f"what cannot be read ({error})", "a folder you may read") from error
    images = np.stack([_read_picture(file) for file, _ in files])
    return images, np.array([label for _, label in files])


def _labeled_files(folder, split):
    parted = all((folder / part).is_dir() for part in _SPLITS)
    roots = [folder / part for part in _SPLITS] if parted else [folder]
    # Classes of both splits, so that a label means the same in each.
    classes = sorted({sub.name for root in roots for sub in root.iterdir() if _pictures(sub)})
    loose = [file for root in roots for file in _pictures(root)]
    if loose and classes:
        found = f"pictures such as {loose[0].name} beside class folders {classes}"
        raise refusal(folder, found, "all pictures side by side, or all in class folders")
    root = folder / split if parted else folder
    files = [(file, 0) for file in _pictures(root)]
    for label, name in enumerate(classes):
        files += [(file, label) for file in _pictures(root / name)]
    found = f"{len(files)} pictures, too few to give the {split} split one"
    if not parted:
        files = [pair for i, pair in enumerate(files, 1) if (i % 10 == 0) == (split == "test")]
    if not files:
        raise refusal(root, found, f"{', '.join(_SUFFIXES)} files, directly or one folder a class")
    return files


def _pictures(folder):
    if not folder.is_dir():
        return []
    # Hidden files are left out: macOS puts a ._name beside each picture that it copies.
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
    )


def _read_picture(file):
    expected = "a picture; remove or replace it"
    _refuse_devices(file, expected)
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd metadata, which nobody asks for
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as picture:
                if picture.mode[0] in "IF":  # Pillow would cut off what is above 255
                    raise ValueError(f"more than 8 bits a pixel, mode {picture.mode}")
                picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        gray = Image.alpha_composite(white, picture).convert("L")
        return np.asarray(ImageOps.fit(gray, (28, 28), Image.Resampling.LANCZOS))
    except Exception as error:  # Pillow's many readers raise many kinds
        raise refusal(file, f"damaged data ({error})", expected) from error
