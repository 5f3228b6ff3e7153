"""Labels for both players: what each discriminator computes, a step by its definition, the scores.

That latents and labels are joined rightly, and heads replaced, is tested with their own rooms.
"""

import math

import class_control
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from ganutils import conditional, latents, losses, metrics, networks

CLASSES, LATENT_DIM, SHAPE, BATCH = 4, 3, (8, 8, 1), 6


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


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


def images(count=BATCH, number=0):
    values = np.random.default_rng(number).uniform(-1, 1, (count, *SHAPE))
    return tf.constant(values, tf.float32)


LABELS = tf.constant([0, 1, 2, 3, 1, 1])
WAYS = {
    "joined": (joined, conditional.ask_about_pair),
    "projection": (projection, conditional.ask_about_pair),
    "auxiliary": (auxiliary, conditional.ask_for_class),
}


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
    embedding_of(discriminator).assign(np.random.default_rng(2).normal(size=(CLASSES, 5)))
    flat = images().numpy().reshape(BATCH, -1)
    _, _, dense, activation, last = inner.layers  # behind input and flattening
    features = activation(dense(flat)).numpy()
    e, w, b = embedding_of(discriminator).numpy(), last.kernel.numpy(), last.bias.numpy()
    expected = [w[:, 0] @ phi + b[0] + e[y] @ phi for phi, y in zip(features, LABELS, strict=True)]
    logits = discriminator([images(), LABELS])
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_projection_starts_near_the_network_and_without_directions_is_it():
    inner = network()
    discriminator = conditional.projection_discriminator(inner, CLASSES)
    assert 0 < np.abs(embedding_of(discriminator)).max() < 0.1
    embedding_of(discriminator).assign(tf.zeros((CLASSES, 5)))
    np.testing.assert_array_equal(discriminator([images(), LABELS]), inner(images()))


def test_the_best_logit_of_two_conditional_models_is_a_projection():
    # log p(x, y) / q(x, y), where p(y | x) and q(y | x) are softmaxes of the same features, differs
    # between two labels by (e(y) - e(y')).phi(x), e = v_p - v_q: nothing else depends on y.
    random = np.random.default_rng(3)
    phi, v_p, v_q = random.normal(size=5), *random.normal(size=(2, CLASSES, 5))
    inner = network()
    discriminator = conditional.projection_discriminator(inner, CLASSES)
    embedding_of(discriminator).assign(v_p - v_q)
    head = keras.Model(inner.layers[-1].input, inner.layers[-1].output)  # psi alone
    p, q = (np.exp(v @ phi) / np.exp(v @ phi).sum() for v in (v_p, v_q))
    best = np.log(p / q) + 0.7  # and log p(x) / q(x), whatever it is
    logits = (v_p - v_q) @ phi + float(head(phi[None].astype(np.float32))[0, 0])
    np.testing.assert_allclose(np.diff(best), np.diff(logits), rtol=1e-6)


# What it is asked.


def test_about_a_pair_there_is_no_class_loss():
    discriminator = projection()
    logits, class_loss = conditional.ask_about_pair(discriminator, images(), LABELS)
    np.testing.assert_array_equal(logits, discriminator([images(), LABELS]))
    assert class_loss == 0


def test_for_the_class_the_loss_is_minus_the_log_probability_of_the_label():
    discriminator = auxiliary()
    logits, class_loss = conditional.ask_for_class(discriminator, images(), LABELS)
    expected, class_logits = discriminator(images())
    np.testing.assert_array_equal(logits, expected)
    own = class_logits.numpy()[np.arange(BATCH), LABELS]
    expected = np.log(np.exp(class_logits).sum(axis=1)) - own
    np.testing.assert_allclose(class_loss, expected.mean(), rtol=1e-5)


def test_for_the_class_equal_logits_cost_log_classes():
    logits = tf.zeros((BATCH, 1)), tf.zeros((BATCH, CLASSES))
    _, class_loss = conditional.ask_for_class(lambda x, training: logits, images(), LABELS)
    assert float(class_loss) == pytest.approx(math.log(CLASSES))


# One step.


