"""Does memory level off where a reader trains, samples and draws again and again?

    python tests/benchmarks/leaks.py [--cycles 2000] [--save]

Each cycle does in one process what running the cells of a notebook once more does: new networks,
new optimizers, a new compiled step, some steps of `training.train`, samples, a figure of them; and
in every tenth cycle the live view, a saved figure of the history and a GIF. Every 50 cycles it
notes resident memory, Python's objects, open figures and open files.

Memory levels off if the straight line through the last half of its curve rises by less than
10 KB a cycle. The exit status is 1 where that fails in the first of these runs, or where figures
or files are left open in any. Each run is a process of its own:

  course         cycles with `keras.utils.clear_session` in every tenth and `forgotten_gradients`
  not cleared    cycles without the first
  not forgotten  cycles without the second
  as is          cycles without either, as most readers go through them
  gradients      none of our code, no Keras: a new `tf.function` with a `tf.custom_gradient`
  kernels        none of our code, no Keras: a new `tf.function` without one

What TensorFlow 2.21 keeps of functions and networks that nobody has any more:

* A function's graph, and with it the values of its variables, for good, if a `tf.custom_gradient`
  was used in it (TensorFlow's issue 97697; a mend has been merged). Keras' optimizers
  use one, where they sum gradients over devices. So a new training step leaves its graph
  behind, though the networks are collected; only restarting the kernel frees it.
  `forgotten_gradients` strikes it off TensorFlow's list, to see what else there is.
* What building a Keras network left in TensorFlow's cache of operations, which
  `keras.utils.clear_session` empties. A bare function, the run `kernels`, leaves nothing there.

With --save, the curves go to notebooks/assets/results/leaks.json.
"""

import contextlib
import gc
import io
import multiprocessing
import os
import resource
import sys
import tempfile
import weakref
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

from ganutils import data, figures, losses, networks, steps, training

SAVED = record.RESULTS / "leaks.json"
SHAPE, LATENT_DIM, STEPS = (2, 2, 1), 2, 3
IMAGES = np.random.default_rng(0).uniform(-1, 1, (32, *SHAPE)).astype(np.float32)
EVERY, RARELY = 50, 10  # cycles between two points of the curve, and between two GIFs
LEVEL = 10  # KB a cycle


@contextlib.contextmanager
def forgotten_gradients():
    """Strike off TensorFlow's list what was entered during the block; not to be differentiated."""
    entries = ops.gradient_registry._registry
    before = set(entries)
    try:
        yield
    finally:
        for name in set(entries) - before:
            if name.startswith("CustomGradient-"):
                del entries[name]


def cycle(number, folder):
    """Train, sample, draw.

    Args:
        number: of the cycle; in every tenth, more is drawn.
        folder: where its files go, over those of the last.

    Returns:
        Weak references to the two networks, an optimizer and the step.
    """
    discriminator = networks.mlp_discriminator(SHAPE, widths=())
    generator = networks.mlp_generator(LATENT_DIM, SHAPE, widths=())
    optimizers = {name: keras.optimizers.SGD(0.01) for name in ("d_optimizer", "g_optimizer")}
    run = training.Run(discriminator, generator, **optimizers)
    train_step = steps.make_train_step(
        discriminator,
        generator,
        **optimizers,
        objective=losses.non_saturating,
        latent_dim=LATENT_DIM,
        seed=number,
    )
    z = tf.zeros((4, LATENT_DIM))

    def sample():
        return generator(z, training=False)

    often = number % RARELY == 0
    callbacks = [figures.LiveView(sample)] if often else []
    batches = partial(data.batches, IMAGES, 8, seed=number)
    training.train(run, train_step, batches, steps=STEPS, callbacks=callbacks)
    figures.show_images(sample(), alt="samples of a tiny network")
    if often:
        figure, axes = plt.subplots(1, 2)
        figures.draw_history(*axes, run.history)
        figures.save_figure(figure, Path(folder, "history.png"))
        plt.close(figure)
        figures.write_gif(Path(folder, "x.gif"), [figures.tile(sample())] * 3)
    parts = discriminator, generator, optimizers["g_optimizer"], train_step
    return [weakref.ref(part) for part in parts]


def gradients(number, folder):
    variable = tf.Variable(tf.zeros(SHAPE))

    @tf.custom_gradient
    def doubled(x):
        return 2 * x, lambda dy: 2 * dy

    tf.function(lambda x: doubled(x + variable))(tf.ones(SHAPE))


