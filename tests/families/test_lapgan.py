"""Pyramids: taken apart and put together without loss; a level's networks, game and samples."""

import json

import helpers
import keras
import numpy as np
import pyramid_quality
import pytest
import tensorflow as tf
from by_hand import STEP, check_play, game_values, variables_of
from helpers import real_batch

from ganutils import data, latents, losses, networks
from ganutils.families import lapgan

SHAPE, BATCH = (8, 12, 1), 6


def uniform(shape, number=0):
    return np.random.default_rng(number).uniform(-1, 1, shape).astype(np.float32)


def on_grid(shape, bits, number=0):
    """Multiples of 2^-bits in [-1, 1], all equally likely."""
    steps = np.random.default_rng(number).integers(-(2**bits), 2**bits, shape, endpoint=True)
    return (steps / 2**bits).astype(np.float32)


def batch(number=0, shape=SHAPE):
    return real_batch(number, (BATCH, *shape))


# Apart and together.


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(16, 24, 1), (8, 8, 3)])
def test_images_on_the_grid_come_back_bit_for_bit(shape, levels):
    images = on_grid((200, *shape), 23)
    pyramid = lapgan.build_pyramid(images, levels)
    np.testing.assert_array_equal(lapgan.reconstruct(pyramid), images)


def test_they_do_so_where_black_and_white_meet():
    """Residuals near 2 have the fewest bits left."""
    edges = np.where(uniform((200, 8, 8, 1)) < 0, -1, 1) * (1 - on_grid((200, 8, 8, 1), 23) ** 8)
    images = (np.round(edges * 2**23) / 2**23).astype(np.float32)
    pyramid = lapgan.build_pyramid(images, 2)
    assert np.abs(pyramid[2]).max() > 1.5
    np.testing.assert_array_equal(lapgan.reconstruct(pyramid), images)


def test_any_other_images_come_back_but_for_one_rounding():
    images = uniform((500, 8, 8, 1))
    error = np.abs(lapgan.reconstruct(lapgan.build_pyramid(images, 3)) - images).max()
    assert 0 < error <= 2.0**-23


def test_a_pixel_of_8_bits_comes_back_within_its_last_bit():
    levels = (np.arange(256, dtype=np.float32) / 127.5 - 1).astype(np.float32)
    images = np.random.default_rng(0).choice(levels, (2000, 8, 8, 1))
    back = lapgan.reconstruct(lapgan.build_pyramid(images, 2)).numpy()
    assert 0 < np.abs(back - images).max() <= 2.0**-24
    np.testing.assert_array_equal(np.round((back + 1) * 127.5), np.round((images + 1) * 127.5))


def test_downsampling_is_the_mean_of_four_on_a_grid():
    images = uniform((5, 6, 8, 2))
    coarse = lapgan.downsample(images).numpy()
    means = images.astype(np.float64).reshape(5, 3, 2, 4, 2, 2).mean(axis=(2, 4))
    assert coarse.shape == (5, 3, 4, 2)
    np.testing.assert_allclose(coarse, means, rtol=0, atol=2.0**-17 + 2.0**-22)
    assert (np.round(coarse * 2**16) == coarse * 2**16).all()
    assert np.abs(coarse - means).max() > 2.0**-19


def matrix(length):
    """Linear interpolation at the centers of half pixels, the border repeated."""
    rows = np.zeros((2 * length, length))
    for i in range(2 * length):
        near, far = i // 2, min(max(i // 2 + (1 if i % 2 else -1), 0), length - 1)
        rows[i, near] += 0.75
        rows[i, far] += 0.25
    return rows


def test_upsampling_is_linear_interpolation_without_rounding():
    coarse = on_grid((4, 3, 5, 2), 16)
    fine = lapgan.upsample(coarse).numpy()
    expected = np.einsum("yi,xj,bijc->byxc", matrix(3), matrix(5), coarse.astype(np.float64))
    np.testing.assert_array_equal(fine, expected)
    assert fine.min() >= -1 and fine.max() <= 1


def test_a_pyramid_holds_what_its_definition_says():
    images = batch(shape=(8, 12, 3))
    coarse, low, high = lapgan.build_pyramid(images, 2)
    assert [t.shape[1:] for t in (coarse, low, high)] == [(2, 3, 3), (4, 6, 3), (8, 12, 3)]
    half = lapgan.downsample(images)
    np.testing.assert_array_equal(high, images - lapgan.upsample(half))
    np.testing.assert_array_equal(low, half - lapgan.upsample(lapgan.downsample(half)))
    np.testing.assert_array_equal(coarse, lapgan.downsample(half))


def test_even_images_have_no_residual():
    coarse, *residuals = lapgan.build_pyramid(np.full((2, 8, 8, 1), -0.5, np.float32), 2)
    np.testing.assert_array_equal(coarse, np.full((2, 2, 2, 1), -0.5))
    for residual in residuals:
        np.testing.assert_array_equal(residual, 0 * residual)


