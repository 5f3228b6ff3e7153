"""Is this input fit? Checks that hand it on in one type, or say what was found and what to do."""

import math
import operator
import reprlib

import numpy as np

# The metrics take sixth powers, and sums of many, in float64.
_LARGEST = 1e30


def as_integer(value, name, *, low, high):
    """Check a count.

    Args:
        value: what should be an integer.
        name: what to call it in an error.
        low: smallest value allowed.
        high: largest value allowed.

    Returns:
        The value as a Python integer.

    Raises:
        TypeError: the value is no integer.
        ValueError: it is out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {_said(value)}.") from None
    if not low <= number <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {number}.")
    return number


def as_positive(value, name):
    """Check a size.

    Args:
        value: what should be a number above 0, or a scalar array of one.
        name: what to call it in an error.

    Returns:
        The value as a Python float.

    Raises:
        TypeError: it is no single real number.
        ValueError: it is not above 0, infinite or NaN.
    """
    found = as_array(value, name)
    if found.ndim or found.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a number, not {_said(value)}.")
    number = float(found)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, not {value}.")
    return number


def as_single(value, name):
    """Check a size that float32 computes with: neither it nor a sum of some overflows.

    Args:
        value: what should be a number in 1e-30..1e30, or a scalar array of one.
        name: what to call it in an error.

    Returns:
        The value as a Python float.

    Raises:
        TypeError: it is no single real number.
        ValueError: it is out of range.
    """
    number = as_positive(value, name)
    if not 1e-30 <= number <= 1e30:
        raise ValueError(f"{name} must be in 1e-30..1e30, not {value}.")
    return number


def as_array(value, name):
    """Check that something is an array.

    Args:
        value: array, tensor or nested lists.
        name: what to call it in an error.

    Returns:
        `numpy.ndarray` of any shape and type.

    Raises:
        TypeError: numpy makes no array of it.
    """
    try:
        return np.asarray(value)
    except Exception as error:  # each kind of object complains in its own way
        raise TypeError(f"{name} must be an array, not {_said(value)}: {error}") from error


def _said(value):
    """A value in an error message, however long it is."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def _as_floats(array, name, shape, least):
    """A float array of the rank of `shape` (a tuple of words) with enough finite rows."""
    array = as_array(array, name)
    if array.dtype.kind != "f":
        raise TypeError(f"{name} must hold floats, not {array.dtype}; convert them on purpose.")
    if array.ndim != len(shape) or 0 in array.shape[1:]:
        raise ValueError(f"{name} must have the shape ({', '.join(shape)}), not {array.shape}.")
    if len(array) < least:
        raise ValueError(f"{name} has {len(array)} rows; at least {least} are needed.")
    # min and max hand on a NaN, and unlike isfinite they need no array of the same size.
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name} holds NaN or infinite values; find out where they arise.")
    if np.longdouble(max(-low, high)) > _LARGEST:  # a float16 cannot be compared with it
        raise ValueError(
            f"{name} holds {low:.4g} to {high:.4g}; beyond {_LARGEST:.0e} its powers overflow."
        )
    return array


def as_images(images, name, *, least=1):
    """Check images.

    Args:
        images: floats (count, height, width, channels) in [-1, 1], with something below 0.
        name: what to call them in an error.
        least: smallest count allowed.

    Returns:
        float32 array of the same shape.

    Raises:
        TypeError: they are not floats.
        ValueError: another shape or range, NaN, or too few; a set without any value below 0 is
            taken for one in [0, 1].
    """
    if as_array(images, name).dtype == np.uint8:
        raise TypeError(f"{name} must be floats in [-1, 1]; divide pixels by 127.5, subtract 1.")
    shape = ("count", "height", "width", "channels")
    images = _as_floats(images, name, shape, max(1, least))
    low, high = float(images.min()), float(images.max())
    if not -1 <= low <= high <= 1:
        raise ValueError(
            f"{name} must be in [-1, 1]; found {low:.4g} to {high:.4g}. "
            "Divide pixels of 0 to 255 by 127.5 and subtract 1."
        )
    if low >= 0:
        raise ValueError(
            f"{name} must be in [-1, 1]; found {low:.4g} to {high:.4g}, nothing below 0. "
            "Multiply pixels of 0 to 1 by 2 and subtract 1."
        )
    return images.astype(np.float32, copy=False)


