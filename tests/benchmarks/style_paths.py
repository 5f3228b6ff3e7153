"""What do styles give? Lengths of paths, what each resolution moves, truncation, equal time.

    python tests/benchmarks/style_paths.py --seeds 0,1,2 --variants mixing style dcgan

trains on MNIST, for each seed and variant, one generator until the last of MARKS, in seconds of the
processor:

- "mixing": the StyleGAN of notebook 20; "style": the same, every image drawn from one style;
- "dcgan": the course's DCGAN, with the settings that it was tuned to.

At the marks samples are scored; what that takes, and the first step, is not counted. Then, with the
averaged generator: lengths of paths between random latents, and between their styles, for several
epsilons, in the judge's features, and divided by the mean squared distance of the ends ("relative":
a path that is straight and of even speed has 1, none has less), at random places and, where 1 is no
floor, at the start;
the share of slant's, width's and the pixels' variance that moves, and the share of digits that
change, where the styles of one resolution, or the noise, are those of another image; precision,
recall and Fréchet distance of truncated styles, or of latents multiplied by psi. The judge learns
from the first half of the training images; "floor" is what others get.
"""

import time
from functools import partial

import record  # first: it imports TensorFlow without its start-up messages

# isort: split
import course
import keras
import numpy as np

from ganutils import classifier, data, losses, metrics, networks, runtime, training
from ganutils.families import stylegan
from ganutils.latents import sample_latents, slerp
from ganutils.steps import make_gan_play, with_terms
from ganutils.stroke_attributes import stroke_slant, stroke_width

VARIANTS = ("style", "mixing", "dcgan")
LATENT_DIM, STYLE_DIM, BATCH_SIZE = 32, 64, 64
MARKS = (20, 40, 75, 150)  # seconds
EPSILONS, CHOSEN = (1e-4, 1e-3), 0  # its lengths are made relative
PSIS = (1.0, 0.7, 0.5, 0.3)
JUDGE = {"features": 64, "steps": 2000}  # that of notebook 20
SHOWN = 6  # images whose styles are mixed with as many others'


def start_game(variant, image_shape, seed):
    """A run of one variant, and its step."""
    if variant == "dcgan":
        discriminator = networks.dcgan_discriminator(image_shape, **course.TRUNK)
        generator = networks.dcgan_generator(LATENT_DIM, image_shape)
        settings = {"objective": losses.hinge, "seed": seed, "latent_dim": LATENT_DIM}
        play, weight = make_gan_play(discriminator, generator, **settings), 1.0
        run = course.averaged_run(discriminator, generator)
    else:
        after = {"after_conv": stylegan.leaky_deviation}
        discriminator = networks.dcgan_discriminator(image_shape, **course.TRUNK, **after)
        mapping = stylegan.mapping_network(LATENT_DIM)
        synthesis = stylegan.synthesis_network(STYLE_DIM, image_shape)
        generator = stylegan.style_generator(mapping, synthesis)
        settings = {"objective": losses.non_saturating, "seed": seed}
        mixing = variant == "mixing"
        play = stylegan.make_style_play(discriminator, generator, mixing=mixing, **settings)
        weight = 0.1
        run = training.Run(
            discriminator,
            generator,
            d_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.99),
            g_optimizer=keras.optimizers.Adam(3e-3, beta_1=0.0, beta_2=0.99),
            average=runtime.in_float32(generator),
        )

    def penalty(real, step):
        return weight * losses.r1_penalty(discriminator, real)

    play = with_terms(play, d_terms=[losses.lazily(penalty, every=4)])
    return run, course.averaged_step(run, play)


