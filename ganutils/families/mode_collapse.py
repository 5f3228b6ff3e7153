"""What helps against mode collapse? Losses and layers, each tried alone in the plane.

The penalty that helps most, `losses.r1_penalty`, is shared by all notebooks. The layers are
registered: a model that holds them is loaded by `keras.models.load_model(path)` alone, once this
file is imported.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ganutils import validation


def smoothed_discriminator_loss(real_logits, fake_logits, *, smoothing=0.1):
    """-E[(1 - s) log D(x) + s log(1 - D(x))] - E[log(1 - D(G(z)))], one-sided label smoothing.

    The target of real samples is 1 - s, with s = smoothing in [0, 1). The best D becomes
    (1 - s) p / (p + q), never sure that a sample is real; at logits of 0 the loss is 2 log 2.

    Salimans et al. 2016, arXiv 1606.03498, section 3.4.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"{smoothing=} must be in [0, 1): how far 1, the real target, is lowered.")
    as_real = tf.reduce_mean(tf.nn.softplus(-real_logits))
    as_fake = tf.reduce_mean(tf.nn.softplus(real_logits))
    real_loss = (1 - smoothing) * as_real + smoothing * as_fake
    return real_loss + tf.reduce_mean(tf.nn.softplus(fake_logits))


def feature_matching(features, real, fake):
    """|E[f(x)] - E[f(G(z))]|_2^2, the distance of mean features; a loss of the generator.

    Args:
        features: model or function from samples to features (batch, ...), such as a hidden layer
            of D.
        real, fake: samples (batch, ...), of two batch sizes perhaps.

    Salimans et al. 2016, arXiv 1606.03498, section 3.1.
    """
    if not tf.TensorShape(real.shape[1:]).is_compatible_with(fake.shape[1:]):
        raise ValueError(f"real {real.shape} and fake {fake.shape} differ beyond the batch axis.")
    real_mean = tf.reduce_mean(tf.cast(features(real), tf.float32), axis=0)
    fake_mean = tf.reduce_mean(tf.cast(features(fake), tf.float32), axis=0)
    return tf.reduce_sum(tf.square(real_mean - fake_mean))


class HistoricalAverage(tf.Module):
    """sum |theta - mean of theta over the steps so far|^2, a term for either player's loss.

    Players that circle around a goal have their mean near it, and this pulls them there. Call it
    with step = 0, 1, 2, ..., once each: a call moves the means, which belong into a checkpoint. The
    mean includes the present theta, and the gradient holds it constant; at step 0 the value is 0.

    Args:
        variables: list of a network's trainable variables, at least one; not saved with this.

    Salimans et al. 2016, arXiv 1606.03498, section 3.3.
    """

    def __init__(self, variables):
        if not variables:
            raise ValueError("HistoricalAverage needs variables; build the model first.")
        super().__init__()
        self.weights = lambda: variables  # a checkpoint does not look into a function
        self.means = [tf.Variable(variable, trainable=False) for variable in variables]

    def __call__(self, step):
        distances = []
        for weight, mean in zip(self.weights(), self.means, strict=True):
            weight, done = tf.convert_to_tensor(weight), tf.cast(step, mean.dtype)
            mean.assign((done * mean + weight) / (done + 1))
            distances.append(tf.reduce_sum(tf.square(weight - mean)))
        return tf.add_n(distances)


@keras.saving.register_keras_serializable(package="ganutils")
class MinibatchDiscrimination(layers.Layer):
    """Appends to each example how close the other examples of its batch are.

    A kernel turns example i into M_i, of `dims` numbers. Its feature is the sum of
    exp(-|M_i - M_j|_1) over the others j: near batch - 1 where all are alike, near 0 where i is by
    itself. Give real and fake examples batches of their own.

    Args:
        kernels: number of features appended, an integer >= 1.
        dims: numbers in which two examples are compared, an integer >= 1.

    Input (batch, features), output (batch, features + kernels); distances in the weights' dtype.
    It holds kernels * dims * batch^2 numbers in memory.

    Salimans et al. 2016, arXiv 1606.03498, section 3.2.
    """

    def __init__(self, kernels, dims, **settings):
        if min(kernels, dims) < 1:
            raise ValueError(f"{kernels=} and {dims=} must be at least 1.")
        super().__init__(**settings)
        self.kernels, self.dims = kernels, dims
        self.input_spec = layers.InputSpec(ndim=2)

    def build(self, input_shape):
        shape = (input_shape[-1], self.kernels * self.dims)
        self.kernel = self.add_weight(shape=shape, name="kernel", autocast=False)

    def call(self, inputs):
        x = tf.cast(inputs, self.variable_dtype) @ self.kernel
        x = tf.reshape(tf.transpose(x), (self.kernels, self.dims, 1, -1))
        apart = tf.reduce_sum(tf.abs(tf.transpose(x, (0, 1, 3, 2)) - x), axis=1)
        features = tf.transpose(tf.reduce_sum(tf.exp(-apart), axis=2)) - 1  # itself left out
        return tf.concat([inputs, tf.cast(features, inputs.dtype)], axis=-1)

    def get_config(self):
        return super().get_config() | {"kernels": self.kernels, "dims": self.dims}


