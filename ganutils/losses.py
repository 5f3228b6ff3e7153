"""What does each player minimize? Pure functions of logits that read like their formulas.

An objective is a pair (discriminator loss, generator loss), passed to a training step as a value.
"""

import tensorflow as tf


def discriminator_loss(real_logits, fake_logits):
    """-E[log D(x)] - E[log(1 - D(G(z)))], the discriminator's loss.

    With D = sigmoid(logit), -log D = softplus(-logit) and -log(1 - D) = softplus(logit), which stay
    finite where the sigmoid rounds to 0 or 1.

    Args:
        real_logits: logits of real samples, any shape; (batch, 1) in this course.
        fake_logits: logits of generated samples, any shape.

    Returns:
        Scalar >= 0; 2 log 2 = 1.386 when D cannot tell (all logits 0).

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where the two are not
            floats of one type.

    Source: Goodfellow et al. 2014, arXiv 1406.2661, equation 1 with the sign changed.
    """
    real_loss = tf.reduce_mean(tf.nn.softplus(-real_logits))
    return real_loss + tf.reduce_mean(tf.nn.softplus(fake_logits))


def generator_loss(fake_logits):
    """-E[log D(G(z))], the non-saturating loss of the generator.

    Args:
        fake_logits: logits of generated samples, any shape; (batch, 1) in this course.

    Returns:
        Scalar >= 0; log 2 = 0.693 when D cannot tell.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where it is not given floats.

    Source: Goodfellow et al. 2014, arXiv 1406.2661, section 3, last paragraph.
    """
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


def saturating_generator_loss(fake_logits):
    """E[log(1 - D(G(z)))], the generator's loss of the minimax game.

    Its gradient vanishes where D is sure of itself, which is where a generator starts.

    Args:
        fake_logits: logits of generated samples, any shape; (batch, 1) in this course.

    Returns:
        Scalar <= 0; -log 2 = -0.693 when D cannot tell.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where it is not given floats.

    Source: Goodfellow et al. 2014, arXiv 1406.2661, equation 1.
    """
    return -tf.reduce_mean(tf.nn.softplus(fake_logits))


def smoothed_discriminator_loss(real_logits, fake_logits, *, smoothing=0.1):
    """-E[(1 - s) log D(x) + s log(1 - D(x))] - E[log(1 - D(G(z)))], one-sided label smoothing.

    The best D is (1 - s) p / (p + q) instead of p / (p + q), never sure that a sample is real. Only
    the real target moves: with a fake target above 0, D would praise G's samples where p is small.

    Args:
        real_logits: logits of real samples, any shape; (batch, 1) in this course.
        fake_logits: logits of generated samples, any shape.
        smoothing: s, 0 to below 1; the target of real samples is 1 - s.

    Returns:
        Scalar >= 0; 2 log 2 when all logits are 0, whatever s is.

    Raises:
        ValueError: smoothing is out of range.
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where the two are not
            floats of one type.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 3.4.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"{smoothing=} must be in [0, 1): how far 1, the real target, is lowered.")
    as_real = tf.reduce_mean(tf.nn.softplus(-real_logits))
    as_fake = tf.reduce_mean(tf.nn.softplus(real_logits))
    real_loss = (1 - smoothing) * as_real + smoothing * as_fake
    return real_loss + tf.reduce_mean(tf.nn.softplus(fake_logits))


def least_squares_discriminator_loss(real_scores, fake_scores):
    """E[(D(x) - 1)^2] / 2 + E[D(G(z))^2] / 2, least squares with the targets 1 and 0.

    Args:
        real_scores: outputs for real samples, without a sigmoid, any shape.
        fake_scores: outputs for generated samples, any shape.

    Returns:
        Scalar >= 0; 1/2 when all scores are 0, 1/4 when all are 1/2, as where D cannot tell.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where the two are not
            floats of one type.

    Source: Mao et al. 2017, arXiv 1611.04076, equation 9.
    """
    real_loss = tf.reduce_mean(tf.square(real_scores - 1)) / 2
    return real_loss + tf.reduce_mean(tf.square(fake_scores)) / 2


def least_squares_generator_loss(fake_scores):
    """E[(D(G(z)) - 1)^2] / 2, least squares with the target 1.

    Args:
        fake_scores: outputs for generated samples, without a sigmoid, any shape.

    Returns:
        Scalar >= 0; 1/2 when all scores are 0, 1/8 when all are 1/2.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where it is not given floats.

    Source: Mao et al. 2017, arXiv 1611.04076, equation 9.
    """
    return tf.reduce_mean(tf.square(fake_scores - 1)) / 2


def hinge_loss(real_scores, fake_scores):
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))], which ignores what is right by a margin of 1.

    Args:
        real_scores: outputs for real samples, without a sigmoid, any shape.
        fake_scores: outputs for generated samples, any shape.

    Returns:
        Scalar >= 0; 2 when all scores are 0.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where the two are not
            floats of one type.

    Source: Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957, equation 16.
    """
    real_loss = tf.reduce_mean(tf.nn.relu(1 - real_scores))
    return real_loss + tf.reduce_mean(tf.nn.relu(1 + fake_scores))


def critic_loss(real_scores, fake_scores):
    """E[f(G(z))] - E[f(x)], minus the critic's estimate of the Wasserstein distance.

    It estimates that distance only where the critic f is 1-Lipschitz, which something else must see
    to: `penalties.clip_weights`, `penalties.gradient_penalty` or spectral normalization.

    Args:
        real_scores: f of real samples, any shape.
        fake_scores: f of generated samples, any shape.

    Returns:
        Scalar of either sign, negative where the critic tells them apart; 0 for equal means.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where the two are not
            floats of one type.

    Source: Arjovsky et al. 2017, arXiv 1701.07875, equation 2 with the sign changed.
    """
    return tf.reduce_mean(fake_scores) - tf.reduce_mean(real_scores)


def score_loss(fake_scores):
    """-E[f(G(z))], the generator's loss against a critic and against a hinge loss.

    Args:
        fake_scores: f of generated samples, any shape.

    Returns:
        Scalar of either sign; its size means nothing, as f may be shifted by any constant.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where it is not given floats.

    Source: Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1.
    """
    return -tf.reduce_mean(fake_scores)


non_saturating = (discriminator_loss, generator_loss)
minimax = (discriminator_loss, saturating_generator_loss)
least_squares = (least_squares_discriminator_loss, least_squares_generator_loss)
hinge = (hinge_loss, score_loss)
wasserstein = (critic_loss, score_loss)
