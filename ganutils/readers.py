"""What is in a file, and is it what it should be? Readers that refuse, naming what they found."""

import gzip
import hashlib
import zipfile

import numpy as np
from PIL import Image, ImageOps

_SPLITS = ("train", "test")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


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
        ValueError: the file is damaged.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
        rank = raw[3]
        shape = np.frombuffer(raw, ">u4", count=rank, offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except Exception as error:  # gzip, zlib and numpy each complain in their own way
        raise refusal(path, f"damaged data ({error})", "a gzipped idx file") from error


def read_npz(path, split):
    """Read one split of an `.npz` in Keras' layout; pickled objects are never loaded.

    Args:
        path: `pathlib.Path` of the file.
        split: "train" or "test".

    Returns:
        The arrays x_{split} and y_{split} as they are, None for missing labels.

    Raises:
        ValueError: the file is no whole zip, holds pickles, or lacks the images.
    """
    if not zipfile.is_zipfile(path):
        raise refusal(
            path, "no complete zip archive (cut short? a web page?)", "an .npz file, whole"
        )
    wanted = f"x_{split}", f"y_{split}"
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            images, labels = (file[key] if key in names else None for key in wanted)
    except Exception as error:  # zipfile, zlib and numpy each complain in their own way
        raise refusal(path, f"unreadable data ({error})", "plain numeric arrays") from error
    if images is None:
        raise refusal(path, f"arrays {names}", f"one named {wanted[0]}")
    return images, labels


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
        ValueError: another shape or type.
    """
    if labels is None:
        return np.zeros(count, np.int32)
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        found = f"{labels.dtype} of shape {labels.shape}"
        raise refusal(where, found, f"integers of shape ({count},), one for each image")
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
        ValueError: no pictures, loose ones beside class folders, or one that cannot be read.
    """
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
    images = np.stack([_read_picture(file) for file, _ in files])
    return images, np.array([label for _, label in files])


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
    try:
        with Image.open(file) as picture:
            picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        gray = Image.alpha_composite(white, picture).convert("L")
        return np.asarray(ImageOps.fit(gray, (28, 28), Image.Resampling.LANCZOS))
    except Exception as error:  # Pillow's many readers raise many kinds
        raise refusal(file, f"damaged data ({error})", "a picture; remove or replace it") from error