@keras.saving.register_keras_serializable(package="ganutils")
class Pack(layers.Layer):
    """Joins `size` neighbors along the last axis, so that a discriminator sees them as one.

    Input (batch, ..., channels), output (batch / size, ..., size * channels); size is an integer
    >= 1 that divides the batch.

    Lin et al. 2018, arXiv 1712.04086, section 3.
    """

    def __init__(self, size, **settings):
        size = validation.as_integer(size, "size", low=1, high=10**6)
        super().__init__(**settings)
        self.size = size
        self.input_spec = layers.InputSpec(min_ndim=2)

    def call(self, inputs):
        if inputs.shape[0] is not None and inputs.shape[0] % self.size:
            raise ValueError(f"Packs of {self.size} do not divide a batch of {inputs.shape[0]}.")
        return tf.concat([inputs[i :: self.size] for i in range(self.size)], axis=-1)

    def get_config(self):
        return super().get_config() | {"size": self.size}


@keras.saving.register_keras_serializable(package="ganutils")
class WithReference(layers.Layer):
    """Puts a fixed reference batch, floats (R, ...), in front of every batch.

    Input (batch, ...), output (R + batch, ...). The reference is no weight and is never changed.

    Salimans et al. 2016, arXiv 1606.03498, section 3.5.
    """

    def __init__(self, reference, **settings):
        if np.ndim(reference) < 2 or not len(reference):
            raise ValueError(f"A reference of shape {np.shape(reference)} holds no rows.")
        super().__init__(**settings)
        self.reference = np.array(reference, np.float32)

    def call(self, inputs):
        if not inputs.shape[1:].is_compatible_with(self.reference.shape[1:]):
            raise ValueError(
                f"A batch {inputs.shape} does not fit a reference {self.reference.shape}."
            )
        return tf.concat([tf.cast(self.reference, inputs.dtype), inputs], axis=0)

    def get_config(self):
        return super().get_config() | {"reference": self.reference.tolist()}


def virtual_moments(x, reference_count):
    """Mean and variance, for each channel, of each row together with a reference batch.

    Args:
        x: float (batch, ..., channels). The first R rows are the reference batch; they share its
            own moments. Every other row is one of the R + 1 that its moments are taken over.
        reference_count: R, 1 to batch.

    Returns:
        Mean and variance; each can be broadcast to x.

    Salimans et al. 2016, arXiv 1606.03498, section 3.5.
    """
    space = list(range(1, x.ndim - 1))
    own_mean = tf.reduce_mean(x, space, keepdims=True)
    own_variance = tf.reduce_mean(tf.square(x - own_mean), space, keepdims=True)
    reference = x[:reference_count]
    mean = tf.reduce_mean(reference, [0, *space], keepdims=True)
    variance = tf.reduce_mean(tf.square(reference - mean), [0, *space], keepdims=True)
    share = tf.cast(tf.range(tf.shape(x)[0]) >= reference_count, x.dtype) / (reference_count + 1)
    share = tf.reshape(share, (-1, *[1] * (x.ndim - 1)))
    between = share * (1 - share) * tf.square(own_mean - mean)
    variance = (1 - share) * variance + share * own_variance + between
    return mean + share * (own_mean - mean), variance


@keras.saving.register_keras_serializable(package="ganutils")
class VirtualBatchNormalization(layers.Layer):
    """Normalizes by a fixed reference batch, so that no example depends on its batch.

    Each row is normalized by its `virtual_moments`, in training and in inference alike.

    Args:
        reference_count: R, the number of rows that `WithReference` put in front, an integer >= 1.
        epsilon: added to the variance, > 0.

    Input and output (batch, ..., channels), batch >= R; moments in the dtype of the weights.

    Salimans et al. 2016, arXiv 1606.03498, section 3.5.
    """

    def __init__(self, reference_count, *, epsilon=1e-3, **settings):
        if reference_count < 1 or epsilon <= 0:
            raise ValueError(f"{reference_count=} and {epsilon=} must be above 0.")
        super().__init__(**settings)
        self.reference_count, self.epsilon = reference_count, epsilon
        self.input_spec = layers.InputSpec(min_ndim=2)

    def build(self, input_shape):
        self.gamma = self.add_weight(input_shape[-1:], "ones", autocast=False, name="gamma")
        self.beta = self.add_weight(input_shape[-1:], "zeros", autocast=False, name="beta")

    def call(self, inputs):
        if inputs.shape[0] is not None and inputs.shape[0] < self.reference_count:
            raise ValueError(f"{inputs.shape[0]} rows hold no reference of {self.reference_count}.")
        x = tf.cast(inputs, self.variable_dtype)
        mean, variance = virtual_moments(x, self.reference_count)
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast((x - mean) * scale + self.beta, inputs.dtype)

    def get_config(self):
        own = {"reference_count": self.reference_count, "epsilon": self.epsilon}
        return super().get_config() | own


@keras.saving.register_keras_serializable(package="ganutils")
class DropReference(layers.Layer):
    """Takes the first `count` rows, an integer >= 1, away: (count + batch, ...) to (batch, ...)."""

    def __init__(self, count, **settings):
        if count < 1:
            raise ValueError(f"{count=} must be at least 1.")
        super().__init__(**settings)
        self.count = count

    def call(self, inputs):
        if inputs.shape[0] is not None and inputs.shape[0] < self.count:
            raise ValueError(f"{inputs.shape[0]} rows hold no reference of {self.count}.")
        return inputs[self.count :]

    def get_config(self):
        return super().get_config() | {"count": self.count}
