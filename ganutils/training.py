"""How does one run go? `train` takes any step, one by one; a loop takes many in one call."""

import time
from typing import NamedTuple

import tensorflow as tf
from tqdm import tqdm

from ganutils import checks, runtime


class Progress(NamedTuple):
    """What a callback of `train` is told.

    step: steps done so far. steps: where the run ends. history: dict from name to a list with one
    float for each step done. seconds_left: estimate from the steps of this call.
    """

    step: int
    steps: int
    history: dict
    seconds_left: float


def stack_values(values, names):
    """Stack the scalars of a dict as one tensor, and note what they are called.

    Args:
        values: dict from name to scalar.
        names: list; holds the names, in order, afterwards.

    Returns:
        float32 tensor (count,).
    """
    names[:] = values
    return tf.stack([tf.cast(value, tf.float32) for value in values.values()])


def make_loop(train_step, batches, *, step, compiled):
    """Make a function that takes several steps in a row and gathers what they report.

    Compiled, batches are fetched and steps are counted inside one graph; Python is called once for
    all of them. The steps, and their results, are the same either way.

    Args:
        train_step: function (real, step) -> dict from name to scalar, as `updates` makes.
        batches: iterable of batches; a `tf.data.Dataset`, as `data.batches` makes, if compiled.
        step: integer `tf.Variable`, the number of steps done; advanced after each step.
        compiled: whether the steps become one `tf.function`.

    Returns:
        Function count -> dict from name to a list of count floats (of float32). The step whose
        values are not all finite is the last one taken: the counter stays before it, and whatever
        the lists hold behind it means nothing.

    Raises:
        TypeError: compiled, and the batches are not a `tf.data.Dataset`: a graph would use the
            first batch of any other iterable again and again.
    """
    if compiled and not isinstance(batches, tf.data.Dataset):
        raise TypeError(f"Several steps per call need a tf.data.Dataset, not {type(batches)}.")
    batches, names = iter(batches), []

    def loop(count):
        rows = tf.TensorArray(tf.float32, count)
        for i in tf.range(count):
            row = stack_values(train_step(next(batches), tf.identity(step)), names)
            rows = rows.write(i, row)
            if not tf.reduce_all(tf.math.is_finite(row)):
                break
            step.assign_add(1)
        return rows.stack()

    run = tf.function(loop) if compiled else loop
    return lambda count: dict(zip(names, run(tf.constant(count)).numpy().T.tolist(), strict=True))


def train(train_step, make_batches, *, steps, step, history, callbacks=(), every=100, per_call=1):
    """Run a training step until the counter `step` stands at `steps`.

    A run that stands there already only calls its callbacks, so a cell can be run twice. Ctrl-C, or
    a notebook's stop button, ends the run after the step at hand; the same call goes on from there.

    Args:
        train_step: function (real, step) -> dict from name to scalar, as `updates` makes.
        make_batches: function start -> endless iterable of batches, from batch number start on; a
            `tf.data.Dataset`, as `data.batches` makes, where per_call is above 1.
        steps: the step count at which the run ends (the total, not the number still to do).
        step: integer `tf.Variable`, the number of steps done; advanced after each step.
        history: dict; each name of train_step's result gets its list, extended step by step.
        callbacks: functions of a `Progress`, called after every `every` steps and at the end, be it
            asked for by Ctrl-C.
        every: number of steps between two calls of the callbacks.
        per_call: steps taken by one compiled call, at most; fewer where a callback is due. It pays
            where a step is as short as Python's way to it. The results do not depend on it.

    Returns:
        `history`, for convenience.

    Raises:
        ValueError: the counter is beyond `steps`, or `every` or `per_call` is below 1.
        TypeError: per_call is above 1, and the batches are not a `tf.data.Dataset`.
        FloatingPointError: a value of train_step is NaN or infinite; names the step and the value.
            No callback sees that step, so what they saved before stands. Whatever per_call is,
            counter and history are those before that step, and the weights those after it.
        KeyboardInterrupt: Ctrl-C a second time, before the step at hand has ended; weights, counter
            and history may then disagree.
    """
    now, left, clock, stop = int(step), 0.0, None, False
    if now > steps or every < 1 or per_call < 1:
        raise ValueError(f"step {now} must be at most {steps=}; {every=}, {per_call=} at least 1.")
    if now < steps:
        take = make_loop(train_step, make_batches(start=now), step=step, compiled=per_call > 1)
    bar = tqdm(total=steps, initial=now, unit="step", disable=None)
    with bar, runtime.stop_button() as pressed:
        while now < steps and not stop:
            values = take(count := min(per_call, every - now % every, steps - now))
            start, now = now, int(step)
            for name, column in values.items():
                history.setdefault(name, []).extend(column[: now - start])
            if now < start + count:
                last = {name: column[now - start] for name, column in values.items()}
                checks.refuse_non_finite(last, step=now + 1)
            bar.update(count)
            clock = clock or (time.perf_counter(), now)  # the first call includes tracing
            left = (time.perf_counter() - clock[0]) / max(now - clock[1], 1) * (steps - now)
            stop = pressed()
            for callback in callbacks if now % every == 0 and now < steps and not stop else ():
                callback(Progress(now, steps, history, left))
        for callback in callbacks:
            callback(Progress(now, steps, history, left))
    return history


def make_drawn_loop(train_step, draw, *, step):
    """Make a function that takes many steps as one program, real samples drawn inside it.

    Where a step takes less than a millisecond, fetching a batch and starting each operation cost
    more than the arithmetic. Here XLA compiles draw, step and counter into one program. It turns
    the same seeds into other random numbers than TensorFlow's own operations do, so a run repeats
    only in the same kind of loop.

    Args:
        train_step: function (real, step) -> dict from name to scalar, as `updates` makes.
        draw: function step -> real samples (batch, ...), a pure function of the step.
        step: integer `tf.Variable`, the number of steps done; advanced after each step.

    Returns:
        Function count -> dict from name to a list of count floats (of float32). Each new count is
        compiled once, in some seconds. It raises FloatingPointError where a value is NaN or
        infinite, as `train` does: the counter is then that before the step.
    """
    names = []

    @tf.function(jit_compile=True)
    def loop(count):
        rows = tf.TensorArray(tf.float32, count)
        for i in tf.range(count):
            row = stack_values(train_step(draw(tf.identity(step)), tf.identity(step)), names)
            rows = rows.write(i, row)
            if not tf.reduce_all(tf.math.is_finite(row)):
                break
            step.assign_add(1)
        return rows.stack()

    def take(count):
        end = int(step) + count
        rows = loop(tf.constant(count)).numpy()
        if (now := int(step)) < end:
            last = dict(zip(names, rows[now - end].tolist(), strict=True))
            checks.refuse_non_finite(last, step=now + 1)
        return dict(zip(names, rows.T.tolist(), strict=True))

    return take
