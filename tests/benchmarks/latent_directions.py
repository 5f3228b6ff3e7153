"""What does the latent space of the course's DCGAN hold? Norms, directions, arithmetic, over seeds.

    python tests/benchmarks/latent_directions.py

For each seed a DCGAN is trained: hidden dense layer, hinge loss, R1 every 4th step. Directions are
fitted on the first half of 10,000 samples; what they explain is taken from the second half. There
walks start, at samples of which the judge is sure. Scores compare 2,000 samples with 2,000 test
images. The judge learns from half of the training images; `floor` is what 2,000 others get.
"""

from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import keras
import numpy as np

from ganutils import classifier, data, losses, metrics, networks, runtime, stroke_attributes
from ganutils.families import latent_directions
from ganutils.latents import sample_latents, slerp
from ganutils.steps import make_gan_play
from ganutils.training import train

LATENT_DIM, BATCH = 32, 64
SURE = 0.9  # probability from which on the judge counts as sure
STEPS = (-3, -2, -1, 0, 1, 2, 3)  # of a walk
SCALES = (0.25, 0.5, 0.7071, 0.85, 1.0, 1.2, 1.5)
THRESHOLDS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
SIZES = (1, 3, 10, 30, 100)  # codes in an average
COMPONENTS, RANDOM = 6, 5  # directions
NEAREST = 500  # images whose nearest training image is looked for
SHOWN = (0, 2, 3, 4, 5, 7)  # digits whose walks are kept as pictures


def train_generator(images, *, seed, steps):
    """The averaged generator, in float32, of a run of the course's DCGAN."""
    keras.utils.set_random_seed(seed)
    discriminator = networks.dcgan_discriminator(images.shape[1:], **course.TRUNK)
    generator = networks.dcgan_generator(LATENT_DIM, images.shape[1:])
    run = course.averaged_run(discriminator, generator)

    def penalty(real, fake, step):
        return losses.r1_penalty(discriminator, real)

    play = make_gan_play(
        discriminator,
        generator,
        objective=losses.hinge,
        latent_dim=LATENT_DIM,
        seed=seed,
        d_terms=[losses.lazily(penalty, every=4)],
    )
    batches = partial(data.batches, images, BATCH, seed=seed)
    train(run, course.averaged_step(run, play), batches, steps=steps)
    return run.average


class Bench:
    """A generator, a judge, and what both make of the same samples.

    held_out: real images that the judge did not learn from. count: samples for the directions.
    few: samples for each score, and real images beside them. walks: latents that walk. pairs:
    averages for each sum of codes.
    """

    def __init__(self, generator, judge, held_out, test_images, *, seed, count, few, walks, pairs):
        self.generator, self.judge, self.seed = generator, judge, seed
        self.few, self.pairs = few, pairs
        self.reference = classifier.classify(judge, test_images[:few])[0]
        self.real = np.random.default_rng(seed).choice(held_out, few, replace=False)
        self.z = sample_latents(count, LATENT_DIM, seed=seed + 2, step=0).numpy()
        pictures = self.draw(self.z)
        self.probabilities = classifier.classify(judge, pictures)[1]
        self.digits = self.probabilities.argmax(axis=1)
        self.first, self.second = np.split(np.arange(count), 2)
        unsure = self.probabilities[self.second].max(axis=1) < SURE
        self.start = self.second[np.argsort(unsure, kind="stable")[:walks]]  # the sure ones first
        self.values = {
            "slant": stroke_attributes.stroke_slant(pictures),
            "width": stroke_attributes.stroke_width(pictures),
        }

    def draw(self, z):
        return self.generator.predict(np.asarray(z, np.float32), batch_size=500, verbose=0)

    def read(self, images):
        return classifier.classify(self.judge, images)[1].argmax(axis=1)

    def latents(self, step):
        return sample_latents(self.few, LATENT_DIM, seed=self.seed + 3, step=step).numpy()

    def score(self, images):
        features, probabilities = classifier.classify(self.judge, images)
        precision, recall = metrics.precision_recall(self.reference, features)
        return {
            "frechet": metrics.frechet_distance(self.reference, features),
            "precision": precision,
            "recall": recall,
            "unsure": float((probabilities.max(axis=1) < SURE).mean()),
        }


