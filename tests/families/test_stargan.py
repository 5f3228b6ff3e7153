"""StarGAN: planes of looks, the loss of the second head, the game, what is refused; its script."""

import json
import math

import helpers
import keras
import numpy as np
import pytest
import star_losses
import tensorflow as tf
from by_hand import STEP, check_play, game_values, variables_of

from ganutils import latents, losses, networks
from ganutils.families import stargan

SHAPE, BATCH, LOOKS = (8, 12, 1), 6, 3


def plain(x):
    """Instead of batch normalization, whose result depends on the mode."""
    return keras.layers.ReLU()(x)


def batch(number=0, shape=SHAPE):
    return helpers.real_batch(number, (BATCH, *shape))


def one_hot(looks):
    return tf.constant(np.eye(LOOKS, dtype=np.float32)[looks])


def pair():
    generator = stargan.star_generator(SHAPE, LOOKS, widths=(4, 3), blocks=1, after_conv=plain)
    network = networks.dcgan_discriminator(SHAPE, widths=(4, 4))
    discriminator = networks.with_heads(network, 1, LOOKS)
    for weight in [*generator.weights, *discriminator.weights]:
        weight.assign(10 * weight)  # of a size at which gradients can be told from 0
    return discriminator, generator


# The generator.


@pytest.mark.parametrize("channels", [1, 3])
def test_the_look_is_a_plane_of_ones_among_planes_of_zeros(channels):
    generator = stargan.star_generator((8, 12, channels), LOOKS, widths=(4, 3), blocks=1)
    network = generator.layers[-1]
    images, looks = batch(shape=(8, 12, channels)), np.array([0, 1, 2, 2, 1, 0])
    planes = np.zeros((BATCH, 8, 12, LOOKS), np.float32)
    for row, look in enumerate(looks):
        planes[row, :, :, look] = 1
    drawn = generator([images, one_hot(looks)])
    assert drawn.shape == images.shape and drawn.dtype == tf.float32
    by_hand = network(np.concatenate([images, planes], axis=3))
    np.testing.assert_array_equal(drawn, by_hand)


