"""How does one step go, and one run? A step is made by a factory; `train` runs any step."""

import time
from typing import NamedTuple

import tensorflow as tf
from tqdm import tqdm

from ganutils import checks, runtime
from ganutils.latents import sample_latents


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
        train_step: function (real, step) -> dict from name to scalar, as `make_train_step` makes.
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
        train_step: function (real, step) -> dict from name to scalar, as `make_train_step` makes.
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


def with_weight_norms(train_step, discriminator, generator):
    """Make a training step that also reports how long each network's vector of weights is.

    A weight that is NaN or infinite makes its network's norm so, and `train` stops at that step.
    Without it, a bad weight shows one step later, and one that only sampling reads never does.

    Args:
        train_step: function (real, step) -> dict of scalars, as `make_train_step` makes.
        discriminator: a model that train_step changes.
        generator: the other one.

    Returns:
        `tf.function` (real, step) -> train_step's dict, and d_weights and g_weights: the Euclidean
        norm of all weights of a network after the step, batch normalization's statistics included.
    """
    models = {"d_weights": discriminator, "g_weights": generator}
    weights = {
        name: [w for w in model.weights if w.dtype == "float32"] for name, model in models.items()
    }

    @tf.function
    def watched_step(real, step):
        values = train_step(real, step)
        return values | {name: tf.linalg.global_norm(found) for name, found in weights.items()}

    return watched_step


def make_train_step(
    discriminator, generator, *, d_optimizer, g_optimizer, objective, latent_dim, seed
):
    """Make one training step: both gradients at one point, then both updates.

    The optimizers are built here, so the step creates no variable and can be restored beforehand.

    Args:
        discriminator: model from images to logits (batch, 1).
        generator: model from latents (batch, latent_dim) to images.
        d_optimizer: Keras optimizer of the discriminator; not shared with the generator.
        g_optimizer: Keras optimizer of the generator.
        objective: pair (loss of real and fake logits, loss of fake logits) from `losses`.
        latent_dim: length of one latent vector.
        seed: integer; the noise of a step is a function of (seed, step).

    Returns:
        `tf.function` (real, step) -> dict of scalars: d_loss, g_loss, and d_real and d_fake, the
        mean D(x) and D(G(z)) in (0, 1). real is (batch, height, width, channels) in [-1, 1];
        step is an integer tensor or variable (a Python integer would be traced anew each time).

    Source: Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1, with simultaneous updates.
    """
    discriminator_loss, generator_loss = objective
    d_vars, g_vars = discriminator.trainable_variables, generator.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    @tf.function
    def train_step(real, step):
        z = sample_latents(tf.shape(real)[0], latent_dim, seed=seed, step=step)
        with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
            fake = generator(z, training=True)
            real_logits = discriminator(real, training=True)
            fake_logits = discriminator(fake, training=True)
            d_loss = discriminator_loss(real_logits, fake_logits)
            g_loss = generator_loss(fake_logits)
        d_gradients = d_tape.gradient(d_loss, d_vars)
        g_gradients = g_tape.gradient(g_loss, g_vars)
        d_optimizer.apply(d_gradients, d_vars)
        g_optimizer.apply(g_gradients, g_vars)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        return {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}

    return train_step


def with_average(train_step, generator, average, *, decay=0.999):
    """Make a training step that also keeps a running average of the generator's weights.

    A generator circles around its goal; the average of its weights lies inside the circle and
    draws better. The average covers the last steps / 9 steps or so at first, and 1 / (1 - decay)
    steps later, so that the first, bad weights are soon forgotten.

    Args:
        train_step: function (real, step) -> dict of scalars, as `make_train_step` makes.
        generator: the model that train_step changes.
        average: model of the same weights, such as `runtime.in_float32(generator)`. After step n
            (from 0) it keeps the share min(decay, (1 + n) / (10 + n)) of each weight, batch
            normalization's statistics included, and takes the rest from the generator.
        decay: largest share kept, 0 to below 1.

    Returns:
        `tf.function` (real, step) -> train_step's dict.

    Raises:
        ValueError: the two models' weights differ in number or shape, or decay is out of range.

    Source: Yazici et al. 2019, arXiv 1806.04498, section 2; Karras et al. 2018, arXiv 1710.10196,
    section 5, sample from such averages of a GAN's generator.
    """
    means, weights = average.weights, generator.weights
    if not 0 <= decay < 1 or [w.shape for w in means] != [w.shape for w in weights]:
        raise ValueError(f"{decay=} must be in [0, 1), and `average` a copy of the generator.")

    @tf.function
    def averaging_step(real, step):
        n = tf.cast(step, tf.float32)
        share = tf.minimum(decay, (1 + n) / (10 + n))
        values = train_step(real, step)
        for mean, weight in zip(means, weights, strict=True):
            mean.assign(share * mean + (1 - share) * weight)
        return values

    return averaging_step


