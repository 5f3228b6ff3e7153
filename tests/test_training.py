"""One run against its promises."""

import itertools
import math
import signal
import sys
from io import StringIO

import helpers
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import frozen, make_batches, tiny_run

from ganutils import runtime, training

# Steps that only count.


def one_weight():
    """A run in which nobody judges, and a weight is all there is."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    return training.Run(None, model, d_optimizer=None, g_optimizer=keras.optimizers.SGD())


class Counted:
    """A run whose step, batches and callback write down how they are called."""

    def __init__(self, start=0, broken=None):
        self.run, self.broken = one_weight(), broken or {}
        self.run.step.assign(start)
        self.run.history |= {name: [0.0] * start for name in ("d_loss", "g_loss") if start}
        self.starts, self.served, self.seen = [], [], []

    def make_batches(self, start):
        self.starts.append(start)
        return itertools.count(start)

    def train_step(self, real, step):
        number = int(step)
        self.served.append((real, number))
        return {"d_loss": tf.constant(10.0 * number), "g_loss": self.broken.get(number, number)}

    def callback(self, progress):
        self.seen.append(progress)
        assert int(self.run.step) == progress.step
        assert all(len(values) == progress.step for values in progress.history.values())

    def train(self, steps, **settings):
        settings = {"every": 3, "callbacks": [self.callback]} | settings
        return training.train(self.run, self.train_step, self.make_batches, steps=steps, **settings)

    def stops(self):
        return [progress.step for progress in self.seen]


def test_a_run_takes_every_step_once_in_order():
    counted = Counted()
    run = counted.train(7)
    assert run is counted.run and int(run.step) == 7
    assert run.history == {"d_loss": [10 * k for k in range(7)], "g_loss": list(range(7))}
    assert all(type(x) is float for values in run.history.values() for x in values)
    assert counted.starts == [0]
    assert counted.served == [(k, k) for k in range(7)]  # batch k and noise k in step k


@pytest.mark.parametrize(
    "steps, every, expected",
    [(7, 3, [3, 6, 7]), (6, 3, [3, 6]), (2, 3, [2]), (3, 1, [1, 2, 3]), (1, 100, [1])],
)
def test_callbacks_come_at_every_multiple_and_at_the_end(steps, every, expected):
    counted, second = Counted(), []
    callbacks = [counted.callback, lambda progress: second.append(progress.step)]
    counted.train(steps, every=every, callbacks=callbacks)
    assert counted.stops() == expected == second
    assert all(p.steps == steps and p.history is counted.run.history for p in counted.seen)
    assert all(math.isfinite(p.seconds_left) and p.seconds_left >= 0 for p in counted.seen)
    assert counted.seen[-1].seconds_left == 0


def test_the_time_left_is_the_pace_of_this_call_times_the_steps_to_do(monkeypatch):
    ticks = itertools.count(100.0, 0.5)
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(ticks))
    counted = Counted(start=10)
    counted.train(30, every=5)
    # The clock is read twice after step 11 and once after each later one: 0.5 s for each read.
    left = [progress.seconds_left for progress in counted.seen]
    assert left == pytest.approx([2.5 / 4 * 15, 5 / 9 * 10, 7.5 / 14 * 5, 0])


def test_a_second_call_goes_on_and_a_finished_run_only_calls_its_callbacks():
    counted = Counted()
    for stop in (4, 10, 10):
        counted.train(stop)
    assert counted.starts == [0, 4]
    assert counted.served == [(k, k) for k in range(10)]
    assert counted.run.history["d_loss"] == [10 * k for k in range(10)]
    assert counted.stops() == [3, 4, 6, 9, 10, 10]
    assert counted.seen[-1] == training.Progress(10, 10, counted.run.history, 0.0)


def test_a_run_that_is_finished_says_so_in_one_line_on_stderr(capsys):
    counted = Counted()
    for _ in range(2):
        counted.train(4)
    output, errors = capsys.readouterr()
    (line,) = errors.splitlines()
    assert output == "" and "already at step 4" in line and "new run" in line


def test_a_run_beyond_its_end_and_numbers_below_one_are_refused():
    counted = Counted(start=5)
    with pytest.raises(ValueError, match="step 5 .*steps=4"):
        counted.train(4)
    for wrong in ("every", "per_call"):
        with pytest.raises(ValueError, match=f"{wrong}=0"):
            counted.train(9, **{wrong: 0})
    with pytest.raises(TypeError, match="per_call=2.*tf.data.Dataset.*count"):
        counted.train(9, per_call=2)
    for wrong in ([1, 2], iter([1, 2]), None):
        with pytest.raises(TypeError, match="batches must be a dataset or a function"):
            training.train(counted.run, counted.train_step, wrong, steps=9)
    assert int(counted.run.step) == 5 and not (counted.served or counted.seen)


# Interrupted.


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
def test_ctrl_c_ends_the_run_after_the_step_at_hand(number, capsys):
    counted = Counted()
    take = counted.train_step

    def pressed_step(real, step):
        if int(step) + 1 == number:
            signal.raise_signal(signal.SIGINT)
        return take(real, step)

    counted.train_step, run = pressed_step, counted.run
    with pytest.raises(KeyboardInterrupt):
        counted.train(9)
    assert int(run.step) == number == len(run.history["d_loss"]) == len(run.history["g_loss"])
    # Callbacks see the end once, even where it is one of their steps anyway.
    assert counted.stops() == [k for k in (3, 6) if k < number] + [number]
    assert counted.seen[-1].steps == 9 and counted.seen[-1].seconds_left >= 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "Run the same cell once more to go on" in line

    counted.train_step = take
    counted.train(9)
    assert counted.served == [(k, k) for k in range(9)]
    assert run.history["d_loss"] == [10 * k for k in range(9)]


def test_ctrl_c_in_a_callback_waits_for_the_callback():
    ended = []

    def slow(progress):
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)
        ended.append(progress.step)

    with pytest.raises(KeyboardInterrupt):
        Counted().train(9, callbacks=[slow])
    assert ended == [3, 4]  # the press is noticed after the next step


def test_what_a_callback_raises_after_ctrl_c_is_what_comes_out():
    """As where the save of the last step fails: nobody may take it for saved."""
    counted = Counted()

    def fail(progress):
        raise OSError("the disk is full")

    take = counted.train_step

    def pressed_step(real, step):
        signal.raise_signal(signal.SIGINT)
        return take(real, step)

    counted.train_step = pressed_step
    with pytest.raises(OSError, match="full"):
        counted.train(9, callbacks=[fail])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_ignores_interrupts_trains_to_the_end():
    counted = Counted()
    take = counted.train_step

    def pressed_step(real, step):
        signal.raise_signal(signal.SIGINT)
        return take(real, step)

    counted.train_step = pressed_step
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert int(counted.train(5).step) == 5
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_twice_interrupts_at_once():
    counted = Counted()

    def impatient(real, step):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one should have interrupted")

    counted.train_step = impatient
    with pytest.raises(KeyboardInterrupt):
        counted.train(9)
    assert int(counted.run.step) == 0 and not counted.seen
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_starts_where_the_run_stands_on_a_terminal_only(terminal, monkeypatch, capsys):
    stream = StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    counted = Counted(start=6)
    counted.train(8)
    drawn = stream.getvalue()
    if terminal:
        assert all(part in drawn for part in ("6/8", "8/8", "step/s")) and "0/8" not in drawn
    else:
        assert drawn == ""
    assert capsys.readouterr().out == ""


# Runs of real steps, one or several a call, from a function or from a data set.


def real_run(stops, batches=make_batches, **settings):
    """An averaged run that ends at each of stops in turn: itself, what callbacks saw, its step."""
    run, train_step = tiny_run(average=True)
    seen = {}

    def callback(progress):
        weight = run.generator.weights[0].numpy().tobytes()
        seen[progress.step] = len(run.history["d_loss"]), int(run.step), weight

    for stop in stops:
        training.train(
            run, train_step, batches, steps=stop, every=4, callbacks=[callback], **settings
        )
    return run, seen, train_step


def test_in_parts_and_several_steps_a_call_it_is_the_same_run():
    """To the bit, at each callback and in the end; whether weights are watched or not."""
    whole, whole_seen, _ = real_run([11])
    batches = make_batches(0).take(11)  # just enough
    run, seen, train_step = real_run([5, 11], batches, per_call=3, watch_weights=True)
    assert {len(run.history.pop(name)) for name in ("d_weights", "g_weights")} == {11}
    assert frozen(run) == frozen(whole)
    assert list(seen) == [4, 5, 8, 11] and list(whole_seen) == [4, 8, 11]
    assert seen | whole_seen == seen
    assert train_step.experimental_get_tracing_count() == 1
    training.train(run, train_step, batches.repeat(), steps=12, per_call=3)
    assert sum(x != y for x, y in zip(frozen(run)[0], frozen(whole)[0], strict=True)) > 10


@pytest.mark.parametrize(
    "settings",
    [{"watch_weights": True}, {"per_call": 3}, {"per_call": 3, "watch_weights": True}],
    ids=str,
)
def test_the_same_line_again_traces_nothing(settings):
    run, traced = one_weight(), []

    def train_step(real, step):
        traced.append(step)
        return {"d_loss": tf.reduce_mean(real)}

    for stop in (4, 4, 9):
        training.train(run, train_step, make_batches, steps=stop, every=4, **settings)
    assert len(traced) == 1 and len(run.history["d_loss"]) == 9


def test_a_dataset_that_ends_too_early_is_refused_at_the_door():
    run, served = one_weight(), []

    def train_step(real, step):
        served.append(float(real))
        return {"d_loss": real}

    batches = tf.data.Dataset.range(5).map(lambda number: tf.cast(number, tf.float32))
    with pytest.raises(ValueError, match="5 batches.*6"):
        training.train(run, train_step, batches, steps=6)
    assert int(run.step) == 0 and not served
    for stop in (2, 5):
        training.train(run, train_step, batches, steps=stop)
    assert served == [0, 1, 2, 3, 4]
    training.train(run, train_step, batches.repeat(), steps=7)
    assert served[5:] == [0, 1]


def unknown(count):
    """A dataset of so many batches, which does not know how many."""
    numbers = tf.data.Dataset.range(count).map(lambda number: tf.cast(number, tf.float32))
    return numbers.filter(lambda number: True)


def finite(start):
    return (tf.constant(float(number)) for number in range(start, 5))


@pytest.mark.parametrize(
    "batches, per_call",
    [(unknown(5), 1), (unknown(5), 2), (unknown(5), 5), (unknown(5), 50), (finite, 1)],
)
def test_batches_that_end_too_early_stop_the_run_at_the_last_whole_step(batches, per_call):
    run, seen = one_weight(), []

    def train_step(real, step):
        return {"d_loss": real}

    settings = {"every": 3, "callbacks": [lambda p: seen.append(p.step)], "per_call": per_call}
    for _ in range(2):  # nothing is left the second time
        with pytest.raises(ValueError, match="batches ended before step 6: repeat"):
            training.train(run, train_step, batches, steps=9, **settings)
        assert int(run.step) == 5 and run.history == {"d_loss": [0, 1, 2, 3, 4]}
    assert seen == [3]
    if batches is not finite:
        training.train(run, train_step, batches.repeat(), steps=7, **settings)
        assert run.history["d_loss"][5:] == [0, 1]


@pytest.mark.parametrize("per_call", [1, 3])
def test_batches_of_which_there_are_none_are_refused(per_call):
    run, kinds = one_weight(), [unknown(0)] + [lambda start: []] * (per_call == 1)
    for batches in kinds:
        with pytest.raises(ValueError, match="batches ended before step 1"):
            training.train(run, lambda r, s: {"loss": r}, batches, steps=9, per_call=per_call)
    assert int(run.step) == 0 and run.history == {}


@pytest.mark.parametrize(
    "value, per_call", [(math.nan, 1), (-math.inf, 1), (math.inf, 2), (math.nan, 5), (math.inf, 50)]
)
def test_a_value_that_is_not_finite_stops_the_run_at_its_step(value, per_call):
    run, weight, seen = one_weight(), tf.Variable(0.0), []

    def train_step(real, number):
        weight.assign_add(1.0)
        broken = tf.where(number == 6, value, 1.0)  # while 6 steps are done: step 7
        return {"d_loss": tf.cast(number, tf.float32), "g_loss": broken}

    settings = {"every": 4, "callbacks": [lambda p: seen.append(p.step)], "per_call": per_call}
    with pytest.raises(FloatingPointError, match=rf"step 7: \{{'g_loss': {value}\}}"):
        training.train(run, train_step, make_batches, steps=20, **settings)
    assert run.history == {"d_loss": [0, 1, 2, 3, 4, 5], "g_loss": [1] * 6}
    # The broken step itself was taken; no callback saw it.
    assert (int(run.step), float(weight), seen) == (6, 7.0, [4])


# What a run holds.


def test_players_may_be_lists_of_models_and_nobody_need_judge():
    (d_one, g_one), (d_other, g_other) = helpers.pair(), helpers.dropout_pair()
    optimizers = {"d_optimizer": helpers.adam(), "g_optimizer": helpers.adam()}
    run = training.Run([d_one, d_other], [g_one, g_other], **optimizers)
    for variables, optimizer, models in (
        (run.d_variables, run.d_optimizer, (d_one, d_other)),
        (run.g_variables, run.g_optimizer, (g_one, g_other)),
    ):
        expected = [v for model in models for v in model.trainable_variables]
        assert [id(v) for v in variables] == [id(v) for v in expected]
        assert len(optimizer.variables) == 2 + 2 * len(expected)  # built
    assert (int(run.step), run.step.dtype, run.history) == (0, tf.int64, {})
    alone = one_weight()
    assert alone.d_variables == [] and len(alone.g_variables) == 1

    def norms(run):
        settings = {"steps": 1, "watch_weights": True}
        training.train(run, lambda real, step: {}, make_batches, **settings)
        return {name: values[-1] for name, values in run.history.items()}

    def norm(*models):
        numbers = [x.astype(np.float64) for model in models for x in model.get_weights()]
        return pytest.approx(math.sqrt(sum((x**2).sum() for x in numbers)), rel=1e-6)

    assert norms(run) == {"d_weights": norm(d_one, d_other), "g_weights": norm(g_one, g_other)}
    assert norms(alone) == {"g_weights": norm(alone.generator)}


# Players that could not learn.


def unbuilt():
    return keras.Sequential([keras.layers.Dense(1)])


def frozen_model():
    model = helpers.pair()[1]
    model.trainable = False
    return model


BAD = {"not built": unbuilt, "no variables": frozen_model, "no variables.*": list}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_a_player_that_cannot_learn_is_refused(message, player):
    d, g = helpers.pair()
    players = {"discriminator": d, "generator": g} | {player: BAD[message]()}
    optimizers = {"d_optimizer": helpers.adam(), "g_optimizer": helpers.adam()}
    with pytest.raises(ValueError, match=f"{player} .*{message}"):
        training.Run(**players, **optimizers)
    assert not optimizers[f"{player[0]}_optimizer"].built


def test_of_several_models_some_may_be_frozen_and_none_unbuilt():
    optimizers = {"d_optimizer": None, "g_optimizer": helpers.adam()}
    run = training.Run(None, [helpers.pair()[1], frozen_model()], **optimizers)
    assert len(run.g_variables) == 4
    with pytest.raises(ValueError, match="generator.*not built"):
        training.Run(None, [helpers.pair()[1], unbuilt()], **optimizers)


def scaling():
    return keras.optimizers.LossScaleOptimizer(helpers.adam())


def scaling_itself():
    return keras.optimizers.SGD(loss_scale_factor=1024.0)


def half():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return helpers.pair()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("make_optimizer", [scaling, scaling_itself])
def test_an_optimizer_that_scales_losses_is_refused(make_optimizer):
    plain, scaled = helpers.adam(), make_optimizer()
    for d_optimizer, g_optimizer, name in (
        (scaled, plain, "discriminator"),
        (plain, scaled, "generator"),
    ):
        with pytest.raises(ValueError, match=f"{name} .*scale.*bfloat16 or float32"):
            training.Run(*helpers.pair(), d_optimizer=d_optimizer, g_optimizer=g_optimizer)


def test_float16_is_refused():
    optimizers = {"d_optimizer": helpers.adam(), "g_optimizer": helpers.adam()}
    for pair, name in ((half()[0], helpers.pair()[1]), "d"), ((helpers.pair()[0], half()[1]), "g"):
        with pytest.raises(ValueError, match=rf"{name}\w+or needs a scaled loss.*float16"):
            training.Run(*pair, **optimizers)


# What a GPU does by itself: programs of many steps. XLA compiles them for a CPU as well.


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(runtime, "on_gpu", lambda: True)


def program_of(run, batches):
    source = batches(start=0) if callable(batches) else batches
    return training._way_to_take(run, lambda real, step: {"loss": real}, source, None)[1]


def test_a_gpu_takes_many_steps_at_once_of_batches_of_one_shape(monkeypatch):
    images = make_batches(0)
    big = tf.data.Dataset.from_tensors(tf.zeros((3, 2**20))).repeat()  # 12 MB; of 256, 21 fit
    ragged = tf.data.Dataset.range(7).batch(2)
    assert [program_of(one_weight(), x) for x in (images, big, ragged)] == [1, 1, 1]
    monkeypatch.setattr(runtime, "on_gpu", lambda: True)
    found = [program_of(one_weight(), x) for x in (images, big, ragged, finite)]
    assert found == [100, 21, 1, 1]
    run = one_weight()
    run.strategy = "any"
    assert program_of(run, images) == 1


@pytest.mark.slow  # XLA compiles a whole step
def test_programs_take_the_steps_that_python_takes(gpu):
    """Up to rounding, at the same callbacks. Sums in another order differ by some 1e-7 of 1."""
    (one, at_one, _), (many, at_many, _) = real_run([30], per_call=1), real_run([14, 30])
    assert list(at_one) == [*range(4, 30, 4), 30] and at_many.keys() == {*at_one, 14}
    numbers = [[x.numpy() for x in helpers.variables_of(run)] for run in (one, many)]
    helpers.assert_close(*numbers, rtol=1e-5, atol=1e-5)
    helpers.assert_close(one.history.values(), many.history.values(), rtol=1e-5, atol=1e-5)
    start = tiny_run(average=True)[0]
    weights = [run.generator.weights[0].numpy() for run in (one, start)]
    assert abs(weights[0] - weights[1]).max() > 1e-2  # it has learned


def test_programs_end_where_batches_values_or_the_reader_end_them(gpu):
    def train_step(real, step):
        return {"d_loss": tf.where(step == 7, math.nan, real)}

    run, seen = one_weight(), []

    def press(progress):
        seen.append(progress.step)
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)

    settings = {"every": 3, "callbacks": [press]}
    with pytest.raises(KeyboardInterrupt):  # noticed after the next program
        training.train(run, train_step, unknown(9), steps=9, **settings)
    assert int(run.step) == 6 and seen == [3, 6]
    with pytest.raises(ValueError, match="batches ended before step 7: repeat"):
        training.train(run, train_step, unknown(6), steps=9, **settings)
    with pytest.raises(FloatingPointError, match="step 8: {'d_loss': nan}"):
        training.train(run, train_step, unknown(9), steps=9, **settings)
    assert int(run.step) == 7 and run.history == {"d_loss": [0, 1, 2, 3, 4, 5, 6]}
    assert seen == [3, 6]
