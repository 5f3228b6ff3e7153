"""How do I move in latent space? Codes of typical length, directions fitted to what is measured.

A direction has length 1; a step of 1 along it is one deviation of the latents.
"""

import numpy as np
import tensorflow as tf
from sklearn.decomposition import PCA

from ganutils import checks
from ganutils.strokes import stroke_slant, stroke_width


def truncated_latents(count, latent_dim, *, threshold, seed, step):
    """Draw normal latents none of whose entries is beyond a threshold: samples from the middle.

    Args:
        count, latent_dim, seed, step: as for `latents.sample_latents`, whose stream is another one.
        threshold: largest size of an entry, > 0; from 4 on hardly anything is cut off.

    Returns:
        z, float32 (count, latent_dim), a pure function of the arguments.

    Raises:
        TypeError, ValueError: threshold is no number, or not above 0 and finite.

    Source: Brock et al. 2019, arXiv 1809.11096, section 3.1 (the truncation trick).
    """
    threshold = checks.as_positive(threshold, "threshold")
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    key = tf.random.fold_in(key, 14)  # a stream of its own
    return tf.random.stateless_parameterized_truncated_normal(
        (count, latent_dim), key, means=0.0, stddevs=1.0, minvals=-threshold, maxvals=threshold
    )


def average_codes(z, *, size, count, seed):
    """Averages of codes that have something in common, each of different ones chosen at random.

    Args:
        z: float (codes, latent_dim), latents whose images share a property.
        size: codes in one average, 1 to all; what they do not share shrinks to 1 / sqrt(size).
        count: averages, 1 or more.
        seed: integer >= 0, of the choice.

    Returns:
        float32 (count, latent_dim).

    Raises:
        TypeError, ValueError: a number is no integer or out of range, or fewer codes than size.

    Source: Radford et al. 2016, arXiv 1511.06434, section 6.3.2, with size 3.
    """
    z, random = np.asarray(z, np.float32), np.random.default_rng(seed)
    size = checks.as_integer(size, "size", low=1, high=len(z))
    count = checks.as_integer(count, "count", low=1, high=10**6)
    chosen = [random.choice(len(z), size, replace=False) for _ in range(count)]
    return np.stack([z[rows].mean(axis=0) for rows in chosen])


def rows_of(z, values):
    """Latents and what belongs to each of them, as tables with one row a latent.

    Args:
        z: float (count, latent_dim), more rows than columns.
        values: float (count,) or (count, columns).

    Returns:
        float64 copies (count, latent_dim) and (count, columns).

    Raises:
        ValueError: shapes that do not fit, too few rows, numbers that are not finite.
    """
    z, values = np.array(z, np.float64), np.array(values, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if z.ndim != 2 or values.ndim != 2 or len(z) != len(values) or len(z) <= z.shape[1]:
        shapes = f"latents {z.shape} and values {values.shape}"
        raise ValueError(f"{shapes} must have one row a latent, and more rows than columns.")
    if not (np.isfinite(z).all() and np.isfinite(values).all()):
        raise ValueError("latents or values hold NaN or infinite numbers; find out where from.")
    return z, values


def fit_direction(z, values, *, groups=None):
    """The direction in which a value rises fastest, by least squares, and its slope there.

    For normal latents this is the mean gradient of the value (Stein's lemma). With groups, each
    group's mean is taken off first, so that nothing is learned from how the groups differ.

    Args:
        z: float (count, latent_dim), more rows than columns.
        values: float (count,), an attribute of each latent's image.
        groups: integers (count,), such as the digits of the images, or None for one group.

    Returns:
        direction, float64 (latent_dim,) of length 1; and slope, float > 0, the rise in a step of 1.

    Raises:
        ValueError: as `rows_of`; not one group a row; or the values do not vary.

    Source: Stein 1981, "Estimation of the mean of a multivariate normal distribution", lemma 1.
    """
    z, values = rows_of(z, values)
    largest = np.abs(values).max()
    groups = np.zeros(len(z), int) if groups is None else np.asarray(groups)
    if groups.shape != (len(z),) or values.shape[1] != 1:
        raise ValueError(f"One value and one group a row, not {values.shape} and {groups.shape}.")
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
    """Take from a direction everything that lies along others, so that steps leave them alone.

    Args:
        direction: float (latent_dim,).
        others: float (directions, latent_dim), fewer than latent_dim; may depend on one another.

    Returns:
        float64 (latent_dim,) of length 1, orthogonal to every row of others.

    Raises:
        ValueError: nothing is left, or the shapes do not fit.

    Source: Shen et al. 2020, arXiv 1907.10786, section 2 (conditional manipulation).
    """
    direction, others = np.asarray(direction, np.float64), np.asarray(others, np.float64)
    if direction.ndim != 1 or others.ndim != 2 or others.shape[1] != len(direction):
        raise ValueError(f"{direction.shape} and {others.shape} must be (n,) and (others, n).")
    along = np.linalg.lstsq(others.T, direction)[0]
    rest = direction - along @ others
    if np.linalg.norm(rest) < 1e-6 * np.linalg.norm(direction):
        raise ValueError("direction lies within the others; nothing is left of it.")
    return rest / np.linalg.norm(rest)


def principal_directions(z, activations, *, components):
    """Directions of latent space along which the activations of a layer vary most.

    Principal components of the activations; then latents are regressed on their coordinates. Where
    activations = z W, the directions are the left singular vectors of W, up to sign.

    Args:
        z: float (count, latent_dim).
        activations: float (count, units): what the layer makes of each latent.
        components: how many directions, 1 to the smaller of latent_dim and units.

    Returns:
        directions, float64 (components, latent_dim), each of length 1; and each one's share of the
        activations' variance, float64 (components,), descending.

    Raises:
        TypeError, ValueError: as `rows_of`; components is no integer, or they are too many.

    Source: Harkonen et al. 2020, arXiv 2004.02546, section 2.
    """
    z, activations = rows_of(z, activations)
    most = min(z.shape[1], activations.shape[1])
    components = checks.as_integer(components, "components", low=1, high=most)
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
