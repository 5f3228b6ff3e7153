"""The same seed gives the same bytes, in another process, in another order; another seed does not.

Run as a script, this file is the child process: it trains each case and prints hashes.
"""

import kill_resume  # first: it imports TensorFlow without its start-up messages

# isort: split
import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import systems
import tensorflow as tf

from ganutils import data, figures, latents, losses, networks, runtime, steps, training

STEPS = 20


def digest(*chunks):
    return hashlib.sha256(b"|".join(chunks)).hexdigest()


def digest_arrays(arrays):
    arrays = [np.asarray(array) for array in arrays]
    return digest(*(f"{x.dtype} {x.shape} ".encode() + x.tobytes() for x in arrays))


def train_images(name, per_call, seed):
    """Train one of the narrow systems of the benchmark; return its state, history and film."""
    trial = kill_resume.make_trial(name, STEPS)
    run, step, film = systems.start(trial.system, seed=seed), tf.Variable(0, dtype=tf.int64), []
    history = training.train(
        run.train_step,
        kill_resume.make_batches(trial, seed),
        steps=STEPS,
        step=step,
        history={},
        callbacks=[lambda progress: film.append(systems.sample(run, 4))],
        every=10,
        per_call=per_call,
    )
    return kill_resume.state(run, step, {}), history, film


def train_points(seed):
    """Train on the ring in one program of XLA's; return state, history and film, as images."""
    keras.utils.set_random_seed(seed)
    discriminator = networks.point_network(2, 1, widths=(8,))
    generator = networks.point_network(2, 2, widths=(8,))
    average, step = runtime.in_float32(generator), tf.Variable(0, dtype=tf.int64)
    optimizers = [keras.optimizers.Adam(1e-2) for _ in range(2)]
    train_step = steps.make_train_step(
        discriminator,
        generator,
        d_optimizer=optimizers[0],
        g_optimizer=optimizers[1],
        objective=losses.non_saturating,
        latent_dim=2,
        seed=seed,
    )
    take = training.make_drawn_loop(
        steps.with_ema(train_step, generator, average),
        lambda now: data.ring_of_gaussians(16, seed=seed, step=now),
        step=step,
    )
    history = take(STEPS)
    variables = [v for part in (discriminator, generator, *optimizers) for v in part.variables]
    points = average(latents.sample_latents(64, 2, seed=seed, step=-1)).numpy()
    film = [np.clip(points.reshape(2, 8, 8, 1), -1, 1)]
    return (
        {i: v.numpy() for i, v in enumerate([*variables, *average.variables, step])},
        history,
        film,
    )


CASES = {
    f"{name}, {per_call} per call": functools.partial(train_images, name, per_call)
    for name in ("mlp", "dcgan")
    for per_call in (1, 10)
} | {"ring, one program": train_points}
KINDS = ("weights", "history", "samples", "gif", "figure")


def draw(path, history, samples):
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    figures.draw_images(axes[0], samples)
    figures.draw_history(axes[1], axes[2], history)
    figure.savefig(path)
    plt.close(figure)


def make_everything(seed, folder, titles):
    """Train each case, write its GIF and its figure; return the hashes of all of it."""
    hashes = {}
    for title in titles:
        arrays, history, film = CASES[title](seed)
        stem = Path(folder, title.replace(", ", "-").replace(" ", "-"))
        figures.write_gif(f"{stem}.gif", [figures.tile(images) for images in film])
        draw(f"{stem}.png", history, film[-1])
        hashes[title] = {
            "weights": digest_arrays(arrays.values()),
            "history": digest(json.dumps(history).encode()),
            "samples": digest_arrays(film),
            "gif": digest(Path(f"{stem}.gif").read_bytes()),
            "figure": digest(Path(f"{stem}.png").read_bytes()),
        }
    return hashes


def start_child(folder, *, seed, hash_seed, titles):
    folder.mkdir()
    paths = [str(Path(kill_resume.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    return subprocess.Popen(
        [sys.executable, __file__, str(seed), str(folder), *titles],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Hashes of three processes: one, one with the cases in another order, one of another seed."""
    folder = tmp_path_factory.mktemp("made")
    settings = {
        "one": {"seed": 1, "hash_seed": 0, "titles": list(CASES)},
        "again": {"seed": 1, "hash_seed": 4321, "titles": list(CASES)[::-1]},
        "other": {"seed": 2, "hash_seed": 0, "titles": [x for x in CASES if "10" not in x]},
    }
    children = {name: start_child(folder / name, **x) for name, x in settings.items()}
    results = {}
    for name, child in children.items():
        output, errors = child.communicate()
        assert child.returncode == 0, errors
        results[name] = json.loads(output.splitlines()[-1])
    return SimpleNamespace(folder=folder, **results)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("title", CASES)
def test_the_same_seed_gives_the_same_bytes_in_another_process(title, kind, made):
    assert made.one[title][kind] == made.again[title][kind]


@pytest.mark.parametrize("title", [title for title in CASES if "10" not in title])
def test_another_seed_gives_other_bytes(title, made):
    same = [kind for kind in KINDS if made.one[title][kind] == made.other[title][kind]]
    assert same == []


@pytest.mark.parametrize("name", ["mlp", "dcgan"])
def test_steps_per_call_do_not_change_a_byte(name, made):
    assert made.one[f"{name}, 1 per call"] == made.one[f"{name}, 10 per call"]


def test_the_files_hold_no_date(made):
    paths = sorted(made.folder.glob("*/*.*"))
    assert len(paths) == 2 * (2 * len(CASES) + 3)
    for path in paths:
        with PIL.Image.open(path) as picture:
            picture.load()
            known = {"Software", "dpi"} if path.suffix == ".png" else {"version", "background"}
            known |= {"loop", "duration", "extension"} if path.suffix == ".gif" else set()
            assert set(picture.info) <= known, (path, picture.info)
        assert b"tIME" not in path.read_bytes()


def main():
    matplotlib.use("agg")
    seed, folder, *titles = sys.argv[1:]
    print(json.dumps(make_everything(int(seed), folder, titles)))


if __name__ == "__main__":
    main()
