"""Where does noise come from? A pure function of (seed, step), so that a run can be resumed."""

import functools
import math

import tensorflow as tf

from ganutils import runtime


def stream(seed, step, name=""):
    """Key of a stream of random numbers: what `tf.random.stateless_*` take as their seed.

    Without a name it is the pair (seed, step), the stream of the latents. A name, one to four ASCII
    letters, is folded in as a number: another stream, independent of the first.

    Args:
        seed: 64-bit integer or scalar integer tensor, names the run.
        step: 64-bit integer or scalar integer tensor, names the draw within the run.
        name: what is drawn.

    Returns:
        int64 tensor (2,), or int32 (2,) with a name.

    Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    if not (name.isascii() and len(name) <= 4):
        raise ValueError(f"{name=} must be at most four ASCII letters.")
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.fold_in(key, int.from_bytes(name.encode(), "big")) if name else key


def replica():
    """Which replica is this, and of how many? (0, 1) outside of `strategy.run`."""
    context = tf.distribute.get_replica_context()
    if context is None:  # across replicas
        return 0, 1
    number = tf.get_static_value(context.replica_id_in_sync_group)
    return int(number), context.num_replicas_in_sync


def by_replica(draw):
    """Let each replica get its own rows of what one device would draw for all of them.

    draw: function (count, ...) -> tensor (count, ...), a pure function of what it is given. On one
    of several replicas, count is the rows of that replica; all are drawn, and the others left.
    """

    @functools.wraps(draw)
    def own_rows(count, *sizes, **key):
        number, replicas = replica()
        if replicas == 1:
            return draw(count, *sizes, **key)
        return draw(replicas * count, *sizes, **key)[number * count : (number + 1) * count]

    return own_rows


def _alike_in_xla(draw):
    """Let normal numbers be the same in a program of XLA, up to rounding, on a machine with a GPU.

    From a key TensorFlow and XLA draw the same whole numbers, and make other floats of them. So the
    floats are made here, as TensorFlow makes them. Without a GPU it is draw, bit for bit.

    draw: function (count, latent_dim, *, seed, step) -> standard normal tensor (count, latent_dim).
    In XLA, seed and step are taken for 32-bit integers.

    Box and Muller 1958, "A note on the generation of random normal deviates".
    """

    @functools.wraps(draw)
    def from_whole_numbers(count, latent_dim, *, seed, step):
        if not runtime.on_gpu():
            return draw(count, latent_dim, seed=seed, step=step)
        pairs = (count * latent_dim + 1) // 2
        bits = tf.random.stateless_uniform(
            (pairs, 2), seed=stream(seed, step), minval=None, maxval=None, dtype=tf.int32
        )
        uniform = tf.cast(bits & (2**23 - 1), tf.float32) / 2**23
        length = tf.sqrt(-2 * tf.math.log(tf.maximum(uniform[:, 0], 1e-7)))
        angle = 2 * math.pi * uniform[:, 1]
        points = length[:, None] * tf.stack([tf.sin(angle), tf.cos(angle)], axis=1)
        numbers = tf.reshape(points, [-1])[: count * latent_dim]
        return tf.reshape(numbers, (count, latent_dim))

    return from_whole_numbers


@by_replica
@_alike_in_xla
def sample_latents(count, latent_dim, *, seed, step):
    """Draw standard normal latents z, float32 (count, latent_dim), by (seed, step) alone."""
    return tf.random.stateless_normal((count, latent_dim), seed=stream(seed, step))


@by_replica
def sample_classes(count, classes, *, seed, step):
    """Draw equally likely classes, int32 (count,) from 0 to classes - 1, by (seed, step) alone."""
    key = stream(seed, step, "clas")
    return tf.random.stateless_uniform((count,), seed=key, maxval=classes, dtype=tf.int32)


def join_classes(z, labels, classes):
    """Put classes behind latents, one-hot, so that a generator can be asked for them.

    Args:
        z: float (count, latent_dim).
        labels: integers (count,), 0 to classes - 1 (else tf.errors.InvalidArgumentError); or rows
            of shares (count, classes), such as mixtures of classes (else ValueError).
        classes: how many classes there are.

    Returns:
        (count, latent_dim + classes), of z's type.
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
        start, end: (..., latent_dim), neither 0 nor opposite to one another.
        fraction: 0 at start, 1 at end; broadcasts against (..., 1).

    Returns:
        float32 tensor; it turns at constant speed and, for equal lengths, keeps its length.

    Shoemake 1985; White 2016, arXiv 1609.04468, section 2.1.
    """
    start, end = tf.cast(start, tf.float32), tf.cast(end, tf.float32)
    unit = [tf.math.l2_normalize(z, axis=-1) for z in (start, end)]
    cosine = tf.reduce_sum(unit[0] * unit[1], axis=-1, keepdims=True)
    angle = tf.maximum(tf.acos(tf.clip_by_value(cosine, -1.0, 1.0)), 1e-4)
    return (tf.sin((1 - fraction) * angle) * start + tf.sin(fraction * angle) * end) / tf.sin(angle)
