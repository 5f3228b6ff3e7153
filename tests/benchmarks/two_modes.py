"""By which statistics do samples swing in brightness? One run, three ways to draw, over seeds.

    python tests/benchmarks/two_modes.py --seeds 1,2,3

trains the DCGAN of notebook 5. Every 8 steps 32 latents are drawn by moving and by batch statistics
and by the average. swing: deviation of the brightness (0 black, 1 white) from step 200 on.
"""

from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import numpy as np
import systems
import tensorflow as tf

from ganutils import data, runtime
from ganutils.training import train

COUNT, EVERY, SETTLED = 32, 8, 200
VARIANTS = {"course": systems.COURSE._replace(fast=False)}


def make_draw(run, fixed):
    """A function () -> dict from way to images; batch statistics move the averages of a copy."""
    mirror = runtime.in_float32(run.generator)

    @tf.function
    def draw():
        for copied, weight in zip(mirror.weights, run.generator.weights, strict=True):
            copied.assign(weight)
        moving, average = (model(fixed, training=False) for model in (mirror, run.average))
        return {"moving": moving, "batch": mirror(fixed, training=True), "average": average}

    return draw


def measure(variant, *, seed, steps, source):
    """One row, and no pictures."""
    images, system = data.load_images(source)[0], VARIANTS[variant]
    run, train_step = systems.start(system, seed=seed)
    draw = make_draw(run, system.draw(COUNT, system.latent_dim, seed=seed + 1, step=0))
    curves = {"step": [], "moving": [], "batch": [], "average": []}

    def note(progress):
        drawn = {way: float(tf.reduce_mean(x) + 1) / 2 for way, x in draw().items()}
        for name, value in {"step": progress.step, **drawn}.items():
            curves[name].append(round(value, 5))

    batches = partial(data.batches, images, system.batch_size, seed=seed)
    train(run, train_step, batches, steps=steps, callbacks=[note], every=EVERY, per_call=EVERY)
    settled = np.array(curves["step"]) >= min(SETTLED, steps)
    swing = {way: float(np.array(curves[way])[settled].std()) for way in list(curves)[1:]}
    return {"real": float(images.mean() + 1) / 2, "swing": swing, "brightness": curves}, {}


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=500)
