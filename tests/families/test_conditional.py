"""Labels for both players: what each discriminator computes, the game by its definition.

That latents and labels are joined rightly, and heads replaced, is tested with their own rooms.
"""

import math

import class_control
import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import STEP, check_play, game_values, played, variables_of
from helpers import assert_close, eagerly, numbers_of, real_batch, same_bits, step_at
from keras import layers, ops

from ganutils import latents, losses, networks, steps
from ganutils.families import conditional

CLASSES, LATENT_DIM, SHAPE, BATCH = 4, 3, (8, 8, 1), 6
LABELS = tf.constant([0, 1, 2, 3, 1, 1])


def network(channels=1):
    return networks.mlp_discriminator((*SHAPE[:2], channels), widths=(5,))


def joined():
    return conditional.joined_discriminator(network(2), CLASSES)


def projection():
    return conditional.projection_discriminator(network(), CLASSES)


def auxiliary():
    return networks.with_heads(network(), 1, CLASSES)


def generator():
    return networks.mlp_generator(LATENT_DIM + CLASSES, SHAPE, widths=(7,))


def images(count=BATCH):
    return real_batch(shape=(count, *SHAPE))


def embedding_of(discriminator):
    (found,) = [layer for layer in discriminator.layers if isinstance(layer, layers.Embedding)]
    return found.embeddings


# What a discriminator computes.


def test_joined_the_network_sees_the_image_and_behind_it_the_plane_of_its_label():
    inner = network(2)
    discriminator = conditional.joined_discriminator(inner, CLASSES)
    planes = embedding_of(discriminator).numpy()
    assert planes.shape == (CLASSES, 64)
    both = np.stack([images().numpy()[..., 0], planes[LABELS].reshape(BATCH, 8, 8)], axis=-1)
    logits = discriminator([images(), LABELS])
    assert logits.shape == (BATCH, 1) and discriminator.input_shape[0] == (None, *SHAPE)
    np.testing.assert_allclose(logits, inner(both), rtol=1e-5)


def test_joined_takes_color_images_of_any_sides():
    inner = networks.mlp_discriminator((4, 6, 4), widths=(5,))
    discriminator = conditional.joined_discriminator(inner, CLASSES)
    assert discriminator([tf.zeros((2, 4, 6, 3)), tf.constant([0, 1])]).shape == (2, 1)


def test_projection_the_logit_is_the_networks_and_the_labels_direction_times_the_features():
    inner = network()
    discriminator = conditional.projection_discriminator(inner, CLASSES)
    assert 0 < np.abs(embedding_of(discriminator)).max() < 0.1
    embedding_of(discriminator).assign(tf.zeros((CLASSES, 5)))
    np.testing.assert_array_equal(discriminator([images(), LABELS]), inner(images()))
    embedding_of(discriminator).assign(np.random.default_rng(2).normal(size=(CLASSES, 5)))
    dense, last = [layer for layer in inner.layers if isinstance(layer, layers.Dense)]
    features = ops.leaky_relu(dense(images().numpy().reshape(BATCH, -1))).numpy()
    e, w, b = embedding_of(discriminator).numpy(), last.kernel.numpy(), last.bias.numpy()
    expected = [w[:, 0] @ phi + b[0] + e[y] @ phi for phi, y in zip(features, LABELS, strict=True)]
    logits = discriminator([images(), LABELS])
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_best_logit_of_two_conditional_models_is_a_projection():
    # log p(x, y) / q(x, y), where p(y | x) and q(y | x) are softmaxes of the same features, differs
    # between two labels by (e(y) - e(y')).phi(x), e = v_p - v_q: nothing else depends on y.
    random = np.random.default_rng(3)
    v_p, v_q = random.normal(size=(2, CLASSES, 5))
    inner = network()
    discriminator = conditional.projection_discriminator(inner, CLASSES)
    embedding_of(discriminator).assign(v_p - v_q)
    phi = keras.Model(inner.input, inner.layers[-1].input)(images(1)).numpy()[0]
    p, q = (np.exp(v @ phi) / np.exp(v @ phi).sum() for v in (v_p, v_q))
    best = np.log(p / q) + 0.7  # and log p(x) / q(x), whatever it is
    logits = discriminator([tf.repeat(images(1), CLASSES, axis=0), tf.range(CLASSES)])
    np.testing.assert_allclose(np.diff(best), np.diff(logits[:, 0]), rtol=1e-4, atol=1e-5)


