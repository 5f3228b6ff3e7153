"""Translators and their game against the definition; the buffer; batches without pairs."""

import json

import helpers
import inverted_colors
import keras
import numpy as np
import pytest
import tensorflow as tf
import unpaired_translation
from by_hand import STEP, played, variables_of
from helpers import assert_close, frozen, real_batch, same_bits, step_at
from keras import layers

from ganutils import checkpoints, losses, networks, steps, training
from ganutils.families import cyclegan

SHAPE, BATCH = (4, 6, 1), 6


def images(number, count=BATCH, shape=SHAPE):
    return np.random.default_rng(number).uniform(-1, 1, (count, *shape)).astype(np.float32)


def players(gain=20):
    """Two discriminators and two translators, of weights whose gradients can be told from 0."""
    judges = [networks.mlp_discriminator(SHAPE, widths=(5,)) for _ in range(2)]
    translators = [networks.residual_translator(SHAPE, widths=(4, 3), blocks=1) for _ in range(2)]
    for model in translators:
        for weight in model.trainable_variables:
            weight.assign(gain * weight if weight.ndim == 4 else weight)
    return judges, translators


# Batches.


def test_each_set_has_its_own_order_and_no_pair_is_kept():
    x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(40, 1, 1, 1)
    batches = cyclegan.unpaired_batches(x, x, 20, seed=3)
    first, second = zip(*batches.take(2), strict=True)
    for part in (first, second):  # each epoch has every image once
        np.testing.assert_array_equal(np.sort(np.concatenate(part).ravel()), x.ravel())
    together = np.concatenate(first).ravel() == np.concatenate(second).ravel()
    assert together.mean() < 0.2


def test_sets_may_differ_in_size_and_start_anywhere():
    sets = images(0, 7), images(1, 11)
    whole = list(cyclegan.unpaired_batches(*sets, 3, seed=5).take(9))
    later = list(cyclegan.unpaired_batches(*sets, 3, seed=5, start=4).take(5))
    assert same_bits(tf.nest.flatten(whole[4:]), tf.nest.flatten(later))
    assert not same_bits(whole[0], next(iter(cyclegan.unpaired_batches(*sets, 3, seed=6))))


@pytest.mark.parametrize(
    "x, y, said",
    [
        (images(0, 0), images(1), "A set is empty: 0 images x"),
        (images(0), images(1, 0), "0 images y"),
        (images(0), images(1, shape=(4, 4, 1)), r"\(4, 6, 1\), images y \(4, 4, 1\)"),
        (images(0), images(1, shape=(4, 6, 3)), r"\(4, 6, 3\)"),
        (images(0) * 2, images(1), r"\[-1, 1\]"),
        (images(0), images(1, 2), "batch_size"),
    ],
)
def test_sets_that_do_not_fit_are_refused(x, y, said):
    with pytest.raises(ValueError, match=said):
        cyclegan.unpaired_batches(x, y, 3, seed=0)


# Networks.


