"""How does one run go? A `Run` is what it remembers; `train` takes its steps."""

import contextlib
import itertools
import math
import sys
import time
from functools import partial
from typing import NamedTuple

import keras
import tensorflow as tf
from tqdm import tqdm

from ganutils import runtime, validation

PROGRAM_STEPS, PROGRAM_BYTES = 100, 2**28  # at most, of one program on a GPU and its batches


class Progress(NamedTuple):
    """What a callback of `train` is told.

    step: steps done so far. steps: where the run ends. history: the run's. seconds_left: estimate
    from the steps of this call.
    """

    step: int
    steps: int
    history: dict
    seconds_left: float


def models_of(player):
    """A player's models as a list: of one model, of a list of them, or of none."""
    if player is None:
        return []
    return list(player) if isinstance(player, list | tuple) else [player]


def _trainable(name, player, optimizer):
    """What a player may change; refuse one that would not learn."""
    if player is None:
        return []
    validation.check_learner(models_of(player), optimizer, name)
    return [variable for model in models_of(player) for variable in model.trainable_variables]


def _check_scope(run):
    """Refuse a run with variables that its strategy would not keep equal on all replicas."""
    made_inside = run.strategy.extended.variable_created_in_scope
    parts = [*models_of(run.discriminator), *models_of(run.generator), *models_of(run.average)]
    parts += [part for part in (run.d_optimizer, run.g_optimizer) if part is not None]
    variables = [v for part in [*parts, *run.also.values()] for v in part.variables]
    values = [v.value if isinstance(v, keras.Variable) else v for v in variables]
    outside = [v.name for v in values if not made_inside(v)]
    if outside or made_inside(run.step):
        raise ValueError(
            f"{len(outside)} of {len(values)} variables were not made in the strategy's scope: "
            "make networks and optimizers in `with strategy.scope():`, and the run after it."
        )


def _sum_steps(run, strategy):
    @tf.function
    def sums(now):
        powers = strategy.run(lambda: tf.stack([now, now**2]))
        return strategy.reduce("SUM", powers, axis=None)

    return sums


def _refuse_other_steps(run):
    """Refuse to train where workers stand at different steps, having read different folders."""
    sums = run.made_once(_sum_steps, run.strategy)
    total, squares = sums(tf.identity(run.step)).numpy()
    if run.strategy.num_replicas_in_sync * squares != total**2:
        raise ValueError(
            f"This worker stands at step {int(run.step)}, and others elsewhere: all workers need "
            "the same folder of saves, on a disk that they share, or a copy of it."
        )


class Run:
    """A run: its networks, their optimizers, the steps done, and whatever else must be saved.

    Args:
        discriminator, generator: the players, each a model, or a list of models that one optimizer
            moves together. discriminator may be None, where nobody judges (an autoencoder).
        d_optimizer, g_optimizer: Keras optimizers, built here: a restore can fill only variables
            that exist.
        average: model (or list) that `steps.with_ema` keeps, or None.
        also: dict from name to whatever else the run remembers, models or `tf.Module`s, such as a
            `mode_collapse.HistoricalAverage`.
        strategy: the `tf.distribute` strategy in whose scope all of these were made, or None. The
            run itself is made outside of the scope, and its step is one of `steps.on_replicas`.

    Attributes: all of these; step, int64 `tf.Variable`; history, dict from name to a list with one
    float for each step; d_variables and g_variables, what each player may change; unsaved, the step
    that could not be saved, or None.

    Raises:
        ValueError: a player has no trainable variables, is not built, computes in float16, or has
            an optimizer that scales losses; or a part was not made in the strategy's scope, or the
            run was.
    """

    def __init__(
        self,
        discriminator,
        generator,
        *,
        d_optimizer,
        g_optimizer,
        average=None,
        also=None,
        strategy=None,
    ):
        self.discriminator, self.generator = discriminator, generator
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
        self.average, self.also = average, dict(also or {})
        self.step, self.history, self.unsaved = tf.Variable(0, dtype=tf.int64), {}, None
        self.d_variables = _trainable("discriminator", discriminator, d_optimizer)
        self.g_variables = _trainable("generator", generator, g_optimizer)
        self.strategy, self._made = strategy, {}
        if strategy is not None:
            _check_scope(self)
        with strategy.scope() if strategy else contextlib.nullcontext():
            if d_optimizer is not None:
                d_optimizer.build(self.d_variables)
            g_optimizer.build(self.g_variables)

    def made_once(self, make, train_step):
        """make(self, train_step), kept while the step is the same one: nothing is traced again."""
        known_step, made = self._made.get(make, (None, None))
        if known_step is not train_step:
            made = make(self, train_step)
            self._made[make] = train_step, made
        return made


