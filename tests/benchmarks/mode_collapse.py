"""Which remedy does what? Every one on a ring and a grid of Gaussians, over seeds, in one table.

    python tests/benchmarks/mode_collapse.py [--schedules even,five,short] [--seeds 10] [--save]

Worlds, scores and published rows are those of Lin et al. 2018 (arXiv 1712.04086). The networks and
optimizers are the same for all methods, so that a row differs from the plain GAN's in what its
title says: both networks have three hidden layers of 64 units; Adam's step size falls from 2e-3 to
0 in a straight line; the samples, 2,500 of them, come from the averaged generator.

A schedule says how often the players learn. With --updates 20000, `even` gives 20,000 updates to
either player, `five` gives 20,000 to D and 4,000 to G, `short` 4,000 to either: so `five` has the
updates of D of the first, and the updates of G of the last. `long` gives 20,000 to G and five times
as many to D.

--save writes notebooks/assets/results/mode_collapse.json; it replaces rows of the same method,
world and schedule there and keeps the others, with the commands that made them.
"""

import functools
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import keras
import numpy as np
import systems
import tensorflow as tf
from tqdm import tqdm

from ganutils import data, layers, losses, metrics, networks, runtime, training
from ganutils.families import mode_collapse as remedies
from ganutils.latents import sample_latents
from ganutils.steps import with_ema

SAVED = record.RESULTS / "mode_collapse.json"
BATCH, LATENT_DIM, RATE, SAMPLES = 128, 2, 2e-3, 2500
REFERENCE = 64  # latents in the reference batch of virtual batch normalization
HISTORY = 0.001  # weight of historical averaging
GAMMA = 0.6  # weight of the penalty on slopes at real points
PARTS = 10  # of a run; coverage is measured after each


class World(NamedTuple):
    """Where real points come from. draw: as `data.ring_of_gaussians`; modes: the centers."""

    draw: Callable
    modes: np.ndarray
    deviation: float


WORLDS = {
    "ring": World(data.ring_of_gaussians, data.ring_modes(), 0.01),
    "grid": World(data.grid_of_gaussians, data.grid_modes(), 0.05),
}


class Schedule(NamedTuple):
    """d_steps: updates of D a step; fraction: steps, as a share of --updates."""

    d_steps: int
    fraction: float


SCHEDULES = {
    "even": Schedule(1, 1.0),
    "five": Schedule(5, 0.2),
    "short": Schedule(1, 0.2),
    "long": Schedule(5, 1.0),
}

# The published rows: modes and share of high quality in percent, with standard errors of the modes.
PUBLISHED = {
    "GAN": {"ring": (6.3, 0.5, 98.2), "grid": (17.3, 0.8, 94.8)},
    "ALI": {"ring": (6.6, 0.3, 97.6), "grid": (24.1, 0.4, 95.7)},
    "PacGAN2": {"ring": (7.9, 0.1, 95.6), "grid": (23.8, 0.7, 91.3)},
    "PacGAN4": {"ring": (7.8, 0.1, 95.9), "grid": (24.8, 0.2, 93.6)},
}


class Method(NamedTuple):
    """What differs from the plain GAN.

    discriminator, generator: arguments of `networks.point_network`. falling: whether the step size
    falls to 0. longer: times as many updates as the others have. The rest are arguments of
    `systems.make_step_with_terms`.
    """

    title: str
    objective: tuple = losses.non_saturating
    discriminator: dict = {}
    generator: dict = {}
    d_terms: Callable = systems.no_terms
    g_terms: Callable = systems.no_terms
    constrain: Callable | None = None
    falling: bool = True
    longer: int = 1


def no_loss(fake_logits):
    """Feature matching replaces G's loss, so nothing is left of the objective's."""
    return 0.0 * tf.reduce_sum(fake_logits)


def match_features(discriminator, generator, seed):
    hidden = keras.Model(discriminator.input, discriminator.layers[-2].output)
    return [lambda real, fake, step: remedies.feature_matching(hidden, real, fake)]


def average_history_of_d(discriminator, generator, seed):
    history = remedies.HistoricalAverage(discriminator.trainable_variables)
    return [lambda real, fake, step: HISTORY * history(step)]


def average_history_of_g(discriminator, generator, seed):
    return average_history_of_d(generator, discriminator, seed)


