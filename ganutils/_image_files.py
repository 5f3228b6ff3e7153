"""What is in a file, and is it what it should be? Readers that refuse, naming what they found."""

import gzip
import hashlib
import re
import sys
import warnings
import zipfile
from collections import Counter

import numpy as np
from PIL import Image, ImageOps

from ganutils import validation

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_JUNK = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")
_TRAIN, _TEST, _VALIDATION = (
    rf"({names})([ _-]?(set|data|images))?"
    for names in ("train(ing)?", "test(ing)?", "val(id(ation)?)?")
)


def refusal(where, found, expected):
    """The error for data at `where` that are not what they should be; to be raised."""
    return ValueError(f"{where}: found {found}; expected {expected}")


def idx_md5(array):
    """md5 of the idx file that would hold a uint8 array: magic number, sizes, bytes."""
    header = np.array([2048 + array.ndim, *array.shape], ">u4").tobytes()
    return hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()


def read_idx(path, shape):
    """The bytes of a gzipped idx file as a uint8 array of the shape that is expected."""
    try:
        with gzip.open(path) as file:
            raw = file.read()  # to the end, where gzip's checksum is compared
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except Exception as error:  # gzip, zlib and numpy each complain in their own way
        raise refusal(path, f"damaged data ({error})", f"a gzipped idx file of {shape}") from error


def read_npz(path, split):
    """x_{split} and y_{split} of an `.npz` in Keras' layout as they are; None for missing labels.

    ValueError where it cannot be read, is no whole zip, holds pickles, or lacks the images.
    """
    x, y = f"x_{split}", f"y_{split}"
    try:
        zipfile.ZipFile(path).close()  # of a web page or half a file numpy says "pickled"
        with np.load(path, allow_pickle=False) as file:  # a pickle could run any program
            members, arrays = file.files, {key: file[key] for key in (x, y) if key in file.files}
    except Exception as error:  # zipfile, zlib and numpy each complain in their own way
        found = f"unreadable data ({error}; cut short? a web page?)"
        raise refusal(path, found, "a whole .npz file of plain numeric arrays") from error
    if x not in arrays:
        raise refusal(path, f"arrays {members}", f"one named {x}")
    return arrays[x], arrays.get(y)


def scaled(images, where):
    """Images (N, H, W) or (N, H, W, 1 or 3), uint8 or floats that are in [-1, 1] already, as
    float32 (N, H, W, 1 or 3) in [-1, 1]; `where` names them in an error.
    """
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)) or images.size == 0:
        expected = "one image or more, shape (N, H, W) or (N, H, W, 1 or 3)"
        raise refusal(where, f"shape {images.shape}", expected)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise refusal(where, images.dtype, "uint8 in 0..255 or floats in [-1, 1]")
    images = images.reshape(*images.shape[:3], -1)
    if images.dtype != np.uint8:
        return validation.as_images(images, where)
    return images.astype(np.float32) / 127.5 - 1


