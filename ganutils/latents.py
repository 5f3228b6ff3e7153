"""Where does noise come from? A pure function of (seed, step), so that a run can be resumed."""

import tensorflow as tf


def sample_latents(count, latent_dim, *, seed, step):
    """Draw standard normal latents as a pure function of (seed, step).

    Args:
        count: number of latents, an integer or a scalar integer tensor.
        latent_dim: length of one latent vector.
        seed: integer, names the stream of a run.
        step: integer or scalar integer tensor, names the draw within the stream.

    Returns:
        z, float32 of shape (count, latent_dim). The same (seed, step) gives the same z, always.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where an argument is no number or no
            scalar, or a count is below 0.
    """
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_normal((count, latent_dim), seed=key)


def sample_classes(count, classes, *, seed, step):
    """Draw equally likely classes as a pure function of (seed, step).

    Args:
        count: number of classes drawn, an integer or a scalar integer tensor.
        classes: how many classes there are, >= 1.
        seed: integer, names the stream of a run; it is independent of `sample_latents` of the same
            seed and step.
        step: integer or scalar integer tensor, names the draw within the stream.

    Returns:
        int32 of shape (count,), 0 to classes - 1. The same (seed, step) gives the same, always.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where an argument is no number or no
            scalar, or a count is below 0 or classes below 1.
    """
    key = tf.stack([tf.cast(seed, tf.int64), -1 - tf.cast(step, tf.int64)])  # no step is below 0
    return tf.random.stateless_uniform((count,), seed=key, maxval=classes, dtype=tf.int32)


def join_classes(z, labels, classes):
    """Put classes behind latents, one-hot, so that a generator can be asked for them.

    Args:
        z: float (count, latent_dim).
        labels: integers (count,), 0 to classes - 1; or rows of shares (count, classes), such as
            one-hot ones, or mixtures of classes.
        classes: how many classes there are.

    Returns:
        (count, latent_dim + classes), of z's type.

    Raises:
        tf.errors.InvalidArgumentError: a label is out of range, or counts differ.
        ValueError: rows of shares have another width.
    """
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_integer and labels.shape.rank == 1:
        inside = tf.reduce_all((labels >= 0) & (labels < classes))
        tf.debugging.assert_equal(inside, True, f"labels must be from 0 to {classes - 1}.")
        labels = tf.one_hot(labels, classes)
    if labels.shape.rank != 2 or labels.shape[1] != classes:
        raise ValueError(f"labels of shape {labels.shape} are not (count,) or (count, {classes}).")
    return tf.concat([z, tf.cast(labels, z.dtype)], axis=1)


def slerp(start, end, fraction):
    """Interpolate along the great circle between two latents, so that the length stays typical.

    Args:
        start: (..., latent_dim), not 0.
        end: (..., latent_dim), not 0 and not opposite to start.
        fraction: 0 at start, 1 at end; broadcasts against (..., 1).

    Returns:
        float32 tensor; it turns at constant speed and, for equal lengths, keeps its length.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where an argument holds no numbers,
            or their shapes do not fit.

    Source: Shoemake 1985; White 2016, arXiv 1609.04468, section 2.1.
    """
    start, end = tf.cast(start, tf.float32), tf.cast(end, tf.float32)
    unit = [tf.math.l2_normalize(z, axis=-1) for z in (start, end)]
    cosine = tf.reduce_sum(unit[0] * unit[1], axis=-1, keepdims=True)
    angle = tf.maximum(tf.acos(tf.clip_by_value(cosine, -1.0, 1.0)), 1e-4)
    return (tf.sin((1 - fraction) * angle) * start + tf.sin(fraction * angle) * end) / tf.sin(angle)
