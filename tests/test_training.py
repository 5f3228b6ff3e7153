"""One run against its promises."""

import functools
import itertools
import math
import signal
import sys
from io import StringIO

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_updates import (
    BATCH,
    IMAGE_SHAPE,
    POINTS,
    VARIANTS,
    assert_close,
    assert_equal,
    dropout_pair,
    floats,
    make_step,
    pair,
    point_pair,
    real_batch,
    regularized,
    step_at,
    weights,
)

from ganutils import data, penalties, runtime, training, updates


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


# One run, with steps that only count.


class Run:
    """A step, batches and a callback that write down how they are called."""

    def __init__(self, start=0, broken=None):
        self.step = step_at(start)
        self.history, self.starts, self.served, self.seen = {}, [], [], []
        self.broken = broken or {}

    def make_batches(self, start):
        self.starts.append(start)
        return itertools.count(start)

    def train_step(self, real, step):
        number = int(step)
        self.served.append((real, number))
        return {"d_loss": tf.constant(10.0 * number), "g_loss": self.broken.get(number, number)}

    def callback(self, progress):
        self.seen.append(progress)
        assert int(self.step) == progress.step
        assert all(len(values) == progress.step for values in progress.history.values())

    def train(self, steps, **settings):
        settings = {"every": 3, "callbacks": [self.callback]} | settings
        return training.train(
            self.train_step,
            self.make_batches,
            steps=steps,
            step=self.step,
            history=self.history,
            **settings,
        )


def test_a_run_takes_every_step_once_in_order():
    run = Run()
    result = run.train(7)
    assert result is run.history
    assert run.history == {
        "d_loss": [0, 10, 20, 30, 40, 50, 60],
        "g_loss": [0, 1, 2, 3, 4, 5, 6],
    }
    assert all(type(x) is float for values in run.history.values() for x in values)
    assert int(run.step) == 7
    assert run.starts == [0]
    assert run.served == [(k, k) for k in range(7)]  # batch k and noise k in step k


@pytest.mark.parametrize(
    "steps, every, expected",
    [(7, 3, [3, 6, 7]), (6, 3, [3, 6]), (2, 3, [2]), (3, 1, [1, 2, 3]), (1, 100, [1])],
)
def test_callbacks_come_at_every_multiple_and_at_the_end(steps, every, expected):
    run, second = Run(), []
    run.train(steps, every=every, callbacks=[run.callback, lambda p: second.append(p.step)])
    assert [p.step for p in run.seen] == expected == second
    assert all(p.steps == steps and p.history is run.history for p in run.seen)
    assert all(math.isfinite(p.seconds_left) and p.seconds_left >= 0 for p in run.seen)
    assert run.seen[-1].seconds_left == 0


def test_the_time_left_is_the_pace_of_this_call_times_the_steps_to_do(monkeypatch):
    ticks = itertools.count(100.0, 0.5)
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(ticks))
    run = Run()
    run.history.update(d_loss=[0.0] * 10, g_loss=[0.0] * 10)
    run.step.assign(10)
    run.train(30, every=5)
    # The clock is read twice after step 11 and once after each later one: 0.5 s for each read.
    left = [p.seconds_left for p in run.seen]
    assert left == pytest.approx([2.5 / 4 * 15, 5 / 9 * 10, 7.5 / 14 * 5, 0])


def test_a_second_call_goes_on_where_the_first_ended():
    run = Run()
    run.train(4)
    run.train(10)
    assert run.starts == [0, 4]
    assert run.served == [(k, k) for k in range(10)]
    assert run.history["d_loss"] == [10 * k for k in range(10)]
    assert [p.step for p in run.seen] == [3, 4, 6, 9, 10]


def test_a_finished_run_only_calls_its_callbacks():
    run = Run()
    run.train(4)
    before = {name: list(values) for name, values in run.history.items()}
    assert run.train(4) is run.history
    assert run.history == before and len(run.served) == 4 and run.starts == [0]
    assert [p.step for p in run.seen] == [3, 4, 4]
    assert run.seen[-1] == training.Progress(4, 4, run.history, 0.0)


