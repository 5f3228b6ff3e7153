"""Codes: their distribution, what is known of them, the game against its definition."""

import itertools
import math
from types import SimpleNamespace

import code_error
import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from by_hand import STEP, check_play, game_values, variables_of
from helpers import real_batch, step_at

from ganutils import data, latents, losses, networks
from ganutils.families import infogan

CLASSES, CONTINUOUS, LATENT_DIM, SHAPE, BATCH = 4, 2, 3, (8, 8, 1), 8


def images():
    return real_batch(shape=(BATCH, *SHAPE))


# The codes.


def test_codes_are_a_function_of_seed_and_step_and_uniform():
    labels, values = infogan.sample_codes(20_000, 10, 2, seed=5, step=7)
    tf.random.normal((3,))
    again = infogan.sample_codes(20_000, 10, 2, seed=5, step=tf.constant(7))
    np.testing.assert_array_equal(labels, again[0])
    np.testing.assert_array_equal(values, again[1])
    shares = np.bincount(labels, minlength=10) / 20_000
    np.testing.assert_allclose(shares, 0.1, atol=5 * (0.09 / 20_000) ** 0.5)
    # Five standard errors of mean and second moment; uniform on [-1, 1] has E u^4 = 1/5.
    values = values.numpy().astype(np.float64)
    assert values.shape == (20_000, 2) and abs(values).max() <= 1 and abs(values).max() > 0.999
    assert (abs(values.mean(axis=0)) < 5 * (1 / 3 / 20_000) ** 0.5).all()
    assert (abs((values**2).mean(axis=0) - 1 / 3) < 5 * ((1 / 5 - 1 / 9) / 20_000) ** 0.5).all()


def test_neither_codes_nor_latents_of_one_step_tell_anything_of_the_others():
    labels, values = infogan.sample_codes(20_000, 10, 2, seed=5, step=7)
    z = latents.sample_latents(20_000, 2, seed=5, step=7)
    other = infogan.sample_codes(20_000, 10, 2, seed=5, step=8)
    table = [labels, *tf.transpose(values), *tf.transpose(z), other[0], *tf.transpose(other[1])]
    correlations = np.corrcoef(np.array(table, np.float64)) - np.eye(len(table))
    assert abs(correlations).max() < 5 / 20_000**0.5


def test_latents_one_hot_category_and_values_stand_side_by_side():
    z, values = tf.constant([[5.0, 6.0], [7.0, 8.0]]), tf.constant([[0.5], [-0.25]])
    expected = [[5, 6, 0, 0, 1, 0.5], [7, 8, 1, 0, 0, -0.25]]
    np.testing.assert_array_equal(infogan.join_codes(z, [2, 0], values, 3), expected)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_category_out_of_range_is_refused(label):
    with pytest.raises(tf.errors.InvalidArgumentError, match="0 to 2"):
        infogan.join_codes(tf.zeros((1, 2)), [label], tf.zeros((1, 2)), 3)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="continuous"):
        infogan.join_codes(tf.zeros((2, 2)), [0, 1], tf.zeros(2), 3)


# The bounds.


def test_a_category_is_worth_nothing_to_a_guess_and_log_k_to_one_who_knows():
    labels = tf.constant([0, 3, 1, 2])
    assert float(infogan.categorical_bound(tf.zeros((4, 4)), labels)) == pytest.approx(0, abs=1e-6)
    sure = 100 * tf.one_hot(labels, 4)
    assert float(infogan.categorical_bound(sure, labels)) == pytest.approx(math.log(4))
    assert float(infogan.categorical_bound(-sure, labels)) < -50


def test_the_categorical_bound_is_the_information_where_q_is_the_posterior_and_below_elsewhere():
    # A channel in place of G: four categories, three pictures; the joint probabilities are known.
    channel = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.0, 0.1, 0.9]])
    joint = channel / 4
    shares = joint.sum(axis=0)
    information = sum(
        joint[c, x] * math.log(joint[c, x] / (shares[x] / 4))
        for c, x in itertools.product(range(4), range(3))
        if joint[c, x]
    )
    # Every pair as often as it is likely: 40 draws in all.
    pairs = [(c, x) for c, x in np.ndindex(4, 3) for _ in range(round(40 * joint[c, x]))]
    labels, pictures = np.transpose(pairs)
    posterior = np.log(np.maximum(joint / shares, 1e-30)).T.astype(np.float32)
    bound = float(infogan.categorical_bound(tf.constant(posterior[pictures]), labels))
    assert bound == pytest.approx(information, abs=1e-5)
    noise = np.random.default_rng(1).normal(size=(20, *posterior.shape)).astype(np.float32)
    others = [infogan.categorical_bound(posterior[pictures] + n[pictures], labels) for n in noise]
    assert max(float(other) for other in others) < information