def as_feature_pair(real, fake, *, least=2, full_rank=False):
    """Check the features of two sets of samples.

    Args:
        real: floats (count, dimensions), none beyond 1e30.
        fake: floats (count, dimensions), another count perhaps.
        least: smallest count allowed, at least 1.
        full_rank: whether there must be more samples than dimensions, as a covariance needs.

    Returns:
        The pair as float64 arrays.

    Raises:
        TypeError: they are not floats.
        ValueError: another shape, different dimensions, NaN, or too few.
    """
    names = {"real": real, "fake": fake}
    real, fake = (_as_floats(x, name, ("count", "dimensions"), least) for name, x in names.items())
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real has {real.shape[1]} dimensions and fake {fake.shape[1]}; "
            "take the features of both from one classifier."
        )
    for name, x in {"real": real, "fake": fake}.items():
        if full_rank and len(x) <= x.shape[1]:
            raise ValueError(
                f"{name} has {len(x)} rows; a covariance of {x.shape[1]} dimensions needs at least "
                f"{x.shape[1] + 1}, and a useful one many more."
            )
    return real.astype(np.float64), fake.astype(np.float64)


def as_samples_and_modes(samples, modes):
    """Check samples and the centers of a mixture.

    Args:
        samples: floats (count, dimensions).
        modes: floats (modes, dimensions).

    Returns:
        The pair as float64 arrays.

    Raises:
        TypeError: they are not floats.
        ValueError: another shape, different dimensions, no row, or NaN.
    """
    samples = _as_floats(samples, "samples", ("count", "dimensions"), 1)
    modes = _as_floats(modes, "modes", ("modes", "dimensions"), 1)
    if samples.shape[1] != modes.shape[1]:
        raise ValueError(f"samples have {samples.shape[1]} dimensions, modes {modes.shape[1]}.")
    return samples.astype(np.float64), modes.astype(np.float64)


def as_probabilities(probabilities, name, *, least=1):
    """Check rows of class probabilities.

    Args:
        probabilities: floats (count, classes), every row >= 0 and of sum 1 up to 0.001.
        name: what to call them in an error.
        least: smallest count allowed.

    Returns:
        float64 array of the same shape.

    Raises:
        TypeError: they are not floats.
        ValueError: another shape, NaN, too few, a negative value or another sum.
    """
    shape = ("count", "classes")
    array = _as_floats(probabilities, name, shape, max(1, least)).astype(np.float64)
    sums = array.sum(axis=1)
    if array.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise ValueError(
            f"{name} must be >= 0 with rows that sum to 1; found a smallest value of "
            f"{array.min():.4g} and sums from {sums.min():.4g} to {sums.max():.4g}. "
            "Logits need a softmax first."
        )
    return array


def as_labels(labels, count, classes):
    """Check labels of known classes.

    Args:
        labels: array-like of integers (count,), 0 to classes - 1.
        count: how many there must be.
        classes: how many classes there are, 2 to 1,000,000.

    Returns:
        int32 array (count,).

    Raises:
        TypeError: labels or classes are not integers.
        ValueError: another shape, or a label out of range.
    """
    labels = as_array(labels, "labels")
    classes = as_integer(classes, "classes", low=2, high=10**6)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, not {labels.dtype}.")
    if labels.shape != (count,):
        raise ValueError(f"labels must have the shape ({count},), not {labels.shape}.")
    if count and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels must be from 0 to {classes - 1}; found {labels.min()} to {labels.max()}."
        )
    return labels.astype(np.int32)


def as_shares(shares, name):
    """Check the shares of classes in a set.

    Args:
        shares: floats (classes,), >= 0 and of sum 1 up to 0.001.
        name: what to call them in an error.

    Returns:
        float64 array (classes,).

    Raises:
        TypeError: they are not floats (counts are not; divide them by their sum).
        ValueError: another shape, NaN, a negative value or another sum.
    """
    array = _as_floats(shares, name, ("classes",), 1).astype(np.float64)
    # A ratio with less than the smallest normal number could overflow, or have the logarithm -inf.
    array[np.abs(array) < np.finfo(np.float64).tiny] = 0
    if array.min() < 0 or abs(array.sum() - 1) > 1e-3:
        raise ValueError(
            f"{name} must be >= 0 with sum 1; found a smallest value of {array.min():.4g} and sum "
            f"{array.sum():.4g}. Divide counts by their sum."
        )
    return array


def refuse_non_finite(values, *, step):
    """Stop a run whose numbers are no longer numbers.

    Args:
        values: dict from name to float.
        step: number of the step that gave them, from 1.

    Raises:
        FloatingPointError: a value is NaN or infinite; names the step and every such value.
    """
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    if bad:
        raise FloatingPointError(f"Training stopped at step {step}: {bad} is not finite.")
