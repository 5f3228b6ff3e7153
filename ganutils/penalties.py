"""What else is asked of a player? Scalars to add to its loss, or a limit that its weights keep."""

import tensorflow as tf


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
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where the two are not
            batches of floats of one type.

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

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where real is no batch of
            floats.

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
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where limit is no number,
            or a variable holds no floats.

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
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where real and fake hold
            no numbers, or f does not take them.

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