# What it is asked.


def test_about_a_pair_there_is_no_class_loss():
    discriminator = projection()
    logits, class_loss = conditional.ask_about_pair(discriminator, images(), LABELS)
    np.testing.assert_array_equal(logits, discriminator([images(), LABELS]))
    assert class_loss == 0


def test_for_the_class_equal_logits_cost_log_classes():
    logits = tf.zeros((BATCH, 1)), tf.zeros((BATCH, CLASSES))
    _, class_loss = conditional.ask_for_class(lambda x, training: logits, images(), LABELS)
    assert float(class_loss) == pytest.approx(math.log(CLASSES))


# The game.


def make_play(discriminator, g, ask, **changes):
    settings = {
        "ask": ask,
        "objective": losses.non_saturating,
        "classes": CLASSES,
        "latent_dim": LATENT_DIM,
        "seed": 5,
    }
    return conditional.make_conditional_play(discriminator, g, **settings | changes)


def latents_and_classes(labels, step):
    z = latents.sample_latents(len(labels), LATENT_DIM, seed=5, step=step)
    return tf.concat([z, tf.one_hot(labels, CLASSES)], axis=1)


def test_the_game_about_pairs_is_its_definition():
    for d in (joined(), projection()):
        g = generator()

        def define(d=d, g=g):
            fake = g(latents_and_classes(LABELS, STEP))
            values = game_values(d([images(), LABELS]), d([fake, LABELS]))
            values |= {"real_class": tf.constant(0.0), "fake_class": tf.constant(0.0)}
            return values["d_loss"], values["g_loss"], values

        play = make_play(d, g, conditional.ask_about_pair)
        check_play(play, define, (images(), LABELS), variables_of(d), variables_of(g))


def test_the_game_about_classes_is_its_definition():
    d, g = auxiliary(), generator()
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def define():
        real_logits, real_named = d(images())
        fake_logits, fake_named = d(g(latents_and_classes(LABELS, STEP)))
        real_class, fake_class = (cross_entropy(LABELS, x) for x in (real_named, fake_named))
        values = game_values(real_logits, fake_logits)
        values |= {"real_class": real_class, "fake_class": fake_class}
        d_total = values["d_loss"] + real_class + fake_class
        return d_total, values["g_loss"] + fake_class, values

    play = make_play(d, g, conditional.ask_for_class)
    check_play(play, define, (images(), LABELS), variables_of(d), variables_of(g))


def test_the_embedding_learns_only_of_labels_that_occur():
    d, g = projection(), generator()
    play = make_play(d, g, conditional.ask_about_pair)
    real = images(2), tf.constant([1, 3])
    _, ([gradient], _) = played(lambda: play(real, step_at(0)), [embedding_of(d)], variables_of(g))
    np.testing.assert_array_equal(gradient.any(axis=1), [False, True, False, True])


def test_a_family_takes_a_penalty_two_updates_of_d_and_a_constraint():
    """R1 at the labeled images, the halves of a batch, and weights clipped after each update."""
    d, g, rate, limit = projection(), generator(), 0.5, 0.2
    play = make_play(d, g, conditional.ask_about_pair)

    def penalized(real, step):
        d_total, g_total, values = play(real, step)
        pictures, labels = real
        slope = losses.r1_penalty(lambda x, training: d([x, labels], training=training), pictures)
        return d_total + 3 * slope, g_total, values | {"slope": slope}

    train_step = steps.make_step(
        penalized,
        variables_of(d),
        variables_of(g),
        d_optimizer=keras.optimizers.SGD(rate),
        g_optimizer=keras.optimizers.SGD(rate),
        d_steps=2,
        constrain=lambda variables: losses.clip_weights(variables, limit),
    )
    before = [model.get_weights() for model in (d, g)]
    with eagerly():
        values = train_step((images(), LABELS), step_at(STEP))
    after = [model.get_weights() for model in (d, g)]

    for model, old in zip((d, g), before, strict=True):
        model.set_weights(old)
    for i, half in enumerate((slice(0, 3), slice(3, 6))):
        pictures, labels = images()[half], LABELS[half]

        def define(i=i, pictures=pictures, labels=labels):
            fake = g(latents_and_classes(labels, 2 * STEP + i))
            with tf.GradientTape() as tape:
                tape.watch(pictures)
                logits = d([pictures, labels])
            slopes = tape.gradient(logits, pictures)
            slope = tf.reduce_mean(tf.reduce_sum(slopes**2, axis=[1, 2, 3])) / 2
            found = game_values(logits, d([fake, labels])) | {"slope": slope}
            return found["d_loss"] + 3 * slope, found["g_loss"], found

        right, (d_slopes, g_slopes) = played(define, variables_of(d), variables_of(g))
        for weight, slope in zip(variables_of(d), d_slopes, strict=True):
            weight.assign(np.clip(weight - rate * slope, -limit, limit))
    for weight, slope in zip(variables_of(g), g_slopes, strict=True):
        weight.assign(weight - rate * slope)
    for model, new in zip((d, g), after, strict=True):
        assert_close(new, model.get_weights(), rtol=1e-4)
    for name in ("d_loss", "g_loss", "slope"):
        assert float(values[name]) == pytest.approx(right[name], rel=1e-4)


