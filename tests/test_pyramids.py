"""Pyramids: taken apart and put together without loss; a level's networks, step and samples."""

import json

import keras
import numpy as np
import pyramid_quality
import pytest
import tensorflow as tf

from ganutils import data, latents, losses, pyramids, runtime

SHAPE, BATCH = (8, 12, 1), 6


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


def uniform(shape, number=0):
    return np.random.default_rng(number).uniform(-1, 1, shape).astype(np.float32)


def on_grid(shape, bits, number=0):
    """Multiples of 2^-bits in [-1, 1], all equally likely."""
    steps = np.random.default_rng(number).integers(-(2**bits), 2**bits, shape, endpoint=True)
    return (steps / 2**bits).astype(np.float32)


def batch(number=0, shape=SHAPE):
    return tf.constant(uniform((BATCH, *shape), number))


def weights(model):
    return [v.numpy() for v in model.variables]


def step_at(number):
    return tf.Variable(number, dtype=tf.int64)


# Apart and together.


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(16, 24, 1), (8, 8, 3)])
def test_images_on_the_grid_come_back_bit_for_bit(shape, levels):
    images = on_grid((200, *shape), 23)
    pyramid = pyramids.build_pyramid(images, levels)
    np.testing.assert_array_equal(pyramids.reconstruct(pyramid), images)


def test_they_do_so_where_black_and_white_meet():
    """Residuals near 2 have the fewest bits left."""
    edges = np.where(uniform((200, 8, 8, 1)) < 0, -1, 1) * (1 - on_grid((200, 8, 8, 1), 23) ** 8)
    images = (np.round(edges * 2**23) / 2**23).astype(np.float32)
    pyramid = pyramids.build_pyramid(images, 2)
    assert np.abs(pyramid[2]).max() > 1.5
    np.testing.assert_array_equal(pyramids.reconstruct(pyramid), images)


def test_any_other_images_come_back_but_for_one_rounding():
    images = uniform((500, 8, 8, 1))
    error = np.abs(pyramids.reconstruct(pyramids.build_pyramid(images, 3)) - images).max()
    assert 0 < error <= 2.0**-23


def test_a_pixel_of_8_bits_comes_back_within_its_last_bit():
    levels = (np.arange(256, dtype=np.float32) / 127.5 - 1).astype(np.float32)
    images = np.random.default_rng(0).choice(levels, (2000, 8, 8, 1))
    back = pyramids.reconstruct(pyramids.build_pyramid(images, 2)).numpy()
    assert 0 < np.abs(back - images).max() <= 2.0**-24
    np.testing.assert_array_equal(np.round((back + 1) * 127.5), np.round((images + 1) * 127.5))


def test_downsampling_is_the_mean_of_four_on_a_grid():
    images = uniform((5, 6, 8, 2))
    coarse = pyramids.downsample(images).numpy()
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
    fine = pyramids.upsample(coarse).numpy()
    expected = np.einsum("yi,xj,bijc->byxc", matrix(3), matrix(5), coarse.astype(np.float64))
    np.testing.assert_array_equal(fine, expected)
    assert fine.min() >= -1 and fine.max() <= 1


def test_a_pyramid_holds_what_its_definition_says():
    images = batch(shape=(8, 12, 3))
    coarse, low, high = pyramids.build_pyramid(images, 2)
    assert [t.shape[1:] for t in (coarse, low, high)] == [(2, 3, 3), (4, 6, 3), (8, 12, 3)]
    half = pyramids.downsample(images)
    np.testing.assert_array_equal(high, images - pyramids.upsample(half))
    np.testing.assert_array_equal(low, half - pyramids.upsample(pyramids.downsample(half)))
    np.testing.assert_array_equal(coarse, pyramids.downsample(half))


