"""The classifier: does it learn, repeat, leave the rest of the run alone, and survive its cache?"""

import errno
import hashlib
import os
import random
import shutil
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from ganutils import classifier, data

SMALL = {"steps": 3, "batch_size": 16}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for each test."""
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits():
    return data.load_images("digits")[:2]


@pytest.fixture
def few(digits):
    return digits[0][:64], digits[1][:64]


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A classifier that knows the embedded digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANUTILS_CACHE", str(tmp_path_factory.mktemp("trained")))
        return classifier.digit_classifier(*digits, steps=100)


def digest(model):
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()


def quick_training(monkeypatch):
    """From now on training only adds 1 to each weight, and one entry to the list returned.

    What happens around the training can be tested so: a second one in a row would show."""
    calls = []

    def fit(model, *arguments):
        calls.append(arguments)
        model.set_weights([weight + 1 for weight in model.get_weights()])

    monkeypatch.setattr(classifier, "_fit", fit)
    return calls


def test_it_learns_the_embedded_digits(trained):
    images, labels, _ = data.load_images("digits", split="test")
    features, probabilities = classifier.classify(trained, images)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    assert features.shape == (297, 64) and features.dtype == np.float32
    assert probabilities.shape == (297, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (features >= 0).all() and (features.std(axis=0) > 0).all()


def test_classify_is_the_model_in_inference_mode_whatever_the_batch_size(trained, few):
    features, probabilities = (x.numpy() for x in trained(few[0], training=False))
    for batch_size in (64, 10, 1000):
        found = classifier.classify(trained, few[0], batch_size=batch_size)
        np.testing.assert_allclose(found[0], features, atol=1e-4)
        np.testing.assert_allclose(found[1], probabilities, atol=1e-5)
    hidden = trained.get_layer("probabilities")
    logits = features @ hidden.kernel.numpy() + hidden.bias.numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(few, cache):
    first = digest(classifier.digit_classifier(*few, **SMALL))
    shutil.rmtree(cache)
    keras.utils.set_random_seed(99)
    assert digest(classifier.digit_classifier(*few, **SMALL)) == first
    assert digest(classifier.digit_classifier(*few, **SMALL, seed=1)) != first
    assert len(list(cache.iterdir())) == 2


def test_training_draws_nothing_from_the_global_seeds(few):
    def draws():
        layer = keras.layers.Dense(3)  # takes its seed from Python's global generator
        layer.build((2, 2))
        dropped = keras.layers.Dropout(0.5)(tf.ones((1, 20)), training=True)
        numbers = [random.random(), np.random.random(), float(tf.random.normal(()))]
        return [*numbers, layer.kernel.numpy().tolist(), dropped.numpy().tolist(), layer.name[:5]]

    keras.utils.set_random_seed(5)
    expected = draws()
    keras.utils.set_random_seed(5)
    classifier.classify(classifier.digit_classifier(*few, **SMALL), few[0])
    assert draws() == expected


def test_it_computes_in_float32_under_any_dtype_policy(few, cache):
    expected = digest(classifier.digit_classifier(*few, **SMALL))
    shutil.rmtree(cache)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = classifier.digit_classifier(*few, **SMALL)
        assert {layer.compute_dtype for layer in model.layers[1:]} == {"float32"}
        assert digest(model) == expected
    finally:
        keras.config.set_dtype_policy(policy)


def test_other_shapes_and_any_number_of_classes():
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (40, 9, 6, 3)).astype(np.float32)
    labels = np.arange(40, dtype=np.uint8) % 4 // 3 * 6  # 0 and 6: seven classes, five empty
    features, probabilities = classifier.classify(
        classifier.digit_classifier(images, labels, **SMALL), images
    )
    assert features.shape == (40, 64) and probabilities.shape == (40, 7)


# The cache.


def test_a_second_call_loads_what_the_first_one_trained(few, cache, monkeypatch):
    first = classifier.digit_classifier(*few, **SMALL)
    calls = quick_training(monkeypatch)
    again = classifier.digit_classifier(few[0].copy(), few[1].astype(np.int64), **SMALL)
    assert not calls and digest(again) == digest(first)
    assert len(list(cache.iterdir())) == 1  # nothing half-written is left beside it
    for one, other in zip(*(classifier.classify(m, few[0]) for m in (first, again)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("part", ["images", "labels", "steps", "batch_size", "seed", "version"])
def test_whatever_the_weights_depend_on_is_in_the_name(few, cache, monkeypatch, part):
    calls = quick_training(monkeypatch)
    classifier.digit_classifier(*few, **SMALL, seed=0)
    images, labels, other = few[0].copy(), few[1].copy(), {**SMALL, "seed": 0}
    if part == "images":
        images[5, 3, 4, 0] += 0.001
    elif part == "labels":
        labels[5] = (labels[5] + 1) % 10
    elif part == "version":
        monkeypatch.setattr(classifier.keras, "__version__", "0")
    else:
        other[part] += 1
    classifier.digit_classifier(images, labels, **other)
    assert len(calls) == 2 and len(list(cache.iterdir())) == 2


def test_changed_code_is_another_name(few, cache, monkeypatch, tmp_path):
    quick_training(monkeypatch)
    classifier.digit_classifier(*few, **SMALL)
    changed = tmp_path / "classifier.py"
    changed.write_text("# changed")
    monkeypatch.setattr(classifier, "__file__", str(changed))
    classifier.digit_classifier(*few, **SMALL)
    assert len(list(cache.iterdir())) == 2


def cut_short(whole):
    return whole[: len(whole) // 2]


def flipped(whole):
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]


@pytest.mark.parametrize("damage", [cut_short, flipped, lambda whole: b"", lambda whole: b"<html>"])
def test_a_damaged_file_is_trained_anew_and_replaced(few, cache, monkeypatch, capfd, damage):
    calls = quick_training(monkeypatch)
    first = classifier.digit_classifier(*few, **SMALL)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert digest(classifier.digit_classifier(*few, **SMALL)) == digest(first)
    assert len(calls) == 2
    assert digest(classifier.digit_classifier(*few, **SMALL)) == digest(first)
    assert len(calls) == 2 and list(cache.iterdir()) == [file]
    assert capfd.readouterr().err == ""


def test_weights_of_another_shape_or_with_nan_are_not_taken(few, cache, monkeypatch):
    calls = quick_training(monkeypatch)
    first = classifier.digit_classifier(*few, **SMALL)
    (file,) = cache.iterdir()
    nan, wrong, missing = ([w.copy() for w in first.get_weights()] for _ in range(3))
    nan[0][0] = np.nan
    wrong[-1] = wrong[-1][:-1]
    for number, weights in enumerate([nan, wrong, missing[:-1]], start=2):
        np.savez(file, *weights)
        assert digest(classifier.digit_classifier(*few, **SMALL)) == digest(first)
        assert len(calls) == number


def test_a_folder_that_cannot_be_written_costs_one_line(few, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path / "file" / "cache"))
    quick_training(monkeypatch)
    model = classifier.digit_classifier(*few, **SMALL)
    assert classifier.classify(model, few[0])[1].shape == (64, 10)
    error = capsys.readouterr().err
    assert error.startswith("The classifier is not kept") and error.count("\n") == 1


def test_a_failed_write_leaves_no_file(few, cache, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    quick_training(monkeypatch)
    classifier.digit_classifier(*few, **SMALL)
    assert list(cache.iterdir()) == []
    assert "No space left" in capsys.readouterr().err


def test_the_folder_is_the_users_cache_unless_named(monkeypatch, tmp_path):
    home = os.path.expanduser("~")
    assert classifier.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("GANUTILS_CACHE", "~/here")
    assert str(classifier.cache_folder()) == os.path.join(home, "here")
    monkeypatch.delenv("GANUTILS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert classifier.cache_folder() == tmp_path / "ganutils"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    assert str(classifier.cache_folder()) == os.path.join(home, ".cache", "ganutils")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert str(classifier.cache_folder()) == os.path.join(home, "Library", "Caches", "ganutils")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert classifier.cache_folder() == tmp_path / "local" / "ganutils"


# What is refused.


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"images": lambda x: (x + 1) / 2}, ValueError, "images .* nothing below 0"),
        ({"images": lambda x: (x + 1) * 127.5}, ValueError, "images must be in"),
        ({"images": lambda x: x[..., 0]}, ValueError, "images must have the shape"),
        ({"images": lambda x: x * np.float32(np.nan)}, ValueError, "images holds NaN"),
        ({"labels": lambda y: y[:-1]}, ValueError, r"labels must have the shape \(64,\)"),
        ({"labels": lambda y: y.astype(float)}, TypeError, "labels must be integers"),
        ({"labels": lambda y: y * 0}, ValueError, "two classes or more"),
        ({"labels": lambda y: y - 1}, ValueError, "none negative; found -1"),
        ({"steps": lambda _: 0}, ValueError, "steps must be in 1"),
        ({"batch_size": lambda _: 65}, ValueError, r"batch_size must be in 1..64"),
        ({"seed": lambda _: 0.5}, TypeError, "seed must be an integer"),
    ],
)
def test_unfit_training_data_are_refused(few, cache, change, error, words):
    given = {"images": few[0], "labels": few[1], **SMALL, "seed": 0}
    for name, alter in change.items():
        given[name] = alter(given[name])
    with pytest.raises(error, match=words):
        classifier.digit_classifier(given.pop("images"), given.pop("labels"), **given)
    assert not cache.exists()


def test_classify_refuses_unfit_images(trained, few):
    for images, words in [
        ((few[0] + 1) / 2, "nothing below 0"),
        (few[0][:, 1:], r"images must have the shape \(count, 28, 28, 1\)"),
        (few[0][:0], "0 rows"),
    ]:
        with pytest.raises(ValueError, match=words):
            classifier.classify(trained, images)
    with pytest.raises(ValueError, match="batch_size must be in 1"):
        classifier.classify(trained, few[0], batch_size=0)
