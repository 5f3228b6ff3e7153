"""What does each player minimize? Pure functions of logits that read like their formulas.

An objective is a pair (discriminator loss, generator loss), passed to a training step as a value.
A penalty is a scalar that is added to one of them, with a weight that the caller chooses.
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

    Source: Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957, equation 16.
    """
    real_loss = tf.reduce_mean(tf.nn.relu(1 - real_scores))
    return real_loss + tf.reduce_mean(tf.nn.relu(1 + fake_scores))


def critic_loss(real_scores, fake_scores):
    """E[f(G(z))] - E[f(x)], minus the critic's estimate of the Wasserstein distance.

    It estimates that distance only where the critic f is 1-Lipschitz, which something else must see
    to: `clip_weights`, `gradient_penalty` or spectral normalization.

    Args:
        real_scores: f of real samples, any shape.
        fake_scores: f of generated samples, any shape.

    Returns:
        Scalar of either sign, negative where the critic tells them apart; 0 for equal means.

    Source: Arjovsky et al. 2017, arXiv 1701.07875, equation 2 with the sign changed.
    """
    return tf.reduce_mean(fake_scores) - tf.reduce_mean(real_scores)


def score_loss(fake_scores):
    """-E[f(G(z))], the generator's loss against a critic and against a hinge loss.

    Args:
        fake_scores: f of generated samples, any shape.

    Returns:
        Scalar of either sign; its size means nothing, as f may be shifted by any constant.

    Source: Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1.
    """
    return -tf.reduce_mean(fake_scores)


non_saturating = (discriminator_loss, generator_loss)
minimax = (discriminator_loss, saturating_generator_loss)
least_squares = (least_squares_discriminator_loss, least_squares_generator_loss)
hinge = (hinge_loss, score_loss)
wasserstein = (critic_loss, score_loss)


def squared_slopes(model, points):
    """|grad f(x)|_2^2, how steep a model is at each of its inputs.

    The gradient is that of each example's own output; batch normalization in f would mix them.

    Args:
        model: model, or function (samples, training) -> outputs (batch, 1); training is True.
        points: samples, float tensor (batch, ...).

    Returns:
        Tensor (batch,), >= 0; 0 where f does not depend on the input.
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
        real: real samples, float (batch, ...).
        fake: generated samples, of the same shape; each is paired with the real one of its row.
        seed: integer, names the stream of a run; the latents' seed will do.
        step: integer >= 0 or scalar integer tensor, names the draw within the stream.

    Returns:
        Scalar >= 0 without the weight, which is 10 in the paper. The gradient by f's weights is
        finite even where grad f is 0; there it is 0.

    Raises:
        ValueError: real and fake differ in shape.

    Source: Gulrajani et al. 2017, arXiv 1704.00028, equation 3.
    """
    real, fake = tf.convert_to_tensor(real), tf.convert_to_tensor(fake)
    if not real.shape.is_compatible_with(fake.shape):
        raise ValueError(f"real {real.shape} and fake {fake.shape} must be of the same shape.")
    # Steps below 0, which no latents use: with their key, the points would depend on the latents.
    key = tf.stack([tf.cast(seed, tf.int64), -1 - tf.cast(step, tf.int64)])
    ones = [1] * (len(real.shape) - 1)
    mix = tf.random.stateless_uniform((tf.shape(real)[0], *ones), seed=key, dtype=real.dtype)
    points = real + mix * (fake - real)
    # The root's derivative at 0 is infinite, and times 0 it is NaN; the maximum cuts it off.
    slopes = tf.sqrt(tf.maximum(squared_slopes(critic, points), 1e-30))
    return tf.reduce_mean(tf.square(slopes - 1))


def r1_penalty(discriminator, real):
    """E[|grad l(x)|^2] / 2, the squared slope of the logit l at real samples.

    Args:
        discriminator: as the model of `squared_slopes`.
        real: real samples, float (batch, ...).

    Returns:
        Scalar >= 0 without the weight gamma; |a|^2 / 2 for the logit a.x + b.

    Source: Mescheder et al. 2018, arXiv 1801.04406, equation 9.
    """
    return tf.reduce_mean(squared_slopes(discriminator, tf.convert_to_tensor(real))) / 2


def clip_weights(variables, limit):
    """Move every weight into [-limit, limit], in place, after a critic's update.

    Args:
        variables: list of float variables, such as `critic.trainable_variables`.
        limit: > 0; 0.01 in the paper.

    Raises:
        ValueError: limit is not above 0.

    Source: Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1.
    """
    if not limit > 0:
        raise ValueError(f"{limit=} must be above 0; at 0 the critic is a constant.")
    for variable in variables:
        variable.assign(tf.clip_by_value(tf.convert_to_tensor(variable), -limit, limit))


def feature_matching(features, real, fake):
    """|E[f(x)] - E[f(G(z))]|_2^2, the distance of mean features; a loss of the generator.

    Args:
        features: model or function from samples to features (batch, ...), such as a hidden layer
            of D; called without a training argument.
        real: real samples, (batch, ...).
        fake: generated samples, (batch, ...); another batch size perhaps.

    Returns:
        float32 scalar >= 0; 0 where the means agree. bfloat16 features are averaged in float32.

    Raises:
        ValueError: real and fake differ in shape beyond the batch.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 3.1.
    """
    real, fake = tf.convert_to_tensor(real), tf.convert_to_tensor(fake)
    if not real.shape[1:].is_compatible_with(fake.shape[1:]):
        raise ValueError(f"real {real.shape} and fake {fake.shape} differ beyond the batch axis.")
    means = [tf.reduce_mean(tf.cast(features(x), tf.float32), axis=0) for x in (real, fake)]
    return tf.reduce_sum(tf.square(means[0] - means[1]))


class HistoricalAverage(tf.Module):
    """sum |theta - mean of theta over the steps so far|^2, a term for either player's loss.

    Players that circle around a goal have their mean near it, and this pulls them there. Call it
    once for every step, from step 0 on: a call advances the means, which a checkpoint must hold.

    Args:
        variables: a network's trainable variables, at least one; not saved with this object.

    The call's argument step is an integer >= 0 or a scalar integer tensor, the number of steps done
    before. It returns a scalar >= 0, 0 at step 0; its gradient by theta is 2 (theta - mean), with
    the mean, which includes the present theta, held constant.

    Raises:
        ValueError: there are no variables.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 3.3.
    """

    def __init__(self, variables):
        super().__init__()
        variables = list(variables)
        if not variables:
            raise ValueError("HistoricalAverage needs variables; build the model first.")
        self.weights = lambda: variables  # a checkpoint does not look into a function
        self.means = [tf.Variable(variable, trainable=False) for variable in variables]

    def __call__(self, step):
        distances = []
        for weight, mean in zip(self.weights(), self.means, strict=True):
            weight, done = tf.convert_to_tensor(weight), tf.cast(step, mean.dtype)
            mean.assign((done * mean + weight) / (done + 1))
            distances.append(tf.reduce_sum(tf.square(weight - mean)))
        return tf.add_n(distances)