def test_even_images_have_no_residual():
    coarse, *residuals = pyramids.build_pyramid(np.full((2, 8, 8, 1), -0.5, np.float32), 2)
    np.testing.assert_array_equal(coarse, np.full((2, 2, 2, 1), -0.5))
    for residual in residuals:
        np.testing.assert_array_equal(residual, 0 * residual)


# Bad input.


@pytest.mark.parametrize(
    "shape, levels",
    [((28, 28, 1), 3), ((7, 7, 1), 1), ((30, 28, 1), 2), ((28, 30, 1), 2), ((28, 28, 1), 30)],
)
def test_sides_that_do_not_halve_evenly_are_refused(shape, levels):
    images = uniform((2, *shape))
    with pytest.raises(ValueError, match=rf"{shape[0]}x{shape[1]} do not halve evenly {levels} "):
        pyramids.build_pyramid(images, levels)


def test_so_are_odd_ones_wherever_they_would_be_halved():
    for refuse in (
        lambda: pyramids.downsample(uniform((2, 7, 8, 1))),
        lambda: pyramids.pyramid_generator((7, 8, 1)),
        lambda: pyramids.pyramid_generator((8, 7, 1)),
    ):
        with pytest.raises(ValueError, match="multiples of 2"):
            refuse()


@pytest.mark.parametrize(
    "images, levels, error, match",
    [
        (np.zeros((2, 8, 8, 1)), 1, TypeError, "float32 in .* not float64"),
        (np.zeros((2, 8, 8, 1), np.uint8), 1, TypeError, "not uint8"),
        (np.zeros((2, 8, 8), np.float32), 1, ValueError, r"not \(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 1), np.float32), -1, ValueError, "levels must be in 0..30"),
        (np.zeros((2, 8, 8, 1), np.float32), 1.0, TypeError, "levels must be an integer"),
    ],
)
def test_other_bad_input_is_refused(images, levels, error, match):
    with pytest.raises(error, match=match):
        pyramids.build_pyramid(images, levels)


# A level's networks.


@pytest.mark.parametrize("gain", [1.0, 300.0])
def test_coarse_image_and_residual_add_up_to_an_image(gain):
    generator = pyramids.pyramid_generator(SHAPE, widths=(4, 4, 4))
    generator.set_weights([gain * w for w in generator.get_weights()])
    low = batch()
    residual = generator([latents.sample_latents(BATCH, 96, seed=0, step=0), low])
    image = low + residual
    assert residual.shape == (BATCH, *SHAPE) and residual.dtype == tf.float32
    assert np.abs(image).max() <= 1
    assert (np.abs(image).max() == 1) == (gain > 1)


def test_both_noise_and_coarse_image_reach_the_residual():
    generator = pyramids.pyramid_generator(SHAPE, widths=(4, 4, 4))
    z, other = (latents.sample_latents(BATCH, 96, seed=0, step=step) for step in (0, 1))
    image = generator([z, batch()]) + batch()
    for changed in (generator([other, batch()]) + batch(), generator([z, batch(1)]) + batch(1)):
        assert np.abs(changed - image).max() > 1e-5


def test_the_last_convolution_sees_both_inputs_once_more():
    generator = pyramids.pyramid_generator((8, 8, 3), widths=(4, 5, 6))
    assert generator.weights[-1].shape == (3, 3, 6 + 1 + 3, 3)


def test_every_pixel_of_the_noise_plane_counts():
    generator = pyramids.pyramid_generator((8, 8, 1), widths=(4, 4, 4))
    z, low = latents.sample_latents(1, 64, seed=0, step=0), batch(shape=(8, 8, 1))[:1]
    with tf.GradientTape() as tape:
        tape.watch(z)
        spread = tf.reduce_sum(generator([z, low]) ** 2)
    assert (tape.gradient(spread, z).numpy() != 0).all()


def test_the_judge_sees_the_finished_image_beside_the_coarse_one():
    discriminator = pyramids.pyramid_discriminator(SHAPE, widths=(4, 4))
    residual, low = batch(0), batch(1)
    planes = tf.concat([residual + low, low], axis=-1)
    logits = discriminator([residual, low])
    assert logits.shape == (BATCH, 1)
    np.testing.assert_array_equal(logits, discriminator.layers[-1](planes))


@pytest.mark.parametrize("sees", [True, False])
def test_the_coarse_image_can_be_hidden_from_the_judge(sees):
    discriminator = pyramids.pyramid_discriminator(SHAPE, sees_coarse=sees, widths=(4, 4))
    logits, other = (discriminator([batch(0), batch(n)]) for n in (1, 2))
    assert (np.abs(logits - other).max() > 0) == sees
    assert np.abs(logits - discriminator([batch(3), batch(1)])).max() > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_color_images_have_a_level_too(channels):
    shape = (8, 8, channels)
    generator = pyramids.pyramid_generator(shape, widths=(4, 4, 4))
    fine = pyramids.refine(generator, batch(shape=(4, 4, channels)), seed=0, step=0)
    assert fine.shape == (BATCH, *shape)
    discriminator = pyramids.pyramid_discriminator(shape, widths=(4, 4))
    assert discriminator([fine, fine]).shape == (BATCH, 1)


# A level's step.


def plain(x):
    """Instead of batch normalization, whose result depends on the mode."""
    return keras.layers.ReLU()(x)


def pair():
    generator = pyramids.pyramid_generator(SHAPE, widths=(4, 4, 4), after_conv=plain)
    for weight in generator.weights:  # of a size at which gradients can be told from 0
        weight.assign(20 * weight)
    discriminator = pyramids.pyramid_discriminator(SHAPE, widths=(4, 4))
    for weight in discriminator.weights:
        weight.assign(10 * weight)
    return discriminator, generator


def make_step(discriminator, generator, d_rate=0.1, g_rate=0.1):
    return pyramids.make_pyramid_step(
        discriminator,
        generator,
        d_optimizer=keras.optimizers.SGD(d_rate),
        g_optimizer=keras.optimizers.SGD(g_rate),
        objective=losses.non_saturating,
        seed=5,
    )


def test_a_step_moves_both_networks_along_their_gradients_at_one_point():
    discriminator, generator = pair()
    real, number = batch(), 7
    coarse, residual = pyramids.build_pyramid(real, 1)
    low = pyramids.upsample(coarse)
    z = latents.sample_latents(BATCH, 96, seed=5, step=number)
    bce = keras.losses.BinaryCrossentropy(from_logits=True)  # Keras' formula, not the course's
    ones = tf.ones((BATCH, 1))
    with tf.GradientTape(persistent=True) as tape:
        fake_logits = discriminator([generator([z, low]), low])
        real_logits = discriminator([residual, low])
        d_loss = bce(ones, real_logits) + bce(0 * ones, fake_logits)
        g_loss = bce(ones, fake_logits)
    expected = []
    for model, loss in ((discriminator, d_loss), (generator, g_loss)):
        slopes = tape.gradient(loss, model.trainable_variables)
        expected += [w - 0.1 * g for w, g in zip(weights(model), slopes, strict=True)]
    before = weights(discriminator) + weights(generator)

    values = make_step(discriminator, generator)(real, step_at(number))

    after = weights(discriminator) + weights(generator)
    for new, right, old in zip(after, expected, before, strict=True):
        np.testing.assert_allclose(new, right, atol=1e-6)
        assert np.abs(new - old).max() > 1e-5
    right = [d_loss, g_loss, *(tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))]
    np.testing.assert_allclose(
        [values[name] for name in ("d_loss", "g_loss", "d_real", "d_fake")], right, rtol=1e-5
    )