class Bench:
    """A generator beside a judge: draws from latents or from styles, and scores.

    count: samples at the marks; few: those that are truncated or exchange a part; a quarter of
    them are the ends of paths.
    """

    def __init__(self, generator, judge, *, seed, count, few):
        self.generator, self.judge = generator, judge
        self.seed, self.count, self.few = seed, count, few
        self.has_styles = isinstance(generator.input, list)
        if self.has_styles:
            names = ("mapping", "synthesis")
            self.mapping, self.synthesis = (generator.get_layer(name) for name in names)
            (_, self.places, _), (_, self.numbers) = self.synthesis.input_shape

    def latents(self, count, step):
        return sample_latents(count, LATENT_DIM, seed=self.seed + 2, step=step).numpy()

    def noise(self, count, step=0):
        return sample_latents(count, self.numbers, seed=self.seed + 3, step=step).numpy()

    def draw(self, z):
        inputs = [z, self.noise(len(z))] if self.has_styles else z
        return self.generator.predict(inputs, batch_size=250, verbose=0)

    def styles_of(self, z):
        return self.mapping.predict(z, batch_size=250, verbose=0)

    def draw_styles(self, styles, noise_step=0):
        """Of styles (count, style_dim), or (count, places, style_dim)."""
        if styles.ndim == 2:
            styles = np.repeat(styles[:, None], self.places, axis=1)
        inputs = [styles, self.noise(len(styles), noise_step)]
        return self.synthesis.predict(inputs, batch_size=250, verbose=0)

    def judged(self, images):
        return classifier.classify(self.judge.model, images)

    def features_of(self, draw, points):
        return self.judged(draw(points))[0]

    def score(self, images):
        real, fake = self.judge.real[0][: self.few], self.judged(images)[0]
        precision, recall = metrics.precision_recall(real, fake)
        distance = metrics.frechet_distance(real, fake)
        return {"frechet": distance, "precision": precision, "recall": recall}

    def floor(self):
        """The scores of held-out real images: in equal numbers on the way, and truncated."""
        real, (held_out, _) = self.judge.real[0], self.judge.held_out[0]
        precision, recall = metrics.precision_recall(real[: self.few], held_out[: self.few])
        distances = [
            metrics.frechet_distance(real[:n], held_out[:n]) for n in (self.count, self.few)
        ]
        names = ("on_the_way", "frechet", "precision", "recall")
        return dict(zip(names, (*distances, precision, recall), strict=True))


def measure_paths(bench):
    """Of each kind of path the mean length, by epsilon, and relative to the ends' distance."""
    count = bench.few // 4
    start, end = (bench.latents(count, step) for step in (1, 2))
    middle = np.random.default_rng(bench.seed).random((count, 1)).astype(np.float32)
    paths = {"z": (bench.draw, partial(slerp, start, end))}
    if bench.has_styles:
        first, second = (bench.styles_of(z).astype(np.float64) for z in (start, end))
        paths["w"] = bench.draw_styles, lambda t: np.float32(first + t * (second - first))
    ends = [bench.judged(bench.draw(z))[0].astype(np.float64) for z in (start, end)]
    apart = float(np.sum((ends[1] - ends[0]) ** 2, axis=1).mean())
    found = {"apart": apart, "epsilons": EPSILONS}
    for name, (draw, path) in paths.items():
        see = partial(bench.features_of, draw)
        for place, fractions in {"": middle, "_ends": np.zeros_like(middle)}.items():
            lengths = [
                stylegan.path_lengths(see, path, fractions, epsilon=epsilon) for epsilon in EPSILONS
            ]
            means = [float(values.mean()) for values in lengths]
            found[name + place] = {"lengths": means, "relative": means[CHOSEN] / apart}
    return found


def resolutions(places, height):
    """From a resolution's name, its rows of pixels, to the places that it has, booleans."""
    level = (np.arange(places) + 1) // 2
    return {str(height >> int(level[-1] - k)): level == k for k in range(level[-1] + 1)}