def test_a_group_for_each_channel_is_instance_normalization():
    x = tf.constant(3 + 2 * images(0, shape=(5, 4, 3)))
    normalize = layers.GroupNormalization(groups=-1, epsilon=1e-5)
    mean = x.numpy().mean(axis=(1, 2), keepdims=True)
    deviation = np.sqrt(x.numpy().var(axis=(1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(normalize(x), (x - mean) / deviation, rtol=1e-4, atol=1e-5)
    in_model = keras.Model(i := keras.Input((5, 4, 3)), networks.instance_norm_relu(i))
    np.testing.assert_allclose(in_model(x), np.maximum((x - mean) / deviation, 0), atol=1e-4)
    groups = layers.GroupNormalization(groups=1, epsilon=1e-5)(x)
    assert np.abs(groups - (x - mean) / deviation).max() > 0.01


def test_an_image_is_translated_alike_whatever_else_is_in_its_batch():
    _, (model, _) = players()
    batch = images(0)
    alone = model(batch[:1], training=True)
    for training_mode in (True, False):
        assert_close([model(batch, training=training_mode)[:1]], [alone])


@pytest.mark.parametrize("shape", [(4, 6, 1), (8, 2, 3)])
def test_a_translator_gives_images_of_the_same_shape_in_range(shape):
    model = networks.residual_translator(shape, widths=(4, 3), blocks=2)
    translated = model(images(0, shape=shape)).numpy()
    assert translated.shape == (BATCH, *shape) and translated.dtype == np.float32
    assert np.abs(translated).max() <= 1
    kernels = [w for w in model.trainable_variables if w.ndim == 4]
    assert [w.shape[-1] for w in kernels] == [4, 4, 4, 4, 4, 3, shape[-1]]


@pytest.mark.parametrize("shape", [(5, 4, 1), (4, 7, 1), (4, 4), (0, 4, 1)])
def test_a_translator_refuses_sides_that_do_not_halve(shape):
    with pytest.raises(ValueError, match="image_shape"):
        networks.residual_translator(shape)


# The buffer.


def rows(first, count):
    return tf.range(first, first + count, dtype=tf.float32)[:, None]


def test_half_of_what_is_shown_is_new_and_the_rest_is_exchanged():
    stored, new = rows(0, 10), rows(100, 6)
    shown, kept = cyclegan.exchange(stored, new, seed=1, step=4)
    np.testing.assert_array_equal(shown[:3], new[3:])
    taken = np.ravel(shown[3:])
    assert len(set(taken)) == 3 and taken.max() < 10
    slots = taken.astype(int)
    expected = np.array(stored).ravel()
    expected[slots] = np.ravel(new[:3])
    np.testing.assert_array_equal(np.ravel(kept), expected)


def test_what_is_taken_out_depends_on_seed_and_step_alone_and_every_slot_comes_up():
    stored, new = rows(0, 10), rows(100, 6)
    for seed, step, same in ((1, 4, True), (1, 5, False), (2, 4, False)):
        shown, _ = cyclegan.exchange(stored, new, seed=seed, step=tf.constant(step, tf.int64))
        again, _ = cyclegan.exchange(stored, new, seed=1, step=4)
        assert np.array_equal(shown, again) == same
    taken = [cyclegan.exchange(stored, new, seed=0, step=i)[0][3:] for i in range(1, 200)]
    counts = np.bincount(np.ravel(taken).astype(int), minlength=10)
    assert counts.min() > 35 and counts.max() < 90  # 60 each, give or take


@pytest.mark.parametrize("capacity", [2, 3, 10])
def test_an_empty_store_is_filled_by_the_first_batch(capacity):
    new = rows(100, 4)
    shown, kept = cyclegan.exchange(tf.zeros((capacity, 1)), new, seed=0, step=0)
    assert set(np.ravel(kept)) <= set(np.ravel(new)) and set(np.ravel(shown)) <= set(np.ravel(new))
    later, _ = cyclegan.exchange(tf.zeros((capacity, 1)), new, seed=0, step=1)
    assert 0 in np.ravel(later)


def test_a_store_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="A store of 2 gives no 3 images"):
        cyclegan.exchange(rows(0, 2), rows(0, 6), seed=0, step=0)


def test_an_exchange_can_be_compiled_and_loses_no_image():
    """XLA draws other lots from the same key."""
    exchange = tf.function(cyclegan.exchange, jit_compile=True)
    given = rows(0, 10), rows(100, 6)
    shown, kept = exchange(*given, seed=1, step=tf.constant(3))
    np.testing.assert_array_equal(shown[:3], given[1][3:])
    there, before = tf.concat([shown[3:], kept], 0), tf.concat([given[0], given[1][:3]], 0)
    np.testing.assert_array_equal(np.sort(there, axis=0), np.sort(before, axis=0))


# The game.


def least_squares(real, fake):
    d_loss = tf.reduce_mean((real - 1) ** 2) / 2 + tf.reduce_mean(fake**2) / 2
    return d_loss, tf.reduce_mean((fake - 1) ** 2) / 2


@pytest.mark.parametrize("weights", [(10.0, 5.0), (2.0, 0.0), (0.0, 0.0), (0.0, 3.0)])
def test_the_game_is_its_definition(weights):
    (of_x, of_y), (to_x, to_y) = players()
    x, y = real_batch(1, (BATCH, *SHAPE)), real_batch(2, (BATCH, *SHAPE))
    cycle_weight, identity_weight = weights

    def l1(a, b):
        return tf.reduce_mean(tf.abs(a - b))

    def define():
        fake_x, fake_y = to_x(y), to_y(x)
        games = [least_squares(of_x(x), of_x(fake_x)), least_squares(of_y(y), of_y(fake_y))]
        d_loss, g_loss = ((a + b) / 2 for a, b in zip(*games, strict=True))
        cycle = (l1(to_x(fake_y), x) + l1(to_y(fake_x), y)) / 2
        identity = (l1(to_x(x), x) + l1(to_y(y), y)) / 2 if identity_weight else tf.zeros(())
        values = {
            "d_loss": d_loss,
            "g_loss": g_loss,
            "d_real": (tf.reduce_mean(of_x(x)) + tf.reduce_mean(of_y(y))) / 2,
            "d_fake": (tf.reduce_mean(of_x(fake_x)) + tf.reduce_mean(of_y(fake_y))) / 2,
            "cycle": cycle,
            "identity": identity,
        }
        return d_loss, g_loss + cycle_weight * cycle + identity_weight * identity, values

    play = cyclegan.make_cyclegan_play(
        (of_x, of_y),
        (to_x, to_y),
        objective=losses.least_squares,
        cycle_weight=cycle_weight,
        identity_weight=identity_weight,
    )
    variables = variables_of(of_x, of_y), variables_of(to_x, to_y)
    found, gradients = played(lambda: play((x, y), step_at(STEP)), *variables)
    wanted, right = played(define, *variables)
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-5)
    for player, expected in zip(gradients, right, strict=True):
        assert max(np.abs(gradient).max() for gradient in player) > 1e-4
        assert_close(player, expected, rtol=1e-4, atol=1e-6)


def test_the_judges_see_exchanged_images_and_the_translators_their_own():
    judges, translators = players()
    x, y = real_batch(1, (BATCH, *SHAPE)), real_batch(2, (BATCH, *SHAPE))
    buffers = [cyclegan.ImageBuffer(8, SHAPE, seed=5 + i) for i in range(2)]
    stored = [real_batch(i, (8, *SHAPE)) for i in (3, 4)]
    for buffer, content in zip(buffers, stored, strict=True):
        buffer.images.assign(content)
    game = {"objective": losses.least_squares}
    *_, plain = cyclegan.make_cyclegan_play(judges, translators, **game)((x, y), step_at(STEP))
    play = cyclegan.make_cyclegan_play(judges, translators, **game, buffers=buffers)
    d_total, _, values = play((x, y), step_at(STEP))
    fakes = translators[0](y), translators[1](x)
    wanted = []
    for i, (judge, real, fake) in enumerate(zip(judges, (x, y), fakes, strict=True)):
        shown, kept = cyclegan.exchange(stored[i], fake, seed=5 + i, step=STEP)
        wanted.append(least_squares(judge(real), judge(shown))[0])
        np.testing.assert_allclose(buffers[i].images, kept, rtol=1e-5, atol=1e-6)
    assert float(d_total) == pytest.approx(np.mean(wanted), rel=1e-5)
    for name in ("g_loss", "cycle", "identity", "d_real"):
        assert float(values[name]) == float(plain[name]), name
    assert float(values["d_fake"]) != float(plain["d_fake"])


@pytest.mark.parametrize("weights", [{"cycle_weight": -1.0}, {"identity_weight": float("nan")}])
def test_weights_below_0_are_refused(weights):
    with pytest.raises(ValueError, match="must not be below 0"):
        judges, translators = players()
        cyclegan.make_cyclegan_play(judges, translators, objective=losses.least_squares, **weights)


# A run.


def make_run():
    keras.utils.set_random_seed(1)
    judges, translators = players(gain=1)
    buffers = {f"buffer_{name}": cyclegan.ImageBuffer(8, SHAPE, seed=2) for name in "xy"}
    run = training.Run(
        judges,
        translators,
        d_optimizer=helpers.adam(),
        g_optimizer=helpers.adam(),
        also=buffers,
    )
    play = cyclegan.make_cyclegan_play(
        judges,
        translators,
        objective=losses.least_squares,
        buffers=list(buffers.values()),
    )
    optimizers = {"d_optimizer": run.d_optimizer, "g_optimizer": run.g_optimizer}
    return run, steps.make_step(play, run.d_variables, run.g_variables, **optimizers)


def test_a_run_is_resumed_to_the_bit_with_its_buffers(tmp_path):
    def batches(start):
        return cyclegan.unpaired_batches(images(1, 10), images(2, 15), 4, seed=3, start=start)

    (run, step), (whole, whole_step) = make_run(), make_run()
    training.train(whole, whole_step, batches, steps=7)
    checkpoints.resume_and_train(run, tmp_path, step, batches, steps=4, every=2)
    other, other_step = make_run()
    checkpoints.resume_and_train(other, tmp_path, other_step, batches, steps=7, every=2)
    assert np.abs(whole.also["buffer_x"].images).max() > 0
    numbers, history = frozen(other)
    assert numbers == frozen(whole)[0]
    assert history["d_loss"] == whole.history["d_loss"]
    forgetful, forgetful_step = make_run()
    checkpoints.resume(forgetful, tmp_path)
    forgetful.also["buffer_x"].images.assign(tf.zeros((8, *SHAPE)))
    assert frozen(forgetful)[0] != frozen(other)[0]


def test_a_step_moves_all_four_networks():
    run, step = make_run()
    before = [v.numpy() for v in (*run.d_variables, *run.g_variables)]
    batch = next(iter(cyclegan.unpaired_batches(images(1), images(2), 4, seed=3)))
    step(batch, step_at(0))
    after = [v.numpy() for v in (*run.d_variables, *run.g_variables)]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))