def virtual_bn_relu(x):
    return keras.layers.ReLU()(remedies.VirtualBatchNormalization(REFERENCE)(x))


def with_reference(z):
    latents = sample_latents(REFERENCE, LATENT_DIM, seed=12345, step=0)
    return remedies.WithReference(latents.numpy())(z)


def spectral_dense(units):
    return layers.SpectralNormalization(keras.layers.Dense(units))


METHODS = {
    "plain": Method("plain GAN"),
    "constant": Method("constant step size", falling=False),
    "smoothing": Method(
        "one-sided smoothing",
        objective=(remedies.smoothed_discriminator_loss, losses.generator_loss),
    ),
    "matching": Method(
        "feature matching",
        objective=(losses.discriminator_loss, no_loss),
        g_terms=match_features,
    ),
    "minibatch": Method(
        "minibatch discrimination",
        discriminator={"last": lambda x: remedies.MinibatchDiscrimination(8, 2)(x)},
    ),
    "history": Method(
        "historical averaging",
        d_terms=average_history_of_d,
        g_terms=average_history_of_g,
    ),
    "norm": Method("batch norm in G", generator={"after_dense": systems.plain_bn_relu}),
    "virtual": Method(
        "virtual batch norm in G",
        generator={
            "first": with_reference,
            "after_dense": virtual_bn_relu,
            "last": lambda x: remedies.DropReference(REFERENCE)(x),
        },
    ),
    "pack2": Method("packing, 2", discriminator={"first": lambda x: remedies.Pack(2)(x)}),
    "pack4": Method("packing, 4", discriminator={"first": lambda x: remedies.Pack(4)(x)}),
    "squares": Method("least squares", objective=losses.least_squares),
    "spectral": Method(
        "hinge, spectral norm",
        objective=losses.hinge,
        discriminator={"dense": spectral_dense},
    ),
    "clipping": Method(
        "Wasserstein, clipping",
        objective=losses.wasserstein,
        constrain=functools.partial(losses.clip_weights, limit=0.5),
    ),
    "penalty": Method(
        "Wasserstein, penalty",
        objective=losses.wasserstein,
        d_terms=systems.gradient_penalty(0.1),
    ),
    "r1": Method("R1 penalty", d_terms=systems.r1_penalty(GAMMA)),
    "r1-long": Method("R1 penalty, 2 x updates", d_terms=systems.r1_penalty(GAMMA), longer=2),
}


def make_adam(method, updates):
    rate = keras.optimizers.schedules.PolynomialDecay(RATE, updates, 0.0)
    return keras.optimizers.Adam(rate if method.falling else RATE, beta_1=0.5, beta_2=0.99)