def kernels(number, folder):
    variable = tf.Variable(tf.zeros(SHAPE))
    tf.function(lambda x: 2 * (x + variable))(tf.ones(SHAPE))


def tidied(number, folder, *, what=cycle, clear=True, forget=True):
    """One cycle, after clearing Keras' session now and then, with gradients forgotten."""
    if clear and number % RARELY == 0:
        keras.utils.clear_session()
    with forgotten_gradients() if forget else contextlib.nullcontext():
        what(number, folder)


RUNS = {
    "course": tidied,
    "not cleared": partial(tidied, clear=False),
    "not forgotten": partial(tidied, forget=False),
    "as is": cycle,
    "gradients": partial(tidied, what=gradients, forget=False),
    "kernels": kernels,
}


def now():
    """What this process holds: a dict of memory in MB and counts."""
    gc.collect()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the peak, in KB or, on macOS, B
    memory *= 1 if sys.platform == "darwin" else 1024
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * resource.getpagesize()
    return {
        "memory": memory / 2**20,
        "objects": len(gc.get_objects()),
        "figures": len(plt.get_fignums()),
        "files": len(os.listdir("/dev/fd")),
    }


@contextlib.contextmanager
def as_in_a_notebook():
    """Let figures draw as in a notebook, and show nothing."""
    with (
        mock.patch.object(figures, "_running_cell", lambda: 1),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        tempfile.TemporaryDirectory() as folder,
    ):
        yield folder


def rise(points, name):
    """Slope of the straight line through the last half of a curve, a cycle."""
    half = points[len(points) // 2 :]
    x, y = ([point[key] for point in half] for key in ("cycle", name))
    return float(np.polyfit(x, y, 1)[0])


def measure(name, cycles, every=EVERY):
    """Run many cycles in this process.

    Args:
        name: key of `RUNS`.
        cycles: how many, at least 4 * every: the last half of the curve needs two points.
        every: cycles between two points of the curve.

    Returns:
        Dict of the curve's points, its rise, and how many figures and files were left open since
        the first of them.
    """
    out, points, backend = sys.stdout, [], plt.get_backend()
    plt.switch_backend("Agg")
    tf.get_logger().setLevel("ERROR")  # a new step each cycle is what this is about
    print(f"\n{name}\n{'cycle':>6}{'MB':>9}{'objects':>9}{'figures':>8}{'files':>6}", flush=True)
    gc.collect()
    gc.freeze()  # what was there before is neither looked through again and again, nor counted
    with as_in_a_notebook() as folder:
        for number in range(cycles):
            RUNS[name](number, folder)
            if (number + 1) % every == 0:
                points.append({"cycle": number + 1} | now())
                line = "{cycle:6}{memory:9.1f}{objects:9}{figures:8}{files:6}"
                print(line.format(**points[-1]), file=out, flush=True)
    gc.unfreeze()
    plt.switch_backend(backend)
    kb, objects = 1024 * rise(points, "memory"), rise(points, "objects")
    verdict = "levels off" if kb < LEVEL else "grows"
    print(f"{verdict}: {kb:.1f} KB and {objects:.1f} objects a cycle in the last half", flush=True)
    return {
        "kb_per_cycle": kb,
        "objects_per_cycle": objects,
        "levels_off": kb < LEVEL,
        "left_open": {key: points[-1][key] - points[0][key] for key in ("figures", "files")},
        "points": points,
    }


def main(arguments=None):
    parser = record.make_parser(__doc__)
    number = record.whole_number(4 * EVERY, 10**6)
    parser.add_argument("--cycles", type=number, default=2000, help="of the first run")
    parser.add_argument("--save", action="store_true", help=f"write {SAVED.name}")
    options = parser.parse_args(arguments)
    spawn, runs = multiprocessing.get_context("spawn"), {}
    for name in RUNS:
        share = 1 if name == "course" else 10  # the others show their slope sooner
        with ProcessPoolExecutor(1, spawn) as process:
            job = process.submit(measure, name, options.cycles // share, EVERY // share)
            runs[name] = job.result()
    if options.save:
        record.save(
            SAVED,
            command=record.command(__file__, arguments),
            **record.about(),
            unit="MB of resident memory; KB a cycle, from the last half of each curve",
            runs=runs,
        )
    left = {name: run["left_open"] for name, run in runs.items()}
    print(f"\nfigures and files left open: {left}")
    if any(max(counts.values()) > 0 for counts in left.values()):
        sys.exit("Figures or files are left open.")
    if not runs["course"]["levels_off"]:
        sys.exit("Memory does not level off.")


if __name__ == "__main__":
    main()
