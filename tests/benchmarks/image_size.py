"""How do the minutes and the memory of a training grow with the images?

    python tests/benchmarks/image_size.py [--steps 12] [--save]

plays the DCGAN of notebook 3 on batches of random pixels. For each doubling of the side beyond 32
either player has one convolution more, so that the generator starts from 7 by 7 or 8 by 8 pixels
at every size. Each case is a process of its own: seconds are the median of the steps after the
first, which traces; memory is the largest that the process ever held, in MB, and start what it held
before the first step, TensorFlow itself included.

With --save, the rows go to notebooks/assets/results/image_size.json.
"""

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import tensorflow as tf

from ganutils import losses, networks, steps

SAVED = record.RESULTS / "image_size.json"
LATENT_DIM = 32


class Case(NamedTuple):
    """Images (side, side, channels), so many in a batch."""

    side: int
    channels: int
    batch_size: int


CASES = [Case(28, 1, 64), Case(32, 3, 64), Case(64, 3, 64), Case(128, 3, 64), Case(128, 3, 16)]


def new_players(case):
    """The discriminator and the generator of a case."""
    shape, doublings = (case.side, case.side, case.channels), (case.side // 7).bit_length() - 1
    d_widths, g_widths = (32, *[64] * (doublings - 1)), (*[64] * doublings, 16)
    discriminator = networks.dcgan_discriminator(shape, widths=d_widths)
    scales = (*[2] * doublings, 1)
    generator = networks.dcgan_generator(LATENT_DIM, shape, widths=g_widths, scales=scales)
    return discriminator, generator


def peak():
    """The largest memory that this process ever held, in MB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1024**2 if sys.platform == "darwin" else 1024)


def measure(case, count):
    """The row of a case: dict for JSON."""
    players = new_players(case)
    train_step = steps.make_train_step(
        *players,
        d_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.5),
        g_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.5),
        objective=losses.non_saturating,
        latent_dim=LATENT_DIM,
        seed=1,
    )
    shape = case.batch_size, case.side, case.side, case.channels
    real = tf.constant(np.random.default_rng(0).uniform(-1, 1, shape), tf.float32)
    start, laps = peak(), []
    for number in range(count + 1):
        began = time.perf_counter()
        float(train_step(real, tf.constant(number, tf.int64))["d_loss"])
        laps.append(time.perf_counter() - began)
    weights = sum(player.count_params() for player in players)
    found = {"seconds": float(np.median(laps[1:])), "start": start, "peak": peak()}
    return {**case._asdict(), "weights": weights, **found}


def main(arguments=None):
    parser = record.make_parser(__doc__)
    number = record.whole_number(1, 1000)
    parser.add_argument("--steps", type=number, default=12, help="measured in each case")
    parser.add_argument("--save", action="store_true", help=f"write {SAVED.name}")
    options, rows = parser.parse_args(arguments), []
    for case in CASES:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            rows.append(pool.submit(measure, case, options.steps).result())
        row = rows[-1]
        print(f"{case}: {row['seconds']:.3f} s a step, {row['peak']:,.0f} MB, of these", end=" ")
        print(f"{row['start']:,.0f} before the first step", flush=True)
    if options.save:
        about = {"command": record.command(__file__, arguments), **record.about()}
        unit = "seconds of a step; MB of resident memory"
        record.save(SAVED, **about, unit=unit, steps=options.steps, rows=rows)


if __name__ == "__main__":
    main()