def test_a_run_beyond_its_end_and_a_period_below_one_are_refused():
    run = Run(start=5)
    with pytest.raises(ValueError, match="step 5 .*steps=4"):
        run.train(4)
    with pytest.raises(ValueError, match="every=0"):
        run.train(9, every=0)
    assert int(run.step) == 5 and not (run.history or run.served or run.starts or run.seen)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_the_run_and_is_named(value):
    run = Run(broken={5: tf.constant(value)})  # while 5 steps are done: step 6
    with pytest.raises(FloatingPointError, match=rf"step 6.*'g_loss': {value}") as error:
        run.train(9)
    assert "d_loss" not in str(error.value)
    assert run.history == {"d_loss": [0, 10, 20, 30, 40], "g_loss": [0, 1, 2, 3, 4]}
    assert int(run.step) == 5
    assert [p.step for p in run.seen] == [3]  # step 6 would have been the next


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_ctrl_c_ends_the_run_after_the_step_at_hand(number, capsys):
    run = Run()
    take, seen = run.train_step, []

    def pressed_step(real, step):
        if int(step) + 1 == number:
            signal.raise_signal(signal.SIGINT)
        return take(real, step)

    run.train_step = pressed_step
    assert run.train(9) is run.history
    assert int(run.step) == number == len(run.history["d_loss"]) == len(run.history["g_loss"])
    # Callbacks see the end once, even where it is one of their steps anyway.
    seen = [p.step for p in run.seen]
    assert seen == [k for k in (3,) if k < number] + [number]
    assert run.seen[-1].steps == 9 and run.seen[-1].seconds_left >= 0
    assert "Run the same once more" in capsys.readouterr().out

    run.train_step = take
    run.train(9)
    assert run.history["d_loss"] == [10 * k for k in range(9)]
    assert run.served == [(k, k) for k in range(9)]


def test_ctrl_c_in_a_callback_waits_for_the_callback():
    run, ended = Run(), []

    def slow(progress):
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)
        ended.append(progress.step)

    run.train(9, callbacks=[slow])
    assert ended == [3, 4]  # the press is noticed after the next step