def make_step(discriminator, g, ask, d_rate=0.1, g_rate=0.1, **changes):
    settings = {
        "d_optimizer": keras.optimizers.SGD(d_rate),
        "g_optimizer": keras.optimizers.SGD(g_rate),
        "objective": losses.non_saturating,
        "classes": CLASSES,
        "latent_dim": LATENT_DIM,
        "seed": 5,
    }
    return conditional.make_conditional_step(discriminator, g, ask=ask, **settings | changes)


def weights(model):
    return [v.numpy() for v in model.variables]


def assert_equal(one, other):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def at(number):
    return tf.Variable(number, dtype=tf.int64)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_moves_both_players_along_their_gradients_at_one_point(way):
    (build, ask), g, number = WAYS[way], generator(), 7
    d = build()
    z = latents.sample_latents(BATCH, LATENT_DIM, seed=5, step=number)
    z = np.concatenate([z, np.eye(CLASSES, dtype=np.float32)[LABELS]], axis=1)

    def cost(x):  # of a logit and of a class: the latter is 0 where nobody has to name it
        if way == "auxiliary":
            logit, named = d(x)
            return logit, tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(LABELS, named, from_logits=True)
            )
        return d([x, LABELS]), 0.0

    def bce(label, logits):  # Keras' formula, not the course's
        target = tf.fill(tf.shape(logits), float(label))
        return tf.reduce_mean(keras.losses.binary_crossentropy(target, logits, from_logits=True))

    with tf.GradientTape(persistent=True) as tape:
        fake = g(z)
        (real_logits, real_class), (fake_logits, fake_class) = cost(images()), cost(fake)
        d_loss = bce(1, real_logits) + bce(0, fake_logits)
        g_loss = bce(1, fake_logits)
        d_total, g_total = d_loss + real_class + fake_class, g_loss + fake_class
    expected = [
        [v - 0.1 * tf.convert_to_tensor(tape.gradient(total, v)) for v in m.trainable_variables]
        for m, total in ((d, d_total), (g, g_total))
    ]
    values = make_step(d, g, ask)((images(), LABELS), at(number))
    for model, new in zip((d, g), expected, strict=True):
        for v, wanted in zip(model.trainable_variables, new, strict=True):
            np.testing.assert_allclose(v, wanted, rtol=1e-4, atol=1e-6)
    d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
    wanted = [d_loss, g_loss, d_real, d_fake, real_class, fake_class]
    names = ["d_loss", "g_loss", "d_real", "d_fake", "real_class", "fake_class"]
    assert list(values) == names
    np.testing.assert_allclose(list(values.values()), wanted, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_each_loss_moves_its_own_player_and_all_of_it(way):
    build, ask = WAYS[way]
    for d_rate, g_rate in ((0.1, 0.0), (0.0, 0.1)):
        d, g = build(), generator()
        before = weights(d), weights(g)
        make_step(d, g, ask, d_rate, g_rate)((images(), LABELS), at(0))
        moving, still = ((d, g), (g, d))[d_rate == 0]
        old = dict(zip((id(d), id(g)), before, strict=True))
        assert_equal(weights(still), old[id(still)])
        for x, y in zip(weights(moving), old[id(moving)], strict=True):
            assert (x != y).any()


def test_the_embedding_learns_only_of_labels_that_occur():
    d, g = projection(), generator()
    before = embedding_of(d).numpy()
    make_step(d, g, conditional.ask_about_pair)((images(2), tf.constant([1, 3])), at(0))
    moved = (embedding_of(d).numpy() != before).any(axis=1)
    np.testing.assert_array_equal(moved, [False, True, False, True])


def test_a_step_is_a_function_of_seed_and_number_and_is_traced_once():
    results = []
    for seed, first in ((5, 0), (5, 0), (6, 0), (5, 1)):
        keras.utils.set_random_seed(1)
        d, g = projection(), generator()
        step = make_step(d, g, conditional.ask_about_pair, seed=seed)
        step((images(), LABELS), number := at(first))
        number.assign_add(1)
        step((images(), LABELS), number)
        assert step.experimental_get_tracing_count() == 1
        results.append(np.concatenate([w.ravel() for w in weights(g)]))
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any() and (results[0] != results[3]).any()


@pytest.mark.parametrize("bad", [-1, CLASSES])
def test_a_label_out_of_range_stops_the_step(bad):
    # D ignores labels here: which of two operations complains first is left to chance.
    step = make_step(network(), generator(), lambda d, x, y: (d(x, training=True), 0.0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be from 0 to 3"):
        step((images(2), tf.constant([0, bad])), at(0))


# What is drawn, and how good it is.


def test_a_drawing_belongs_to_its_latent_and_label_in_parts_as_at_once():
    g = generator()
    draw = {"classes": CLASSES, "latent_dim": LATENT_DIM, "seed": 3}
    drawn = conditional.draw_classes(g, LABELS, **draw, batch_size=4)
    assert drawn.shape == (BATCH, *SHAPE) and drawn.dtype == np.float32
    shares = np.eye(CLASSES, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(
        conditional.draw_classes(g, shares, **draw, batch_size=4), drawn, atol=1e-6
    )
    for start, step in ((0, 0), (4, 1)):
        z = latents.sample_latents(4, LATENT_DIM, seed=3, step=step)[: len(drawn) - start]
        expected = g(np.concatenate([z, shares[start : start + 4]], axis=1), training=False)
        np.testing.assert_allclose(drawn[start : start + 4], expected, atol=1e-6)


def test_a_drawing_is_made_in_inference_mode():
    normalized = networks.mlp_generator(
        LATENT_DIM + CLASSES, SHAPE, widths=(7,), after_dense=networks.bn_relu
    )
    before = weights(normalized)
    conditional.draw_classes(normalized, [0, 1], classes=CLASSES, latent_dim=LATENT_DIM, seed=3)
    assert_equal(weights(normalized), before)


def test_nothing_is_drawn_of_a_class_that_is_not_there():
    draw = {"classes": CLASSES, "latent_dim": LATENT_DIM, "seed": 3}
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be from 0 to 3"):
        conditional.draw_classes(generator(), [0, CLASSES], **draw)
    with pytest.raises(ValueError, match=r"labels of shape \(2, 3\)"):
        conditional.draw_classes(generator(), np.eye(3, dtype=np.float32)[:2], **draw)


def test_obedience_counts_the_images_that_are_read_as_asked():
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2]])
    assert conditional.obedience(probabilities, [0, 1, 1, 0]) == 1
    assert conditional.obedience(probabilities, np.array([0, 1, 0, 1])) == 0.5
    with pytest.raises(ValueError, match="4 rows and labels of shape"):
        conditional.obedience(probabilities, [0])


def test_distances_are_those_within_each_class():
    random = np.random.default_rng(4)
    labels = np.arange(60) % 3
    real = random.normal(size=(60, 2)) + 10 * labels[:, None]
    # The same points in another order, class 1 shifted by (3, 4), class 2 spread by a factor of 2.
    fake = real.copy()
    fake[labels == 1] += (3, 4)
    center = real[labels == 2].mean(axis=0)
    fake[labels == 2] = 2 * (real[labels == 2] - center) + center
    order = random.permutation(60)
    distances = conditional.class_distances((real, labels), (fake[order], labels[order]), classes=3)
    spread = np.trace(np.cov(real[labels == 2], rowvar=False))  # (2 - 1)^2 of it
    np.testing.assert_allclose(distances, [0, 25, spread], atol=1e-9)
    # Wrong classes are seen within classes, though not over all.
    swapped = conditional.class_distances((real, labels), (real, (labels + 1) % 3), classes=3)
    assert swapped.min() > 100 and metrics.frechet_distance(real, real[order]) < 1e-9


# The script.


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


@pytest.mark.parametrize("way", class_control.WAYS)
def test_the_scripts_networks_take_images_and_are_asked_what_they_can_tell(way):
    way = class_control.WAYS[way]
    discriminator = way.build((28, 28, 1))
    logits, class_loss = way.ask(discriminator, tf.zeros((2, 28, 28, 1)), tf.constant([3, 9]))
    assert logits.shape == (2, 1)
    assert float(class_loss) >= 0