def measure_parts(bench):
    """What moves where a part of what images are drawn from is exchanged, and pictures of it."""
    first, second = (bench.styles_of(bench.latents(bench.few, step)) for step in (1, 2))
    parts = resolutions(bench.places, bench.generator.output_shape[1])
    parts["all"] = np.ones(bench.places, bool)

    def exchanged(chosen, rows=slice(None)):
        mixed = stylegan.mixed_styles(first[rows], second[rows], chosen)
        return bench.draw_styles(mixed.numpy())

    before = bench.draw_styles(first)
    drawn = {name: exchanged(chosen) for name, chosen in parts.items()}
    drawn["noise"] = bench.draw_styles(first, noise_step=1)
    digits, found = bench.judged(before)[1].argmax(axis=1), {}
    for name, after in drawn.items():
        inked = ((before > -1) & (after > -1)).any(axis=(1, 2, 3))
        pair = before[inked], after[inked]
        found[name] = {
            "slant": stylegan.share_moved(*map(stroke_slant, pair)),
            "width": stylegan.share_moved(*map(stroke_width, pair)),
            "pixels": float(np.mean((before - after) ** 2) / (2 * before.var(axis=0).mean())),
            "digit": float(np.mean(bench.judged(after)[1].argmax(axis=1) != digits)),
        }
    rows, columns = (x.ravel() for x in np.indices((SHOWN, SHOWN)))
    first, second = first[rows], second[columns]
    grids = {f"mixed_{name}": exchanged(parts[name]) for name in list(parts)[:-1]}
    grids |= {"first": before[:SHOWN], "second": drawn["all"][:SHOWN]}
    return found, grids


def measure_truncation(bench):
    """Scores by psi: of styles drawn to their center, or of latents multiplied by it."""
    z = bench.latents(bench.few, 3)
    if not bench.has_styles:
        return [{"psi": psi} | bench.score(bench.draw(np.float32(psi * z))) for psi in PSIS]
    styles = bench.styles_of(z)
    drawn = (stylegan.truncated_styles(styles, styles.mean(axis=0), psi) for psi in PSIS)
    return [
        {"psi": psi} | bench.score(bench.draw_styles(w)) for psi, w in zip(PSIS, drawn, strict=True)
    ]


def measure(variant, *, seed, steps, source, marks=MARKS, count=5000, few=2000, judge=None):
    """Train one variant until the last mark, or for so many steps; the row, and pictures.

    judge: settings of the judge in place of `JUDGE`'s.
    """
    images, _, _ = data.load_images(source)
    judge = course.make_judge(source, **(JUDGE | (judge or {})))
    count, few = (min(number, len(judge.real[0])) for number in (count, few))
    policy = runtime.fast_precision()
    run, train_step = start_game(variant, images.shape[1:], seed)
    keras.config.set_dtype_policy("float32")
    bench = Bench(run.average, judge, seed=seed, count=count, few=few)
    row = {"precision_policy": policy, "parameters": run.generator.count_params(), "on_the_way": []}

    def report(seconds, progress):
        drawn = bench.draw(bench.latents(bench.count, 0))
        real, fake = judge.real[0][: bench.count], bench.judged(drawn)[0]
        scores = {"frechet": metrics.frechet_distance(real, fake)}
        row["on_the_way"].append({"seconds": seconds, "step": progress.step} | scores)

    batches = partial(data.batches, images, BATCH_SIZE, seed=seed)
    training.train(run, train_step, batches, steps=1)  # traces it, off the clock
    clock = {"clock": time.process_time, "steps": steps}
    row["seconds"] = course.train_for(run, train_step, batches, marks, report, **clock)
    row |= {"paths": measure_paths(bench), "truncation": measure_truncation(bench)}
    row["floor"] = bench.floor()
    pictures = {"samples": bench.draw(bench.latents(60, 0))}
    if bench.has_styles:
        row["parts"], grids = measure_parts(bench)
        pictures |= grids
    return row, {name: record.as_bytes(shown) for name, shown in pictures.items()}


if __name__ == "__main__":
    record.over_seeds(measure, VARIANTS, script=__file__, doc=__doc__, steps=10**6)
