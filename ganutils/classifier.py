"""Which digit is it, and what does it look like to a network? A small judge, trained once and kept.

What a metric compares are this classifier's features and probabilities. Scores made with different
classifiers (other data, other code, another seed) cannot be compared with one another.
"""

import hashlib
import os
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ganutils import checks, files


def cache_folder():
    """The folder in which trained classifiers are kept; it may not exist yet.

    Returns:
        `pathlib.Path`: what the environment variable GANUTILS_CACHE names, else `ganutils` in the
        user's cache folder (XDG_CACHE_HOME, or what the platform uses).
    """
    if named := os.environ.get("GANUTILS_CACHE"):
        return Path(named).expanduser()
    places = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~")}
    user = os.environ.get("XDG_CACHE_HOME") or places.get(sys.platform, "~/.cache")
    return Path(user).expanduser() / "ganutils"


def digit_classifier(images, labels, *, steps=2000, batch_size=128, seed=0):
    """Train a small convolutional classifier, or load the one trained on these very data before.

    The defaults take about a minute on two CPU cores. It computes in float32 whatever the dtype
    policy says, draws nothing from the global seeds, and is the same for the same arguments,
    machine and versions. It is kept in `cache_folder()` under a hash of arguments, code and
    versions; a file that cannot be read is replaced.

    Args:
        images: float (count, height, width, channels) in [-1, 1], at least batch_size of them.
        labels: integers (count,) >= 0, of two classes or more; classes without an image are kept.
        steps: training steps, 1 or more.
        batch_size: images in each step.
        seed: integer >= 0, of weights, order and dropout.

    Returns:
        `keras.Model` from (batch, height, width, channels) to the pair of features (batch, 64) >= 0
        and probabilities (batch, largest label + 1). `classify` runs it on many images.

    Raises:
        TypeError: images, labels or a number have another type.
        ValueError: too few images, another shape or range, NaN, or labels of one class only.
    """
    images = checks.as_images(images, "images", least=2)
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, not {labels.dtype}.")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must have the shape ({len(images)},), not {labels.shape}.")
    if labels.min() < 0 or labels.min() == labels.max():
        raise ValueError(
            f"labels must be of two classes or more, none negative; found {labels.min()} to "
            f"{labels.max()}. Data without labels cannot train a classifier."
        )
    steps = checks.as_integer(steps, "steps", low=1, high=10**6)
    batch_size = checks.as_integer(batch_size, "batch_size", low=1, high=len(images))
    seed = checks.as_integer(seed, "seed", low=0, high=2**30)

    model = _build(images.shape[1:], int(labels.max()) + 1, seed)
    path = cache_folder() / f"classifier-{_key(images, labels, steps, batch_size, seed)}.npz"
    if not _load(model, path):
        _fit(model, images, labels, steps, batch_size, seed)
        _save(model, path)
    model.trainable = False
    return model


def classify(model, images, *, batch_size=500):
    """Run a classifier over many images, some at a time.

    Args:
        model: from `digit_classifier`.
        images: float (count, height, width, channels) in [-1, 1], of the shape it was trained on.
        batch_size: images in memory at once.

    Returns:
        features, float32 (count, 64), and probabilities, float32 (count, classes).

    Raises:
        TypeError: images are not floats.
        ValueError: another shape or range, or NaN.
    """
    images = checks.as_images(images, "images")
    if images.shape[1:] != model.input_shape[1:]:
        raise ValueError(
            f"images must have the shape (count, {', '.join(map(str, model.input_shape[1:]))}), "
            f"as those the classifier was trained on, not {images.shape}."
        )
    batch_size = checks.as_integer(batch_size, "batch_size", low=1, high=10**6)
    parts = [
        [part.numpy() for part in model(images[start : start + batch_size], training=False)]
        for start in range(0, len(images), batch_size)
    ]
    features, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return features, probabilities


def _build(image_shape, classes, seed):
    # Seeds and names are given, since Keras draws missing ones from Python's global generator and
    # counts missing names: what a notebook builds later must not depend on this model.
    seeds = iter(range(5 * seed, 5 * seed + 5))

    def common(name):
        return {"dtype": "float32", "name": name}

    def weights():
        return {"kernel_initializer": keras.initializers.HeNormal(seed=next(seeds))}

    image = keras.Input(image_shape, dtype="float32", name="image")
    x = image
    for number, filters in enumerate((16, 32, 64)):
        x = layers.Conv2D(filters, 3, padding="same", **weights(), **common(f"conv_{number}"))(x)
        x = layers.MaxPooling2D(2, padding="same", **common(f"pool_{number}"))(x)
        x = layers.BatchNormalization(momentum=0.9, **common(f"norm_{number}"))(x)
        x = layers.ReLU(**common(f"relu_{number}"))(x)
    x = layers.Flatten(**common("flatten"))(x)
    x = layers.Dense(64, **weights(), **common("dense"))(x)
    x = layers.BatchNormalization(momentum=0.9, **common("norm"))(x)  # or some would stay at 0
    features = layers.ReLU(**common("features"))(x)
    x = layers.Dropout(0.25, seed=5 * seed, **common("dropout"))(features)
    last = layers.Dense(classes, activation="softmax", **weights(), **common("probabilities"))
    return keras.Model(image, [features, last(x)], name="classifier")


def _fit(model, images, labels, steps, batch_size, seed):
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    optimizer = keras.optimizers.Adam(schedule, name="classifier_adam")
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function
    def train_step(image, label):
        with tf.GradientTape() as tape:
            _, probabilities = model(image, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(label, probabilities)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, variables), variables)

    random, rows = np.random.default_rng(seed), np.empty(0, int)
    for _ in range(steps):
        if len(rows) < batch_size:
            rows = random.permutation(len(images))
        chosen, rows = rows[:batch_size], rows[batch_size:]
        train_step(tf.constant(images[chosen]), tf.constant(labels[chosen], tf.int32))


def _key(images, labels, *settings):
    """A name for everything the weights depend on."""
    hashed = hashlib.sha256(Path(__file__).read_bytes())
    versions = keras.__version__, tf.__version__, keras.backend.backend()
    hashed.update(repr((versions, settings, images.shape)).encode())
    hashed.update(np.ascontiguousarray(images))
    hashed.update(np.ascontiguousarray(labels, np.int64))
    return hashed.hexdigest()[:20]


def _load(model, path):
    """Fill the model from a file; False where there is none that can be read."""
    shapes = [tuple(weight.shape) for weight in model.weights]
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            weights = [file[f"arr_{number}"] for number in range(len(shapes))]
        # Before any is set: training must not start from half of them.
        whole = [array.shape for array in weights] == shapes
        if whole := whole and all(np.isfinite(array).all() for array in weights):
            model.set_weights(weights)
        return whole
    except (
        Exception
    ):  # missing, cut short, of another kind: numpy and zipfile complain in many ways
        return False


def _save(model, path):
    """Write the weights whole or not at all; a folder that cannot be written costs only time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole_file(path) as file:
            np.savez(file, *model.get_weights())
    except OSError as error:
        print(f"The classifier is not kept for the next time: {error}", file=sys.stderr)
