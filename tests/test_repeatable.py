"""The same seed gives the same bytes, in another process and order; another seed does not."""

import helpers  # first: it imports TensorFlow without its start-up messages

# isort: split
import functools
import hashlib
import json
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
from test_resume_and_train import dcgan

from ganutils import data, figures, latents, losses, networks, runtime, steps, training

STEPS = 10


def train_images(seed, make_networks, per_call=1):
    """A run, and its film: samples now and then."""
    (run, train_step), film = helpers.tiny_run(seed, make_networks, average=True), []
    z = latents.sample_latents(4, helpers.LATENT_DIM, seed=seed, step=-1)
    training.train(
        run,
        train_step,
        functools.partial(data.batches, helpers.IMAGES, helpers.BATCH, seed=seed),
        steps=STEPS,
        callbacks=[lambda progress: film.append(run.average(z).numpy())],
        every=5,
        per_call=per_call,
    )
    return run, film


def train_points(seed):
    """A run on the ring in one program of XLA's, and a film of one picture, of its points."""
    keras.utils.set_random_seed(seed)
    discriminator = networks.point_network(2, 1, widths=(8,))
    generator = networks.point_network(2, 2, widths=(8,))
    optimizers = {"d_optimizer": helpers.adam(), "g_optimizer": helpers.adam()}
    run = training.Run(
        discriminator, generator, **optimizers, average=runtime.in_float32(generator)
    )
    game = {"objective": losses.non_saturating, "latent_dim": 2, "seed": seed}
    train_step = steps.make_train_step(discriminator, generator, **optimizers, **game)
    take = training.make_loop(
        steps.with_ema(train_step, generator, run.average),
        lambda now: data.ring_of_gaussians(16, seed=seed, step=now),
        run.step,
    )
    run.history.update(take(STEPS))
    points = run.average(latents.sample_latents(64, 2, seed=seed, step=-1)).numpy()
    return run, [np.clip(points.reshape(2, 8, 8, 1), -1, 1)]


CASES = {
    "mlp": functools.partial(train_images, make_networks=helpers.dropout_pair),
    "dcgan": functools.partial(train_images, make_networks=dcgan, per_call=5),
    "ring, one program": train_points,
}


def draw(path, history, samples):
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    figures.draw_images(axes[0], samples)
    figures.draw_history(axes[1], axes[2], history)
    figure.savefig(path)
    plt.close(figure)


def digest(*chunks):
    return hashlib.sha256(b"|".join(chunks)).hexdigest()


def make_all(seed, folder, titles):
    """Train each case, write its GIF and its figure; return the hashes of all of it."""
    hashes = {}
    plt.switch_backend("Agg")
    for title in titles:
        run, film = CASES[title](seed)
        gif, figure = (Path(folder, f"{title}.{suffix}") for suffix in ("gif", "png"))
        figures.write_gif(gif, [figures.tile(images) for images in film])
        draw(figure, run.history, film[-1])
        numbers, history = helpers.frozen(run)
        hashes[title] = {
            "weights": digest(*[content for _, _, content in numbers]),
            "history": digest(json.dumps(history).encode()),
            "samples": digest(*[images.tobytes() for images in film]),
            "gif": digest(gif.read_bytes()),
            "figure": digest(figure.read_bytes()),
        }
    return hashes


def main():
    seed, folder, *titles = sys.argv[1:]
    print(json.dumps(make_all(int(seed), folder, titles)))


def made_elsewhere(seed, folder, titles):
    """As `make_all`, in another process, where strings have other hashes."""
    program = "import test_repeatable; test_repeatable.main()"
    output = helpers.fresh_python(program, seed, folder, *titles, PYTHONHASHSEED=str(4320 + seed))
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_bytes(tmp_path):
    """In another process, with the cases in another order; and the files hold no date."""
    titles = list(CASES)
    here = make_all(1, tmp_path, titles)
    for file in tmp_path.iterdir():
        with PIL.Image.open(file) as picture:
            picture.load()
            known = {"Software", "dpi"} if file.suffix == ".png" else {"version", "background"}
            known |= {"loop", "duration", "extension"} if file.suffix == ".gif" else set()
            assert set(picture.info) <= known, picture.info
        assert b"tIME" not in file.read_bytes()
    assert made_elsewhere(1, tmp_path, titles[::-1]) == here
    other = made_elsewhere(2, tmp_path, titles)
    for title, kinds in here.items():
        assert [kind for kind in kinds if kinds[kind] == other[title][kind]] == [], title
