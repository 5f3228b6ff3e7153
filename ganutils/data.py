"""Where do real samples come from? Checked loaders; batches and toy samples by step number."""

import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from ganutils import checks, published, readers

# Streams of a toy sample: "mode" and "dust" in ASCII, so that its noise is not that of a latent
# of the same seed and step.
_MODE_STREAM, _NOISE_STREAM = 0x6D6F6465, 0x64757374


def load_images(source="auto", *, split="train"):
    """Load real images and their labels, checked, from a named set, a file or a folder.

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
              already are in [-1, 1]; y integers of shape (N,) or (N, 1); at most 1 GiB each;
            - a folder of pictures, directly or in one sub-folder a class. Each is put on white
              where transparent, cropped to its central square and made 28x28 gray. Sub-folders
              `train` and `test`, where both exist, are the splits; otherwise, in order of name,
              every tenth picture is the test split.
        split: "train" or "test".

    Returns:
        images, float32 of shape (N, H, W, C) in [-1, 1], (N, 28, 28, 1) but for an `.npz`;
        labels, int32 of shape (N,), the index of the class folder for pictures, 0 where the
        source has none; and name, a string such as "MNIST", or the file's.

    Raises:
        FileNotFoundError: a built-in set is neither on this machine nor to be downloaded.
        ValueError: the source or the split is unknown, or the data cannot be read or are not what
            they should be. Pickles are never opened, nor what unfolds to an unreasonable size.
        TypeError: the source is neither a string nor a path.

    Source: LeCun, Cortes and Burges 1998, MNIST; Xiao et al. 2017, arXiv:1708.07747; Alpaydin
    and Kaynak 1998, the UCI digits that scikit-learn carries.
    """
    if not isinstance(split, str) or split not in published.SPLITS:
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    if not isinstance(source, (str, os.PathLike)) or isinstance(os.fspath(source), bytes):
        raise TypeError(f"source must be a name or a path, not {type(source).__name__}")
    if source == "auto":
        return _mnist_or_digits(split)
    if source == "digits":
        return *readers.read_digits(split), "scikit-learn digits"
    if source in published.SETS:
        return *published.find(source, split), published.SETS[source][0]

    path = Path(os.path.expanduser(source))  # which leaves ~nobody as it is
    if not os.fspath(source) or not os.path.exists(path):
        names = ", ".join(repr(name) for name in ("auto", "digits", *published.SETS))
        raise ValueError(f"source {str(source)!r} is neither one of {names} nor an existing path")
    if path.is_dir():
        images, labels = readers.read_folder(path, split)
    elif path.suffix.lower() == ".npz":
        images, labels = readers.read_npz(path, split)
    else:
        raise ValueError(f"{path}: expected an .npz file or a folder of pictures")
    images = readers.scaled(images, f"{path}: x_{split}")
    return (
        images,
        readers.checked_labels(labels, len(images), f"{path}: y_{split}"),
        path.resolve().name,
    )