def test_another_look_is_another_image():
    _, generator = pair()
    drawn = [stargan.draw_in_looks(generator, batch(), look) for look in range(LOOKS)]
    assert min(np.abs(drawn[i] - drawn[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4
    assert np.abs(drawn).max() <= 1


def test_translations_are_in_order_and_the_same_in_parts():
    _, generator = pair()
    looks = np.array([2, 0, 1, 1, 0, 2])
    drawn = stargan.draw_in_looks(generator, batch(), looks, batch_size=4)
    for row, look in enumerate(looks):
        alone = stargan.draw_in_looks(generator, batch()[row : row + 1].numpy(), int(look))
        np.testing.assert_allclose(drawn[row : row + 1], alone, atol=1e-5)


@pytest.mark.parametrize(
    "images, looks, said",
    [
        (batch(), 3, "from 0 to 2; found 3"),
        (batch(), -1, "from 0 to 2; found -1"),
        (batch(), [0, 1], r"shape \(6,\), not \(2,\)"),
        (batch(shape=(8, 12, 3)), 0, r"takes \[8, 12, 1\]"),
        (batch(shape=(12, 8, 1)), 0, r"takes \[8, 12, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(images, looks, said):
    _, generator = pair()
    with pytest.raises(ValueError, match=said):
        stargan.draw_in_looks(generator, images, looks)


@pytest.mark.parametrize(
    "shape, looks, said",
    [
        ((7, 8, 1), 3, "must halve"),
        ((8, 7, 1), 3, "must halve"),
        ((8, 8), 3, "image_shape must be"),
        ((8, 8, 1), 1, "looks must be in 2"),
    ],
)
def test_so_is_a_generator_that_cannot_be(shape, looks, said):
    with pytest.raises(ValueError, match=said):
        stargan.star_generator(shape, looks)


# The game.


def test_the_look_loss_is_a_cross_entropy():
    logits = np.float32([[0, 0, 0], [math.log(2), 0, 0]])
    right = -np.mean([math.log(1 / 3), math.log(1 / 4)])
    assert float(stargan.look_loss(logits, np.array([0, 1]))) == pytest.approx(right, 1e-6)
    assert float(stargan.look_loss(logits[:1], np.array([2]))) == pytest.approx(math.log(3), 1e-6)


def entropy(logits, looks):
    """Keras' formula, not the course's."""
    cost = keras.losses.sparse_categorical_crossentropy(looks, logits, from_logits=True)
    return tf.reduce_mean(cost)


@pytest.mark.parametrize("weights", [(1.0, 10.0, 10.0), (0.0, 10.0, 3.0), (2.0, 0.0, 0.0)])
def test_the_game_is_its_definition(weights):
    discriminator, generator = pair()
    target = latents.sample_classes(BATCH, LOOKS, seed=5, step=STEP)
    others = np.array([0, 0, 0, 1, 1, 2])  # three images are asked for their own look
    images, source = batch(), (target.numpy() + others) % LOOKS

    def define():
        fake = generator([images, tf.one_hot(target, LOOKS)])
        back = generator([fake, one_hot(source)])
        (real_logits, real_looks), (fake_logits, fake_looks) = map(discriminator, (images, fake))
        values = game_values(real_logits, fake_logits)
        values |= {"real_look": entropy(real_looks, source)}
        values |= {"fake_look": entropy(fake_looks, target)}
        values |= {"cycle": tf.reduce_mean(keras.losses.mean_absolute_error(images, back))}
        own = np.flatnonzero(source == target.numpy())
        assert len(own) == 3
        images_asked, drawn = tf.gather(images, own), tf.gather(fake, own)
        error = keras.losses.mean_absolute_error(images_asked, drawn)
        values |= {"identity": tf.reduce_mean(error)}
        d_total = values["d_loss"] + weights[0] * values["real_look"]
        g_total = values["g_loss"] + weights[0] * values["fake_look"]
        g_total += weights[1] * values["cycle"] + weights[2] * values["identity"]
        return d_total, g_total, values

    play = stargan.make_star_play(
        discriminator, generator, objective=losses.non_saturating, seed=5, weights=weights
    )
    real = (images, tf.constant(source, tf.int32))
    check_play(play, define, real, variables_of(discriminator), variables_of(generator))


def test_a_batch_without_its_own_look_has_no_identity_error():
    source, target = np.array([0, 1]), np.array([1, 2])
    images = batch()[:2]
    assert float(stargan.own_look_error(images, -images, source, target)) == 0
    assert float(stargan.own_look_error(images, -images, source, source)) > 0


@pytest.mark.parametrize("place", range(3))
def test_negative_weights_are_refused(place):
    weights = [1.0, 1.0, 1.0]
    weights[place] = -1.0
    with pytest.raises(ValueError, match="must not be below 0"):
        stargan.make_star_play(*pair(), objective=losses.non_saturating, seed=0, weights=weights)


# The script.


def test_the_script_dresses_each_digit_in_its_look():
    images, labels = star_losses.upright("digits", "test")
    assert len(images) == len(labels) > 50
    worn, looks = star_losses.in_turn(images[:10])
    assert looks.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    for row, look in enumerate(looks):
        alone = star_losses.in_look(images[row : row + 1], star_losses.LOOKS[look])
        np.testing.assert_array_equal(worn[row : row + 1], alone)


@pytest.mark.slow
@pytest.mark.parametrize("variant", star_losses.VARIANTS)
def test_the_script_measures_a_row(variant, monkeypatch, tmp_path):
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    row, pictures = star_losses.measure(
        variant,
        seed=0,
        steps=2,
        source="digits",
        count=30,
        judge={"steps": 3, "batch_size": 32},
    )
    json.dumps(row)
    assert row["seconds"] > 0
    assert all(0 <= row[name] <= 1 for name in ("look_error", "digit_error"))
    unchanged = np.array(row["floors"]["unchanged"])
    assert (np.diag(unchanged) == 0).all() and (unchanged + np.eye(5) > 0).all()
    assert pictures["drawn"].shape == (80, 28, 28) and pictures["given"].shape == (16, 28, 28)
