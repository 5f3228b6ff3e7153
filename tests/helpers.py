"""What several test files share: tiny networks, a run of them, and comparisons to the bit."""

from ganutils import runtime  # isort: skip  # first: it imports TensorFlow without its messages

import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ganutils import checkpoints, data, losses, networks, steps, training

IMAGE_SHAPE, LATENT_DIM, BATCH = (4, 4, 1), 3, 8
IMAGES = np.random.default_rng(0).uniform(-1, 1, (20, *IMAGE_SHAPE)).astype(np.float32)


def make_batches(start):
    """Real batches for `training.train`, two an epoch."""
    return data.batches(IMAGES, BATCH, seed=0, start=start)


def real_batch(number=0, shape=(BATCH, *IMAGE_SHAPE)):
    """Uniform on [-1, 1]; another number, another batch."""
    values = np.random.default_rng(number).uniform(-1, 1, shape)
    return tf.constant(values, tf.float32)


def step_at(number):
    return tf.Variable(number, dtype=tf.int64)


@contextlib.contextmanager
def eagerly():
    """Run every `tf.function` as Python, so that nothing is traced. For oracles by hand."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def pair():
    """A discriminator and a generator, a few weights each."""
    discriminator = networks.mlp_discriminator(IMAGE_SHAPE, widths=(6,))
    return discriminator, networks.mlp_generator(LATENT_DIM, IMAGE_SHAPE, widths=(5,))


def leaky_dropout(x):
    return keras.layers.Dropout(0.3)(keras.layers.LeakyReLU(negative_slope=0.2)(x))


def dropout_pair(d_widths=(6,), g_widths=(5,), latent_dim=LATENT_DIM):
    """Batch normalization in G, Dropout in D: statistics and a seed state besides the weights."""
    discriminator = networks.mlp_discriminator(
        IMAGE_SHAPE, widths=d_widths, after_dense=leaky_dropout
    )
    generator = networks.mlp_generator(
        latent_dim, IMAGE_SHAPE, widths=g_widths, after_dense=networks.bn_relu
    )
    return discriminator, generator


adam = functools.partial(keras.optimizers.Adam, 1e-2)
momentum = functools.partial(keras.optimizers.SGD, 1e-2, momentum=0.9)


def tiny_run(seed=1, make_networks=pair, *, make_optimizer=adam, average=False):
    """A `training.Run` of new networks, and its step: the plain one, or with the average."""
    keras.utils.set_random_seed(seed)
    discriminator, generator = make_networks()
    run = training.Run(
        discriminator,
        generator,
        d_optimizer=make_optimizer(),
        g_optimizer=make_optimizer(),
        average=runtime.in_float32(generator) if average else None,
    )
    train_step = steps.make_train_step(
        discriminator,
        generator,
        d_optimizer=run.d_optimizer,
        g_optimizer=run.g_optimizer,
        objective=losses.non_saturating,
        latent_dim=LATENT_DIM,
        seed=2,
    )
    return run, steps.with_ema(train_step, generator, run.average) if average else train_step


def numbers_of(*owners):
    """Copies of all variables of models, optimizers or modules."""
    return [variable.numpy() for owner in owners for variable in owner.variables]


def variables_of(run):
    """Weights, statistics, seeds, moments, iterations, averages, step: whatever a run changes."""
    players = [run.discriminator, run.generator, run.average]
    owners = [model for player in players for model in training.models_of(player)]
    owners += [part for part in (run.d_optimizer, run.g_optimizer) if part is not None]
    owners += run.also.values()
    return [variable for owner in owners for variable in owner.variables] + [run.step]


def frozen(run):
    """Every number of a run as bytes, and its history: equal where nothing differs in a bit."""
    numbers = [variable.numpy() for variable in variables_of(run)]
    history = {name: list(values) for name, values in run.history.items()}
    return [(v.dtype.str, v.shape, v.tobytes()) for v in numbers], history


def fill(run, number):
    """Give every number of a run a value that is not its own; the step becomes `number`."""
    draw = np.random.default_rng(number)
    for variable in variables_of(run):
        values = draw.integers(1, 1000, variable.shape)
        variable.assign(values.astype(tf.as_dtype(variable.dtype).as_numpy_dtype))
    run.step.assign(number)
    run.history.clear()
    run.history.update({name: draw.normal(size=number).tolist() for name in ("d_loss", "g_loss")})


def save(run, folder, keep=3):
    progress = training.Progress(int(run.step), 100, run.history, 0.0)
    checkpoints.saver(run, folder, keep=keep)(progress)


def saved_steps(folder):
    """The steps of the saves on a folder's list, oldest first."""
    state = tf.train.get_checkpoint_state(str(folder))
    return [int(path.rpartition("-")[2]) for path in state.all_model_checkpoint_paths]


def same_bits(first, second):
    """Whether two lists of arrays agree in types, shapes and every bit."""
    pairs = zip(map(np.asarray, first), map(np.asarray, second), strict=True)
    return all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in pairs)


def assert_close(first, second, rtol=1e-5, atol=1e-6):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def sigmoid(logits):
    """By NumPy, float64."""
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def gradient(loss, *arguments):
    """Gradients of loss(*arguments) by each of them, arrays."""
    arguments = [tf.Variable(x) for x in arguments]
    with tf.GradientTape() as tape:
        value = loss(*arguments)
    return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(value, arguments)]


def floats(values):
    return {name: float(value) for name, value in values.items()}


def start_python(program, *arguments, **environment):
    """Start a program text in a new process that can import the test files; stdout is a pipe."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fresh_python(program, *arguments, **environment):
    """Run a program text in a new process; return what it printed."""
    child = start_python(program, *arguments, **environment)
    output, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    return output