def with_weight_norms(run, train_step):
    """Make a step that also reports d_weights and g_weights, the norms of all weights of a player.

    A weight that is NaN or infinite makes its player's norm so, at the step that broke it. Without
    it, a bad weight shows a step later, and one that only sampling reads never does.
    """
    players = {"d_weights": run.discriminator, "g_weights": run.generator}

    @tf.function
    def watched_step(real, step):
        values = dict(train_step(real, step))
        for name, player in players.items():
            weights = [weight for model in models_of(player) for weight in model.weights]
            floats = [tf.cast(weight, tf.float32) for weight in weights if "float" in weight.dtype]
            if floats:
                values[name] = tf.linalg.global_norm(floats)
        return values

    return watched_step


def _make_loop(train_step, draw, step, *, jit_compile):
    """Make a function (source, count, size) that takes count steps in one program.

    draw: function (given, step) -> real samples; given is an optional batch of the source where
    that is an iterator of a dataset, else the source itself. A dataset's end ends the steps. size:
    the most steps of a program, which XLA compiles once for all counts; without it, for this count.
    """

    @tf.function
    def values_at(given):
        return train_step(draw(given, tf.identity(step)), tf.identity(step))

    @tf.function(jit_compile=jit_compile)
    def loop(source, count, names, size):
        rows = tf.TensorArray(tf.float32, count if size is None else size)
        i = tf.constant(0)
        while i < count:  # a range would be compiled for each count
            given = source
            if isinstance(source, tf.data.Iterator):
                given = source.get_next_as_optional()
                if not given.has_value():
                    break
            values = values_at(given)
            row = tf.stack([tf.cast(values[name], tf.float32) for name in names])
            rows = rows.write(i, row)
            if not tf.reduce_all(tf.math.is_finite(row)):
                break
            step.assign_add(1)
            i += 1
        return rows.stack()

    def take(source, count, size=None):
        given = source
        if isinstance(source, tf.data.Iterator):
            given = tf.OptionalSpec(source.element_spec)
        names = tuple(values_at.get_concrete_function(given).structured_outputs)
        rows = loop(source, tf.constant(count), names, size).numpy()
        columns = rows[:count].T.tolist()
        return dict(zip(names, columns, strict=True))

    return take


def _take_one_by_one(train_step, step, batches, count):
    """Take steps from Python; what a compiled loop returns, for batches of any kind."""
    columns = {}
    for real in itertools.islice(batches, count):
        values = train_step(real, tf.identity(step))
        row = {name: float(value) for name, value in values.items()}
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
        if not all(math.isfinite(value) for value in row.values()):
            break
        step.assign_add(1)
    return columns


def _refuse_to_go_on(columns, taken, count, now):
    """Stop a run that took fewer steps than `count`, at the step after `now`."""
    row = {name: column[taken] for name, column in columns.items() if len(column) > taken}
    bad = {name: value for name, value in row.items() if not math.isfinite(value)}
    if bad:
        raise FloatingPointError(f"Training stopped at step {now + 1}: {bad} is not finite.")
    if taken < count:
        raise ValueError(
            f"The batches ended before step {now + 1}: repeat them without end, a dataset by "
            "its method repeat, and run the same once more."
        )


