"""What do two workers gain, what do they wait for, and what does a killed one cost?

    python tests/benchmarks/worker_costs.py [--runs 4 --kills 5]

measures on this machine, whose cores should have nothing else to do:

- speed: the DCGAN of notebook 3 by one worker and by two, each with one thread and a core of its
  own, on 28 by 28 pixels; the same batch of 64 shared out, and 64 images for each. Where there are
  two workers, the sum of so many numbers as the gradients have is timed as well.
- kills: the run of many_devices.py by two workers; at a random moment one of them is killed, and
  both are started again, --kills times in each of --runs runs. How many arrays of the state at the
  end differ in a bit from that of a run that nobody disturbed?

Finished rows are kept in --work; all go to notebooks/assets/results/many_devices.json.
"""

import json
import os
import random
import tempfile
import time
from pathlib import Path
from unittest import mock

import many_devices  # first: it leaves open what devices there are

# isort: split
import numpy as np
import record
import tensorflow as tf

from ganutils import data, losses, networks, steps, training

SPEED = {"one worker": (1, 64), "same batch": (2, 64), "same share": (2, 128)}
LATENT_DIM, WARM, SUMS = 64, 5, 100
ONE_THREAD = {f"TF_NUM_{kind}_THREADS": "1" for kind in ("INTRAOP", "INTEROP")}


# What a worker does, started with TF_CONFIG.


def time_steps(batch, count, out):
    """Take steps as one of the workers; the first one writes what they took, as JSON."""
    alone = len(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]) == 1
    strategy = None if alone else many_devices.join(60)
    with strategy.scope() if strategy else tf.name_scope("alone"):
        players = (
            networks.dcgan_discriminator((28, 28, 1)),
            networks.dcgan_generator(LATENT_DIM, (28, 28, 1)),
        )
        optimizers = {f"{side}_optimizer": many_devices.OPTIMIZERS["usual"]() for side in "dg"}
    run, laps = training.Run(*players, **optimizers, strategy=strategy), []
    game = {"objective": losses.non_saturating, "latent_dim": LATENT_DIM, "seed": 1}
    play = steps.per_replica(steps.make_gan_play(*players, **game))
    train_step = steps.make_step(play, run.d_variables, run.g_variables, **optimizers)
    images = data.load_images("digits")[0]
    training.train(
        run,
        steps.on_replicas(train_step, strategy),
        lambda start: data.batches(images, batch, seed=1, start=start),
        steps=WARM + count,
        every=1,
        callbacks=[lambda progress: laps.append(time.perf_counter())],
    )
    weights = sum(int(np.prod(v.shape)) for v in run.d_variables + run.g_variables)
    row = {"laps": np.diff(laps)[WARM - 1 :].tolist(), "weights": weights}
    if strategy:
        row["sums"] = time_sums(strategy, weights)
    if strategy is None or strategy.extended.should_checkpoint:
        Path(out).write_text(json.dumps(row))


def time_sums(strategy, size):
    """Seconds of each of several all-reduces of so many float32."""

    @tf.function
    def one(x):
        def summed(x):
            mine = tf.identity(x)  # on this device, which an argument need not be
            return tf.distribute.get_replica_context().all_reduce("SUM", mine)

        return tf.reduce_sum(strategy.run(summed, args=(x,)))

    x, laps = tf.ones(size), []
    for _ in range(WARM + SUMS):
        began = time.perf_counter()
        assert abs(float(one(x)) / size - 2) < 1e-3
        laps.append(time.perf_counter() - began)
    return laps[WARM:]


# What is measured.


def start(count, arguments, script, pin=False):
    """Workers that are under way, each on a core of its own if asked for."""
    ports, arguments = many_devices.free_ports(count), list(map(str, arguments))
    with mock.patch.dict(os.environ, ONE_THREAD if pin else {}):
        workers = many_devices.start_workers(ports, arguments, script)
    if pin:
        for worker, core in zip(workers, sorted(os.sched_getaffinity(0)), strict=False):
            os.sched_setaffinity(worker.pid, {core})
    return workers


def end_well(workers):
    failed = many_devices.wait_for(workers)
    if failed:
        raise RuntimeError(f"worker {failed[0]} ended with status {failed[1]}")


def speed(name, count):
    """A row: the median of the seconds of a step, and of a sum."""
    workers, batch = SPEED[name]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "row.json")
        arguments = ["--as-worker", batch, "--steps", count, "--out", out]
        end_well(start(workers, arguments, __file__, pin=True))
        row = json.loads(out.read_text())
    seconds = float(np.median(row.pop("laps")))
    sums = {"sum": float(np.median(row.pop("sums")))} if "sums" in row else {}
    about = {"workers": workers, "batch": batch, "bytes": 4 * row["weights"], "load": load}
    return {"name": name, **about, "seconds": seconds, "samples": batch / seconds, **sums}, {}


def interrupted(seed, kills, count):
    """A row: who was killed, after which save; and the state at the end."""
    dice, row = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        saves, out = Path(folder, "saves"), Path(folder, "end.npz")
        arguments = ["--steps", count, "--every", 2, "--folder", saves, "--out", out]
        for moment in sorted(dice.sample(range(6, count - 7, 6), kills)):  # a save, and a bit later
            workers = start(2, arguments, many_devices.__file__)
            while many_devices.newest(saves) < moment:
                assert not any(worker.poll() is not None for worker in workers)
                time.sleep(0.002)
            time.sleep(dice.uniform(0, 0.1))
            victim = dice.randrange(2)
            assert workers[victim].poll() is None
            workers[victim].kill()
            assert many_devices.wait_for(workers) is not None
            row.append({"victim": victim, "saved": many_devices.newest(saves)})
        end_well(start(2, arguments, many_devices.__file__))
        with np.load(out) as file:
            return {"kills": row}, dict(file)


def main(arguments=None):
    parser = record.make_parser(__doc__)
    number = record.whole_number(1, 1000)
    parser.add_argument("--steps", type=number, default=60, help="that are timed")
    parser.add_argument("--runs", type=number, default=4, help="that are disturbed")
    parser.add_argument(
        "--kills", type=record.whole_number(1, 7), default=5, help="in each of them"
    )
    parser.add_argument("--as-worker", type=number, help="the batch; not to be given by hand")
    record.add_places(parser, "many_devices")
    options = parser.parse_args(arguments)
    if options.as_worker:
        return time_steps(options.as_worker, options.steps, options.out)
    settings = {"code": record.code_hash(__file__), "steps": options.steps}

    def kept(name, make, *given):
        known = settings | {"given": list(given)}
        found, arrays = record.kept(options.work, name, known, lambda: make(*given))
        print(name, {k: v for k, v in found.items() if k not in ("settings", "about")}, flush=True)
        return found, arrays

    timed = [kept(name.replace(" ", "-"), speed, name, options.steps) for name in SPEED]
    _, whole = kept("undisturbed", interrupted, 0, 0, 50)
    rows = []
    for seed in range(options.runs):
        found, end = kept(f"killed-{seed}", interrupted, seed, options.kills, 50)
        differ = sum(whole[name].tobytes() != end[name].tobytes() for name in whole)
        rows.append({"kills": found["kills"], "arrays": len(whole), "differ": differ})
    about = {"command": record.command(__file__, arguments), **record.about()}
    keep = ("name", "workers", "batch", "bytes", "load", "seconds", "samples", "sum")
    speeds = [{k: row[k] for k in keep if k in row} for row, _ in timed]
    record.save(options.out, **about, **settings, speed=speeds, kills=rows)


if __name__ == "__main__":
    main()
