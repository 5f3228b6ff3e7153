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

    Source: Goodfellow et al. 2014, arXiv 1406.2661, equation 1.
    """
    return -tf.reduce_mean(tf.nn.softplus(fake_logits))


non_saturating = (discriminator_loss, generator_loss)
minimax = (discriminator_loss, saturating_generator_loss)
