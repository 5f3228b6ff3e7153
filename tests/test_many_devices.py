"""One loop, many devices: they do what one would; wrong set-ups show; nobody waits for ever."""

import helpers  # first: it imports TensorFlow without its start-up messages

# isort: split
import functools
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import many_devices
import numpy as np
import pytest
import tensorflow as tf
import worker_costs

from ganutils import latents, layers, losses, steps, training

# Without a strategy nothing changes.


def test_one_device_is_the_only_replica_inside_a_scope_and_outside():
    assert latents.replica() == (0, 1)
    with tf.distribute.get_strategy().scope():
        assert latents.replica() == (0, 1)


def test_a_play_for_replicas_is_on_one_device_the_play():
    """And the step for no strategy is the step itself."""
    ends = []
    for wrap in (lambda play: play, steps.per_replica):
        run, _ = helpers.tiny_run(make_networks=helpers.dropout_pair)
        game = {"objective": losses.wasserstein, "latent_dim": helpers.LATENT_DIM, "seed": 3}
        play = wrap(steps.make_gan_play(run.discriminator, run.generator, **game))
        optimizers = {"d_optimizer": run.d_optimizer, "g_optimizer": run.g_optimizer}
        train_step = steps.make_step(play, run.d_variables, run.g_variables, **optimizers)
        assert steps.on_replicas(train_step, None) is train_step
        training.train(run, train_step, helpers.make_batches, steps=3)
        ends.append(helpers.frozen(run))
    assert ends[0] == ends[1]


# Workers meet, or say who is missing.


def meet_all(count, seconds, absent=()):
    """What each worker of a cluster is told: dict from its number to an error, or None."""
    places = [f"localhost:{port}" for port in many_devices.free_ports(count)]
    told = {}

    def come(index):
        try:
            told[index] = many_devices.meet(places, index, seconds)
        except OSError as error:
            told[index] = error

    here = [index for index in range(count) if index not in absent]
    threads = [threading.Thread(target=come, args=(index,)) for index in here]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 10)
    return told


def test_workers_meet_whatever_their_order():
    assert meet_all(1, 5) == {0: None}
    assert meet_all(3, 20) == {0: None, 1: None, 2: None}


@pytest.mark.parametrize("absent, named", [([2], "worker 2"), ([1, 2], "worker 1, 2")])
def test_a_worker_that_does_not_come_is_given_up_by_all(absent, named):
    told = meet_all(3, 1, absent)
    assert told.keys() == {0, 1, 2} - set(absent)
    assert all(isinstance(error, TimeoutError) for error in told.values())
    assert str(told[0]) == f"No word of {named} within 1 s; given up."


def test_a_first_worker_that_does_not_come_is_given_up():
    told = meet_all(2, 1, [0])
    assert "No word of worker 0 at localhost:" in str(told[1])


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as door:
        port = door.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} of worker 0 is taken"):
            many_devices.meet([f"localhost:{port}"], 0, 1)


def test_who_fails_first_ends_the_others():
    programs = ["import time; time.sleep(60)", "raise SystemExit(3)"]
    workers = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    assert many_devices.wait_for(workers) == (1, 3)
    assert [worker.returncode for worker in workers] == [-9, 3]


# Runs, each in a process of its own.


def start(*arguments, **environment):
    command = [sys.executable, many_devices.__file__, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | environment, stderr=pipe, text=True)