@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.0, 0.1)], ids=["D alone", "G alone"])
def test_an_update_of_one_network_leaves_the_other_bit_identical(rates):
    models = pair()
    before = [weights(model) for model in models]
    make_step(*models, *rates)(batch(), step_at(0))
    for model, old, rate in zip(models, before, rates, strict=True):
        for new, was in zip(weights(model), old, strict=True):
            assert (np.abs(new - was).max() > 0) == bool(rate)


def test_a_step_is_traced_once_and_its_noise_is_a_function_of_seed_and_step():
    ends = []
    for numbers in ((0, 1), (0, 1), (0, 2)):
        keras.utils.set_random_seed(1)
        models = pair()
        train_step = make_step(*models)
        for number in numbers:
            train_step(batch(number % 2), step_at(number))
        assert train_step.experimental_get_tracing_count() == 1
        ends.append(np.concatenate([w.ravel() for w in weights(models[1])]))
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 0


# Samples.


def generators():
    coarsest = pyramid_quality.networks.dcgan_generator(5, (2, 3, 1), widths=(4,), scales=(1,))
    levels = [pyramids.pyramid_generator(s, widths=(4, 4, 4)) for s in ((4, 6, 1), SHAPE)]
    return [coarsest, *levels]


def test_samples_go_from_level_to_level():
    models = generators()
    images = pyramids.sample_pyramid(models, BATCH, seed=3, step=4)
    assert [x.shape for x in images] == [(BATCH, 2, 3, 1), (BATCH, 4, 6, 1), (BATCH, *SHAPE)]
    z = latents.sample_latents(BATCH, 5, seed=3, step=4)
    np.testing.assert_array_equal(images[0], models[0](z, training=False))
    for level in (1, 2):
        low = pyramids.upsample(images[level - 1])
        z = latents.sample_latents(BATCH, low.shape[1] * low.shape[2], seed=3 + level, step=4)
        by_hand = low + models[level]([z, low], training=False)
        np.testing.assert_array_equal(images[level], by_hand)


