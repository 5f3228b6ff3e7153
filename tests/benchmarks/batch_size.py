"""What does a larger batch cost in quality, when as many images are seen?

    python tests/benchmarks/batch_size.py --seeds 0,1,2 --steps 750

trains the plain DCGAN of notebook 3 on 64 * STEPS images, in batches of 64, 256 and 1,024; the
larger ones take so many fewer steps, once with Adam's usual step size and once with it times the
square root of batch / 64 (Malladi et al. 2022, arXiv 2205.10287, for Adam). Scored is the average
of the generator, by 10,000 samples, against MNIST's test images. The result goes to
notebooks/assets/results/batch_size.json; the rest is as in `record.over_seeds`.
"""

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import functools

import course

from ganutils import data, latents, losses, networks, runtime, steps, training

BATCH, LATENT_DIM = 64, 64
VARIANTS = {
    "64": (64, 1),
    "256": (256, 1),
    "1024": (1024, 1),
    "256 scaled": (256, 2),
    "1024 scaled": (1024, 4),
}


@functools.cache
def judge_of(source):
    return course.make_judge(source)


def measure(variant, *, seed, steps, source):
    """A row: the batch, the steps, the step size and the scores."""
    batch, factor = VARIANTS[variant]
    count = steps * BATCH // batch
    run = trained(batch, count, 1e-3 * factor, seed=seed, images=data.load_images(source)[0])
    z = latents.sample_latents(course.COUNT, LATENT_DIM, seed=seed + 1, step=0)
    judge = judge_of(source)
    scores = judge.scores(run.average.predict(z, batch_size=500, verbose=0))
    row = {"batch": batch, "taken": count, "rate": 1e-3 * factor}
    return {**row, **scores, "floor": max(judge.floors())}, {}


def trained(batch, count, rate, *, seed, images):
    """The run after so many steps; networks in bfloat16 where `runtime` has been asked for it."""
    shape = images.shape[1:]
    discriminator = networks.dcgan_discriminator(shape)
    generator = networks.dcgan_generator(LATENT_DIM, shape)
    run = course.averaged_run(discriminator, generator, beta_1=0.5)
    for optimizer in (run.d_optimizer, run.g_optimizer):
        optimizer.learning_rate.assign(rate)
    game = {"objective": losses.non_saturating, "latent_dim": LATENT_DIM, "seed": seed}
    train_step = course.averaged_step(run, steps.make_gan_play(discriminator, generator, **game))
    batches = functools.partial(data.batches, images, batch, seed=seed)
    return training.train(run, train_step, batches, steps=count)


def main(arguments=None):
    runtime.fast_precision()
    script = {"script": __file__, "doc": __doc__}
    record.over_seeds(measure, list(VARIANTS), steps=750, arguments=arguments, **script)


if __name__ == "__main__":
    main()