def batches(images, batch_size, *, seed, start=0):
    """Serve full batches without end; their order is a pure function of (seed, step).

    Every epoch of N // batch_size steps visits distinct images in an order of its own; the
    N % batch_size images at the end of that order sit the epoch out.

    Args:
        images: float32 array of shape (N, ...), finite, at least 2-D: images (N, H, W, C) or
            points (N, 2). Copied, so that the caller may change them later; any range.
        batch_size: examples per batch, 1 to N.
        seed: any 64-bit integer.
        start: number of the first step served, 0 or more. `start=k` gives at once what
            `start=0` gives after k batches.

    Returns:
        A `tf.data.Dataset` of float32 tensors of static shape (batch_size, ...).

    Raises:
        TypeError: images are no float32 array, or a number is not an integer.
        ValueError: images are empty, 1-D or not finite, or a number is out of range.

    Source: the order is TensorFlow's stateless shuffle on Philox random numbers, Salmon et al.
    2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    images = _as_examples(images)
    rows = _row_batches(len(images), batch_size, seed=seed, start=start)
    with tf.device("CPU:0"):  # where tf.data runs; captured by reference, not put in the graph
        images = tf.constant(images)
    return rows.map(lambda row: tf.gather(images, row)).prefetch(2)


def labeled_batches(images, labels, batch_size, *, classes, seed, start=0):
    """Serve full batches of images with their labels, in the order of `batches`.

    Args:
        images, batch_size, seed, start: as for `batches`.
        labels: integers (N,), 0 to classes - 1.
        classes: how many classes there are, 2 to 1,000,000.

    Returns:
        A `tf.data.Dataset` of pairs: images as from `batches`, and int32 labels (batch_size,).

    Raises:
        TypeError: as for `batches`, or labels are not integers.
        ValueError: as for `batches`, or labels are not as many as images, or out of range.
    """
    images = _as_examples(images)
    labels = checks.as_labels(labels, len(images), classes)
    rows = _row_batches(len(images), batch_size, seed=seed, start=start)
    with tf.device("CPU:0"):
        images, labels = tf.constant(images), tf.constant(labels)
    return rows.map(lambda row: (tf.gather(images, row), tf.gather(labels, row))).prefetch(2)


def _as_examples(images):
    """The images as an array, checked as `batches` says."""
    images = checks.as_array(images, "images")
    if images.dtype != np.float32:
        raise TypeError(f"images must be float32, not {images.dtype}; convert them on purpose")
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"images must have shape (N, ...) and not be empty, not {images.shape}")
    # min and max hand on a NaN, and unlike isfinite they need no array of the images' size.
    if not np.isfinite([images.min(), images.max()]).all():
        raise ValueError("images hold NaN or infinite values; clean them first")
    return images


def _row_batches(count, batch_size, *, seed, start):
    """Row numbers of each batch, without end, as a `tf.data.Dataset`; arguments are checked."""
    batch_size = checks.as_integer(batch_size, "batch_size", low=1, high=count)
    seed = checks.as_integer(seed, "seed", low=-(2**63), high=2**63 - 1)
    start = checks.as_integer(start, "start", low=0, high=2**62)
    first_epoch, first_row = divmod(start, count // batch_size)

    def epoch_rows(epoch):
        # index_shuffle would need no O(N) order, but its short cipher mixes too little: over
        # 60,000 images the orders of neighboring epochs came out correlated by 0.9.
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.constant(seed, tf.int64), epoch]), alg="philox"
        )
        rows = tf.reshape(order[: count - count % batch_size], (-1, batch_size))
        return tf.data.Dataset.from_tensor_slices(
            rows[tf.where(epoch == first_epoch, tf.constant(first_row, tf.int64), 0) :]
        )

    # Not Dataset.counter: TensorFlow keeps a graph of each one until the process ends.
    return tf.data.Dataset.range(first_epoch, 2**63 - 1).flat_map(epoch_rows)


def ring_modes(modes=8, radius=1.0):
    """Centers of the ring's Gaussians: the first at angle 0, the others counterclockwise.

    Args:
        modes: how many, 2 to 1,000,000.
        radius: of the ring about the origin, 1e-30 to 1e30.

    Returns:
        float32 array (modes, 2).

    Raises:
        TypeError: modes is no integer, or radius no number.
        ValueError: a number is out of range.
    """
    modes = checks.as_integer(modes, "modes", low=2, high=10**6)
    angles = 2 * np.pi * np.arange(modes) / modes
    radius = checks.as_single(radius, "radius")
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def grid_modes(side=5, spacing=2.0):
    """Centers of the grid's Gaussians, a square about the origin; the first coordinate is slowest.

    Args:
        side: centers along each side, 2 to 1,000.
        spacing: distance of neighbors, 1e-30 to 1e30.

    Returns:
        float32 array (side * side, 2).

    Raises:
        TypeError: side is no integer, or spacing no number.
        ValueError: a number is out of range.
    """
    side = checks.as_integer(side, "side", low=2, high=1000)
    ticks = np.arange(side) - (side - 1) / 2
    grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
    grid *= checks.as_single(spacing, "spacing")
    return grid.reshape(-1, 2).astype(np.float32)


def ring_of_gaussians(count, *, seed, step, modes=8, radius=1.0, deviation=0.01):
    """Draw from equally likely Gaussians on a ring, as a pure function of (seed, step).

    Eager and in a graph the values are the same. With jit_compile=True they are a pure function of
    (seed, step), too, but others, because XLA turns the same keys into numbers in another way.

    Args:
        count: samples, 1 to 100,000,000.
        seed: 64-bit integer or scalar integer tensor, names the stream of a run; independent of
            the latents of the same seed.
        step: 64-bit integer or scalar integer tensor, names the draw within the stream.
        modes, radius: as in `ring_modes`.
        deviation: standard deviation of each Gaussian in each coordinate, 1e-30 to 1e30.

    Returns:
        float32 tensor (count, 2).

    Raises:
        TypeError: count, seed, step or modes is no integer, or another argument no number.
        ValueError: a number is out of range.

    Source: Srivastava et al. 2017, arXiv 1705.07761; numbers of Lin et al. 2018, arXiv 1712.04086.
    """
    return _draw_mixture(count, ring_modes(modes, radius), deviation, seed=seed, step=step)


def grid_of_gaussians(count, *, seed, step, side=5, spacing=2.0, deviation=0.05):
    """Draw from equally likely Gaussians on a grid: `ring_of_gaussians` with other centers.

    Args:
        count, seed, step, deviation: as in `ring_of_gaussians`.
        side, spacing: as in `grid_modes`.

    Returns:
        float32 tensor (count, 2).

    Raises:
        TypeError: count, seed, step or side is no integer, or another argument no number.
        ValueError: a number is out of range.
    """
    return _draw_mixture(count, grid_modes(side, spacing), deviation, seed=seed, step=step)


def _draw_mixture(count, centers, deviation, *, seed, step):
    count = checks.as_integer(count, "count", low=1, high=10**8)
    deviation = checks.as_single(deviation, "deviation")
    key = tf.stack([_as_int64(seed, "seed"), _as_int64(step, "step")])
    mode_key, noise_key = (tf.random.fold_in(key, s) for s in (_MODE_STREAM, _NOISE_STREAM))
    mode = tf.random.stateless_uniform((count,), mode_key, 0, len(centers), tf.int32)
    noise = tf.random.stateless_normal((count, 2), noise_key)
    return tf.gather(tf.constant(centers), mode) + deviation * noise


def _as_int64(value, name):
    if not tf.is_tensor(value):  # a tensor's value may be known only when a program runs
        value = tf.constant(checks.as_integer(value, name, low=-(2**63), high=2**63 - 1), tf.int64)
    if not value.dtype.is_integer or value.shape.rank not in (0, None):
        raise TypeError(f"{name} must be a scalar integer, not {value.dtype} of {value.shape}.")
    return tf.cast(value, tf.int64)


def _mnist_or_digits(split):
    try:
        return *published.find("mnist", split, retry=False), published.SETS["mnist"][0]
    except (FileNotFoundError, ValueError) as error:
        reason = " ".join(str(error).split())
    # stderr, because the text that a notebook prints must not depend on the machine
    print(f"{reason} Using scikit-learn's 1,797 small digits instead.", file=sys.stderr)
    return load_images("digits", split=split)
