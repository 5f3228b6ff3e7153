"""Which digit is it, and what does it look like to a network? A small judge, trained once and kept.

What a metric compares are this classifier's features and probabilities. Scores made with different
classifiers (other data, other code, another seed) cannot be compared with one another.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers, losses, optimizers

from ganutils import _atomic, validation


def cache_folder():
    """Where trained classifiers are kept: a `pathlib.Path`, which may not exist yet.

    What the environment variable GANUTILS_CACHE names, else `ganutils` in the user's cache folder
    (XDG_CACHE_HOME, or what the platform uses).
    """
    if named := os.environ.get("GANUTILS_CACHE"):
        return Path(os.path.expanduser(named))
    places = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~")}
    user = os.environ.get("XDG_CACHE_HOME") or places.get(sys.platform, "~/.cache")
    folder = Path(os.path.expanduser(user), "ganutils")
    return folder if folder.is_absolute() else Path(tempfile.gettempdir(), "ganutils")  # no home


def digit_classifier(images, labels, *, features=64, steps=2000, batch_size=128, seed=0):
    """Train a small convolutional classifier, or load the one trained on these very data before.

    About a minute on two CPU cores. It computes in float32 whatever the dtype policy says, neither
    uses nor moves the global seeds, and is the same for the same arguments, machine and versions.
    It is kept in `cache_folder()` under a name made of arguments, code and versions.

    Args:
        images: float (count, height, width, channels) in [-1, 1], at least batch_size of them.
        labels: integers (count,) >= 0, of two classes or more; classes without an image are kept.
        features: how many; more of them, trained for longer, see finer differences.
        steps: training steps, of batch_size images each.
        seed: integer >= 0, of weights, order and dropout.

    Returns: `keras.Model` from images to the pair of features (batch, features) >= 0 and
    probabilities (batch, largest label + 1). `classify` runs it on many images.
    """
    images = validation.as_images(images, "images", least=2)
    labels = validation.as_labels(labels, len(images), 10**6)
    if labels.min() == labels.max():
        raise ValueError("Labels of one class only: data without labels train no classifier.")
    features = validation.as_integer(features, "features", low=1, high=10**4)
    steps = validation.as_integer(steps, "steps", low=1, high=10**6)
    batch_size = validation.as_integer(batch_size, "batch_size", low=1, high=len(images))
    seed = validation.as_integer(seed, "seed", low=0, high=2**30)

    model = _build(images.shape[1:], features, int(labels.max()) + 1, seed)
    path = cache_folder() / f"{_key(images, labels, features, steps, batch_size, seed)}.weights.h5"
    if not _load(model, path):
        _fit(model, images, labels, steps, batch_size, seed)
        _save(model, path)
    model.trainable = False
    return model


def classify(model, images, *, batch_size=500):
    """Features and probabilities of many images, float32 (count, features), (count, classes).

    model: from `digit_classifier`; images: float in [-1, 1], of the shape it was trained on.
    """
    images = validation.as_images(images, "images")
    batch_size = validation.as_integer(batch_size, "batch_size", low=1, high=10**6)
    if images.shape[1:] != model.input_shape[1:]:
        raise ValueError(f"images are {images.shape}; the classifier takes {model.input_shape}.")
    return tuple(model.predict(images, batch_size=batch_size, verbose=0))


def _build(image_shape, units, classes, seed):
    # Seeds and names are given, since Keras draws missing ones from Python's global generator and
    # counts missing names: what a notebook builds later must not depend on this model.
    def common(name):
        return {"dtype": "float32", "name": name}

    def weights(number):
        return {"kernel_initializer": keras.initializers.HeNormal(seed=5 * seed + number)}

    x = image = keras.Input(image_shape, dtype="float32", name="image")
    for i, filters in enumerate((16, 32, 64)):
        x = layers.Conv2D(filters, 3, padding="same", **weights(i), **common(f"conv_{i}"))(x)
        x = layers.MaxPooling2D(2, padding="same", **common(f"pool_{i}"))(x)
        x = layers.BatchNormalization(momentum=0.9, **common(f"norm_{i}"))(x)
        x = layers.ReLU(**common(f"relu_{i}"))(x)
    x = layers.Flatten(**common("flatten"))(x)
    x = layers.Dense(units, **weights(3), **common("dense"))(x)
    x = layers.BatchNormalization(momentum=0.9, **common("norm"))(x)  # or some would stay at 0
    features = layers.ReLU(**common("features"))(x)
    x = layers.Dropout(0.25, seed=5 * seed, **common("dropout"))(features)
    last = layers.Dense(classes, activation="softmax", **weights(4), **common("probabilities"))
    return keras.Model(image, [features, last(x)], name="classifier")


def _fit(model, images, labels, steps, batch_size, seed):
    schedule = optimizers.schedules.CosineDecay(2e-3, steps)
    optimizer = optimizers.Adam(schedule, name="classifier_adam")
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function
    def train_step(image, label):
        with tf.GradientTape() as tape:
            _, probabilities = model(image, training=True)
            loss = tf.reduce_mean(losses.sparse_categorical_crossentropy(label, probabilities))
        optimizer.apply(tape.gradient(loss, variables), variables)

    random, rows = np.random.default_rng(seed), np.empty(0, int)
    for _ in range(steps):
        if len(rows) < batch_size:
            rows = random.permutation(len(images))
        chosen, rows = rows[:batch_size], rows[batch_size:]
        train_step(tf.constant(images[chosen]), tf.constant(labels[chosen]))


def _key(images, labels, *settings):
    """A name for everything the weights depend on."""
    hashed = hashlib.sha256(Path(__file__).read_bytes())
    hashed.update(repr((keras.__version__, tf.__version__, settings, images.shape)).encode())
    for array in (images, labels):
        hashed.update(np.ascontiguousarray(array))
    return f"classifier-{hashed.hexdigest()[:20]}"


def _load(model, path):
    """Fill the model from a file; False where there is none, or not as it was written."""
    try:
        content = path.read_bytes()
        whole = content[-32:] == hashlib.sha256(content[:-32]).digest()
        if whole:
            model.load_weights(path)
        return whole
    except OSError:
        return False


def _save(model, path):
    """Write the weights whole or not at all; a folder that cannot be written costs only time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, _atomic.whole_file(path) as file:
            model.save_weights(Path(folder, path.name))
            content = Path(folder, path.name).read_bytes()
            # And their checksum, since Keras takes a flipped bit for a weight.
            file.write(content + hashlib.sha256(content).digest())
    except OSError as error:
        print(f"The classifier is not kept for the next time: {error}", file=sys.stderr)
