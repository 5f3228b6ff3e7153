"""Is a pyramid of small GANs better than one DCGAN, given the same training time?

    python tests/benchmarks/pyramid_quality.py --seeds 0,1,2

trains on MNIST, for each seed, the plain DCGAN for SECONDS, and a pyramid of three GANs for as
long in sum: 7x7 images, then the residuals that lead to 14x14 and to 28x28. Each level trains by
itself, on real coarse images. Then both once more as the course plays from notebook 3's end on
("held_"): a hidden layer in D where it judges whole images, the hinge loss, R1, beta_1 of 0. All
have averaged generators, batches of 64 and `runtime.fast_precision`.

A row holds the scores of 10,000 samples against the test images, and beside each its floor, that
of 10,000 training images. A pyramid's row also says where the error comes in: the same scores of
those training images, made coarse and drawn again by the upper levels alone ("from_14", "from_7"),
or by interpolation alone ("blurred_14", "blurred_7").

Training time is processor time, that of all threads, and counts the compiling of each step;
scoring does not count. On one core (taskset) it is the time that a reader waits, and unlike wall
time it hardly changes when something else runs there. --steps limits the steps of each GAN, for
trials; the result says how many were made.
"""

import time
from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import numpy as np

from ganutils import classifier, data, losses, metrics, networks, runtime
from ganutils.families import lapgan
from ganutils.latents import sample_latents
from ganutils.steps import make_gan_play, with_terms

VARIANTS = ("dcgan", "pyramid", "held_dcgan", "held_pyramid")
SECONDS = 100.0
SHARES = (0.4, 0.3, 0.3)  # of the pyramid's time, coarse before fine
WIDTHS = {14: (64, 64, 32), 28: (32, 64, 16)}  # of the generators, fewer where pixels are many
LATENT_DIM, HELD_LATENT_DIM, BATCH_SIZE = 64, 32, 64
CHUNK = 500  # images drawn at once
SCORES = ("frechet_distance", "class_divergence", "precision", "recall")
WEIGHT, EVERY = 1.0, 4  # of R1, where the game is held


def start(discriminator, generator, play, held):
    run = course.averaged_run(discriminator, generator, beta_1=0.0 if held else 0.5)
    return run, course.averaged_step(run, play)


def make_whole(image_shape, *, held, seed, generator_sizes=None, **discriminator_sizes):
    """A DCGAN of whole images; its run and its step."""
    trunk, latent_dim = (course.TRUNK, HELD_LATENT_DIM) if held else ({}, LATENT_DIM)
    discriminator = networks.dcgan_discriminator(image_shape, **trunk, **discriminator_sizes)
    generator = networks.dcgan_generator(latent_dim, image_shape, **(generator_sizes or {}))

    def penalty(real, fake, step):
        return WEIGHT * losses.r1_penalty(discriminator, real)

    play = make_gan_play(
        discriminator,
        generator,
        objective=losses.hinge if held else losses.non_saturating,
        latent_dim=latent_dim,
        seed=seed,
        d_terms=[losses.lazily(penalty, every=EVERY)] if held else [],
    )
    return start(discriminator, generator, play, held)


def make_coarsest(image_shape, *, held, seed):
    """The GAN of the pyramid's coarse images: convolutions that enlarge nothing."""
    sizes = {"widths": (32, 32), "scales": (1, 1)}
    return make_whole(image_shape, held=held, seed=seed, generator_sizes=sizes, kernel_size=3)


def make_level(image_shape, *, held, seed):
    """The GAN of one level of the pyramid."""
    discriminator = lapgan.lapgan_discriminator(image_shape, kernel_size=3)
    generator = lapgan.lapgan_generator(image_shape, widths=WIDTHS[image_shape[0]])
    objective = losses.hinge if held else losses.non_saturating
    play = lapgan.make_lapgan_play(discriminator, generator, objective=objective, seed=seed)

    def penalty(real, step):
        low = lapgan.upsample(lapgan.downsample(real))

        def judge(residual, training):
            return discriminator([residual, low], training=training)

        return WEIGHT * losses.r1_penalty(judge, real - low)

    if held:
        play = with_terms(play, d_terms=[losses.lazily(penalty, every=EVERY)])
    return start(discriminator, generator, play, held)