def make_losses(discriminator, generator, *, objective, latent_dim, seed, d_terms=(), g_terms=()):
    """Make a function that plays one batch and says what each player is to minimize.

    Args:
        discriminator, generator, objective, latent_dim, seed: as for `make_train_step`.
        d_terms: functions (real, fake, step) -> scalar, added to D's loss, such as penalties.
        g_terms: functions (real, fake, step) -> scalar, added to G's loss.

    Returns:
        Function (real, step) -> D's total, G's total, and a dict as that of `make_train_step`,
        whose d_loss and g_loss are the objective's, without the terms.
    """
    discriminator_loss, generator_loss = objective

    def play(real, step):
        z = sample_latents(tf.shape(real)[0], latent_dim, seed=seed, step=step)
        fake = generator(z, training=True)
        real_logits = discriminator(real, training=True)
        fake_logits = discriminator(fake, training=True)
        d_loss = discriminator_loss(real_logits, fake_logits)
        g_loss = generator_loss(fake_logits)
        d_total = sum([term(real, fake, step) for term in d_terms], d_loss)
        g_total = sum([term(real, fake, step) for term in g_terms], g_loss)
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        values = {"d_loss": d_loss, "g_loss": g_loss, "d_real": d_real, "d_fake": d_fake}
        return d_total, g_total, values

    return play


def make_regularized_step(
    discriminator, generator, *, d_optimizer, g_optimizer, seed, d_steps=1, constrain=None, **game
):
    """Make a training step with more terms in its losses, or more updates of D than of G.

    Without terms and with d_steps=1 it is the step of `make_train_step`, bit for bit. The last of
    D's updates shares its fake samples with G's, and both gradients are taken before either update.

    Args:
        discriminator, generator, d_optimizer, g_optimizer, seed: as for `make_train_step`; samples
            of any shape (batch, ...).
        d_steps: updates of D for each of G, >= 1. The batch is split into as many parts.
        constrain: function of D's trainable variables, called after each of its updates, such as
            one that clips them; or None.
        game: objective and latent_dim, and perhaps d_terms and g_terms, as for `make_losses`. The
            step that terms are given is the number of D's update, d_steps of them a step.

    Returns:
        `tf.function` (real, step) -> dict of scalars, as that of `make_train_step`, from the last
        of D's updates.

    Raises:
        ValueError: d_steps is below 1, or does not divide the batch.
    """
    if d_steps < 1:
        raise ValueError(f"{d_steps=} must be at least 1.")
    play = make_losses(discriminator, generator, seed=seed, **game)
    d_vars, g_vars = discriminator.trainable_variables, generator.trainable_variables
    d_optimizer.build(d_vars)
    g_optimizer.build(g_vars)

    @tf.function
    def train_step(real, step):
        for i, part in enumerate(tf.split(real, d_steps)):
            with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
                d_total, g_total, values = play(part, d_steps * tf.cast(step, tf.int64) + i)
            g_gradients = g_tape.gradient(g_total, g_vars)  # the last one counts
            d_optimizer.apply(d_tape.gradient(d_total, d_vars), d_vars)
            if constrain is not None:
                constrain(d_vars)
        g_optimizer.apply(g_gradients, g_vars)
        return values

    return train_step


def make_drawn_loop(train_step, draw, *, step):
    """Make a function that takes many steps as one program, real samples drawn inside it.

    Where a step takes less than a millisecond, fetching a batch and starting each operation cost
    more than the arithmetic. Here XLA compiles draw, step and counter into one program. It turns
    the same seeds into other random numbers than TensorFlow's own operations do, so a run repeats
    only in the same kind of loop.

    Args:
        train_step: function (real, step) -> dict from name to scalar, as `make_train_step` makes.
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
