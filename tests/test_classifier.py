"""The classifier: does it learn, repeat, leave the rest of the run alone, and survive its cache?"""

import errno
import hashlib
import os
import random
import sys
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from ganutils import classifier, data

SMALL = {"steps": 3, "batch_size": 16}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (40, 9, 6, 3)).astype(np.float32)
LABELS = np.arange(40, dtype=np.uint8) % 4 // 3 * 6  # 0 and 6: seven classes, five of them empty


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for each test."""
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def calls(monkeypatch):
    """Training only adds 1 to each weight, and one entry to this list: a second one would show."""
    calls = []

    def fit(model, *arguments):
        calls.append(arguments)
        model.set_weights([weight + 1 for weight in model.get_weights()])

    monkeypatch.setattr(classifier, "_fit", fit)
    return calls


def judge(images=IMAGES, labels=LABELS, **settings):
    return classifier.digit_classifier(images, labels, **{**SMALL, **settings})


def digest(model):
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()


# What it learns, and of what it is a function.


def test_it_learns_the_embedded_digits_and_classifies_in_inference_mode():
    model = classifier.digit_classifier(*data.load_images("digits")[:2], steps=60, batch_size=64)
    images, labels, _ = data.load_images("digits", split="test")
    features, probabilities = classifier.classify(model, images)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    assert features.shape == (297, 64) and features.dtype == np.float32
    assert probabilities.shape == (297, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (features >= 0).all() and (features.std(axis=0) > 0).all()
    for batch_size in (100, 1000):
        found = classifier.classify(model, images, batch_size=batch_size)
        for part, expected in zip(found, model(images, training=False), strict=True):
            np.testing.assert_allclose(part, expected, atol=1e-4)
    last = model.get_layer("probabilities")
    exponentials = np.exp(features @ last.kernel.numpy() + last.bias.numpy())
    shares = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, shares, atol=1e-4)


def test_cold_or_warm_it_neither_uses_nor_moves_a_global_generator_or_a_count_of_names():
    def afterwards(act):
        keras.backend.clear_session()
        keras.utils.set_random_seed(5)
        act()
        network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        dropped = keras.layers.Dropout(0.5)(tf.ones((1, 20)), training=True)
        names = [layer.name for layer in network.layers], keras.optimizers.Adam().name
        drawn = random.random(), np.random.random(), float(tf.random.normal(()))
        return digest(network), dropped.numpy().tolist(), names, drawn

    def run():
        models.append(judge())
        shown.append(classifier.classify(models[-1], IMAGES))

    models, shown, untouched = [], [], afterwards(lambda: None)
    assert afterwards(run) == untouched and afterwards(run) == untouched
    assert digest(models[0]) == digest(models[1])
    for one, other in zip(*shown, strict=True):
        np.testing.assert_array_equal(one, other)
    assert shown[0][0].shape == (40, 64) and shown[0][1].shape == (40, 7)


def test_the_same_seed_trains_the_same_weights_under_any_dtype_policy(monkeypatch, tmp_path):
    def train(number, **settings):
        monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path / f"cache{number}"))
        keras.utils.set_random_seed(number)
        return judge(**settings)

    tf.config.run_functions_eagerly(True)
    try:
        first, other = digest(train(0)), digest(train(1, seed=1))
        keras.config.set_dtype_policy("mixed_bfloat16")
        again = train(2)
    finally:
        keras.config.set_dtype_policy("float32")
        tf.config.run_functions_eagerly(False)
    assert digest(again) == first != other
    assert {layer.compute_dtype for layer in again.layers[1:]} == {"float32"}


# The cache.


def test_a_second_call_loads_what_the_first_one_trained(cache, calls):
    first = judge()
    again = judge(IMAGES.copy(), LABELS.astype(np.int64))
    assert len(calls) == 1 and digest(again) == digest(first)
    assert first.trainable is again.trainable is False
    (file,) = cache.iterdir()  # nothing half-written is left beside it
    assert file.name.endswith(".weights.h5")
    again.set_weights([0 * weight for weight in again.get_weights()])
    again.load_weights(file)  # Keras' own format
    assert digest(again) == digest(first)


def test_whatever_the_weights_depend_on_is_in_the_name(cache, calls, monkeypatch, tmp_path):
    images, labels = IMAGES.copy(), LABELS.copy()
    images[5, 3, 4, 0] += 0.001
    labels[5] = 3
    judge()
    for number, settings in enumerate(
        [{"images": images}, {"labels": labels}, {"steps": 4}, {"batch_size": 17}, {"seed": 1}], 2
    ):
        judge(**settings)
        assert len(calls) == len(list(cache.iterdir())) == number
    monkeypatch.setattr(classifier.keras, "__version__", "0")
    judge()
    (tmp_path / "classifier.py").write_text("# changed")
    monkeypatch.setattr(classifier, "__file__", str(tmp_path / "classifier.py"))
    judge()
    assert len(calls) == len(list(cache.iterdir())) == 8


def flipped(whole):
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


def test_a_damaged_file_is_trained_anew_and_replaced(cache, calls, capfd):
    first = digest(judge())
    (file,) = cache.iterdir()
    content = file.read_bytes()
    for number, damaged in enumerate(
        [content[: len(content) // 2], content[:-32], flipped(content), b"", b"<html>"], 2
    ):
        file.write_bytes(damaged)
        assert digest(judge()) == first and len(calls) == number
        assert file.read_bytes() == content and list(cache.iterdir()) == [file]
    assert capfd.readouterr().err == ""


def no_space(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("owner, name", [(os, "fsync"), (tempfile, "TemporaryDirectory")])
def test_a_failed_write_leaves_no_file(cache, calls, monkeypatch, capsys, owner, name):
    monkeypatch.setattr(owner, name, no_space)
    judge()
    assert list(cache.iterdir()) == [] and "No space left" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_one_line(calls, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path / "file" / "cache"))
    assert judge().built
    error = capsys.readouterr().err
    assert "not kept" in error and error.count("\n") == 1


def test_the_folder_is_the_users_cache_unless_named(monkeypatch, tmp_path):
    home = os.path.expanduser("~")
    assert classifier.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("GANUTILS_CACHE", "~/here")
    assert str(classifier.cache_folder()) == os.path.join(home, "here")
    monkeypatch.delenv("GANUTILS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert classifier.cache_folder() == tmp_path / "ganutils"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, place in [
        ("linux", os.path.join(home, ".cache")),
        ("darwin", os.path.join(home, "Library", "Caches")),
        ("win32", str(tmp_path / "local")),
    ]:
        monkeypatch.setattr(sys, "platform", platform)
        assert str(classifier.cache_folder()) == os.path.join(place, "ganutils")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME, nobody by that number
    assert str(classifier.cache_folder()) == os.path.join(tempfile.gettempdir(), "ganutils")


# What is refused.


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"images": (IMAGES + 1) / 2}, ValueError, "images .*nothing below 0"),
        ({"images": (IMAGES + 1) * 127.5}, ValueError, r"images .*\[-1, 1\]"),
        ({"images": IMAGES[..., 0]}, ValueError, "images .*shape"),
        ({"images": IMAGES * np.float32(np.nan)}, ValueError, "images .*NaN"),
        ({"labels": LABELS[:-1]}, ValueError, r"labels .*shape \(40,\)"),
        ({"labels": LABELS.astype(float)}, TypeError, "labels .*integers"),
        ({"labels": LABELS * 0}, ValueError, "one class"),
        ({"labels": LABELS.astype(int) - 1}, ValueError, "labels .*found -1"),
        ({"steps": 0}, ValueError, "steps"),
        ({"batch_size": 41}, ValueError, "batch_size .*1..40"),
        ({"seed": 0.5}, TypeError, "seed .*integer"),
    ],
)
def test_unfit_training_data_are_refused(cache, change, error, words):
    with pytest.raises(error, match=words):
        judge(**change)
    assert not cache.exists()


def test_classify_refuses_unfit_images(calls):
    model = judge()
    for images, batch_size, words in [
        ((IMAGES + 1) / 2, 500, "nothing below 0"),
        (IMAGES[:, 1:], 500, "images .*9, 6, 3"),
        (IMAGES[:0], 500, "0 rows"),
        (IMAGES, 0, "batch_size"),
    ]:
        with pytest.raises(ValueError, match=words):
            classifier.classify(model, images, batch_size=batch_size)
