"""Translators: where skips and noise go, what a patch sees, the game, unpaired counts."""

import json

import keras
import numpy as np
import pix2pix_losses
import pytest
import tensorflow as tf
from by_hand import STEP, check_play, game_values, variables_of
from helpers import real_batch

from ganutils import latents, losses, networks
from ganutils.families import pix2pix

SHAPE, BATCH, UNITS = (8, 12, 1), 6, 5
SMALL = {"widths": (3, 4, 5), "units": UNITS}


def batch(number=0, shape=SHAPE):
    return real_batch(number, (BATCH, *shape))


def noise(step=0):
    return latents.sample_latents(BATCH, UNITS, seed=0, step=step)


def make(**changes):
    generator = pix2pix.translator(SHAPE, **(SMALL | changes))
    for weight in generator.trainable_variables:  # of a size at which changes can be told from 0
        weight.assign(weight * (6 if len(weight.shape) > 1 else 1))
    return generator


# The generator.


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("shape", [(8, 12, 1), (4, 4, 3)])
def test_an_image_of_the_same_shape_comes_out(shape, skips):
    generator = pix2pix.translator(shape, skips=skips, **SMALL)
    image = generator([batch(shape=shape), noise()])
    assert image.shape == (BATCH, *shape) and image.dtype == tf.float32
    assert -1 <= image.numpy().min() < image.numpy().max() <= 1


@pytest.mark.parametrize("join", [None, pix2pix.drop_half])
def test_both_image_and_noise_reach_the_answer(join):
    generator = make(join=join)
    answer = generator([batch(), noise()])
    for other in (generator([batch(1), noise()]), generator([batch(), noise(1)])):
        assert np.abs(other - answer).max() > 1e-5


@pytest.mark.parametrize("skips", [True, False])
def test_without_a_code_only_skips_know_the_image(skips):
    generator = make(skips=skips)
    kernel = next(w for w in generator.weights if w.shape == (2 * UNITS, 2 * 3 * 5))
    kernel.assign(np.zeros(kernel.shape))
    changed = np.abs(generator([batch(1), noise()]) - generator([batch(), noise()])).max()
    assert (changed > 1e-5) == skips


def test_dropping_half_keeps_the_mean():
    code = np.ones((4000, 3), np.float32)
    z = np.random.default_rng(0).normal(size=code.shape).astype(np.float32)
    kept = np.asarray(pix2pix.drop_half([code, z]))
    np.testing.assert_array_equal(kept, np.where(z > 0, 2, 0))
    assert kept.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("shape", [(10, 8, 1), (8, 10, 1), (7, 7, 1)])
def test_sides_that_do_not_halve_are_refused(shape):
    with pytest.raises(ValueError, match="must halve 2 times"):
        pix2pix.translator(shape, **SMALL)
    pix2pix.translator(shape, widths=(3,), units=UNITS)


@pytest.mark.parametrize("build", [pix2pix.translator, pix2pix.patch_discriminator])
def test_so_is_what_is_no_image_shape(build):
    with pytest.raises(ValueError, match="height, width, channels"):
        build((28, 28))


# The discriminator.


def test_the_receptive_field_of_the_papers_discriminator_is_70():
    assert pix2pix.receptive_field([4] * 5, [2, 2, 2, 1, 1]) == 70
    assert pix2pix.receptive_field([1, 1], [1, 1]) == 1
    assert pix2pix.receptive_field([3, 3, 3], [2, 2, 1]) == 15


@pytest.mark.parametrize("widths, side", [((4,), 7), ((4, 4), 15)])
@pytest.mark.parametrize("which", [0, 1])
def test_a_logit_depends_on_a_patch_of_both_images_and_on_no_other_pixel(widths, side, which):
    shape = (32, 32, 1)
    discriminator = pix2pix.patch_discriminator(shape, widths=widths)
    assert pix2pix.receptive_field([3] * (len(widths) + 1), [2] * len(widths) + [1]) == side
    pair = [tf.Variable(batch(k, shape)) for k in (0, 1)]
    with tf.GradientTape() as tape:
        logits = discriminator(pair)
        middle = logits.shape[1] // 2
        logit = tf.reduce_sum(logits[:, middle, middle])
    moved = np.argwhere(np.abs(tape.gradient(logit, pair[which])).max(axis=(0, 3)) > 0)
    assert (np.ptp(moved, axis=0) + 1).tolist() == [side, side]


# The game.


@pytest.mark.parametrize("weights", [(1.0, 100.0), (0.5, 0.25)])
def test_the_game_is_its_definition(weights, monkeypatch):
    # Instead of batch normalization, whose result depends on the mode.
    monkeypatch.setattr(pix2pix, "bn_relu", lambda x: keras.layers.ReLU()(x))
    generator, discriminator = make(), pix2pix.patch_discriminator(SHAPE, widths=(4, 4))
    for weight in discriminator.weights:
        weight.assign(10 * weight)
    given, truth = batch(0), batch(1)
    z = latents.sample_latents(BATCH, UNITS, seed=5, step=STEP)

    def define():
        fake = generator([given, z])
        values = game_values(discriminator([given, truth]), discriminator([given, fake]))
        l1 = keras.losses.MeanAbsoluteError()(truth, fake)
        total = weights[0] * values["g_loss"] + weights[1] * l1
        return values["d_loss"], total, values | {"l1": l1}

    play = pix2pix.make_pix2pix_play(
        discriminator, generator, objective=losses.non_saturating, weights=weights, seed=5
    )
    players = variables_of(discriminator), variables_of(generator)
    check_play(play, define, (given, truth), *players)


