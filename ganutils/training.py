"""How does one step go, and one run? A step is made by a factory; `train` runs any step."""

import math
import time
from typing import NamedTuple

import tensorflow as tf
from tqdm import tqdm

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


def train(train_step, make_batches, *, steps, step, history, callbacks=(), every=100):
    """Run a training step until the counter `step` stands at `steps`.

    A run that stands there already only calls its callbacks, so a cell can be run twice.

    Args:
        train_step: function (real, step) -> dict from name to scalar, as `make_train_step` makes.
        make_batches: function start -> endless iterable of batches, from batch number start on.
        steps: the step count at which the run ends (the total, not the number still to do).
        step: integer `tf.Variable`, the number of steps done; advanced after each step.
        history: dict; each name of train_step's result gets its list, extended step by step.
        callbacks: functions of a `Progress`, called after every `every` steps and at the end.
        every: number of steps between two calls of the callbacks.

    Returns:
        `history`, for convenience.

    Raises:
        ValueError: the counter is beyond `steps`, or `every` is below 1.
        FloatingPointError: a value of train_step is NaN or infinite; names the step and the value.
            No callback sees that step, so what they saved before stands.
    """
    start, clock = int(step), None
    if start > steps or every < 1:
        raise ValueError(f"step {start} must be at most {steps=}, and {every=} at least 1.")
    if start == steps:
        for callback in callbacks:
            callback(Progress(steps, steps, history, 0.0))
        return history
    batches = iter(make_batches(start=start))
    with tqdm(total=steps, initial=start, unit="step", disable=None) as bar:
        for now in range(start + 1, steps + 1):
            values = {k: float(v) for k, v in train_step(next(batches), step).items()}
            if bad := {k: v for k, v in values.items() if not math.isfinite(v)}:
                raise FloatingPointError(f"Training stopped at step {now}: {bad} is not finite.")
            step.assign(now)
            for name, value in values.items():
                history.setdefault(name, []).append(value)
            bar.update()
            clock = clock or time.perf_counter()  # from the end of step one, which includes tracing
            if now % every == 0 or now == steps:
                rate = (time.perf_counter() - clock) / max(now - start - 1, 1)
                for callback in callbacks:
                    callback(Progress(now, steps, history, rate * (steps - now)))
    return history


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
