"""What the scripts share about training and judging: the course's settings, a clock, a judge.

It imports no script.
"""

import contextlib
import time
from typing import NamedTuple

import record  # noqa: F401  first: it imports TensorFlow without its start-up messages

# isort: split
import keras

from ganutils import classifier, data, metrics, runtime, steps, training

COUNT = 10_000  # samples, as many as MNIST has test images
NO_END = 10**9  # steps; the time ends a run before

TRUNK = {"dense_widths": (256,)}  # of the course's discriminator; `networks.dcgan_discriminator`


def averaged_run(discriminator, generator, *, beta_1=0.0):
    """A run with the course's optimizers, and the average of its generator in float32.

    beta_1: 0 is the course's DCGAN's, 0.5 the plain one's.
    """
    optimizers = [keras.optimizers.Adam(1e-3, beta_1=beta_1, beta_2=0.99) for _ in range(2)]
    return training.Run(
        discriminator,
        generator,
        d_optimizer=optimizers[0],
        g_optimizer=optimizers[1],
        average=runtime.in_float32(generator),
    )


def averaged_step(run, play):
    """The training step of a play, which keeps the run's average, too."""
    optimizers = {"d_optimizer": run.d_optimizer, "g_optimizer": run.g_optimizer}
    train_step = steps.make_step(play, run.d_variables, run.g_variables, **optimizers)
    return steps.with_ema(train_step, run.generator, run.average)


# For so many seconds.


class TimeIsUp(Exception):
    """Ends `training.train` from within a callback."""


class Watch:
    """A callback of `train` that reports at given seconds of training, and stops it at the last.

    What the report takes is not counted. `seconds` is the training time so far.

    Args:
        marks: ascending seconds; the last one ends the training.
        report: function (seconds, `training.Progress`), called once the step at hand has passed
            one mark or several.
        clock: function () -> seconds.
    """

    def __init__(self, marks, report, clock):
        self.marks, self.report, self.clock = list(marks), report, clock
        self.began, self.seconds = clock(), 0.0

    def __call__(self, progress):
        arrived = self.clock()
        self.seconds = arrived - self.began
        if self.seconds < self.marks[0]:
            return
        self.marks = [mark for mark in self.marks if mark > self.seconds]
        self.report(self.seconds, progress)
        if not self.marks:
            raise TimeIsUp
        self.began += self.clock() - arrived


def no_report(seconds, progress):
    pass


def train_for(
    run,
    train_step,
    batches,
    marks,
    report=no_report,
    *,
    steps=NO_END,
    per_call=1,
    clock=time.perf_counter,
):
    """Train until the last mark, or until so many steps are done; return the training time.

    marks, report, clock: as for `Watch`; the rest: as for `training.train`.
    """
    watch = Watch(marks, report, clock)
    pace = {"steps": steps, "every": per_call, "per_call": per_call}
    with contextlib.suppress(TimeIsUp):
        training.train(run, train_step, batches, callbacks=[watch], **pace)
    return watch.seconds


# How good.


class Judge(NamedTuple):
    """A classifier, and what it shows of images that it did not learn from.

    real: (features, probabilities) of the test images; held_out: a list of such pairs, of blocks of
    other real images, which say what a perfect generator would get.
    """

    model: keras.Model
    real: tuple
    held_out: list

    def scores(self, images):
        """Fréchet distance to the test images, and the divergence of the classes' shares."""
        features, probabilities = classifier.classify(self.model, images)
        shares = [metrics.class_shares(given) for given in (self.real[1], probabilities)]
        return {
            "frechet": metrics.frechet_distance(self.real[0], features),
            "class_divergence": metrics.class_divergence(*shares),
        }

    def floors(self):
        """Fréchet distance of each block to the test images: the floor, as a range."""
        return [metrics.frechet_distance(self.real[0], features) for features, _ in self.held_out]


EYE = {"features": 256, "steps": 4000}  # finer than the notebooks' own, which is at its floor soon


def make_judge(source, *, count=COUNT, **settings):
    """Train or load a classifier of half the training images, or less; show it others and the test.

    Where there are too few images for a block of `count`, a block is two thirds of them.

    Args:
        source: as for `data.load_images`.
        count: samples that will be scored, and images in a block.
        settings: of `classifier.digit_classifier`, in place of `EYE`'s.
    """
    images, labels, _ = data.load_images(source)
    test_images, _, _ = data.load_images(source, split="test")
    count = min(count, 2 * len(images) // 3)
    learned = min(len(images) // 2, len(images) - count)
    model = classifier.digit_classifier(images[:learned], labels[:learned], **(EYE | settings))
    blocks = [images[i : i + count] for i in range(learned, len(images) - count + 1, count)]
    real, *held_out = [classifier.classify(model, x) for x in (test_images, *blocks)]
    return Judge(model, real, held_out)