def measure_middles(bench):
    """Scores halfway between two samples, on three ways, and of the samples themselves."""
    start, end = bench.latents(0), bench.latents(1)
    ends = [bench.draw(z) for z in (start, end)]
    return {
        "samples": bench.score(ends[0]),
        "spherical": bench.score(bench.draw(slerp(start, end, 0.5))),
        "straight": bench.score(bench.draw((start + end) / 2)),
        "pixels": bench.score((ends[0] + ends[1]) / 2),
        "floor": bench.score(bench.real),
    }


def measure_norms(bench):
    """Scores of latents that were scaled, and of latents that were truncated."""
    z = bench.latents(0)
    scaled = [{"scale": s} | bench.score(bench.draw(s * z)) for s in SCALES]
    truncated = []
    for t in THRESHOLDS:
        kept = latent_directions.truncated_latents(
            bench.few, LATENT_DIM, threshold=t, seed=bench.seed + 4, step=0
        )
        truncated.append({"threshold": t} | bench.score(bench.draw(kept)))
    return {"scaled": scaled, "truncated": truncated}


def squared_correlation(x, y):
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def share_between(values, groups):
    """Share of a value's variance that lies between the groups' means."""
    means = np.array([values[groups == g].mean() if (groups == g).any() else 0 for g in range(10)])
    return float(means[groups].var() / values.var())


def digit_directions(bench, half):
    """For each digit the direction in which its probability rises."""
    return np.stack(
        [latent_directions.fit_direction(bench.z[half], p)[0] for p in bench.probabilities[half].T]
    )


def walk(bench, direction):
    """Means along a walk: over all starts, and for each digit that a start was read as."""
    effects = latent_directions.walk_effects(
        bench.draw, bench.read, bench.z[bench.start], direction, STEPS
    )
    row = {name: values.mean(axis=1).tolist() for name, values in effects.items()}
    groups = [bench.digits[bench.start] == digit for digit in range(10)]
    row["by_digit"] = {
        name: [values[:, g].mean(axis=1).tolist() if g.any() else None for g in groups]
        for name, values in effects.items()
    }
    return row


def measure_directions(bench):
    """Slant and width: three ways to fit, what each explains, and what it does to images."""
    first, second = bench.first, bench.second
    digits, result, pictures = digit_directions(bench, first), {}, {}
    shown = [int(bench.probabilities[:, digit].argmax()) for digit in SHOWN]
    for name, values in bench.values.items():
        fit = partial(latent_directions.fit_direction, bench.z[first], values[first])
        pooled, slope = fit()
        within, _ = fit(groups=bench.digits[first])
        ways = {
            "pooled": pooled,
            "within": within,
            "projected": latent_directions.project_out(pooled, digits),
        }
        result[name] = {
            "slope": slope,
            "between": share_between(values, bench.digits),
            "explained": {
                way: squared_correlation(bench.z[second] @ d, values[second])
                for way, d in ways.items()
            },
            "cosine": {way: float(d @ pooled) for way, d in ways.items()},
            "along_digits": (digits @ pooled).tolist(),
            "walks": {way: walk(bench, d) for way, d in ways.items()},
        }
        steps = np.arange(-3, 4)[:, None]
        walked = [bench.draw(bench.z[i] + steps * ways["projected"]) for i in shown]
        pictures[name] = record.as_bytes(np.concatenate(walked))
    random = np.random.default_rng(bench.seed).normal(size=(RANDOM, LATENT_DIM))
    result["random"] = [walk(bench, d / np.linalg.norm(d)) for d in random]
    return result, pictures


