"""Many steps as one program, real samples drawn inside: the steps that Python would take."""

import functools
import math

import helpers
import keras
import pytest
import tensorflow as tf
from helpers import floats, frozen, step_at

from ganutils import data, layers, losses, networks, runtime, steps, training
from ganutils.families import mode_collapse

POINTS = 12


def wave(count, size, *, seed, step):
    """Latents or samples that spread over the plane and owe nothing to random numbers."""
    angles = tf.range(count * size, dtype=tf.float32) + 0.7 * tf.cast(step, tf.float32) + seed
    return tf.reshape(1.5 * tf.sin(angles * angles / 5), (count, size))


def spectral(units):
    return layers.SpectralNormalization(keras.layers.Dense(units))


def drawn_run(remedies=False):
    """A run of points, and its step: the plain one, or with two updates of D and remedies."""
    keras.utils.set_random_seed(1)
    dense = spectral if remedies else keras.layers.Dense
    d = networks.point_network(2, 1, widths=(6,), dense=dense)
    g = networks.point_network(3, 2, widths=(5,))
    means, average = mode_collapse.HistoricalAverage(g.trainable_variables), runtime.in_float32(g)
    optimizers = {
        name: keras.optimizers.SGD(0.05, momentum=0.5) for name in ("d_optimizer", "g_optimizer")
    }
    run = training.Run(d, g, **optimizers, average=average, also={"means": means})
    game = {"objective": losses.wasserstein, "latent_dim": 3, "seed": 5}
    if remedies:
        game["d_terms"] = [lambda real, fake, step: losses.r1_penalty(d, real)]
        game["g_terms"] = [lambda real, fake, step: means(step)]
    play = steps.make_gan_play(d, g, **game)
    clip = functools.partial(losses.clip_weights, limit=0.5)
    pace = {"d_steps": 2, "constrain": clip} if remedies else {}
    train_step = steps.make_step(play, run.d_variables, run.g_variables, **optimizers, **pace)
    return run, steps.with_ema(train_step, g, average) if remedies else train_step


def one_at_a_time(run, train_step, draw, count):
    """The steps of a loop, taken from Python; a dict from name to their values."""
    one, rows = tf.function(lambda now: train_step(draw(now), now)), []
    for _ in range(count):
        rows.append(floats(one(tf.identity(run.step))))
        run.step.assign_add(1)
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_a_loop_takes_the_steps_that_python_would_take():
    """And two calls in a row are one call of the sum; to the bit, without XLA."""
    (run, train_step), plain, traces = drawn_run(), drawn_run(), []
    start = frozen(run)[0]

    def draw(step):
        traces.append(step)
        return data.ring_of_gaussians(POINTS, seed=3, step=step)

    take = training.make_loop(train_step, draw, run.step, jit_compile=False)
    first = take(2)
    assert int(run.step) == 2
    count, second = len(traces), take(2)
    assert len(traces) == count  # nothing was traced again
    expected = one_at_a_time(*plain, draw, 4)
    assert list(first) == list(expected) == ["d_loss", "g_loss", "d_real", "d_fake"]
    assert {name: first[name] + second[name] for name in first} == expected
    assert all(len(set(column)) == 4 and type(column[0]) is float for column in expected.values())
    assert frozen(run) == frozen(plain[0])
    assert sum(x != y for x, y in zip(frozen(run)[0], start, strict=True)) > 10


@pytest.mark.slow  # it compiles for long; the tests below are of XLA, too
def test_a_program_of_xla_agrees_with_steps_that_xla_never_saw(monkeypatch):
    """With several remedies. XLA has random numbers of its own, so nothing may be random here."""
    monkeypatch.setattr(steps, "sample_latents", wave)
    (run, train_step), plain = drawn_run(remedies=True), drawn_run(remedies=True)

    def draw(step):
        return wave(POINTS, 2, seed=1, step=step)

    values = training.make_loop(train_step, draw, run.step)(3)
    expected = one_at_a_time(*plain, draw, 3)
    for name, column in values.items():
        assert column == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        assert len(set(column)) == 3
    numbers = [[v.numpy() for v in helpers.variables_of(r)] for r in (run, plain[0])]
    helpers.assert_close(*numbers, rtol=1e-4, atol=1e-5)


def test_a_resumed_counter_draws_the_samples_of_its_steps():
    step, total = step_at(5), tf.Variable(0.0)

    def train_step(real, number):
        total.assign_add(tf.reduce_sum(real))
        return {"real": real[1, 0], "number": number, "total": total.read_value()}

    def draw(now):
        return tf.fill((3, 2), 10.0 * tf.cast(now, tf.float32))

    take = training.make_loop(train_step, draw, step)
    assert take(3) == {"real": [50, 60, 70], "number": [5, 6, 7], "total": [300, 660, 1080]}
    assert take(1) == {"real": [80], "number": [8], "total": [1560]}
    assert int(step) == 9 and type(take(1)["number"][0]) is float
    step.assign(0)
    assert take(3)["real"] == [0, 10, 20]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_broken_value_stops_the_loop_at_its_step(value):
    step, weight = step_at(0), tf.Variable(0.0)

    def train_step(real, number):
        weight.assign_add(1.0)
        broken = tf.where(number == 6, value, 1.0)  # while 6 steps are done: step 7
        return {"d_loss": tf.cast(number, tf.float32), "g_loss": broken}

    take = training.make_loop(train_step, lambda now: tf.zeros((2, 2)), step)
    assert take(4) == {"d_loss": [0, 1, 2, 3], "g_loss": [1] * 4}
    with pytest.raises(FloatingPointError, match=rf"step 7: .*'g_loss': {value}\}}"):
        take(4)
    assert (int(step), float(weight)) == (6, 7.0)  # the broken step itself was taken
    step.assign(7)
    assert take(4)["d_loss"] == [7, 8, 9, 10]  # the loop is still good