# Bad input.


@pytest.mark.parametrize(
    "shape, levels",
    [((28, 28, 1), 3), ((7, 7, 1), 1), ((30, 28, 1), 2), ((28, 30, 1), 2), ((28, 28, 1), 30)],
)
def test_sides_that_do_not_halve_evenly_are_refused(shape, levels):
    with pytest.raises(ValueError, match="do not halve evenly"):
        lapgan.build_pyramid(uniform((2, *shape)), levels)


def test_so_are_odd_ones_wherever_they_would_be_halved():
    with pytest.raises(ValueError, match="7x8"):
        lapgan.downsample(uniform((2, 7, 8, 1)))
    for shape in ((7, 8, 1), (8, 7, 1)):  # by Keras, which names the shapes
        with pytest.raises(ValueError, match="matching shapes"):
            lapgan.lapgan_generator(shape)


@pytest.mark.parametrize(
    "images, levels, named",
    [
        (np.zeros((2, 8, 8, 1)), 1, "float64"),
        (np.zeros((2, 8, 8, 1), np.uint8), 1, "uint8"),
        (np.zeros((2, 8, 8), np.float32), 1, r"\(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 1), np.float32), -1, "levels=-1"),
    ],
)
def test_other_bad_input_is_refused(images, levels, named):
    with pytest.raises(ValueError, match=named):
        lapgan.build_pyramid(images, levels)


# A level's networks.


@pytest.mark.parametrize("gain", [1.0, 300.0])
def test_coarse_image_and_residual_add_up_to_an_image(gain):
    generator = lapgan.lapgan_generator(SHAPE, widths=(4, 4, 4))
    generator.set_weights([gain * w for w in generator.get_weights()])
    low = batch()
    residual = generator([latents.sample_latents(BATCH, 96, seed=0, step=0), low])
    image = low + residual
    assert residual.shape == (BATCH, *SHAPE) and residual.dtype == tf.float32
    assert np.abs(image).max() <= 1
    assert (np.abs(image).max() == 1) == (gain > 1)


def test_both_noise_and_coarse_image_reach_the_residual():
    generator = lapgan.lapgan_generator(SHAPE, widths=(4, 4, 4))
    z, other = (latents.sample_latents(BATCH, 96, seed=0, step=step) for step in (0, 1))
    image = generator([z, batch()]) + batch()
    for changed in (generator([other, batch()]) + batch(), generator([z, batch(1)]) + batch(1)):
        assert np.abs(changed - image).max() > 1e-5


def test_the_last_convolution_sees_both_inputs_once_more():
    generator = lapgan.lapgan_generator((8, 8, 3), widths=(4, 5, 6))
    assert generator.weights[-1].shape == (3, 3, 6 + 1 + 3, 3)


def test_every_pixel_of_the_noise_plane_counts():
    generator = lapgan.lapgan_generator((8, 8, 1), widths=(4, 4, 4))
    z, low = latents.sample_latents(1, 64, seed=0, step=0), batch(shape=(8, 8, 1))[:1]
    with tf.GradientTape() as tape:
        tape.watch(z)
        spread = tf.reduce_sum(generator([z, low]) ** 2)
    assert (tape.gradient(spread, z).numpy() != 0).all()


def test_the_judge_sees_the_finished_image_beside_the_coarse_one():
    discriminator = lapgan.lapgan_discriminator(SHAPE, widths=(4, 4))
    residual, low = batch(0), batch(1)
    planes = tf.concat([residual + low, low], axis=-1)
    logits = discriminator([residual, low])
    assert logits.shape == (BATCH, 1)
    np.testing.assert_array_equal(logits, discriminator.layers[-1](planes))


@pytest.mark.parametrize("sees", [True, False])
def test_the_coarse_image_can_be_hidden_from_the_judge(sees):
    discriminator = lapgan.lapgan_discriminator(SHAPE, sees_coarse=sees, widths=(4, 4))
    logits, other = (discriminator([batch(0), batch(n)]) for n in (1, 2))
    assert (np.abs(logits - other).max() > 0) == sees
    assert np.abs(logits - discriminator([batch(3), batch(1)])).max() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_color_images_have_a_level_too(channels):
    shape = (8, 8, channels)
    generator = lapgan.lapgan_generator(shape, widths=(4, 4, 4))
    fine = lapgan.refine(generator, batch(shape=(4, 4, channels)), seed=0, step=0)
    assert fine.shape == (BATCH, *shape)
    discriminator = lapgan.lapgan_discriminator(shape, widths=(4, 4))
    assert discriminator([fine, fine]).shape == (BATCH, 1)


# A level's game.


def plain(x):
    """Instead of batch normalization, whose result depends on the mode."""
    return keras.layers.ReLU()(x)


def pair(sees_coarse):
    generator = lapgan.lapgan_generator(SHAPE, widths=(4, 4, 4), after_conv=plain)
    for weight in generator.weights:  # of a size at which gradients can be told from 0
        weight.assign(20 * weight)
    discriminator = lapgan.lapgan_discriminator(SHAPE, widths=(4, 4), sees_coarse=sees_coarse)
    for weight in discriminator.weights:
        weight.assign(10 * weight)
    return discriminator, generator


@pytest.mark.parametrize("sees", [True, False])
def test_the_game_is_its_definition(sees):
    discriminator, generator = pair(sees)
    coarse, residual = lapgan.build_pyramid(batch(), 1)
    low = lapgan.upsample(coarse)
    z = latents.sample_latents(BATCH, 96, seed=5, step=STEP)

    def define():
        fake_logits = discriminator([generator([z, low]), low])
        values = game_values(discriminator([residual, low]), fake_logits)
        return values["d_loss"], values["g_loss"], values

    play = lapgan.make_lapgan_play(
        discriminator, generator, objective=losses.non_saturating, seed=5
    )
    check_play(play, define, batch(), variables_of(discriminator), variables_of(generator))


# Samples.


def generators():
    coarsest = networks.dcgan_generator(5, (2, 3, 1), widths=(4,), scales=(1,))
    levels = [lapgan.lapgan_generator(s, widths=(4, 4, 4)) for s in ((4, 6, 1), SHAPE)]
    return [coarsest, *levels]


def test_samples_go_from_level_to_level():
    models = generators()
    images = lapgan.sample_pyramid(models, BATCH, seed=3, step=4)
    assert [x.shape for x in images] == [(BATCH, 2, 3, 1), (BATCH, 4, 6, 1), (BATCH, *SHAPE)]
    z = latents.sample_latents(BATCH, 5, seed=3, step=4)
    np.testing.assert_array_equal(images[0], models[0](z, training=False))
    for level in (1, 2):
        low = lapgan.upsample(images[level - 1])
        z = latents.sample_latents(BATCH, low.shape[1] * low.shape[2], seed=3 + level, step=4)
        by_hand = low + models[level]([z, low], training=False)
        np.testing.assert_array_equal(images[level], by_hand)


def test_a_level_draws_many_images_of_one_coarse_image_and_the_same_one_again():
    generator = generators()[1]
    one = tf.repeat(batch(shape=(2, 3, 1))[:1], 3, axis=0)
    drawn, again, other = (
        lapgan.refine(generator, one, seed=0, step=step).numpy() for step in (0, 0, 1)
    )
    np.testing.assert_array_equal(drawn, again)
    assert np.abs(drawn[0] - drawn[1]).max() > 0 and np.abs(drawn - other).max() > 0


# The script.


@pytest.mark.slow
@pytest.mark.parametrize("variant", pyramid_quality.VARIANTS)
def test_the_script_measures_a_row(variant, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    row, pictures = pyramid_quality.measure(
        variant,
        seed=0,
        steps=2,
        source="digits",
        seconds=1000,
        count=100,
        judge={"features": 64, "steps": 3},
    )
    json.dumps(row)
    levels = 1 if variant.endswith("dcgan") else 3
    assert [taken["steps"] for taken in row["levels"]] == [2] * levels
    assert row["seconds"] == sum(taken["seconds"] for taken in row["levels"]) > 0
    assert row["frechet_distance"] > row["frechet_distance_floor"] > 0
    assert {"from_7", "from_14", "blurred_7", "blurred_14"} <= set(row) or levels == 1
    assert pictures["samples"].shape == (64, 28, 28) and pictures["samples"].dtype == np.uint8


def test_the_script_redraws_what_it_made_coarse():
    """With levels that add nothing, redrawing is blurring, and more levels blur more."""
    images, _, _ = data.load_images("digits")
    images = images[:20]
    nothing = [
        keras.Model([z := keras.Input((s * s,)), low := keras.Input((s, s, 1))], [0 * low])
        for s in (14, 28)
    ]
    assert z is not None
    drawn = pyramid_quality.redraw(nothing, images, seed=0)
    np.testing.assert_array_equal(drawn, pyramid_quality.blur(images, 2))
    errors = [np.abs(pyramid_quality.blur(images, n) - images).mean() for n in range(3)]
    assert errors[0] == 0 < errors[1] < errors[2]


def test_the_script_ends_a_training_by_the_clock():
    images = uniform((64, *helpers.IMAGE_SHAPE))

    def make(shape, *, seed):
        return helpers.tiny_run(seed, average=True)

    average, taken = pyramid_quality.train_for(make, images, 0.2, steps=10**6, seed=0)
    assert average.output_shape == (None, *helpers.IMAGE_SHAPE)
    assert taken["seconds"] >= 0.2 and 0 < taken["steps"] < 10**6