def codes_of(bench, digit):
    """The twentieth of the latents that is read most surely as a digit, from thin to thick."""
    rows = np.argsort(-bench.probabilities[:, digit], kind="stable")[: len(bench.z) // 20]
    return bench.z[rows[np.argsort(bench.values["width"][rows], kind="stable")]]


def measure_arithmetic(bench):
    """Thick minus thin of one digit plus another digit, from averages of more and more codes."""
    rows = []
    for size in SIZES:
        kept, alone, gain, length = [], [], [], []
        for digit in range(10):
            source, target = codes_of(bench, (digit + 3) % 10), codes_of(bench, digit)
            third = len(source) // 3
            average = partial(
                latent_directions.average_latents, size=min(size, third), count=bench.pairs
            )
            plus = average(target, seed=0)
            z = average(source[-third:], seed=1) - average(source[:third], seed=2) + plus
            before, after = bench.draw(plus), bench.draw(z)
            kept.append(float((bench.read(after) == digit).mean()))
            alone.append(float((bench.read(before) == digit).mean()))
            change = stroke_attributes.stroke_width(after) - stroke_attributes.stroke_width(before)
            gain.append(float(change.mean()))
            length.append(float(np.linalg.norm(z, axis=1).mean()))
        rows.append({"size": size, "kept": kept, "alone": alone, "gain": gain, "length": length})
    return rows


def measure_components(bench):
    """Principal directions of the first layer's activations, and what steps along them do."""
    latents = bench.z[bench.first]
    relu = next(x for x in bench.generator.layers if isinstance(x, keras.layers.ReLU))
    early = keras.Model(bench.generator.input, relu.output)
    activations = early.predict(latents, batch_size=500, verbose=0)
    found, shares = latent_directions.principal_directions(
        latents, activations, components=COMPONENTS
    )
    rows = []
    for direction, share in zip(found, shares, strict=True):
        along = bench.z @ direction
        row = {"share": float(share), "digits": share_between(along, bench.digits)}
        for name, values in bench.values.items():
            row[f"{name}_explained"] = squared_correlation(along, values)
        rows.append(row | {"walk": walk(bench, direction)})
    return rows


def measure_memory(bench, images, test_images):
    """Median distance to the nearest training image, of samples, middles and test images."""
    start, end = (bench.latents(step)[:NEAREST] for step in (0, 1))
    sets = {
        "samples": bench.draw(start),
        "spherical": bench.draw(slerp(start, end, 0.5)),
        "test": test_images[: len(start)],
    }
    return {
        name: float(np.median(metrics.nearest_neighbors(some, images)[0]))
        for name, some in sets.items()
    }


def measure(
    variant, *, seed, steps, source, count=10_000, few=2000, walks=500, pairs=60, judge_steps=2000
):
    images, labels, _ = data.load_images(source)
    test_images, _, _ = data.load_images(source, split="test")
    half = len(images) // 2
    judge = classifier.digit_classifier(images[:half], labels[:half], steps=judge_steps)
    runtime.fast_precision()
    generator = train_generator(images, seed=seed, steps=steps)
    keras.config.set_dtype_policy("float32")
    sizes = {"count": count, "few": few, "walks": walks, "pairs": pairs}
    bench = Bench(generator, judge, images[half:], test_images, seed=seed, **sizes)
    found, pictures = measure_directions(bench)
    middles = measure_middles(bench)
    row = {
        "frechet": middles["samples"]["frechet"],
        "unsure": middles["samples"]["unsure"],
        "slant_explained": found["slant"]["explained"]["pooled"],
        "width_explained": found["width"]["explained"]["pooled"],
        "walk_steps": STEPS,
        "directions": found,
        "middles": middles,
        **measure_norms(bench),
        "arithmetic": measure_arithmetic(bench),
        "components": measure_components(bench),
        "nearest": measure_memory(bench, images, test_images),
    }
    return row, pictures


if __name__ == "__main__":
    record.over_seeds(measure, ["dcgan"], script=__file__, doc=__doc__, steps=2000)