def train_for(make, images, seconds, *, steps, seed):
    """Train from nothing until the processor time or the steps are over.

    make: function (image_shape, *, seed) -> run, step. Returns the averaged generator; a dict of
    the seconds of processor time and the steps it took.
    """
    run, train_step = make(images.shape[1:], seed=seed)
    batches = partial(data.batches, images, BATCH_SIZE, seed=seed)
    taken = course.train_for(
        run, train_step, batches, [seconds], steps=steps, clock=time.process_time
    )
    return run.average, {"seconds": taken, "steps": int(run.step)}


def in_chunks(draw, count):
    """Images from a function (first, count) -> images, not too many at a time."""
    parts = [draw(start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)]
    return np.concatenate([np.asarray(part) for part in parts])


def sample_whole(generator, count, *, seed):
    def draw(start, size):
        z = sample_latents(size, generator.input_shape[-1], seed=seed, step=start)
        return generator(z, training=False)

    return in_chunks(draw, count)


def sample_chain(generators, count, *, seed):
    def draw(start, size):
        return lapgan.sample_pyramid(generators, size, seed=seed, step=start)[-1]

    return in_chunks(draw, count)


def redraw(generators, images, *, seed):
    """Images made as much coarser as there are generators of levels, then drawn again by them."""

    def draw(start, size):
        part, *_ = lapgan.build_pyramid(images[start : start + size], len(generators))
        for level, generator in enumerate(generators):
            part = lapgan.refine(generator, part, seed=seed + level, step=start)
        return part

    return in_chunks(draw, len(images))


def blur(images, levels):
    """Images made coarser and enlarged again, without anything put in."""
    coarse, *residuals = lapgan.build_pyramid(images, levels)
    return lapgan.reconstruct([coarse, *(0 * residual for residual in residuals)]).numpy()


def scores_of(images, judge):
    """Scores of images against the test images, and beside each its floor."""
    shown = classifier.classify(judge.model, images)
    scores = metrics.score_samples(judge.real, shown, held_out=judge.held_out[0])
    kept = {name: scores[name] for name in SCORES}
    floors = {f"{name}_floor": floor for name, (_, floor) in kept.items()}
    return {name: score for name, (score, _) in kept.items()} | floors


def measure(
    variant, *, seed, steps, source="mnist", seconds=SECONDS, count=course.COUNT, judge=None
):
    """Train one variant for so many seconds, and score it; the row, and 64 samples.

    The judge is the course's, or made of other settings of `classifier.digit_classifier`.
    """
    images, _, _ = data.load_images(source)
    judge = course.make_judge(source, count=count, **(judge or {}))
    row = {"precision_policy": runtime.fast_precision()}
    held = variant.startswith("held")
    if variant.endswith("dcgan"):
        make = partial(make_whole, held=held)
        generator, taken = train_for(make, images, seconds, steps=steps, seed=seed)
        row["levels"] = [taken]
        samples = sample_whole(generator, count, seed=seed + 1)
    else:
        makers = (make_coarsest, make_level, make_level)
        sizes = [lapgan.build_pyramid(images, level)[0].numpy() for level in (2, 1)] + [images]
        trained = [
            train_for(partial(make, held=held), real, seconds * share, steps=steps, seed=seed)
            for make, real, share in zip(makers, sizes, SHARES, strict=True)
        ]
        generators, row["levels"] = [g for g, _ in trained], [taken for _, taken in trained]
        samples = sample_chain(generators, count, seed=seed + 1)
        for levels, side in ((1, 14), (2, 7)):
            drawn = redraw(generators[-levels:], images[:count], seed=seed + 1)
            row[f"from_{side}"] = scores_of(drawn, judge)
            row[f"blurred_{side}"] = scores_of(blur(images[:count], levels), judge)
    row |= scores_of(samples, judge)
    row["seconds"] = sum(level["seconds"] for level in row["levels"])
    return row, {"samples": record.as_bytes(samples[:64])}


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=10**6)