def make_rows(task):
    """Train one method from nothing, once for each seed: rows of the table.

    The program is compiled once, which takes longer than a run: a seed is a variable in it.

    task: key of METHODS, of WORLDS, of SCHEDULES; seeds; --updates, a multiple of 50.
    """
    name, place, pace, seeds, updates = task
    method, world, schedule = METHODS[name], WORLDS[place], SCHEDULES[pace]
    steps, size = round(updates * schedule.fraction) * method.longer, world.modes.shape[1]
    seed, now = tf.Variable(0, dtype=tf.int64), tf.Variable(0, dtype=tf.int64)

    def make_players():
        discriminator = networks.point_network(size, 1, **method.discriminator)
        return discriminator, networks.point_network(LATENT_DIM, size, **method.generator)

    discriminator, generator = make_players()
    average = runtime.in_float32(generator)
    adams = [make_adam(method, steps * times) for times in (schedule.d_steps, 1)]
    train_step = systems.make_step_with_terms(
        discriminator,
        generator,
        d_optimizer=adams[0],
        g_optimizer=adams[1],
        objective=method.objective,
        latent_dim=LATENT_DIM,
        seed=seed,
        d_terms=method.d_terms,
        g_terms=method.g_terms,
        d_steps=schedule.d_steps,
        constrain=method.constrain,
    )
    fresh = [(variable, variable.numpy()) for adam in adams for variable in adam.variables]

    def draw(step):
        return world.draw(BATCH * schedule.d_steps, seed=seed, step=step)

    take, rows = training.make_loop(with_ema(train_step, generator, average), draw, now), []
    for number in seeds:
        began = time.perf_counter()
        keras.utils.set_random_seed(number)
        for player, start in zip((discriminator, generator), make_players(), strict=True):
            player.set_weights(start.get_weights())
        average.set_weights(generator.get_weights())
        for variable, value in fresh:
            variable.assign(value)
        seed.assign(number)
        now.assign(0)
        z, coverage = sample_latents(SAMPLES, LATENT_DIM, seed=number, step=-1), []
        for _ in range(PARTS):
            take(steps // PARTS)
            samples = average(z, training=False).numpy()
            coverage.append(metrics.mode_coverage(samples, world.modes, deviation=world.deviation))
        row = {"method": name, "title": method.title, "world": place, "schedule": pace}
        row |= {"seed": number, "d_updates": steps * schedule.d_steps, "g_updates": steps}
        row |= {"seconds": time.perf_counter() - began, **coverage[-1]}
        rows.append(row | {"modes_along": [part["modes"] for part in coverage]})
    return rows


def mean_and_error(values):
    """Mean and its standard error; the error of one value alone is 0."""
    values = np.asarray(values, float)
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0


def table(rows):
    """Text: modes and share of high quality, mean +- standard error over the seeds; the worst."""
    lines = [f"{'':32}" + "".join(f"{world:>9} modes{'worst':>7}{'HQ %':>14}" for world in WORLDS)]
    for title, pace in dict.fromkeys((row["title"], row["schedule"]) for row in rows):
        line = f"{title:26}{pace:6}"
        for world in WORLDS:
            own = [row for row in rows if row["title"] == title and row["schedule"] == pace]
            own = [row for row in own if row["world"] == world]
            if not own:
                line += " " * 36
                continue
            mean, error = mean_and_error([row["modes"] for row in own])
            quality, deviation = mean_and_error([100 * row["high_quality"] for row in own])
            worst = min(row["modes"] for row in own)
            line += f"{mean:9.1f} +-{error:3.1f}{worst:7}{quality:9.1f} +-{deviation:4.1f}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def kind_of(row):
    return row["method"], row["world"], row["schedule"]


def save(rows, arguments):
    """Write the rows, in the order of METHODS, with those that are stored of other kinds."""
    made, stored = set(map(kind_of, rows)), {"rows": [], "commands": []}
    if SAVED.exists():
        stored = json.loads(SAVED.read_text())
    kept = [row for row in stored["rows"] if row["method"] in METHODS and kind_of(row) not in made]
    command = f"{date.today().isoformat()} {record.command(__file__, arguments)}"
    order = [list(METHODS), list(WORLDS), list(SCHEDULES)]

    def place(row):
        return [known.index(key) for known, key in zip(order, kind_of(row), strict=True)]

    rows = sorted(kept + rows, key=lambda row: (place(row), row["seed"]))
    before = [one for one in stored["commands"] if one != command] if kept else []
    fields = {"commands": [*before, command], **record.about()}
    record.save(SAVED, **fields, published=PUBLISHED, rows=rows)


def main(arguments=None):
    parser = record.make_parser(__doc__)
    add, number = parser.add_argument, record.whole_number
    add("--seeds", type=number(1, 1000), default=10, help="seeds 0, 1, ...")
    add("--updates", type=number(50, 10**7), default=20_000, help="a multiple of 50")
    for key, known in {"methods": METHODS, "worlds": WORLDS, "schedules": SCHEDULES}.items():
        default = [name for name in known if name != "long"]
        add(f"--{key}", type=record.names_of(known), default=default, help="names, with commas")
    add("--jobs", type=number(1, 256), default=os.cpu_count(), help="processes side by side")
    add("--save", action="store_true", help=f"write {SAVED.name}")
    options = parser.parse_args(arguments)
    if options.updates % 50:
        parser.error(f"--updates {options.updates} is no multiple of 50")
    kinds = itertools.product(options.schedules, options.worlds, options.methods)
    tasks = [
        (method, world, pace, range(options.seeds), options.updates)
        for pace, world, method in kinds
    ]
    # One thread each: networks as small as these do not share a step among cores.
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=20) as pool:
        made, rows = pool.imap(make_rows, tasks), []
        for some in tqdm(made, total=len(tasks), unit="method", disable=None):
            rows += some
            if options.save:
                save(rows, arguments)  # what is done is kept, whatever happens to the rest
    print(table(rows))


if __name__ == "__main__":
    main()