def _compile_batches(run, train_step):
    return _make_loop(train_step, lambda batch, _: batch.get_value(), run.step, jit_compile=False)


def _program_steps(run, source):
    """How many steps a GPU takes as one program; 1 where none is made."""
    known = isinstance(source, tf.data.Dataset) and run.strategy is None and runtime.on_gpu()
    specs = tf.nest.flatten(source.element_spec) if known else [None]
    if not all(isinstance(x, tf.TensorSpec) and x.shape.is_fully_defined() for x in specs):
        return 1
    size = sum(spec.shape.num_elements() * spec.dtype.size for spec in specs)
    return max(min(PROGRAM_STEPS, PROGRAM_BYTES // size), 1)


def _compile_programs(run, train_step):
    """Make a function (batches, count, size), as `_take_one_by_one`, for programs of XLA."""

    def draw(window, step):
        first, batches = window
        # A slice's bounds would be compiled in, anew for each window.
        return tf.nest.map_structure(lambda rows: tf.gather(rows, step - first), batches)

    loop = _make_loop(train_step, draw, run.step, jit_compile=True)

    def take(batches, count, size):
        window = list(itertools.islice(batches, count))
        if not window:
            return {}
        padding = window[-1:] * (size - len(window))  # every program has the same shape
        with tf.device("CPU:0"):  # one copy to the GPU, instead of one for each batch
            stacked = tf.nest.map_structure(lambda *rows: tf.stack(rows), *window, *padding)
        return loop((tf.identity(run.step), stacked), len(window), size)

    return take


def _way_to_take(run, train_step, source, per_call):
    """A function (batches, count) that takes steps, and the most that it may be asked for."""
    program = _program_steps(run, source) if per_call is None else 1
    if program > 1:
        return partial(run.made_once(_compile_programs, train_step), size=program), program
    if per_call in (None, 1):
        return partial(_take_one_by_one, train_step, run.step), 1
    if not isinstance(source, tf.data.Dataset):
        raise TypeError(f"{per_call=} needs a tf.data.Dataset of batches, not {type(source)}.")
    return run.made_once(_compile_batches, train_step), per_call


def make_loop(train_step, draw, step, *, jit_compile=True):
    """Make a function that takes many steps as one program, real samples drawn inside it.

    Where a step takes less than a millisecond, fetching a batch and starting each operation cost
    more than the arithmetic. XLA turns the same seeds into other random numbers than TensorFlow's
    own operations do, so a run repeats only in the same kind of loop.

    Args:
        train_step: `tf.function` (real, step) -> dict from name to scalar.
        draw: function step -> real samples (batch, ...), a pure function of the step.
        step: integer `tf.Variable`, the number of steps done, such as `run.step`; advanced.
        jit_compile: whether XLA compiles the program.

    Returns:
        Function count -> dict from name to a list of count floats. Each new count is compiled once,
        in some seconds. FloatingPointError where a value is NaN or infinite, as for `train`.
    """
    take = _make_loop(train_step, lambda _, now: draw(now), step, jit_compile=jit_compile)

    def loop(count):
        start = int(step)
        columns = take((), count)
        _refuse_to_go_on(columns, int(step) - start, count, int(step))
        return columns

    return loop


def _batches_from(batches, now, steps):
    """The batches from number `now` on: of a dataset, or of a function of where to start."""
    if not isinstance(batches, tf.data.Dataset):
        if not callable(batches):
            raise TypeError(f"batches must be a dataset or a function of start, not {batches!r}.")
        return batches(start=now)
    count = int(batches.cardinality())
    if 0 <= count < steps:
        raise ValueError(
            f"The dataset ends after {count} batches, the run after {steps}: repeat it."
        )
    return batches.skip(now)


def train(
    run,
    train_step,
    batches,
    *,
    steps,
    callbacks=(),
    every=100,
    per_call=None,
    watch_weights=False,
):
    """Take steps until the run's counter stands at `steps`.

    A run that stands there already only calls its callbacks, and says so on stderr; so a cell can
    be run twice. Ctrl-C, or a notebook's stop button, ends the run after the step at hand and its
    callbacks; the same call goes on from there.

    Args:
        run: `Run`; its step and history are advanced step by step.
        train_step: function (real, step) -> dict from name to scalar, as `steps` makes.
        batches: function start -> endless iterable of batches, from batch number start on, such as
            `partial(data.batches, images, 64, seed=1)`; or a `tf.data.Dataset` of enough batches,
            of which a resumed run skips those it has seen.
        steps: the step count at which the run ends (the total, not the number still to do).
        callbacks: functions of a `Progress`, called after every `every` steps and at the end, be it
            asked for by Ctrl-C.
        every: steps between two calls of the callbacks.
        per_call: steps taken by one compiled call, at most; it needs a `tf.data.Dataset`, and pays
            where a step is as short as Python's way to it. The results do not depend on it. None is
            1 on a CPU. On a GPU it is up to 100 steps as one program of XLA's, whose results differ
            by rounding, and in what a step draws by other means than `latents`, such as Dropout's
            masks; again 1 under a strategy, where batches are no dataset, or are not of one shape.
        watch_weights: whether the history gets d_weights and g_weights, too, the norms of all
            weights of a player, so that one that is NaN or infinite is noticed at that step.

    Returns:
        The run.

    Raises:
        ValueError: the counter is beyond `steps`, a number is below 1, workers of the run's
            strategy stand at different steps, or the batches end too soon; counter and history are
            then those of the last step that had a batch.
        TypeError: per_call is above 1 without a dataset: a graph would repeat the first batch; or
            batches is neither a function nor a dataset.
        FloatingPointError: a value is NaN or infinite; names the step and the value. No callback
            sees that step, so what was saved before stands. Counter and history are those before
            it, the weights those after it.
        KeyboardInterrupt: Ctrl-C, after the callbacks. Ctrl-C a second time interrupts the step at
            hand; weights, counter and history may then disagree.
    """
    now, left, clock, stop = int(run.step), 0.0, None, False
    if now > steps or every < 1 or (per_call is not None and per_call < 1):
        raise ValueError(f"step {now} must be at most {steps=}; {every=}, {per_call=} at least 1.")
    if run.strategy is not None:
        _refuse_other_steps(run)
    if watch_weights:
        train_step = run.made_once(with_weight_norms, train_step)
    if now < steps:
        source = _batches_from(batches, now, steps)
        take, per_call = _way_to_take(run, train_step, source, per_call)
        source = iter(source)
    elif steps:  # on stderr: a notebook's text must not depend on how often a cell was run
        advice = "nothing is left to do: ask for more steps, or make a new run."
        print(f"The run is already at step {now}, {advice}", file=sys.stderr)

    def report():
        for callback in callbacks:
            callback(Progress(now, steps, run.history, left))

    bar = tqdm(total=steps, initial=now, unit="step", disable=None)
    with bar, runtime.stop_button() as pressed:
        while now < steps and not stop:
            count = min(per_call, every - now % every, steps - now)
            columns = take(source, count)
            taken = int(run.step) - now
            now += taken
            if taken:
                for name, column in columns.items():
                    run.history.setdefault(name, []).extend(column[:taken])
            _refuse_to_go_on(columns, taken, count, now)
            bar.update(count)
            clock = clock or (time.perf_counter(), now)  # the first call includes tracing
            left = (time.perf_counter() - clock[0]) / max(now - clock[1], 1) * (steps - now)
            stop = pressed()
            if now % every == 0 and now < steps and not stop:
                report()
        report()
    return run