# The script.


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["whole", "no_buffer", "swapped", "digits"])
def test_the_script_measures_a_row(variant, monkeypatch, tmp_path):
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    row, pictures = unpaired_translation.measure(
        variant, seed=0, steps=2, source="digits", count=100, judge_steps=3
    )
    json.dumps(row)
    assert pictures["strips"].shape == (96, 28, 28)
    for way in "xy":
        first, *_, last = row[f"noise_{way}"]
        assert first["cycle"] == pytest.approx(row[f"cycle_{way}"], rel=1e-5)
        assert first["moved"] == first["real_moved"] == 0 < last["moved"]
    if variant == "digits":
        assert {"raw_x", "translated_x", "own_x"} <= set(row) and "paired_x" not in row
    else:
        assert row["unchanged"] > 0 and 0 < row["paired_x"] < 2
        assert row["width_x_real"] < row["width_y_real"]


def test_the_script_takes_an_untouched_image_for_no_error():
    nothing = keras.Sequential([keras.Input(SHAPE), layers.Identity()])
    x, y = images(1), images(2)
    row, fake_x, fake_y = unpaired_translation.cycles(nothing, nothing, x, y, seed=0, pairs=True)
    assert same_bits([fake_x, fake_y], [y, x]) and row["cycle_x"] == row["cycle_y"] == 0
    sizes = [level["deviation"] * np.sqrt(2 / np.pi) for level in row["noise_x"]]
    for name in ("cycle", "moved", "real_moved"):
        found = [level[name] for level in row["noise_x"]]
        np.testing.assert_allclose(found, sizes, rtol=0.15)
    from_pair = [level["from_pair"] for level in row["noise_x"]]
    assert from_pair[0] == pytest.approx(np.abs(x - y).mean(), rel=1e-5)


def test_what_is_inverted_is_counted_in_both_colors():
    x, nothing = images(1) * 0.5 - 0.4, keras.Sequential([keras.Input(SHAPE), layers.Identity()])
    negative = keras.Sequential([keras.Input(SHAPE), layers.Rescaling(-1.0)])
    darker = keras.Sequential([keras.Input(SHAPE), layers.Rescaling(0.1, -0.9)])
    models = [nothing, negative, darker]
    assert [inverted_colors.share_inverted(model, x) for model in models] == [0, 1, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("variant", inverted_colors.VARIANTS)
def test_the_script_of_colors_measures_a_row(variant, monkeypatch):
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    row, _ = inverted_colors.measure(variant, seed=0, steps=2, source="digits", count=100)
    json.dumps(row)
    assert 0 <= min(row["inverted_x"], row["inverted_y"]) and row["inverted_y"] <= 1
    assert (row["identity"] > 0) == (variant == "with")