# Answers.


def inference_with(generator, inputs):
    """Answers of a twin whose moving averages are the statistics that NumPy finds in its inputs."""
    twin = keras.models.clone_model(generator)
    twin.set_weights(generator.get_weights())
    for layer in twin.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            maps = keras.Model(twin.inputs, layer.input)(inputs, training=False).numpy()
            rows = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
            layer.moving_mean.assign(rows.mean(axis=0))
            layer.moving_variance.assign(np.square(rows - rows.mean(axis=0)).mean(axis=0))
    return twin(inputs, training=False).numpy()


@pytest.mark.parametrize("sizes", [(BATCH,), (251, 250)])
def test_answers_have_the_statistics_of_what_is_drawn_together(sizes):
    generator, given = make(), real_batch(0, (sum(sizes), *SHAPE)).numpy()
    before = generator.get_weights()
    answers = pix2pix.translate(generator, given, seed=3)
    assert answers.dtype == np.float32 and answers.shape == given.shape
    start = 0
    for step, size in enumerate(sizes):
        part = slice(start, start := start + size)
        z = latents.sample_latents(size, UNITS, seed=3, step=step)
        wanted = inference_with(generator, [tf.constant(given[part]), z])
        np.testing.assert_allclose(answers[part], wanted, atol=1e-4)
    for first, now in zip(before, generator.get_weights(), strict=True):
        np.testing.assert_array_equal(now, first)
    moving = generator.predict([given, np.zeros((len(given), UNITS))], verbose=0)
    assert np.abs(moving - answers).max() > 0.1
    np.testing.assert_array_equal(pix2pix.translate(generator, given, seed=3), answers)
    assert np.abs(pix2pix.translate(generator, given, seed=4) - answers).max() > 1e-3


def test_nothing_is_left_of_the_code_of_a_single_image():
    generator = make(skips=False)
    alone = [pix2pix.translate(generator, batch(k).numpy()[:1], seed=k) for k in (0, 1)]
    np.testing.assert_allclose(alone[0], alone[1], atol=1e-6)
    assert np.ptp(pix2pix.translate(generator, batch(), seed=0), axis=0).max() > 0.01


def test_distance_and_spread_are_their_definitions():
    given, truth = batch(0).numpy(), batch(1).numpy()
    wanted = np.abs(given.astype(np.float64) - truth).sum() / given.size
    assert pix2pix.paired_l1(given, truth) == pytest.approx(wanted, rel=1e-5)
    assert pix2pix.answer_variance(np.stack([given, given])) == 0
    many = np.random.default_rng(0).normal(0, 0.3, (50, 20, 4, 4, 1))
    assert pix2pix.answer_variance(many) == pytest.approx(0.09, rel=0.03)
    half = np.stack([0 * given, 0 * given + 1])
    assert pix2pix.answer_variance(half) == pytest.approx(0.5)


def test_bad_input_is_refused():
    generator = make()
    with pytest.raises(ValueError, match="the generator takes"):
        pix2pix.translate(generator, batch(shape=(8, 12, 3)), seed=0)
    with pytest.raises(ValueError, match=r"must be in \[-1, 1\]"):
        pix2pix.translate(generator, 127.5 + 127.5 * batch().numpy(), seed=0)
    with pytest.raises(ValueError, match="are no pairs"):
        pix2pix.paired_l1(batch().numpy(), batch()[:3].numpy())
    for draws in (batch().numpy(), batch().numpy()[None]):
        with pytest.raises(ValueError, match="two or more sets"):
            pix2pix.answer_variance(draws)


def test_the_networks_are_the_houses():
    assert pix2pix.bn_relu is networks.bn_relu


# The script.


def test_a_coin_is_fair_and_its_answers_are_pairs():
    where = {"source": "digits", "split": "test", "first": 0, "count": 100}
    given, truth, labels = pix2pix_losses.pairs("coin", seed=0, **where)
    thin, thick = pix2pix_losses.both_answers(**where)
    is_thin = (truth == thin).all(axis=(1, 2, 3))
    assert (is_thin | (truth == thick).all(axis=(1, 2, 3))).all() and 30 < is_thin.sum() < 70
    assert len(given) == len(labels) == 100
    for task in ("edges", "broken"):
        asked, whole, _ = pix2pix_losses.pairs(task, seed=0, **where)
        np.testing.assert_array_equal(whole, given)
        assert np.abs(asked - whole).max() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("variant", pix2pix_losses.VARIANTS)
def test_the_script_measures_a_row(variant, monkeypatch, tmp_path):
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    judge = {"features": 64, "steps": 3}
    row, pictures = pix2pix_losses.measure(
        variant, seed=0, steps=2, source="digits", count=100, judge=judge
    )
    json.dumps(row)
    assert row["frechet"] > 0 < row["floor"] and 0 < row["l1"] < 2
    assert (row["true_spread"] > 0.01) == variant.startswith("coin")
    assert pictures["answer"].shape == (16, 28, 28) and pictures["answer"].dtype == np.uint8
