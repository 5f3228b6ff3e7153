"""BigGAN: the class in each normalization, attention, orthogonality, statistics; its script."""

import json

import biggan_parts
import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf

from ganutils import latents, losses, networks, steps
from ganutils.families import biggan, conditional, latent_directions

SHAPE, LATENT_DIM, CLASSES, BATCH = (8, 12, 1), 5, 3, 6
SIZES = {"widths": (4, 4, 8), "scales": (2, 2, 1), "embedding": 6}
LABELS = np.array([0, 1, 2, 2, 1, 0], np.int32)


def maps(number=0, shape=(8, 12, 16)):
    return helpers.real_batch(number, (BATCH, *shape))


def build(shape=SHAPE, **settings):
    keras.utils.set_random_seed(0)
    return biggan.biggan_generator(LATENT_DIM, shape, CLASSES, **(SIZES | settings))


def inputs(labels=LABELS, seed=0):
    z = latents.sample_latents(len(labels), LATENT_DIM, seed=seed, step=0)
    return latents.join_classes(z, labels, CLASSES)


# The class in a normalization.


def test_scale_and_offset_are_linear_in_the_condition():
    x, condition = keras.Input((8, 12, 4)), keras.Input((6,))
    model = keras.Model([x, condition], biggan.class_norm_relu(x, condition))
    scale, offset = (w for w in model.trainable_weights if w.shape == (6, 4))
    images, asked = maps(shape=(8, 12, 4)), np.random.default_rng(1).normal(size=(BATCH, 6))
    mean, variance = tf.nn.moments(images, [0, 1, 2])
    normal = (images - mean) / np.sqrt(variance + 1e-3)
    by_hand = normal * (1 + asked @ scale)[:, None, None] + (asked @ offset)[:, None, None]
    found = model([images, tf.constant(asked, tf.float32)], training=True)
    swapped = normal * (1 + asked @ offset)[:, None, None] + (asked @ scale)[:, None, None]
    errors = [np.abs(found - np.maximum(x, 0)).max() for x in (by_hand, swapped)]
    assert min(errors) < 1e-2 < max(errors)  # which of both is the scale, the shapes do not tell
    assert 0.2 < np.mean(found > 0) < 0.8


def test_without_a_condition_it_is_a_batch_normalization():
    x, condition = keras.Input((8, 12, 4)), keras.Input((6,))
    model = keras.Model([x, condition], biggan.class_norm_relu(x, condition))
    plain = keras.Model(x, networks.bn_relu(x))
    images = maps(shape=(8, 12, 4))
    found = model([images, tf.zeros((BATCH, 6))], training=True)
    np.testing.assert_allclose(found, plain(images, training=True), atol=1e-6)


# Self-attention.


def attention(shape=(8, 12, 16)):
    """A model of it, with a last layer that is not 0."""
    x = keras.Input(shape)
    model = keras.Model(x, biggan.self_attention(x))
    for number, weight in enumerate(model.weights):
        weight.assign(np.random.default_rng(number).normal(size=weight.shape))
    return model


def test_at_the_start_nothing_is_added():
    x = keras.Input((8, 12, 16))
    model = keras.Model(x, biggan.self_attention(x))
    np.testing.assert_array_equal(model(maps()), maps())
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(maps()) - 1))
    sizes = [np.abs(g).max() for g in tape.gradient(loss, model.trainable_variables)]
    assert sum(size > 0 for size in sizes) == 1  # the last layer learns first


def test_attention_is_its_definition():
    model, images = attention(), maps().numpy()
    kernels = [weight.numpy()[0, 0] for weight in model.weights]
    (h,), (last,) = ([k for k in kernels if k.shape == shape] for shape in ((16, 8), (8, 16)))
    few = [k for k in kernels if k.shape == (16, 2)]
    found = model(images).numpy()

    def pooled(y):
        return y.reshape(BATCH, 4, 2, 6, 2, -1).max(axis=(2, 4)).reshape(BATCH, 24, -1)

    errors = []
    for query, key in (few, few[::-1]):  # which of both is which, the shapes do not tell
        queries = (images @ query).reshape(BATCH, 96, -1)
        powers = np.exp(np.einsum("bic,bjc->bij", queries, pooled(images @ key)).astype(np.float64))
        weights = powers / powers.sum(axis=2, keepdims=True)
        seen = (weights @ pooled(images @ h)).reshape(BATCH, 8, 12, 8)
        errors.append(np.abs(found - images - seen @ last).max())
    assert min(errors) < 1e-3 < max(errors)


