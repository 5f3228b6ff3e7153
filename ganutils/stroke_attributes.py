"""How does a digit lean, and how thick are its strokes? Rulers for bright strokes on black.

No threshold says what belongs to a stroke. Images are float (count, height, width, channels) in
[-1, 1]; one without any ink is refused.
"""

import numpy as np

from ganutils import validation


def ink_of(images):
    """How much ink is in each pixel: float64 (count, height, width), 0 for black, 1 for white."""
    images = validation.as_images(images, "images")
    if (empty := np.flatnonzero((images == -1).all(axis=(1, 2, 3)))).size:
        raise ValueError(f"image {empty[0]} has no ink (all -1), so its strokes have no measure.")
    return (images.astype(np.float64).mean(axis=3) + 1) / 2


def stroke_slant(images):
    """How far the ink leans to the right, per unit upward: 0 upright, 1 at 45 degrees; (count,).

    The covariance of right and up over the variance of up. Shearing an image by s adds s to it.
    """
    ink = ink_of(images)
    share = ink / ink.sum(axis=(1, 2), keepdims=True)
    up, right = -np.arange(ink.shape[1])[:, None], np.arange(ink.shape[2])
    up = up - (share * up).sum(axis=(1, 2), keepdims=True)
    right = right - (share * right).sum(axis=(1, 2), keepdims=True)
    variance = (share * up**2).sum(axis=(1, 2)) + 1 / 12  # a pixel is a square, not a point
    return (share * right * up).sum(axis=(1, 2)) / variance


def stroke_width(images):
    """Width of the strokes in pixels, (count,): twice the ink's area over its edge's length.

    A stroke of width w and length l has area w l and an edge of about 2 l; with its two ends, a bar
    measures w / (1 + w / l). The edge's length is the sum of the ink's gradient between pixels.
    What is measured is some percent too large from 2 pixels on, more for thinner strokes.
    """
    ink = np.pad(ink_of(images), [(0, 0), (1, 1), (1, 1)])
    right, down = np.diff(ink, axis=2), np.diff(ink, axis=1)
    right, down = right[:, :-1] + right[:, 1:], down[:, :, :-1] + down[:, :, 1:]
    edge = np.hypot(right, down).sum(axis=(1, 2)) / 2
    return 2 * ink.sum(axis=(1, 2)) / edge