# What is drawn.

DRAW = {"classes": CLASSES, "latent_dim": LATENT_DIM, "seed": 3}


def test_a_drawing_belongs_to_its_latent_and_label():
    g, labels = generator(), np.arange(503) % CLASSES
    drawn = conditional.draw_classes(g, labels, **DRAW)
    assert drawn.shape == (503, *SHAPE) and drawn.dtype == np.float32
    shares = np.eye(CLASSES, dtype=np.float32)[labels]
    np.testing.assert_allclose(conditional.draw_classes(g, shares, **DRAW), drawn, atol=1e-6)
    for start, step in ((0, 0), (500, 1)):
        z = latents.sample_latents(500, LATENT_DIM, seed=3, step=step)[: 503 - start]
        expected = g(np.concatenate([z, shares[start : start + 500]], axis=1))
        np.testing.assert_allclose(drawn[start : start + 500], expected, atol=1e-5)


def test_a_drawing_is_made_in_inference_mode():
    normalized = networks.mlp_generator(
        LATENT_DIM + CLASSES, SHAPE, widths=(7,), after_dense=networks.bn_relu
    )
    before = numbers_of(normalized)
    conditional.draw_classes(normalized, [0, 1], **DRAW)
    assert same_bits(numbers_of(normalized), before)


def test_nothing_is_drawn_of_a_class_that_is_not_there():
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 3"):
        conditional.draw_classes(generator(), [0, CLASSES], **DRAW)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        conditional.draw_classes(generator(), np.eye(3, dtype=np.float32)[:2], **DRAW)


# The script.


@pytest.mark.slow
def test_the_script_measures_every_way_and_real_images(monkeypatch):
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    sizes = class_control.Sizes(
        drawn=66, compared=65, split="train", judge_steps=30, student_steps=2
    )
    rows, pictures = {}, {}
    for variant in ("auxiliary", "real"):
        rows[variant], pictures[variant] = class_control.measure(
            variant, seed=1, steps=1, source="digits", sizes=sizes
        )
        row = rows[variant]
        assert np.shape(row["by_class"]) == np.shape(row["distances"]) == (10,)
        assert row["distance"] == pytest.approx(np.mean(row["distances"]))
        assert 0 <= row["obedience"] <= 1 and 0 <= row["student"] <= 1
    # One step draws gray for every digit; real images lie near each other.
    assert rows["auxiliary"]["distance"] > 10 * rows["real"]["distance"]
    assert rows["real"]["obedience"] > 0.5 > rows["auxiliary"]["obedience"]
    assert np.mean(rows["auxiliary"]["by_class"]) == pytest.approx(rows["auxiliary"]["obedience"])
    grid = pictures["auxiliary"]["grid"]
    assert grid.shape == (100, 28, 28) and grid.dtype == np.uint8 and not pictures["real"]


@pytest.mark.slow
@pytest.mark.parametrize("way", class_control.WAYS)
def test_the_scripts_networks_take_images_and_are_asked_what_they_can_tell(way):
    way = class_control.WAYS[way]
    discriminator = way.build((28, 28, 1))
    logits, class_loss = way.ask(discriminator, tf.zeros((2, 28, 28, 1)), tf.constant([3, 9]))
    assert logits.shape == (2, 1)
    assert float(class_loss) >= 0