def test_a_far_place_is_seen():
    model = attention()
    images = maps().numpy()
    changed = images.copy()
    changed[:, 0, 0] += 3
    difference = np.abs(model(changed).numpy() - model(images).numpy())
    assert difference[:, -1, -1].max() > 1e-3  # a corner sees the opposite one


@pytest.mark.parametrize("shape", [(7, 8, 16), (8, 7, 16), (8, 8, 7)])
def test_maps_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="must halve, and there must be 8 channels"):
        biggan.self_attention(keras.Input(shape))


def test_attention_is_where_it_is_asked_for():
    def count(model):
        return sum(isinstance(layer, keras.layers.Attention) for layer in model.layers)

    for side, times in ((2, 0), (4, 1), (8, 1), (5, 0)):
        assert count(build(attend=biggan.attend_at(side), widths=(8, 8, 8))) == times
    network = networks.dcgan_discriminator(
        (8, 8, 1), widths=(8, 8), after_conv=biggan.attend_at(4, keras.ops.leaky_relu)
    )
    assert count(network) == 1
    images = maps(shape=(8, 8, 1))
    plain = networks.dcgan_discriminator((8, 8, 1), widths=(8, 8))
    matching = [w for w in network.get_weights() if w.shape[:2] != (1, 1)]
    plain.set_weights(matching)
    np.testing.assert_allclose(network(images), plain(images), atol=1e-6)


# The generator.


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_the_shape_and_the_range(channels):
    generator = build((8, 12, channels))
    drawn = generator(inputs())
    assert drawn.shape == (BATCH, 8, 12, channels) and np.abs(drawn).max() <= 1


@pytest.mark.parametrize("part", ["start", "norms"])
def test_latents_and_class_enter_at_the_start_and_at_each_normalization(part):
    generator = build()
    start = next(w for w in generator.weights if w.shape == (LATENT_DIM + 6, 2 * 3 * 4))
    inside = [w for w in generator.weights if w.shape[:1] == (LATENT_DIM + 6,) and w is not start]
    assert [w.shape[1] for w in inside] == [4, 4, 4, 4, 8, 8]
    for weight in generator.weights:
        if len(weight.shape) > 1:
            weight.assign(weight * 5)
    if part == "norms":  # the start is the same for all inputs
        start.assign(tf.zeros(start.shape))
        norms = [layer for layer in generator.layers if hasattr(layer, "beta")]
        norms[0].beta.assign([0.5, 1, 1.5, 2])
    else:
        for weight in inside:
            weight.assign(tf.zeros(weight.shape))
    one, other = inputs(), inputs(labels=(LABELS + 1) % CLASSES)
    assert np.abs(generator(one) - generator(other)).max() > 1e-4
    assert np.abs(generator(one) - generator(inputs(seed=1))).max() > 1e-4


def test_one_embedding_serves_all_and_mixes():
    generator = build()
    (asked,) = [w for w in generator.weights if w.shape == (CLASSES, 6)]
    shares = np.eye(CLASSES, dtype=np.float32)[LABELS]
    by_share = latents.join_classes(inputs()[:, :LATENT_DIM], shares, CLASSES)
    np.testing.assert_array_equal(generator(by_share), generator(inputs()))
    asked.assign(tf.zeros(asked.shape))
    other = inputs(labels=(LABELS + 1) % CLASSES)
    np.testing.assert_array_equal(generator(inputs()), generator(other))


@pytest.mark.parametrize(
    "shape, classes, said",
    [
        ((7, 8, 1), 3, "scales"),
        ((8, 6, 1), 3, "scales"),
        ((8, 8), 3, "image_shape must be"),
        ((8, 8, 1), 1, "classes must be in 2"),
    ],
)
def test_a_generator_that_cannot_be_is_refused(shape, classes, said):
    with pytest.raises(ValueError, match=said):
        biggan.biggan_generator(LATENT_DIM, shape, classes)


def test_a_class_that_does_not_exist_and_a_threshold_of_nothing_are_refused():
    generator = build()
    draw = {"classes": CLASSES, "latent_dim": LATENT_DIM, "seed": 0}
    for label in (-1, CLASSES):
        with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be from 0 to 2"):
            conditional.draw_classes(generator, [0, label], **draw)
    for threshold in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="must be above 0"):
            latent_directions.truncated_latents(2, 3, threshold=threshold, seed=0, step=0)


def test_it_is_saved_and_loaded_and_copied(tmp_path):
    generator = build(attend=biggan.attend_at(8), widths=(4, 8, 8))
    generator.save(tmp_path / "generator.keras")
    loaded = keras.models.load_model(tmp_path / "generator.keras")
    copy = helpers.runtime.in_float32(generator)
    for other in (loaded, copy):
        np.testing.assert_allclose(other(inputs()), generator(inputs()), atol=1e-6)


