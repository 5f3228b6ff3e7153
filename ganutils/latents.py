"""Where does noise come from? From a pure function of (seed, step), so that a run can be resumed."""

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
    """
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_normal((count, latent_dim), seed=key)
