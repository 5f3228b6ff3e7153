"""How do I move in latent space? Latents of typical length, directions fitted to what is measured.

A direction has length 1; a step of 1 along it is one standard deviation of the latents.
"""

import math

import numpy as np
import tensorflow as tf
from sklearn.decomposition import PCA

from ganutils.latents import stream
from ganutils.stroke_attributes import stroke_slant, stroke_width


def truncated_latents(count, latent_dim, *, threshold, seed, step):
    """Draw normal latents none of whose entries is beyond a threshold, by (seed, step) alone.

    float32 (count, latent_dim); threshold is > 0, and from 4 on hardly anything is cut off.

    Brock et al. 2019, arXiv 1809.11096, section 3.1 (the truncation trick).
    """
    if not 0 < threshold < math.inf:
        raise ValueError(f"{threshold=} must be above 0 and finite.")
    return tf.random.stateless_parameterized_truncated_normal(
        (count, latent_dim),
        stream(seed, step, "trun"),
        means=0.0,
        stddevs=1.0,
        minvals=-threshold,
        maxvals=threshold,
    )


def average_latents(z, *, size, count, seed):
    """Averages, float32 (count, latent_dim), of `size` different latents each, chosen at random.

    What the latents z, (rows, latent_dim), have in common stays; the rest shrinks by sqrt(size).

    Radford et al. 2016, arXiv 1511.06434, section 6.3.2, with size 3.
    """
    if not 1 <= size <= len(z):
        raise ValueError(f"{size=} must be in 1..{len(z)}, the number of latents.")
    z, random = np.asarray(z, np.float32), np.random.default_rng(seed)
    chosen = [random.choice(len(z), size, replace=False) for _ in range(count)]
    return np.stack([z[rows].mean(axis=0) for rows in chosen])


def rows_of(z, values):
    """float64 copies of latents and of what belongs to each of them: tables, one row a latent."""
    if np.ndim(z) != 2 or len(z) != len(values) or len(z) <= np.shape(z)[1]:
        shapes = f"latents {np.shape(z)} and values {np.shape(values)}"
        raise ValueError(f"{shapes} must have one row a latent, and more rows than columns.")
    if not (np.isfinite(z).all() and np.isfinite(values).all()):
        raise ValueError("latents or values hold NaN or infinite numbers; find out where from.")
    return np.array(z, np.float64), np.array(values, np.float64).reshape(len(values), -1)


def fit_direction(z, values, *, groups=None):
    """The direction in which a value rises fastest, by least squares, and its slope there.

    For normal latents this is the mean gradient of the value (Stein's lemma). With groups, each
    group's mean is taken off first, so that nothing is learned from how the groups differ.

    Args:
        z: float (count, latent_dim), more rows than columns.
        values: float (count,), an attribute of each latent's image; they must vary.
        groups: integers (count,), such as the digits of the images, or None for one group.

    Returns:
        float64 (latent_dim,) of length 1; and float > 0, the rise in a step of 1.

    Stein 1981, "Estimation of the mean of a multivariate normal distribution", lemma 1.
    """
    if np.ndim(values) != 1 or (groups is not None and np.shape(groups) != np.shape(values)):
        raise ValueError("One value and one group a row, please: values and groups of (count,).")
    z, values = rows_of(z, values)
    largest = np.abs(values).max()
    groups = np.zeros(len(z), int) if groups is None else np.asarray(groups)
    for group in np.unique(groups):
        rows = groups == group
        z[rows] -= z[rows].mean(axis=0)
        values[rows] -= values[rows].mean(axis=0)
    weights = np.linalg.lstsq(z, values[:, 0])[0]
    slope = float(np.linalg.norm(weights))
    if not slope or values.std() <= 1e-12 * largest:
        raise ValueError("latents and values must vary, within a group, too; these do not.")
    return weights / slope, slope


def project_out(direction, others):
    """Take from a direction all that lies along others, so that steps leave them alone.

    direction: (latent_dim,); others: (directions, latent_dim), which may depend on one another.
    Returns float64 (latent_dim,) of length 1, orthogonal to others; ValueError if none is left.

    Shen et al. 2020, arXiv 1907.10786, section 2 (conditional manipulation).
    """
    if np.ndim(direction) != 1 or np.ndim(others) != 2 or np.shape(others)[1] != len(direction):
        shapes = f"{np.shape(direction)} and {np.shape(others)}"
        raise ValueError(f"{shapes} must be (latent_dim,) and (directions, latent_dim).")
    direction, others = np.asarray(direction, np.float64), np.asarray(others, np.float64)
    along = np.linalg.lstsq(others.T, direction)[0]
    rest = direction - along @ others
    if np.linalg.norm(rest) < 1e-6 * np.linalg.norm(direction):
        raise ValueError("direction lies within the others; nothing is left of it.")
    return rest / np.linalg.norm(rest)


def principal_directions(z, activations, *, components):
    """Directions of latent space along which the activations of a layer vary most.

    Principal components of the activations, (count, units); then latents are regressed on their
    coordinates. Where activations = z W, these are the left singular vectors of W, up to sign.

    Returns:
        float64 (components, latent_dim), each of length 1; and each one's share of the activations'
        variance, float64 (components,), descending.

    Härkönen et al. 2020, arXiv 2004.02546, section 2.
    """
    if not 1 <= components <= min(np.shape(z)[1], np.shape(activations)[1]):
        raise ValueError(f"{components=} must be 1 to the smaller of latent_dim and units.")
    z, activations = rows_of(z, activations)
    pca = PCA(components, svd_solver="randomized", random_state=0)
    coordinates = pca.fit_transform(activations)
    if not pca.explained_variance_[-1] > 1e-12 * pca.explained_variance_[0]:
        raise ValueError(f"activations vary in fewer than {components} directions.")
    basis = np.linalg.lstsq(coordinates, z - z.mean(axis=0))[0]
    return basis / np.linalg.norm(basis, axis=1, keepdims=True), pca.explained_variance_ratio_


def walk_effects(draw, read, z, direction, steps):
    """What a direction does to images: their slant, their width, and whether the digit stays.

    Args:
        draw: function of latents (count, latent_dim) -> images in [-1, 1].
        read: function of images -> integers (count,), which digit each is.
        z: float (count, latent_dim), where the walks start.
        direction: float (latent_dim,).
        steps: how far to go along it, a sequence of numbers; negative is backwards.

    Returns:
        Dict of float64 (steps, count): "slant", "width", and "kept", 1 where the digit stays, or 0.
    """
    z, direction = np.asarray(z, np.float32), np.asarray(direction, np.float32)
    start, rows = read(draw(z)), {"slant": [], "width": [], "kept": []}
    for step in steps:
        images = np.asarray(draw(z + np.float32(step) * direction))
        rows["slant"].append(stroke_slant(images))
        rows["width"].append(stroke_width(images))
        rows["kept"].append(np.asarray(read(images)) == start)
    return {name: np.array(row, np.float64) for name, row in rows.items()}
