"""The game under Keras' `fit`, as notebook 3 shows it, against the course's loop."""

import ast
from pathlib import Path

import helpers
import keras
import nbformat
import numpy as np
import pytest
import tensorflow as tf

from ganutils import latents, losses, steps, training

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "03_dcgan.ipynb"
NAMES = ("Players", "FitGAN")
SEED, TAKEN = 4, 3


@pytest.fixture(scope="module")
def fit_gan():
    """The class that the notebook defines, with the tests' own length of a latent and seed."""
    notebook = nbformat.v4.reads(NOTEBOOK.read_text(encoding="utf-8"))
    trees = [ast.parse(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    found = [n for tree in trees for n in tree.body if getattr(n, "name", None) in NAMES]
    assert [node.name for node in found] == list(NAMES)
    space = {"keras": keras, "tf": tf, "losses": losses, "sample_latents": latents.sample_latents}
    space |= {"LATENT_DIM": helpers.LATENT_DIM, "SEED": SEED}
    exec(compile(ast.Module(found, []), str(NOTEBOOK), "exec"), space)
    return space["FitGAN"]


def start():
    """Two networks and two optimizers, the same ones at every call."""
    keras.utils.set_random_seed(1)
    return *helpers.dropout_pair(), {"d_optimizer": helpers.adam(), "g_optimizer": helpers.adam()}


def by_hand(seed=SEED):
    discriminator, generator, optimizers = start()
    run = training.Run(discriminator, generator, **optimizers)
    game = {"objective": losses.non_saturating, "latent_dim": helpers.LATENT_DIM, "seed": seed}
    one_step = steps.make_train_step(discriminator, generator, **optimizers, **game)
    return training.train(run, one_step, helpers.make_batches, steps=TAKEN)


def by_fit(fit_gan):
    discriminator, generator, optimizers = start()
    model = fit_gan(discriminator, generator, **optimizers)
    model.compile(jit_compile=False)  # XLA would turn the same seeds into other numbers
    batches = helpers.make_batches(start=0)
    few = np.stack([real for real, _ in zip(batches, range(TAKEN), strict=False)])
    data = tf.data.Dataset.from_tensor_slices(few)
    return model, model.fit(data, shuffle=False, verbose=0).history


def test_fit_and_the_loop_end_with_the_same_bits(fit_gan):
    """Weights, moving statistics, Dropout's seeds and Adam's slots, after three steps."""
    run, (model, history) = by_hand(), by_fit(fit_gan)
    names = ("discriminator", "generator", "d_optimizer", "g_optimizer")
    ends = [helpers.numbers_of(*(getattr(o, name) for name in names)) for o in (run, model)]
    assert helpers.same_bits(*ends)
    assert int(run.step) == int(model.now) == TAKEN
    # `fit` keeps one line an epoch: what its last step reported.
    assert history == {name: run.history[name][-1:] for name in ("d_loss", "g_loss")}


def test_the_comparison_can_fail(fit_gan):
    """Other noise, other weights."""
    run, (model, _) = by_hand(seed=SEED + 1), by_fit(fit_gan)
    ends = [helpers.numbers_of(o.discriminator, o.generator) for o in (run, model)]
    assert not helpers.same_bits(*ends)
