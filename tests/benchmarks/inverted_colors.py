"""Does a CycleGAN invert colors where it may, without and with the identity loss? Over seeds.

    python tests/benchmarks/inverted_colors.py --seeds 1,2,3

x are thin and y thick digits of MNIST, every second one as its negative, so that to invert carries
both sets into themselves. Small networks, as in notebook 18. A row holds the shares of test images,
in both colors, whose mean pixel changes its sign on the way to y and to x; and the last losses.
"""

from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import numpy as np
from pens import BATCH_SIZE, COUNT, TESTS, looks, start, translate

from ganutils import data, networks, runtime
from ganutils.families import cyclegan
from ganutils.training import train

VARIANTS = {"without": 0.0, "with": 5.0}


def make_run(image_shape, *, identity_weight, seed):
    """A run of small networks, and its step."""
    judges = [networks.dcgan_discriminator(image_shape, widths=(16, 32)) for _ in range(2)]
    translators = [
        networks.residual_translator(image_shape, widths=(16, 8), blocks=1) for _ in range(2)
    ]
    return start(judges, translators, seed=seed, identity_weight=identity_weight)


def share_inverted(model, images):
    """Share of images, and of their negatives, whose mean pixel changes its sign."""
    given = np.concatenate([images, -images])
    means = [part.mean(axis=(1, 2, 3)) for part in (given, translate(model, given))]
    return float(np.mean(np.sign(means[0]) != np.sign(means[1])))


def measure(variant, *, seed, steps, source="mnist", count=COUNT):
    """Train one variant, and count what it inverts; the row, and no pictures."""
    policy = runtime.fast_precision()
    images, _, _ = data.load_images(source)
    test_images, _, _ = data.load_images(source, split="test")
    count = min(count, len(images) // 2)
    signs = np.resize(np.float32([1, -1]), (count, 1, 1, 1))
    x = signs * looks(images[:count])[0]
    y = signs * looks(images[count : 2 * count])[1]
    run, train_step = make_run(x.shape[1:], identity_weight=VARIANTS[variant], seed=seed)
    batches = partial(cyclegan.unpaired_batches, x, y, BATCH_SIZE, seed=seed)
    train(run, train_step, batches, steps=steps)
    test_x, test_y = looks(test_images[:TESTS])
    (to_x, to_y), last = run.average, slice(-20, None)
    row = {"inverted_x": share_inverted(to_x, test_y), "inverted_y": share_inverted(to_y, test_x)}
    row |= {name: float(np.mean(values[last])) for name, values in run.history.items()}
    return {"precision_policy": policy, **row}, {}


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=150)
