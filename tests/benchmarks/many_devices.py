"""One small DCGAN with batch normalization, on one device or on many: where does it end?

    python tests/benchmarks/many_devices.py --devices 2
    python tests/benchmarks/many_devices.py --workers 2

trains on two logical CPUs in one process, and in two processes that it starts on this machine. On
machines of their own, each worker is started by itself and told who is who:

    export TF_CONFIG='{"cluster": {"worker": ["one:2222", "two:2222"]},
                       "task": {"type": "worker", "index": 0}}'
    python tests/benchmarks/many_devices.py --folder /on/a/shared/disk

The weights, the optimizers' slots and the losses at the end go to --out, an `.npz`, written by the
first worker. With --folder the run is saved there, and the same line goes on after a crash. A
worker that does not come is given up after --wait seconds; one that is lost ends the others.
--wrong makes a classic mistake on purpose.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf  # noqa: E402  before ganutils.runtime, which settles what devices there are

# isort: split
import keras
import numpy as np

from ganutils import checkpoints, data, losses, networks, steps, training

LATENT_DIM, BATCH, SEED = 16, 32, 1
# Adam's usual epsilon lets a weight whose gradient is little more than rounding move as far as any
# other; so the roundings of two runs grow, and nothing can be compared after some steps.
OPTIMIZERS = {
    "gentle": partial(keras.optimizers.Adam, 1e-4, beta_1=0.5, epsilon=1e-2),
    "usual": partial(keras.optimizers.Adam, 1e-4, beta_1=0.5),
    "sgd": partial(keras.optimizers.SGD, 0.01),
}
WRONG = {
    "local-loss": "each replica's loss is a mean over its share, and the sum is taken for the mean",
    "own-statistics": "each replica normalizes by the statistics of its share",
    "late": "the networks are made outside of the scope, and so before the cluster is joined",
}


# The run.


def norm_relu(x):
    """As `networks.bn_relu`, with Keras' layer as it is: statistics of the replica's own share."""
    return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))


def new_players(wrong=None):
    """A discriminator and a generator, the same ones at every call."""
    keras.utils.set_random_seed(SEED)
    norm = norm_relu if wrong == "own-statistics" else networks.bn_relu
    discriminator = networks.dcgan_discriminator((28, 28, 1), widths=(8, 16))
    widths = {"widths": (16, 16, 8), "after_dense": norm, "after_conv": norm}
    return discriminator, networks.dcgan_generator(LATENT_DIM, (28, 28, 1), **widths)


def new_run(strategy, wrong=None, optimizer="gentle", players=None):
    """The run, and its step; on one device where strategy is None."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        players = players or new_players(wrong)
        optimizers = {f"{side}_optimizer": OPTIMIZERS[optimizer]() for side in "dg"}
    run = training.Run(*players, **optimizers, strategy=strategy)
    game = {"objective": losses.non_saturating, "latent_dim": LATENT_DIM, "seed": SEED}
    play = steps.per_replica(steps.make_gan_play(*players, **game))
    if wrong == "local-loss":
        play = undivided(play, strategy.num_replicas_in_sync)
    train_step = steps.make_step(play, run.d_variables, run.g_variables, **optimizers)
    return run, steps.on_replicas(train_step, strategy)


def undivided(play, replicas):
    """The play without its division by the number of replicas."""

    def greedy_play(real, step):
        d_total, g_total, values = play(real, step)
        return d_total * replicas, g_total * replicas, values

    return greedy_play


def go(run, train_step, last, folder=None, every=10, callbacks=()):
    """Train to step `last`, from the last save in the folder where there is one."""
    batches = partial(data.batches, data.load_images("digits")[0], BATCH, seed=SEED)
    if folder:
        checkpoints.resume_and_train(run, folder, train_step, batches, steps=last, every=every)
    else:
        training.train(run, train_step, batches, steps=last, every=every, callbacks=callbacks)


def state_of(run):
    """All numbers that a run ends with: dict from name to array."""
    parts = {"d": run.discriminator, "g": run.generator}
    parts |= {"d_optimizer": run.d_optimizer, "g_optimizer": run.g_optimizer}
    arrays = {f"{k} {i}": v.numpy() for k, x in parts.items() for i, v in enumerate(x.variables)}
    return arrays | {f"history {k}": np.array(v) for k, v in run.history.items()}


def weights_of(run):
    """All weights and moving statistics of a run's networks, as one vector."""
    arrays = [v.numpy() for part in (run.discriminator, run.generator) for v in part.variables]
    return np.concatenate([array.ravel() for array in arrays])


def newest(folder):
    """The step of the last whole save in a folder, 0 where there is none."""
    path = tf.train.latest_checkpoint(folder)
    return int(path.rpartition("-")[2]) if path else 0


# The devices.


