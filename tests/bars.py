"""Drawn bars with smooth edges, by averaging over 8 x 8 points in each pixel. For tests."""

import math

import numpy as np


def drawn(inside, *, size=28, fine=8):
    """Image whose pixels hold the share of points (right, up from the center) that are inside."""
    places = (np.arange(size * fine) + 0.5) / fine - size / 2
    points = inside(places[None, :], -places[:, None]).astype(np.float64)
    ink = points.reshape(size, fine, size, fine).mean(axis=(1, 3))
    return (2 * ink - 1).astype(np.float32)[None, :, :, None]


def sheared_bar(slant, width=3.0, height=20.0):
    return drawn(lambda x, y: (abs(x - slant * y) <= width / 2) & (abs(y) <= height / 2))


def turned_bar(angle, width, length=20.0):
    c, s = math.cos(angle), math.sin(angle)
    return drawn(
        lambda x, y: (abs(c * x + s * y) <= width / 2) & (abs(c * y - s * x) <= length / 2)
    )
