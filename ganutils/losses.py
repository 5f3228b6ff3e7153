"""What does each player minimize? Pure functions of logits that read like their formulas.

Logits and scores are floats of any shape, (batch, 1) in this course; a loss is a scalar. An
objective is a pair (discriminator loss, generator loss), passed to a training step as a value.
"""

import tensorflow as tf

from ganutils.latents import stream

# Losses.


def discriminator_loss(real_logits, fake_logits):
    """-E[log D(x)] - E[log(1 - D(G(z)))]; 2 log 2 = 1.386 where D cannot tell (all logits 0).

    D = sigmoid(logit), so -log D = softplus(-logit) and -log(1 - D) = softplus(logit), which stay
    finite where the sigmoid rounds to 0 or 1.

    Goodfellow et al. 2014, arXiv 1406.2661, equation 1 with the sign changed.
    """
    real_loss = tf.reduce_mean(tf.nn.softplus(-real_logits))
    return real_loss + tf.reduce_mean(tf.nn.softplus(fake_logits))


def generator_loss(fake_logits):
    """-E[log D(G(z))], the non-saturating loss; log 2 = 0.693 where D cannot tell.

    Goodfellow et al. 2014, arXiv 1406.2661, section 3, last paragraph.
    """
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


def saturating_generator_loss(fake_logits):
    """E[log(1 - D(G(z)))], the generator's part of the minimax game; -log 2 where D cannot tell.

    Its gradient vanishes where D is sure of itself.

    Goodfellow et al. 2014, arXiv 1406.2661, equation 1.
    """
    return -tf.reduce_mean(tf.nn.softplus(fake_logits))


def least_squares_discriminator_loss(real_scores, fake_scores):
    """E[(D(x) - 1)^2] / 2 + E[D(G(z))^2] / 2; 1/2 at scores of 0, 1/4 at 1/2 (D cannot tell).

    Mao et al. 2017, arXiv 1611.04076, equation 9.
    """
    real_loss = tf.reduce_mean(tf.square(real_scores - 1)) / 2
    return real_loss + tf.reduce_mean(tf.square(fake_scores)) / 2


def least_squares_generator_loss(fake_scores):
    """E[(D(G(z)) - 1)^2] / 2; 1/2 at scores of 0, 1/8 at 1/2 (D cannot tell).

    Mao et al. 2017, arXiv 1611.04076, equation 9.
    """
    return tf.reduce_mean(tf.square(fake_scores - 1)) / 2


def hinge_discriminator_loss(real_scores, fake_scores):
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]; 2 at scores of 0.

    What is right by a margin of 1 adds nothing.

    Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957, equation 16.
    """
    real_loss = tf.reduce_mean(tf.nn.relu(1 - real_scores))
    return real_loss + tf.reduce_mean(tf.nn.relu(1 + fake_scores))


def critic_loss(real_scores, fake_scores):
    """E[f(G(z))] - E[f(x)], minus the critic's estimate of the Wasserstein distance.

    An estimate only where f is 1-Lipschitz; `clip_weights`, `gradient_penalty` or spectral
    normalization see to that. 0 where the means agree.

    Arjovsky et al. 2017, arXiv 1701.07875, equation 2 with the sign changed.
    """
    return tf.reduce_mean(fake_scores) - tf.reduce_mean(real_scores)


def wasserstein_generator_loss(fake_scores):
    """-E[f(G(z))], the generator's loss against a critic and against a hinge loss.

    Its size means nothing, as f may be shifted by any constant.

    Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1.
    """
    return -tf.reduce_mean(fake_scores)


# Objectives.

non_saturating = (discriminator_loss, generator_loss)
minimax = (discriminator_loss, saturating_generator_loss)
least_squares = (least_squares_discriminator_loss, least_squares_generator_loss)
hinge = (hinge_discriminator_loss, wasserstein_generator_loss)
wasserstein = (critic_loss, wasserstein_generator_loss)


# Penalties and constraints.


def squared_slopes(model, points):
    """|grad f(x)|_2^2, (batch,), how steep a model is at each of its inputs.

    Args:
        model: model or function (points, training) -> outputs (batch, 1), called with
            training=True; no batch normalization in it, which would mix the examples.
        points: float tensor (batch, ...).
    """
    with tf.GradientTape() as tape:
        tape.watch(points)
        outputs = model(points, training=True)
    slopes = tape.gradient(outputs, points, unconnected_gradients="zero")
    return tf.reduce_sum(tf.square(slopes), axis=list(range(1, len(points.shape))))


def gradient_penalty(critic, real, fake, *, seed, step):
    """E[(|grad f(x_hat)|_2 - 1)^2] at random points x_hat between real and generated samples.

    Args:
        critic: as the model of `squared_slopes`.
        real, fake: floats (batch, ...) of one shape; each real sample is paired with the fake one
            of its row.
        seed, step: integers; where between the two x_hat lies depends on them alone.

    Returns:
        Scalar >= 0 without the weight, which is 10 in the paper; 1 where f is flat.

    Gulrajani et al. 2017, arXiv 1704.00028, equation 3.
    """
    if not tf.TensorShape(real.shape).is_compatible_with(fake.shape):
        raise ValueError(f"real {real.shape} and fake {fake.shape} must be of the same shape.")
    key = stream(seed, step, "mix")
    ones = [1] * (len(real.shape) - 1)
    mix = tf.random.stateless_uniform((tf.shape(real)[0], *ones), seed=key, dtype=real.dtype)
    points = real + mix * (fake - real)
    # The root's derivative at 0 is infinite, and times 0 it is NaN; the maximum cuts it off.
    slopes = tf.sqrt(tf.maximum(squared_slopes(critic, points), 1e-30))
    return tf.reduce_mean(tf.square(slopes - 1))


def r1_penalty(discriminator, real):
    """E[|grad l(x)|_2^2] / 2, the squared slope of the logit l at real samples (batch, ...).

    Without the weight gamma; |a|^2 / 2 for the logit a.x + b.

    Mescheder et al. 2018, arXiv 1801.04406, equation 9.
    """
    return tf.reduce_mean(squared_slopes(discriminator, tf.convert_to_tensor(real))) / 2


def lazily(term, *, every):
    """Compute a costly term of a loss in every so many steps only, so much heavier there.

    Args:
        term: function (..., step) -> scalar, as `steps.make_gan_play` or `steps.with_terms` takes.
        every: integer >= 1; at step 0, every, 2 every, ... the result is every * term, else 0.

    Returns:
        Function as term, of the same mean over the steps.

    Karras et al. 2020, arXiv 1912.04958, section 3.1.
    """
    if every < 1:
        raise ValueError(f"{every=} must be at least 1.")

    def lazy_term(*arguments):
        due = tf.equal(tf.cast(arguments[-1], tf.int64) % every, 0)  # the last one is the step
        return tf.cond(due, lambda: every * term(*arguments), lambda: tf.zeros(()))

    return lazy_term


def clip_weights(variables, limit):
    """Move every weight into [-limit, limit] after a critic's update; 0.01 in the paper.

    Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1.
    """
    if not limit > 0:
        raise ValueError(f"{limit=} must be above 0; at 0 the critic is a constant.")
    for variable in variables:
        variable.assign(tf.clip_by_value(tf.convert_to_tensor(variable), -limit, limit))