def meet(addresses, index, seconds):
    """Wait until all workers of a cluster are there; the first listens, the others call.

    TensorFlow itself would wait far longer. The ports are free again for it afterwards.

    Args:
        addresses: "host:port" of each worker.
        index: of this one.
        seconds: after which to give up.

    Raises:
        TimeoutError: names the workers that did not come. OSError: this one's port is taken.
    """
    end = time.monotonic() + seconds
    host, _, port = addresses[0].rpartition(":")
    own = int(addresses[index].rpartition(":")[2])
    with contextlib.ExitStack() as sockets:
        try:
            door = sockets.enter_context(socket.create_server(("", own)))
        except OSError as error:
            raise OSError(f"Port {own} of worker {index} is taken: {error.strerror}.") from error
        try:
            if index == 0:
                _await_calls(
                    door, {str(i).encode() for i in range(1, len(addresses))}, end, sockets
                )
            else:
                _call(host, int(port), index, end, sockets)
        except TimeoutError as error:
            raise TimeoutError(f"{error} within {seconds:g} s; given up.") from None


def _await_calls(door, missing, end, sockets):
    calls = []
    while missing:
        door.settimeout(max(end - time.monotonic(), 0.01))
        try:
            calls.append(sockets.enter_context(door.accept()[0]))
            calls[-1].settimeout(max(end - time.monotonic(), 0.01))
            missing.discard(calls[-1].recv(9))
        except TimeoutError:
            names = ", ".join(sorted(name.decode() for name in missing))
            raise TimeoutError(f"No word of worker {names}") from None
    for call in calls:
        call.sendall(b"all are here")


def _call(host, port, index, end, sockets):
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            call = sockets.enter_context(socket.create_connection((host, port), timeout=1))
            call.sendall(str(index).encode())
            call.settimeout(max(end + 1 - time.monotonic(), 0.01))
            if call.recv(99):
                return
        time.sleep(0.1)
    raise TimeoutError(f"No word of worker 0 at {host}:{port}, or of all others")


def join(seconds):
    """The strategy of the cluster that TF_CONFIG describes, once all of its workers are there."""
    config = json.loads(os.environ["TF_CONFIG"])
    meet(config["cluster"]["worker"], config["task"]["index"], seconds)
    return tf.distribute.MultiWorkerMirroredStrategy()


def mirror(count):
    """A strategy for so many GPUs, or where there are fewer, so many logical CPUs."""
    kind = "GPU" if len(tf.config.list_physical_devices("GPU")) >= count else "CPU"
    if kind == "CPU":
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, parts)
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(count)])


# The commands.


def free_ports(count):
    """Ports that nobody listens at, just now."""
    with contextlib.ExitStack() as sockets:
        found = [
            sockets.enter_context(socket.create_server(("localhost", 0))) for _ in range(count)
        ]
        return [door.getsockname()[1] for door in found]


def start_workers(ports, arguments, script=__file__, **pipes):
    """Start a process of a script for each port; return them. pipes: as for `Popen`."""
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    workers = []
    for index in range(len(ports)):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        command = [sys.executable, str(script), *arguments]
        environment = os.environ | {"TF_CONFIG": config}
        workers.append(subprocess.Popen(command, env=environment, **pipes))
    return workers


def wait_for(workers):
    """Wait until all have ended well, or one has not; then end the others.

    Returns (number, exit status) of the one that has not, or None.
    """
    try:
        while None in (ended := [worker.poll() for worker in workers]) and not any(ended):
            time.sleep(0.05)
        return next(((i, status) for i, status in enumerate(ended) if status), None)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def make_parser():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--devices", type=int, default=1, help="in one process")
    add("--workers", type=int, default=1, help="processes, which this command starts")
    add("--steps", type=int, default=50)
    add("--every", type=int, default=10, help="steps between two saves")
    add("--folder", help="of the saves; without it nothing is saved")
    add("--out", type=Path, help="the state at the end, .npz")
    add("--optimizer", choices=OPTIMIZERS, default="gentle")
    add("--wait", type=float, default=60, help="seconds to wait for the other workers")
    add("--wrong", choices=WRONG, help="; ".join(f"{k}: {v}" for k, v in WRONG.items()))
    return parser


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    options, in_cluster = make_parser().parse_args(arguments), "TF_CONFIG" in os.environ
    if options.workers > 1 and not in_cluster:
        failed = wait_for(start_workers(free_ports(options.workers), arguments))
        if failed:
            print(f"Worker {failed[0]} ended with status {failed[1]}; so all end.", file=sys.stderr)
        return int(failed is not None)
    strategy = mirror(options.devices) if options.devices > 1 else None
    players = new_players() if options.wrong == "late" else None
    if in_cluster:
        strategy = join(options.wait)
    run, train_step = new_run(strategy, options.wrong, options.optimizer, players)
    go(run, train_step, options.steps, options.folder, options.every)
    if options.out and (strategy is None or strategy.extended.should_checkpoint):
        np.savez(options.out, **state_of(run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
