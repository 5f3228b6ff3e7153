"""Thin and thick digits, and how many of them: what two scripts of CycleGANs share."""

from ganutils import data

BATCH_SIZE, CAPACITY, COUNT = 16, 50, 10_000
TESTS = 1000  # images that translations are judged on


def looks(images):
    return [data.morphed_digits(images, look) for look in ("thin", "thick")]


def translate(model, images):
    return model.predict(images, batch_size=250, verbose=0)