def end_of(process):
    """The exit status and what was said on stderr."""
    try:
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, said


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Function of arguments: the state that a run ends with; equal runs are made once."""

    @functools.cache
    def run(*arguments):
        out = tmp_path_factory.mktemp("state") / "end.npz"
        status, said = end_of(start(*arguments, "--out", out))
        assert status == 0, said
        with np.load(out) as file:
            return dict(file)

    return run


def apart(first, second, kind):
    """The largest difference between two states, in the numbers of one kind."""
    names, others = ([name for name in state if name.startswith(kind)] for state in (first, second))
    assert names == others and names
    return float(max(abs(first[name] - second[name]).max() for name in names))


@pytest.mark.slow
@pytest.mark.parametrize("split", ["--devices", "--workers"])
def test_two_replicas_end_where_one_device_ends(state, split):
    one, two = state(), state(split, 2)
    assert max(apart(one, two, kind) for kind in ("d ", "g ")) < 1e-6
    assert apart(one, two, "history") < 1e-6 and len(one["history d_loss"]) == 50
    assert apart(one, state("--steps", 0), "d ") > 1e-3  # it has learned


@pytest.mark.slow
def test_the_loss_of_a_local_batch_makes_the_step_twice_as_long(state):
    one = ("--optimizer", "sgd", "--steps", 1)
    two = (*one, "--devices", 2)
    start, right, wrong = (
        state(*x) for x in [one[:3] + (0,), two, (*two, "--wrong", "local-loss")]
    )
    assert apart(right, state(*one), "d ") < 1e-6
    for name in ("d 0", "d 4"):
        moved = right[name] - start[name]
        np.testing.assert_allclose(wrong[name] - start[name], 2 * moved, rtol=1e-3, atol=1e-7)


@pytest.mark.slow
def test_unsynchronized_batch_norm_leads_elsewhere(state):
    wrong = state("--devices", 2, "--wrong", "own-statistics")
    assert apart(state(), wrong, "g ") > 1e-3


@pytest.mark.slow
def test_a_strategy_made_too_late_is_an_error(tmp_path):
    status, said = end_of(start("--devices", 2, "--wrong", "late"))
    assert status == 1 and "make networks and optimizers in `with strategy.scope" in said
    (port,) = many_devices.free_ports(1)
    cluster = {"cluster": {"worker": [f"localhost:{port}"]}, "task": {"type": "worker", "index": 0}}
    status, said = end_of(start("--wrong", "late", TF_CONFIG=json.dumps(cluster)))
    assert status == 1 and "must be configured at program startup" in said


@pytest.mark.slow
def test_a_missing_worker_is_given_up_after_the_time_that_was_set():
    places = [f"localhost:{port}" for port in many_devices.free_ports(2)]
    config = {"cluster": {"worker": places}, "task": {"type": "worker", "index": 0}}
    status, said = end_of(start("--wait", 2, TF_CONFIG=json.dumps(config)))
    assert status == 1 and "No word of worker 1 within 2 s; given up." in said


@pytest.mark.slow
def test_what_several_devices_saved_goes_on_on_one(state, tmp_path):
    status, said = end_of(start("--devices", 2, "--folder", tmp_path, "--steps", 20))
    assert status == 0, said
    assert max(apart(state(), state("--folder", tmp_path), kind) for kind in ("d ", "g ")) < 1e-6


@pytest.mark.slow
def test_workers_that_read_different_folders_are_stopped(tmp_path):
    assert end_of(start("--folder", tmp_path / "0", "--steps", 10))[0] == 0
    places = [f"localhost:{port}" for port in many_devices.free_ports(2)]
    workers = []
    for index in (0, 1):
        config = {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
        folder = tmp_path / str(index)
        workers.append(start("--folder", folder, TF_CONFIG=json.dumps(config)))
    said = [end_of(worker)[1] for worker in workers]
    assert "This worker stands at step 10, and others elsewhere" in said[0]
    assert "This worker stands at step 0, and others elsewhere" in said[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_one_of_two_workers_is_killed_and_both_started_again(seed, state, tmp_path):
    """At a random moment; and the state at the end has the same bits."""
    found, end = worker_costs.interrupted(seed, kills=1, count=50)
    assert 2 <= found["kills"][0]["saved"] < 50
    alone = state("--workers", 2, "--every", 2, "--folder", tmp_path / "another")
    assert end.keys() == alone.keys()
    assert [name for name in end if end[name].tobytes() != alone[name].tobytes()] == []


@pytest.mark.slow
def test_steps_and_sums_of_two_workers_are_timed():
    row, _ = worker_costs.speed("same share", 2)
    assert row["samples"] == pytest.approx(128 / row["seconds"])
    assert 0 < row["sum"] < row["seconds"] and row["bytes"] == 4 * 308_593


# The parts, on two logical CPUs.

PARTS = """
import sys
sys.path.insert(0, sys.argv[1])
import many_devices
strategy = many_devices.mirror(2)
import test_many_devices
test_many_devices.check_parts(strategy)
"""


def on_both(strategy, function, *arguments):
    """What each replica returns, joined along the first axis."""
    found = tf.function(lambda: strategy.run(function, args=arguments))()
    return tf.concat(strategy.experimental_local_results(found), axis=0)


def check_parts(strategy):
    draws = (
        functools.partial(latents.sample_latents, latent_dim=3, seed=1, step=2),
        functools.partial(latents.sample_classes, classes=10, seed=1, step=2),
    )
    for draw in draws:
        np.testing.assert_array_equal(on_both(strategy, lambda draw=draw: draw(4)), draw(8))
    for shape in ((8, 5), (8, 3, 2, 5)):
        check_normalization(strategy, shape)
    print("checked")


def check_normalization(strategy, shape):
    """Outputs, statistics and gradients of two halves are those of the whole."""
    x, upstream = (tf.random.stateless_normal(shape, [i, 0], 2.0, 3.0) for i in (1, 2))

    def passed(layer, part):
        own_x, own_upstream = part(x), part(upstream)
        with tf.GradientTape() as tape:
            tape.watch(own_x)
            outputs = layer(own_x, training=True)
        variables = [own_x, *layer.trainable_variables]
        return outputs, *tape.gradient(outputs, variables, output_gradients=own_upstream)

    def half(rows):
        return tf.split(rows, 2)[latents.replica()[0]]

    whole = layers.FusedBatchNormalization(momentum=0.8)
    expected = passed(whole, lambda rows: rows)
    with strategy.scope():
        shared = layers.FusedBatchNormalization(momentum=0.8)
        shared.build(shape)
    found = tf.function(lambda: strategy.run(passed, args=(shared, half)))()
    outputs, slopes, *weights = map(strategy.experimental_local_results, found)
    helpers.assert_close([tf.concat(outputs, 0), tf.concat(slopes, 0)], expected[:2], atol=1e-5)
    helpers.assert_close([sum(each) for each in weights], expected[2:], atol=1e-4)
    for ours, theirs in zip(shared.weights, whole.weights, strict=True):
        for copy in strategy.experimental_local_results(ours.value):
            np.testing.assert_allclose(copy, theirs, rtol=1e-5)


@pytest.mark.slow
def test_draws_and_normalization_of_two_replicas_are_those_of_one_device():
    assert helpers.fresh_python(PARTS, Path(many_devices.__file__).parent).endswith("checked\n")