def test_it_plays_the_conditional_game():
    keras.utils.set_random_seed(0)
    generator = build(attend=biggan.attend_at(8), widths=(4, 8, 8))
    network = networks.dcgan_discriminator(SHAPE, widths=(8, 8))
    discriminator = conditional.projection_discriminator(network, CLASSES)
    play = conditional.make_conditional_play(
        discriminator,
        generator,
        ask=conditional.ask_about_pair,
        objective=losses.hinge,
        classes=CLASSES,
        latent_dim=LATENT_DIM,
        seed=0,
    )
    players = discriminator.trainable_variables, generator.trainable_variables
    optimizers = {f"{name}_optimizer": keras.optimizers.Adam(1e-3) for name in "dg"}
    step = steps.make_step(play, *players, **optimizers)
    before = [[w.numpy() for w in player] for player in players]
    for number in range(3):
        step((maps(shape=SHAPE), tf.constant(LABELS)), helpers.step_at(number))
    for player, old in zip(players, before, strict=True):
        moved = [np.abs(w - o).max() > 0 for w, o in zip(player, old, strict=True)]
        assert all(m for m, w in zip(moved, old, strict=True) if w.ndim > 1)


# Orthogonal regularization.


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (3, 3, 2, 6), (1, 1, 2, 9)])
def test_the_penalty_is_equation_3(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    matrix = kernel.reshape(-1, shape[-1]).astype(np.float64)
    beside = (matrix.T @ matrix) * (1 - np.eye(shape[-1]))
    found = float(biggan.orthogonal_penalty(tf.constant(kernel)))
    assert found == pytest.approx((beside**2).sum(), rel=1e-4)


def test_orthogonal_columns_of_any_length_cost_nothing():
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 4)))[0] * [1, 2, 3, 4]
    assert abs(float(biggan.orthogonal_penalty(tf.constant(matrix)))) < 1e-9
    turned = matrix @ np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    assert float(biggan.orthogonal_penalty(tf.constant(turned))) > 1


def test_minimizing_it_makes_columns_orthogonal():
    kernel = tf.Variable(np.random.default_rng(0).normal(size=(8, 4)))
    for _ in range(300):
        with tf.GradientTape() as tape:
            penalty = biggan.orthogonal_penalty(kernel)
        kernel.assign_sub(0.01 * tape.gradient(penalty, kernel))
    assert float(biggan.orthogonal_penalty(kernel)) < 1e-6
    assert np.linalg.norm(kernel, axis=0).min() > 0.1  # and not by being 0


# Standing statistics.


def test_standing_statistics_are_the_means_of_the_batches():
    generator = build()
    before = generator.get_weights()
    batches = [inputs(seed=seed) for seed in range(3)]
    copy = biggan.with_standing_statistics(generator, batches)
    for old, new in zip(before, generator.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    first = next(layer for layer in copy.layers if hasattr(layer, "moving_mean"))
    probe = keras.Model(copy.input, first.input)
    moments = [tf.nn.moments(probe(batch), [0, 1, 2]) for batch in batches]
    means, variances = np.mean(moments, axis=0)
    np.testing.assert_allclose(first.moving_mean, means, atol=1e-5)
    rows = BATCH * 2 * 3
    np.testing.assert_allclose(first.moving_variance, variances * rows / (rows - 1), rtol=1e-3)
    assert first.momentum == 0.99


def test_one_batch_then_draws_what_training_would():
    generator = build()
    copy = biggan.with_standing_statistics(generator, [inputs()])
    np.testing.assert_allclose(copy(inputs()), generator(inputs(), training=True), atol=0.02)
    assert np.abs(generator(inputs()) - copy(inputs())).max() > 0.02


# The script.


@pytest.mark.slow
@pytest.mark.parametrize("variant", biggan_parts.VARIANTS)
def test_the_script_measures_a_row(variant, monkeypatch, tmp_path):
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    row, pictures = biggan_parts.measure(
        variant,
        seed=0,
        steps=2,
        source="digits",
        sizes=biggan_parts.Sizes(drawn=700, judge_steps=3, student_steps=2, split="train"),
    )
    json.dumps(row)
    assert 0 <= row["student"] <= 1 and 0 <= row["obedience"] <= 1
    assert ("truncated" in row) == (variant in biggan_parts.TRUNCATED)
    assert (pictures == {}) == (variant == "real")