def read_digits(split):
    """scikit-learn's 8x8 digits, enlarged to 20x20 in the middle of 28x28.

    Images, float32 (N, 28, 28, 1) in [-1, 1], and labels, int32 (N,): 1,500 to train, and 297 to
    test, the same share of every digit.
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


def read_folder(folder, split, size, channels):
    """A folder of pictures, as `data.load_images` describes it.

    Images, uint8 (N, size, size, channels), and labels, integers (N,): the index of the class
    folder, whose names `class_folders` gives.
    """
    splits, classes = _splits(folder), class_folders(folder)
    root = splits.get(split, folder)
    places = [root, *(root / name for name in classes)]
    files = [(file, max(0, i - 1)) for i, place in enumerate(places) for file in _pictures(place)]
    read = {path for file, _ in files for path in (file, file.parent)} | {*splits.values()}
    rest = _unread(folder, root, read)
    rest = " ".join(", ".join(rest[:9] + [f"{len(rest) - 9} more"] * (len(rest) > 9)).split())
    found = f"{len(files)} pictures, too few to give the {split} split one; unread: {rest or 0}"
    if not splits:
        files = [pair for i, pair in enumerate(files, 1) if (i % 10 == 0) == (split == "test")]
    if not files:
        raise refusal(root, found, f"{', '.join(_SUFFIXES)} files, directly or one folder a class")
    if rest:
        print(f"{root}: not read: {rest}.", file=sys.stderr)
    read = [_read_picture(file, size, channels) for file, _ in files]
    return np.stack(read), np.array([label for _, label in files])


def class_folders(folder):
    """Names of the sub-folders that hold pictures, of both splits, so that a label means the same
    in each; none where the pictures lie side by side.
    """
    roots = list(_splits(folder).values()) or [folder]
    classes = sorted({sub.name for root in roots for sub in _visible(root) if _pictures(sub)})
    loose = [file for root in roots for file in _pictures(root)]
    if loose and classes:
        found = f"pictures such as {loose[0].name} beside class folders {classes}"
        raise refusal(folder, found, "all pictures side by side, or all in class folders")
    return classes


def _splits(folder):
    """The folders of the two splits, dict from "train" and "test"; none where one is missing."""
    subs = [sub for sub in _visible(folder) if sub.is_dir()]
    train, test, validation = (
        [sub for sub in subs if re.fullmatch(names, sub.name, re.IGNORECASE)]
        for names in (_TRAIN, _TEST, _VALIDATION)
    )
    test = test or validation
    if train and test and len(train + test) > 2:
        found = f"folders {[sub.name for sub in train + test]}"
        raise refusal(folder, found, "one of training pictures beside one of test pictures")
    return {"train": train[0], "test": test[0]} if train and test else {}


def _unread(folder, root, read):
    """What lies in a folder and in its split's root beside what is read: "2 .heic", "folder x"."""
    places = [root, *(sub for sub in _visible(root) if sub.is_dir())]
    places += [folder] * (root != folder)
    rest = [entry for place in places for entry in _visible(place) if entry not in read]
    kinds = Counter(_kind(entry) for entry in rest if not entry.is_dir())
    folders = [entry.relative_to(folder).as_posix() for entry in rest if entry.is_dir()]
    return [f"{n} {kind}" for kind, n in sorted(kinds.items())] + [f"folder {f}" for f in folders]


def _visible(folder):
    """What is in a folder, in order of name; without hidden files, such as the ._name that macOS
    puts beside each picture, and hidden folders; nothing where it is no folder.
    """
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if entry.name[0] != "." and entry.name.lower() not in _JUNK]


def _kind(entry):
    if entry.is_dir():
        return "folder"
    kind = entry.suffix.lower()
    return "picture" if kind in _SUFFIXES else kind or "without a suffix"


def _pictures(folder):
    return [entry for entry in _visible(folder) if _kind(entry) == "picture"]


def _read_picture(file, size, channels):
    """A picture, upright, its central square, as uint8 (size, size, channels)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as picture:
                if picture.mode[0] not in "IF":
                    upright = ImageOps.exif_transpose(picture).convert("RGBA")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise refusal(file, f"a very large picture ({error})", "a smaller copy of it") from error
    except Exception as error:  # Pillow's many readers raise many kinds
        # Such as a link to nowhere, or a file that one may not read.
        kind = "an unreadable file" if getattr(error, "errno", None) else "damaged data"
        raise refusal(file, f"{kind} ({error})", "a picture; replace or remove it") from error
    if picture.mode[0] in "IF":  # Pillow would cut off what is above 255
        found = f"a picture of more than 8 bits a pixel (mode {picture.mode})"
        raise refusal(file, found, "a copy of it with 8 bits a pixel")
    if upright.getchannel("A").getextrema()[0] < 255:  # of what is to be seen, is the mean light?
        shown = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
        gray, alpha = np.asarray(shown.convert("L"), int), np.asarray(shown.getchannel("A"), int)
        light = (gray * alpha).sum() > 127.5 * alpha.sum()  # it would vanish on white
        ground = Image.new("RGBA", upright.size, "black" if light else "white")
        upright = Image.alpha_composite(ground, upright)
    flat = upright.convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(flat, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(fitted).reshape(size, size, channels)
