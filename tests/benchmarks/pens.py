"""Thin and thick digits, and a run of a CycleGAN: what two scripts share."""

import record  # noqa: F401  first: it imports TensorFlow without its start-up messages

# isort: split
import keras

from ganutils import data, losses, runtime
from ganutils.families import cyclegan
from ganutils.steps import make_step, with_ema, with_terms
from ganutils.training import Run

BATCH_SIZE, CAPACITY, COUNT = 16, 50, 10_000
TESTS = 1000  # images that translations are judged on


def looks(images):
    return [data.morphed_digits(images, look) for look in ("thin", "thick")]


def start(judges, translators, *, seed, capacity=CAPACITY, g_terms=(), **weights):
    """A run of two discriminators and two translators, with averages, and its step.

    capacity: of each buffer; 0 for none. weights: arguments of `cyclegan.make_cyclegan_play`.
    """
    seeds = (seed, seed + 1) if capacity else ()
    shape = translators[0].output_shape[1:]
    buffers = [cyclegan.ImageBuffer(capacity, shape, seed=number) for number in seeds]
    optimizers = {
        name: keras.optimizers.Adam(1e-3, beta_1=0.5, beta_2=0.99)
        for name in ("d_optimizer", "g_optimizer")
    }
    run = Run(
        judges,
        translators,
        **optimizers,
        average=[runtime.in_float32(model) for model in translators],
        also={f"buffer_{i}": buffer for i, buffer in enumerate(buffers)},
    )
    game = {"objective": losses.least_squares, "buffers": buffers or None, **weights}
    play = cyclegan.make_cyclegan_play(judges, translators, **game)
    play = with_terms(play, g_terms=g_terms)
    train_step = make_step(play, run.d_variables, run.g_variables, **optimizers)
    for translator, average in zip(translators, run.average, strict=True):
        train_step = with_ema(train_step, translator, average)
    return run, train_step


def translate(model, images):
    return model.predict(images, batch_size=250, verbose=0)