def test_ctrl_c_twice_interrupts_at_once():
    run = Run()

    def impatient(real, step):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one should have interrupted")

    run.train_step = impatient
    with pytest.raises(KeyboardInterrupt):
        run.train(9)
    assert int(run.step) == 0 and not run.seen
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Terminal(StringIO):
    """An error stream that says whether it is a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def test_the_bar_is_drawn_on_a_terminal_only(monkeypatch, capsys):
    for terminal in (True, False):
        stream = Terminal(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        run = Run()
        run.train(4)
        run.train(4)  # finished: nothing to show
        drawn = stream.getvalue()
        if terminal:
            assert "4/4" in drawn and "step/s" in drawn
        else:
            assert drawn == ""
    assert capsys.readouterr().out == ""


def test_a_resumed_bar_starts_where_the_run_stands(monkeypatch):
    stream = Terminal(True)
    monkeypatch.setattr(sys, "stderr", stream)
    run = Run(start=6)
    run.history.update(d_loss=[0.0] * 6, g_loss=[0.0] * 6)
    run.train(8)
    assert "6/8" in stream.getvalue() and "8/8" in stream.getvalue()
    assert "0/8" not in stream.getvalue()


def test_a_real_step_and_a_real_run_fit_together():
    discriminator, generator = pair()
    train_step = make_step(discriminator, generator)
    step, history = step_at(0), {}

    def make_batches(start):
        return (real_batch(number) for number in itertools.count(start))

    for steps in (3, 5):
        training.train(train_step, make_batches, steps=steps, step=step, history=history)
    assert {name: len(values) for name, values in history.items()} == {
        "d_loss": 5,
        "g_loss": 5,
        "d_real": 5,
        "d_fake": 5,
    }
    assert train_step.experimental_get_tracing_count() == 1
    # Interrupted or not: the same steps.
    keras.utils.set_random_seed(1)
    at_once = training.train(make_step(*pair()), make_batches, steps=5, step=step_at(0), history={})
    assert at_once == history


# Several steps per call; runs of real steps, averaged perhaps.

IMAGES = np.random.default_rng(3).uniform(-1, 1, (20, *IMAGE_SHAPE)).astype(np.float32)


def dataset(start):
    return data.batches(IMAGES, BATCH, seed=0, start=start)


def real_run(stops, averaged=False, **settings):
    """A run of real steps that ends at each of stops in turn: every number of its end."""
    keras.utils.set_random_seed(1)
    models = dropout_pair()
    optimizers = [keras.optimizers.Adam(1e-2) for _ in range(2)]
    train_step = make_step(*models, d_optimizer=optimizers[0], g_optimizer=optimizers[1])
    if averaged:
        average = runtime.in_float32(models[1])
        train_step = updates.with_average(train_step, models[1], average)
        models += (average,)
    step, history, seen = step_at(0), {}, []

    def callback(progress):
        weight = models[1].weights[0].numpy()
        seen.append((progress.step, len(history["d_loss"]), int(step), weight))

    for steps in stops:
        training.train(
            train_step,
            dataset,
            steps=steps,
            step=step,
            history=history,
            callbacks=[callback],
            **settings,
        )
    variables = [v.numpy() for owner in (*models, *optimizers) for v in owner.variables]
    return history, variables, seen, train_step


@pytest.fixture(scope="module")
def one_at_a_time():
    return real_run([11], averaged=True, every=4)


@pytest.mark.parametrize(
    "per_call, stops", [(2, [11]), (4, [11]), (3, [5, 11]), (100, [11]), (100, [1, 3, 11])]
)
def test_several_steps_per_call_give_the_same_bits(one_at_a_time, per_call, stops):
    history, variables, seen, train_step = real_run(
        stops, averaged=True, every=4, per_call=per_call
    )
    expected_history, expected, expected_seen, _ = one_at_a_time
    assert history == expected_history and len(history["d_loss"]) == 11
    assert_equal(variables, expected)
    calls = {s: (length, counter, weight) for s, length, counter, weight in seen}
    assert list(calls) == sorted({4, 8, 11, *stops})
    for s, length, counter, weight in expected_seen:
        assert calls[s][:2] == (length, counter) == (s, s)
        np.testing.assert_array_equal(calls[s][2], weight)
    assert train_step.experimental_get_tracing_count() == 1


def test_the_comparison_tells_runs_apart(one_at_a_time):
    other = real_run([12], averaged=True, every=4, per_call=4)
    assert other[0] != one_at_a_time[0]
    differ = [not np.array_equal(x, y) for x, y in zip(other[1], one_at_a_time[1], strict=True)]
    assert sum(differ) > 10


@pytest.mark.parametrize("per_call", [1, 2, 5, 50])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_broken_value_stops_at_its_step_whatever_per_call(per_call, value):
    step, weight, history, seen = step_at(0), tf.Variable(0.0), {}, []

    def train_step(real, number):
        weight.assign_add(1.0)
        broken = tf.where(number == 6, value, 1.0)  # while 6 steps are done: step 7
        return {"d_loss": tf.cast(number, tf.float32), "g_loss": broken}

    with pytest.raises(FloatingPointError, match=rf"step 7: \{{'g_loss': {value}\}}"):
        training.train(
            train_step,
            dataset,
            steps=20,
            step=step,
            history=history,
            callbacks=[lambda p: seen.append(p.step)],
            every=4,
            per_call=per_call,
        )
    assert history == {"d_loss": [0, 1, 2, 3, 4, 5], "g_loss": [1] * 6}
    assert (int(step), float(weight), seen) == (6, 7.0, [4])  # the broken step itself was taken


def test_several_steps_per_call_need_a_dataset():
    run = Run()
    with pytest.raises(TypeError, match=r"tf.data.Dataset, not .*count"):
        run.train(4, per_call=2)
    assert int(run.step) == 0 and not run.history
    with pytest.raises(ValueError, match="per_call=0"):
        run.train(4, per_call=0)


def test_averaging_leaves_the_run_as_it_is():
    history, variables, *_ = real_run([5])
    averaged_history, averaged, *_ = real_run([5], averaged=True)
    assert history == averaged_history
    count = len(real_run([1])[1])
    models = sum(len(model.variables) for model in dropout_pair())
    assert count == len(variables)
    assert_equal(variables[:models], averaged[:models])


# Many steps as one program, real samples drawn inside.


def wave(count, size, *, seed, step):
    """Latents or samples that spread over the plane and owe nothing to random numbers."""
    angles = tf.range(count * size, dtype=tf.float32) + 0.7 * tf.cast(step, tf.float32) + seed
    return tf.reshape(1.5 * tf.sin(angles * angles / 5), (count, size))


class DrawnRun:
    """A step of real networks with a draw of its samples, and all that the two change."""

    def __init__(self, draw, start=0, remedies=False):
        keras.utils.set_random_seed(1)
        optimizers = [keras.optimizers.SGD(0.05, momentum=0.5) for _ in range(2)]
        own = {"d_optimizer": optimizers[0], "g_optimizer": optimizers[1]}
        self.draw, self.step, self.traces = draw, step_at(start), 0
        if not remedies:
            self.models = point_pair()
            clip = functools.partial(penalties.clip_weights, limit=0.5)
            self.train_step = regularized(*self.models, **own, d_steps=2, constrain=clip)
            self.owners = [*self.models, *optimizers]
            return
        short = {"widths": (6,)}  # XLA takes its time
        virtual = VARIANTS["virtual batch norm"]["g"] | short
        spectral = VARIANTS["hinge, spectral"]["d"] | VARIANTS["packed"]["d"] | short
        self.models = point_pair(spectral, virtual)
        average = point_pair(g=virtual)[1]
        average.set_weights(self.models[1].get_weights())
        history = penalties.HistoricalAverage(self.models[1].trainable_variables)
        penalty = VARIANTS["R1"]["d_terms"](*self.models)
        terms = {"d_terms": penalty, "g_terms": [lambda real, fake, step: history(step)]}
        train_step = regularized(*self.models, **own, **terms)
        self.train_step = updates.with_average(train_step, self.models[1], average)
        means = tf.Module()
        means.means = history.means
        self.owners = [*self.models, average, *optimizers, means]

    def count_draw(self, step):
        self.traces += 1
        return self.draw(step)

    def loop(self):
        return training.make_drawn_loop(self.train_step, self.count_draw, step=self.step)

    def one_by_one(self, count, jit_compile):
        """The same steps from Python, each compiled by itself."""

        @tf.function(jit_compile=jit_compile)
        def one(number):
            return self.train_step(self.draw(number), number)

        values = []
        for _ in range(count):
            values.append(floats(one(tf.identity(self.step))))
            self.step.assign_add(1)
        return {name: [row[name] for row in values] for name in values[0]}

    def numbers(self):
        return [x for owner in self.owners for x in weights(owner)]


def ring(step):
    return data.ring_of_gaussians(POINTS, seed=3, step=step)


def test_the_drawn_loop_takes_the_steps_that_python_would_take():
    """With several remedies in one step, so that XLA compiles them, too."""
    looped, plain = (DrawnRun(ring, start=2, remedies=True) for _ in range(2))
    start = plain.numbers()
    assert_equal(looped.numbers(), start)
    values, expected = looped.loop()(3), plain.one_by_one(3, jit_compile=True)
    assert list(values) == list(expected) == ["d_loss", "g_loss", "d_real", "d_fake"]
    for name, column in values.items():
        assert column == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        assert len(set(column)) == 3 and {type(x) for x in column} == {float}
    assert_close(looped.numbers(), plain.numbers(), rtol=1e-4, atol=1e-5)
    assert int(looped.step) == int(plain.step) == 5
    moved = [np.abs(x - y).max() for x, y in zip(plain.numbers(), start, strict=True) if x.ndim > 1]
    assert min(moved) > 1e-4


@pytest.fixture(scope="module")
def four_steps():
    """Four steps in one call."""
    run = DrawnRun(ring)
    return run.loop()(4), run.numbers(), int(run.step)


def test_two_calls_in_a_row_are_one_call_of_the_sum(four_steps):
    values, numbers, step = four_steps
    run = DrawnRun(ring)
    take = run.loop()
    first = take(2)
    assert int(run.step) == 2
    traces = run.traces
    second = take(2)
    assert run.traces == traces  # nothing was traced again
    assert {name: first[name] + second[name] for name in first} == values
    assert_equal(run.numbers(), numbers)
    assert int(run.step) == step == 4


def test_the_drawn_loop_agrees_with_steps_that_xla_never_saw(monkeypatch):
    """XLA has random numbers of its own, so neither latents nor samples may be random here."""
    monkeypatch.setattr(updates, "sample_latents", wave)
    looped, plain = (DrawnRun(lambda step: wave(POINTS, 2, seed=1, step=step)) for _ in range(2))
    values, expected = looped.loop()(4), plain.one_by_one(4, jit_compile=False)
    for name, column in values.items():
        assert column == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        assert len(set(column)) == 4
    assert_close(looped.numbers(), plain.numbers(), rtol=1e-4, atol=1e-5)
    assert int(looped.step) == int(plain.step) == 4


def test_a_resumed_counter_draws_the_samples_of_its_steps():
    step, total = step_at(5), tf.Variable(0.0)

    def train_step(real, number):
        total.assign_add(tf.reduce_sum(real))
        return {"real": real[1, 0], "number": number, "total": total.read_value()}

    take = training.make_drawn_loop(
        train_step, lambda now: tf.fill((3, 2), 10.0 * tf.cast(now, tf.float32)), step=step
    )
    assert take(3) == {"real": [50, 60, 70], "number": [5, 6, 7], "total": [300, 660, 1080]}
    assert take(1) == {"real": [80], "number": [8], "total": [1560]}
    assert int(step) == 9 and type(take(1)["number"][0]) is float
    step.assign(0)
    assert take(3)["real"] == [0, 10, 20]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_value_stops_the_drawn_loop_at_its_step(value):
    step, weight = step_at(0), tf.Variable(0.0)

    def train_step(real, number):
        weight.assign_add(1.0)
        broken = tf.where(number == 6, value, 1.0)  # while 6 steps are done: step 7
        return {"d_loss": tf.cast(number, tf.float32), "g_loss": broken}

    take = training.make_drawn_loop(train_step, lambda now: tf.zeros((2, 2)), step=step)
    assert take(4) == {"d_loss": [0, 1, 2, 3], "g_loss": [1] * 4}
    with pytest.raises(FloatingPointError, match=rf"step 7: .*'g_loss': {value}\}}"):
        take(5)
    assert (int(step), float(weight)) == (6, 7.0)  # the broken step itself was taken
    step.assign(7)
    assert take(4)["d_loss"] == [7, 8, 9, 10]  # the loop is still good
