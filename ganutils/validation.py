"""Is this input fit? Checks that hand it on in one type, or say what was found and what to do."""

import operator
import reprlib

import numpy as np


def as_integer(value, name, *, low, high):
    """The value as a Python integer from low to high; TypeError or ValueError by name otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {reprlib.repr(value)}.") from None
    if not low <= number <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {number}.")
    return number


def as_positive(value, name):
    """The value, a number or a scalar array of one, as a float from 1e-30 to 1e30.

    Within these bounds float32 computes with it; TypeError or ValueError by name otherwise.
    """
    found = as_array(value, name)
    if found.ndim or found.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a number, not {reprlib.repr(value)}.")
    number = float(found)
    if not 1e-30 <= number <= 1e30:
        raise ValueError(f"{name} must be above 0 and finite, in 1e-30..1e30, not {value}.")
    return number


def as_array(value, name):
    """An array, tensor or nested lists as a numpy array of any type; TypeError if numpy cannot."""
    try:
        return np.asarray(value)
    except Exception as error:  # each kind of object complains in its own way
        raise TypeError(f"{name} must be an array, not {reprlib.repr(value)}: {error}") from error


def _as_floats(array, name, shape, least=1):
    """A float array of the rank of `shape` (a tuple of words) with enough finite rows."""
    array = as_array(array, name)
    if array.dtype.kind != "f":
        pixels = array.dtype == np.uint8
        advice = "divide pixels by 127.5, subtract 1" if pixels else "convert them on purpose"
        raise TypeError(f"{name} must hold floats, not {array.dtype}; {advice}.")
    if array.ndim != len(shape) or 0 in array.shape[1:]:
        raise ValueError(f"{name} must have the shape ({', '.join(shape)}), not {array.shape}.")
    if len(array) < least:
        raise ValueError(f"{name} has {len(array)} rows; at least {least} are needed.")
    low, high = float(array.min()), float(array.max())
    if not -1e30 <= low <= high <= 1e30:  # NaN fails this, too; the metrics take sixth powers
        found = f"{low:.4g} to {high:.4g}"
        raise ValueError(f"{name} holds NaN or infinite values, or some beyond 1e30: {found}.")
    return array


def as_images(images, name, *, least=1):
    """Images (count, height, width, channels) in [-1, 1], checked, as float32.

    A set without any value below 0 is taken for one in [0, 1] and refused by a ValueError that
    says what to do, as are other ranges and shapes; TypeError where they are no floats.
    """
    images = _as_floats(images, name, ("count", "height", "width", "channels"), max(1, least))
    low, high = float(images.min()), float(images.max())
    said = f"{name} must be in [-1, 1]; found {low:.4g} to {high:.4g}"
    if not -1 <= low <= high <= 1:
        raise ValueError(f"{said}. Divide pixels of 0 to 255 by 127.5 and subtract 1.")
    if low >= 0:
        raise ValueError(f"{said}, nothing below 0. Multiply pixels of 0 to 1 by 2 and subtract 1.")
    return images.astype(np.float32, copy=False)


def as_feature_pair(first, second, *, names=("real", "fake"), least=2, full_rank=False):
    """Features (count, dimensions) of two sets of samples, checked, as float64.

    Each has at least `least` rows, none beyond 1e30; with full_rank more rows than dimensions, as
    a covariance needs. TypeError or ValueError by name otherwise.
    """
    pair = [
        _as_floats(features, name, ("count", "dimensions"), least).astype(np.float64)
        for name, features in zip(names, (first, second), strict=True)
    ]
    d, other = (features.shape[1] for features in pair)
    if d != other:
        raise ValueError(f"{names[0]} has {d} dimensions, {names[1]} {other}; they must agree.")
    for name, features in zip(names, pair, strict=True):
        if full_rank and len(features) <= d:
            raise ValueError(
                f"{name} has {len(features)} rows; a covariance of {d} dimensions needs at least "
                f"{d + 1}, and a useful one many more."
            )
    return pair


def as_probabilities(values, name, *, least=1, shape=("count", "classes")):
    """Rows of class probabilities, >= 0 and of sum 1 up to 0.001, checked, as float64.

    Another shape, such as ("classes",) for the shares of classes in a set, is one row.
    """
    array = _as_floats(values, name, shape, max(1, least)).astype(np.float64)
    low, sums = array.min(), array.sum(axis=-1)
    if low < 0 or np.abs(sums - 1).max() > 1e-3:
        found = f"values from {low:.4g}, sums {sums.min():.4g} to {sums.max():.4g}"
        advice = "Logits need a softmax, counts a division by their sum."
        raise ValueError(f"{name} must be >= 0 with sum 1; found {found}. {advice}")
    return array


def as_labels(labels, count, classes, name="labels"):
    """Integer labels (count,) from 0 to classes - 1, checked, as int32."""
    labels = as_array(labels, name)
    classes = as_integer(classes, "classes", low=2, high=10**6)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {labels.dtype}.")
    if labels.shape != (count,):
        raise ValueError(f"{name} must have the shape ({count},), not {labels.shape}.")
    if count and not 0 <= labels.min() <= labels.max() < classes:
        low, high = labels.min(), labels.max()
        raise ValueError(f"{name} must be from 0 to {classes - 1}; found {low} to {high}.")
    return labels.astype(np.int32)


def check_image_shape(shape):
    """Refuse what is not (height, width, channels), each 1 or more; ValueError."""
    sides = np.asarray(shape)
    if sides.shape != (3,) or sides.dtype.kind != "i" or sides.min() < 1:
        raise ValueError(
            f"image_shape must be (height, width, channels), such as (28, 28, 1), not {shape}."
        )


def check_learner(player, optimizer, name):
    """Refuse a player that would never learn, or not without a scaled loss; ValueError by name.

    player: a model, a list of models, or the list of variables that the optimizer moves.
    """
    import keras  # here, since it imports TensorFlow, which most checks do without

    parts = list(player) if isinstance(player, list | tuple) else [player]
    models = [part for part in parts if hasattr(part, "trainable_variables")]
    learns = models != parts or any(model.trainable_variables for model in models)
    if not (learns and all(model.built or model.trainable_variables for model in models)):
        raise ValueError(
            f"The {name} has no variables to train, or is not built: start its model with "
            "keras.Input, and set trainable = True before the step or the run is made."
        )
    policies = [model.dtype_policy for model in models] or [keras.config.dtype_policy()]
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    scaled = scaled or getattr(optimizer, "loss_scale_factor", None)
    if scaled or any(policy.compute_dtype == "float16" for policy in policies):
        raise ValueError(
            f"The {name} needs a scaled loss, as float16 does, and no step scales it: take a "
            "plain optimizer, and mixed_bfloat16 or float32 as the policy."
        )
