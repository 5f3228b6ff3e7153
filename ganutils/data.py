"""Where do real samples come from? Checked loaders; batches and toy samples by step number."""

import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from ganutils import _image_files, _mnist, _morph, latents, stroke_attributes, validation


def load_images(source="auto", *, split="train", size=None, channels=None):
    """Load real images, their labels and the name of the source, checked.

    MNIST and Fashion-MNIST are looked for as `mnist.npz` or `fashion_mnist.npz` in the folder
    that the environment variable GANUTILS_DATA names, then in Keras' cache; then Keras downloads
    them (under a minute or given up; never where GANUTILS_OFFLINE=1). MNIST's pixels and labels
    must match its published checksums.

    Args:
        source: "mnist"; "fashion_mnist"; "digits" (scikit-learn's 1,797 digits of 8x8 pixels,
            enlarged to 20x20 in the middle of 28x28, as MNIST's are; 1,500 train, 297 test);
            "auto" (MNIST, else digits, with one line on stderr that says why); or the path of
            - an `.npz` in Keras' layout (x_train, y_train, x_test, y_test; y may be missing): x
              of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), uint8 in 0..255 or floats that
              already are in [-1, 1]; y integers >= 0 of shape (N,) or (N, 1);
            - a folder of pictures, directly or in one sub-folder a class. Each is turned upright,
              put on white where transparent (on black where what it shows is light), and cropped to
              its central square. Sub-folders `train` and `test` (or `Training`, `test_set`; where
              there is no test one `val`, `validation`), where both exist, are the splits;
              otherwise, in order of name, every tenth picture is the test split. What is not read
              is counted in one line on stderr.
        split: "train" or "test".
        size, channels: side in pixels, 4 to 1,024, and 1 (gray) or 3 (color) of the pictures of a
            folder; 28 and 1 where None. Of another source, what it must have, or None.

    Returns:
        images, float32 of shape (N, H, W, C) in [-1, 1]; labels, int32 of shape (N,), the index in
        `class_names`, 0 where the source has none; and name, such as "MNIST", or the file's.

    Raises:
        FileNotFoundError: a built-in set is neither on this machine nor to be downloaded.
        TypeError, ValueError: the source or the split is unknown, or the data cannot be read or
            are not what they should be. Pickles are never opened.

    LeCun, Cortes and Burges 1998, MNIST; Xiao et al. 2017, arXiv 1708.07747; Alpaydin and Kaynak
    1998, the UCI digits that scikit-learn carries.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    _refuse_no_path(source)
    if size is not None:
        size = validation.as_integer(size, "size", low=4, high=1024)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (gray) or 3 (color), not {channels!r}")
    images, labels, name = _load(source, split, size or 28, channels or 1)
    height, width, depth = images.shape[1:]
    if (height, width, depth) != (size or height, size or width, channels or depth):
        raise ValueError(
            f"{name} has images of shape {images.shape[1:]}, not {size=}, {channels=}: these can "
            "be chosen for a folder of pictures only; leave them out."
        )
    return images, labels, name


def _load(source, split, size, channels):
    """What `load_images` returns; size and channels for folders."""
    if source == "auto":
        try:
            return *_mnist.find("mnist", split, retry=False), "MNIST"
        except (FileNotFoundError, ValueError) as error:
            reason = " ".join(str(error).split())
        # stderr, because the text that a notebook prints must not depend on the machine
        print(f"{reason} Using scikit-learn's 1,797 small digits instead.", file=sys.stderr)
        source = "digits"
    if source == "digits":
        return *_image_files.read_digits(split), "scikit-learn digits"
    if source in _mnist.SETS:
        return *_mnist.find(source, split), _mnist.SETS[source][0]
    path, folder = _path_of(source)
    if folder:
        images, labels = _image_files.read_folder(path, split, size, channels)
    else:
        images, labels = _image_files.read_npz(path, split)
    images = _image_files.scaled(images, f"{path}: x_{split}")
    labels = np.zeros(len(images), int) if labels is None else labels
    labels = labels[:, 0] if labels.shape == (len(images), 1) else labels
    labels = validation.as_labels(labels, len(images), 10**6, f"{path}: y_{split}")
    return images, labels, path.resolve().name


def _refuse_no_path(source):
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a name or a path, not {type(source).__name__}")


def _path_of(source):
    """The path that a source names, and whether it is a folder; errors where it is neither."""
    path = os.path.expanduser(source)
    folder = os.path.isdir(path)
    if not folder and not (os.path.isfile(path) and path.lower().endswith(".npz")):
        names = ", ".join(repr(name) for name in ("auto", "digits", *_mnist.SETS))
        raise ValueError(f"source {str(source)!r} is none of {names}, no .npz file and no folder")
    return Path(path), folder


def class_names(source="auto"):
    """Names of the classes that the labels of `load_images(source)` index, a list of strings.

    The published names, those of the class folders, or of an `.npz` "0", "1" ... up to the largest
    label of its training images.
    """
    _refuse_no_path(source)
    if source in ("auto", "digits", *_mnist.SETS):
        return [*_mnist.CLASSES.get(source, "0123456789")]
    path, folder = _path_of(source)
    if folder:
        return _image_files.class_folders(path) or ["0"]
    _, labels, _ = load_images(path)
    return [str(label) for label in range(labels.max() + 1)]


def require(images, labels=None, *, count=1, classes=1, shape=None, divisor=1):
    """Refuse images that a notebook can do nothing with, before it has trained on them.

    Args:
        images: (N, H, W, C) in [-1, 1], as `load_images` returns them; labels: integers (N,).
        count: the fewest images.
        classes: the fewest different labels; 1 where labels are not needed.
        shape: the only shape of an image (height, width, channels), or None.
        divisor: what height and width must be multiples of.

    Raises:
        TypeError, ValueError: says what is needed, what was found, and what to do.
    """
    images = validation.as_images(images, "images")
    labels = np.zeros(len(images), int) if labels is None else labels
    known = len(np.unique(validation.as_labels(labels, len(images), 10**6)))
    found, shape = images.shape[1:], shape and tuple(shape)
    needs = {
        f"at least {count:,} images, and there are {len(images):,}": len(images) >= count,
        f"labels of at least {classes} classes, and there are {known}": known >= classes,
        f"images of shape {shape}, and these are {found}": shape in (None, found),
        f"sides that are multiples of {divisor}, and these are {found[0]} by {found[1]}": (
            found[0] % divisor == found[1] % divisor == 0
        ),
    }
    missing = "; ".join(need for need, held in needs.items() if not held)
    if missing:
        raise ValueError(
            f"This notebook needs {missing}. Choose another SOURCE; for a folder of pictures, "
            "size= and channels= of load_images set the shape."
        )


def morphed_digits(images, look, *, seed=0):
    """The same digits as another pen would have written them, row by row: pairs with a truth.

    Args:
        images: float (N, H, W, 1) in [-1, 1], bright strokes on black, none without ink.
        look: "thin" (half of the stroke's mean width worn off), "thick" (70% added), "swollen"
            (magnified about a random point), "fractured" (cut across at three random points),
            "edges" (what touches the stroke from outside), "left", "right" (slant less or plus 0.5)
            or "turned" (a quarter turn, counterclockwise).
        seed: integer >= 0, of the random points. Those of row i do not depend on other rows.

    Returns:
        float32 array of the images' shape (of turned height and width for "turned").

    Raises:
        TypeError, ValueError: the look is unknown; images of another shape, range or of no ink.

    Castro et al. 2019, arXiv 1809.10780, and their program, for the first four, where strokes lose
    70% and gain 100% of a width measured in another way, and gaps are 1.5 pixels long, ours 2.
    """
    if look not in _morph.LOOKS:
        raise ValueError(f"look must be one of {', '.join(_morph.LOOKS)}, not {look!r}.")
    images = validation.as_images(images, "images")
    if images.shape[-1] != 1:
        raise ValueError(f"images must be gray, of shape (N, H, W, 1), not {images.shape}.")
    seed = validation.as_integer(seed, "seed", low=0, high=2**63 - 1)
    draws = np.random.default_rng(seed).random((len(images), 3))
    parts = []
    for first in range(0, len(images), 100):  # what fits the processor's cache
        part = images[first : first + 100]
        width, ink = stroke_attributes.stroke_width(part), (part[..., 0] + 1) / 2
        parts.append(_morph.LOOKS[look](ink, width, draws[first : first + 100]))
    return 2 * np.concatenate(parts)[..., None].astype(np.float32) - 1


def batches(arrays, batch_size, *, seed, start=0):
    """Serve full batches without end; their order is a pure function of (seed, step).

    Every epoch of N // batch_size steps visits distinct rows in an order of its own; the
    N % batch_size rows at the end of that order sit the epoch out.

    Args:
        arrays: one array, or a tuple of arrays of the same N: images, float32 (N, H, W, C) in
            [-1, 1]; points, float32 (N, ...), finite, any range; labels, integers (N,) from 0.
            Copied: the caller may change them.
        batch_size: rows per batch, 1 to N.
        seed: any 64-bit integer.
        start: number of the first step served, 0 or more. `start=k` gives at once what
            `start=0` gives after k batches.

    Returns:
        A `tf.data.Dataset` of tensors (batch_size, ...), float32 or int32, or tuples of them.

    Raises:
        TypeError, ValueError: an array is of another type or shape, or a number out of range.

    The order is TensorFlow's stateless shuffle on Philox random numbers, Salmon et al. 2011,
    "Parallel random numbers: as easy as 1, 2, 3".
    """
    several = isinstance(arrays, tuple)
    arrays = [_as_examples(array) for array in (arrays if several else [arrays])]
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"arrays must have as many rows each, not {[len(x) for x in arrays]}.")
    count = len(arrays[0])
    batch_size = validation.as_integer(batch_size, "batch_size", low=1, high=count)
    seed = validation.as_integer(seed, "seed", low=-(2**63), high=2**63 - 1)
    start = validation.as_integer(start, "start", low=0, high=2**62)
    first_epoch, first_row = divmod(start, count // batch_size)
    with tf.device("CPU:0"):  # where tf.data runs; captured by reference, not put in the graph
        arrays = [tf.constant(array) for array in arrays]

    def epoch_rows(epoch):
        # index_shuffle would need no O(N) order, but its short cipher mixes too little: over
        # 60,000 images the orders of neighboring epochs came out correlated by 0.9.
        key = latents.stream(seed, epoch)
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=key, alg="philox")
        rows = tf.reshape(order[: count - count % batch_size], (-1, batch_size))
        first = tf.where(epoch == first_epoch, tf.constant(first_row, tf.int64), 0)
        return tf.data.Dataset.from_tensor_slices(rows[first:])

    def gather(rows):
        batch = tuple(tf.gather(array, rows) for array in arrays)
        return batch if several else batch[0]

    # Not Dataset.counter: TensorFlow keeps a graph of each one until the process ends.
    epochs = tf.data.Dataset.range(first_epoch, 2**63 - 1)
    return epochs.flat_map(epoch_rows).map(gather).prefetch(2)


def _as_examples(array):
    """One of the arrays of `batches`, checked."""
    array = validation.as_array(array, "arrays")
    if array.ndim == 1 and array.dtype.kind in "iu":
        return validation.as_labels(array, len(array), 10**6, "labels in arrays")
    if array.dtype != np.float32:
        advice = "convert images to float32 in [-1, 1] on purpose"
        raise TypeError(f"arrays must be float32, or integers (N,), not {array.dtype}; {advice}.")
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"arrays must have shape (N, ...) and not be empty, not {array.shape}.")
    if array.ndim == 4:
        return validation.as_images(array, "arrays")
    # min and max hand on a NaN, and unlike isfinite they need no array of the images' size.
    if not np.isfinite([array.min(), array.max()]).all():
        raise ValueError("arrays hold NaN or infinite values; clean them first.")
    return array


def ring_modes(modes=8, radius=1.0):
    """Centers of the ring's Gaussians, float32 (modes, 2), counterclockwise from angle 0.

    There are 2 to 1,000,000 modes; the radius is in 1e-30..1e30.
    """
    modes = validation.as_integer(modes, "modes", low=2, high=10**6)
    radius = validation.as_positive(radius, "radius")
    angles = 2 * np.pi * np.arange(modes) / modes
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def grid_modes(side=5, spacing=2.0):
    """Centers of the grid's Gaussians, float32 (side * side, 2), a square about the origin.

    The first coordinate is slowest; side is 2 to 1,000, spacing in 1e-30..1e30.
    """
    side = validation.as_integer(side, "side", low=2, high=1000)
    spacing = validation.as_positive(spacing, "spacing")
    ticks = np.arange(side) - (side - 1) / 2
    grid = spacing * np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
    return grid.reshape(-1, 2).astype(np.float32)


def ring_of_gaussians(count, *, seed, step, modes=8, radius=1.0, deviation=0.01):
    """Draw from equally likely Gaussians on a ring, as a pure function of (seed, step).

    Eager and in a graph the values are the same. With jit_compile=True they are a pure function of
    (seed, step), too, but others, because XLA turns the same keys into numbers in another way.

    Args:
        count: samples, 1 to 100,000,000.
        seed, step: as in `latents.stream`; independent of the latents of the same seed and step.
        modes, radius: as in `ring_modes`.
        deviation: standard deviation of each Gaussian in each coordinate, 1e-30 to 1e30.

    Returns:
        float32 tensor (count, 2).

    Srivastava et al. 2017, arXiv 1705.07761; numbers of Lin et al. 2018, arXiv 1712.04086.
    """
    return _draw_mixture(count, ring_modes(modes, radius), deviation, seed=seed, step=step)


def grid_of_gaussians(count, *, seed, step, side=5, spacing=2.0, deviation=0.05):
    """Draw from Gaussians on a grid: `ring_of_gaussians` with the centers of `grid_modes`."""
    return _draw_mixture(count, grid_modes(side, spacing), deviation, seed=seed, step=step)


def _draw_mixture(count, centers, deviation, *, seed, step):
    """Samples of equally likely Gaussians, float32 (count, 2)."""
    count = validation.as_integer(count, "count", low=1, high=10**8)
    deviation = validation.as_positive(deviation, "deviation")
    mode_key, dust_key = latents.stream(seed, step, "mode"), latents.stream(seed, step, "dust")
    mode = tf.random.stateless_uniform((count,), mode_key, 0, len(centers), tf.int32)
    dust = tf.random.stateless_normal((count, 2), dust_key)
    return tf.gather(tf.constant(centers), mode) + deviation * dust