def test_the_continuous_bound_is_that_of_scipys_normal():
    means, values = np.random.default_rng(0).uniform(-1, 1, (2, 50, 3)).astype(np.float32)
    expected = scipy.stats.norm(means, 0.3).logpdf(values).sum(axis=1).mean() + 3 * math.log(2)
    bound = float(infogan.continuous_bound(means, values, sigma=0.3))
    assert bound == pytest.approx(expected, 1e-4)
    best = float(infogan.continuous_bound(values, values, sigma=0.3))
    assert best == pytest.approx(3 * math.log(2 / (0.3 * math.sqrt(2 * math.pi))), 1e-5)


def test_a_deviation_that_is_not_above_0_is_refused():
    with pytest.raises(ValueError, match="sigma=0"):
        infogan.continuous_bound(tf.zeros((2, 1)), tf.zeros((2, 1)), sigma=0)


# The game.


def players():
    """A tiny discriminator with Q's heads, and a tiny generator."""
    network = networks.mlp_discriminator(SHAPE, widths=(6,))
    discriminator = networks.with_heads(network, 1, CLASSES, CONTINUOUS)
    generator = networks.mlp_generator(LATENT_DIM + CLASSES + CONTINUOUS, SHAPE, widths=(5,))
    return discriminator, generator


def make_play(discriminator, generator, **changes):
    settings = {
        "objective": losses.non_saturating,
        "latent_dim": LATENT_DIM,
        "sigma": 0.5,
        "seed": 5,
    }
    return infogan.make_infogan_play(discriminator, generator, **settings | changes)


@pytest.mark.parametrize("told", [True, False])
def test_the_game_is_its_definition(told):
    discriminator, generator = players()
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=STEP)
    labels, values = infogan.sample_codes(BATCH, CLASSES, CONTINUOUS, seed=5, step=STEP)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def define():
        fake = generator(tf.concat([z, tf.one_hot(labels, CLASSES), values], axis=1))
        fake_logits, label_logits, means = discriminator(fake)
        q_loss = cross_entropy(labels, label_logits)
        square = tf.reduce_sum((values - means) ** 2, axis=1) / (2 * 0.5**2)
        spread = tf.reduce_mean(square) + CONTINUOUS * math.log(0.5 * math.sqrt(2 * math.pi) / 2)
        report = game_values(discriminator(images())[0], fake_logits)
        information = -1.5 * q_loss - 0.5 * spread + 1.5 * math.log(CLASSES)
        report |= {"category": math.log(CLASSES) - q_loss, "continuous": -spread}
        g_total = report["g_loss"] - (information if told else 0)
        return report["d_loss"] - information, g_total, report

    play = make_play(discriminator, generator, weights=(1.5, 0.5), g_share=float(told))
    owned = variables_of(discriminator), variables_of(generator)
    check_play(play, define, images(), *owned)


def test_a_generator_that_does_not_fit_and_a_weight_below_0_are_refused():
    with pytest.raises(ValueError, match="9.*13"):
        make_play(*players(), latent_dim=7)(images(), step_at(0))
    with pytest.raises(ValueError, match="weights"):
        make_play(*players(), weights=(1, -1))


# The benchmark.


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "both"])
def test_the_benchmark_measures_a_short_run(variant, monkeypatch):
    for name, value in {"PARTS": 2, "FEW": 100, "SAMPLES": 200, "CHUNK": 100}.items():
        monkeypatch.setattr(code_error, name, value)
    monkeypatch.setattr(code_error.course, "EYE", {"features": 8, "steps": 20})
    row, drawn = code_error.measure(variant, seed=1, steps=20, source="digits")
    table, (_, labels, _) = np.array(row["table"]), data.load_images("digits", split="test")
    np.testing.assert_array_equal(table.sum(axis=1), np.bincount(labels))
    right = table[row["matched"], range(10)].sum()
    assert row["test_error"] == pytest.approx(1 - right / len(labels))
    assert [point["step"] for point in row["along"]] == [10, 20]
    assert len(row["bounds"]["category"]) == 20 and max(row["bounds"]["category"]) <= math.log(10)
    assert all(-1 <= value <= 1 for pair in row["effects"].values() for value in pair)
    assert row["frechet"] > max(row["floors"]) and 0 <= row["precision"] <= 1
    rows = {"category": 100, "value_0": 90, "value_1": 90}
    assert {key: value.shape for key, value in drawn.items()} == {
        key: (count, 28, 28) for key, count in rows.items()
    }


def test_within_a_row_only_the_latents_differ():
    def drawn(inputs, **_):  # pixels: a latent times 2, the category, a value
        return np.stack([2 * inputs[:, 0], *np.transpose(inputs[:, -3:])], axis=1)

    found = code_error.within_row(SimpleNamespace(predict=drawn), count=4000)
    assert found == pytest.approx(4 / 4, rel=0.15)  # one of four pixels varies, with variance 4