def test_a_level_draws_many_images_of_one_coarse_image_and_the_same_one_again():
    generator = generators()[1]
    one = tf.repeat(batch(shape=(2, 3, 1))[:1], 3, axis=0)
    drawn, again, other = (
        pyramids.refine(generator, one, seed=0, step=step).numpy() for step in (0, 0, 1)
    )
    np.testing.assert_array_equal(drawn, again)
    assert np.abs(drawn[0] - drawn[1]).max() > 0 and np.abs(drawn - other).max() > 0


# The script.


@pytest.mark.parametrize("variant", pyramid_quality.VARIANTS)
def test_the_script_measures_a_row(variant, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    row, pictures = pyramid_quality.measure(
        variant, seed=0, steps=2, source="digits", seconds=1000, count=100, judge={"steps": 3}
    )
    json.dumps(row)
    levels = {"dcgan": 1, "pyramid": 3}[variant]
    assert [taken["steps"] for taken in row["levels"]] == [2] * levels
    assert row["seconds"] == sum(taken["seconds"] for taken in row["levels"]) > 0
    assert row["frechet_distance"] > row["frechet_distance_floor"] > 0
    assert {"from_7", "from_14", "blurred_7", "blurred_14"} <= set(row) or variant == "dcgan"
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
    images = uniform((64, 8, 8, 1))

    def make(shape, *, seed):
        return lambda real, step: {"d_loss": tf.reduce_mean(real), "g_loss": 0.0}, shape

    average, taken = pyramid_quality.train_for(make, images, 0.2, steps=10**6, seed=0)
    assert average == (8, 8, 1) and taken["seconds"] >= 0.2 and 0 < taken["steps"] < 10**6


def test_the_average_of_a_level_is_in_float32():
    generator = pyramids.pyramid_generator(SHAPE, widths=(4, 4, 4))
    copy = runtime.in_float32(generator)
    z, low = latents.sample_latents(BATCH, 96, seed=0, step=0), batch()
    np.testing.assert_allclose(copy([z, low]), generator([z, low]), atol=1e-6)
