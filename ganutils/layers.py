"""Which layers does Keras lack? Fused forms of its own, and what papers build in for stability.

All are registered: a model that holds them is loaded by `keras.models.load_model(path)` alone, once
this room is imported.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ganutils import validation

# Fused forms.


def synchronized(call):
    """Let a normalization's training pass use the batch of all replicas, where there are several.

    The mean is that of the replicas' means, the variance that of their variances, each about the
    common mean. So every replica normalizes, and moves its statistics, as one device would that
    saw all rows. call: method (self, inputs, training, mask) of a batch normalization.
    """

    @functools.wraps(call)
    def shared_call(self, inputs, training=False, mask=None):
        replicas = tf.distribute.get_replica_context()
        if not training or replicas is None or replicas.num_replicas_in_sync == 1:
            return call(self, inputs, training=training, mask=mask)
        x = tf.cast(inputs, tf.float32)
        own_mean, own_variance = tf.nn.moments(x, list(range(x.ndim - 1)))
        mean = replicas.all_reduce("MEAN", own_mean)
        variance = replicas.all_reduce("MEAN", own_variance + tf.square(own_mean - mean))
        rows = replicas.num_replicas_in_sync * tf.size(x) / tf.size(mean)
        unbiased = variance * tf.cast(rows / (rows - 1), tf.float32)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * batch)
        outputs = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(outputs, inputs.dtype)

    return shared_call


@keras.saving.register_keras_serializable(package="ganutils")
class FusedBatchNormalization(layers.BatchNormalization):
    """Keras' batch normalization, with its training pass as one operation: less time on a CPU.

    Takes the arguments of `keras.layers.BatchNormalization`, bar axis, scale and center. Input and
    output: (batch, channels) or (batch, height, width, channels); statistics in float32. The moving
    variance follows the unbiased variance of the batch, n / (n - 1) times that of Keras.

    Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1.
    """

    @synchronized
    def call(self, inputs, training=False, mask=None):
        if self.axis != -1 or not (self.scale and self.center):
            raise ValueError("The fused operation needs axis=-1, scale=True and center=True.")
        if not training:
            return super().call(inputs, training=False, mask=mask)
        maps = inputs if inputs.ndim == 4 else inputs[:, None, None, :]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=maps,
            scale=self.gamma,
            offset=self.beta,
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * batch)
        return tf.reshape(outputs, tf.shape(inputs))


@keras.saving.register_keras_serializable(package="ganutils")
class UpsampleConv2D(layers.Conv2D):
    """Repeats every pixel, then convolves, as one transposed convolution.

    Entries of the kernel that meet copies of the same pixel are added up first: the same function
    for fewer multiplications, 4 / 9 of them for 3x3 and a scale of 2.

    Args:
        filters: channels of the result.
        kernel_size: side of the kernel in pixels, odd.
        scale: factor by which height and width grow, an integer >= 1.
        conv: further arguments of `keras.layers.Conv2D`, bar strides, padding and dilation.

    Input (batch, height, width, channels), output (batch, height * scale, width * scale, filters).

    Karras et al. 2018, arXiv 1710.10196; their program fuses the two in this way.
    """

    def __init__(self, filters, kernel_size, *, scale, **conv):
        if kernel_size % 2 == 0 or scale < 1:
            raise ValueError(f"{kernel_size=} must be odd, and {scale=} at least 1.")
        super().__init__(filters, kernel_size, padding="same", **conv)
        self.scale = scale

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, height * self.scale, width * self.scale, self.filters

    def call(self, inputs):
        if self.scale == 1:
            return super().call(inputs)
        scale, kernel = self.scale, tf.convert_to_tensor(self.kernel)
        shifts = [(shift, scale - 1 - shift) for shift in range(scale)]
        kernel = sum(tf.pad(kernel, [y, x, (0, 0), (0, 0)]) for y in shifts for x in shifts)
        kernel = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])  # as a gradient's is
        shape = (tf.shape(inputs)[0], *self.compute_output_shape(inputs.shape)[1:])
        outputs = tf.nn.conv2d_transpose(inputs, kernel, shape, scale, "SAME")
        return self.activation(outputs + self.bias if self.use_bias else outputs)

    def get_config(self):
        config = super().get_config() | {"kernel_size": self.kernel_size[0], "scale": self.scale}
        del config["padding"]
        return config


# A bound on a layer's slope.


def largest_singular_value(kernel, u, *, iterations):
    """Largest singular value of a kernel by power iteration; the gradient holds u, v constant.

    Args:
        kernel: (..., columns), taken as a matrix of so many columns.
        u: (columns,), where the iteration starts, not 0; best what the last call returned.
        iterations: an integer >= 1.

    Returns:
        The value, never above the true one, and the new u, of length 1; 0 and the old u for a
        kernel of zeros. Both have the dtype of u.

    Miyato et al. 2018, arXiv 1802.05957, section 2.2 and appendix A.
    """
    start = u
    matrix = tf.reshape(tf.cast(kernel, u.dtype), (-1, u.shape[0]))
    for _ in range(iterations):
        v = tf.math.l2_normalize(tf.linalg.matvec(matrix, u), epsilon=1e-30)
        u = tf.math.l2_normalize(tf.linalg.matvec(matrix, v, transpose_a=True), epsilon=1e-30)
    u, v = tf.stop_gradient(u), tf.stop_gradient(v)
    sigma = tf.reduce_sum(v * tf.linalg.matvec(matrix, u))
    return sigma, tf.where(sigma > 0, u, start)


@keras.saving.register_keras_serializable(package="ganutils")
class SpectralNormalization(layers.Wrapper):
    """Calls a layer with its kernel W divided by W's largest singular value, W itself unchanged.

    Power iteration starts at the u of the last call with `training=True`; only such a call keeps
    the new u. A kernel of zeros is used as it is.

    Args:
        layer: `keras.layers.Dense`, `Conv2D` or `Conv2DTranspose`, or derived from these.
        power_iterations: in each call, an integer >= 1. With 1, the value is too small until some
            tens of calls have brought u near its goal.
        dtype: of u; the layer within computes in its own.

    Miyato et al. 2018, arXiv 1802.05957, equations 8 and 12, algorithm 1.
    """

    def __init__(self, layer, *, power_iterations=1, dtype="float32", **settings):
        if not isinstance(layer, layers.Dense | layers.Conv2D | layers.Conv2DTranspose):
            raise TypeError(f"Wrap a Dense, Conv2D or Conv2DTranspose layer, not {layer!r}.")
        power_iterations = validation.as_integer(
            power_iterations, "power_iterations", low=1, high=10**6
        )
        super().__init__(layer, dtype=dtype, autocast=False, **settings)
        self.power_iterations = power_iterations

    def build(self, input_shape):
        super().build(input_shape)
        self.u = self.add_weight(self.layer.kernel.shape[-1:], "random_normal", trainable=False)

    def call(self, inputs, training=False):
        kernel, iterations = self.layer.kernel, self.power_iterations
        sigma, u = largest_singular_value(kernel, self.u.value, iterations=iterations)
        if training:
            self.u.assign(u)
        # The scope hides the values of one around it, as of `stateless_call`: hand them on.
        weights = [(weight, weight.value) for weight in self.layer.variables]
        with keras.StatelessScope([*weights, (kernel, kernel / tf.where(sigma > 0, sigma, 1.0))]):
            return self.layer(inputs)

    def get_config(self):
        return super().get_config() | {"power_iterations": self.power_iterations}


# A look at several examples at once.


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
        kernels = validation.as_integer(kernels, "kernels", low=1, high=10**6)
        dims = validation.as_integer(dims, "dims", low=1, high=10**6)
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


# Normalization by a fixed reference batch.


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
        reference_count = validation.as_integer(
            reference_count, "reference_count", low=1, high=10**6
        )
        if epsilon <= 0:
            raise ValueError(f"{epsilon=} must be above 0.")
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
        count = validation.as_integer(count, "count", low=1, high=10**6)
        super().__init__(**settings)
        self.count = count

    def call(self, inputs):
        if inputs.shape[0] is not None and inputs.shape[0] < self.count:
            raise ValueError(f"{inputs.shape[0]} rows hold no reference of {self.count}.")
        return inputs[self.count :]

    def get_config(self):
        return super().get_config() | {"count": self.count}
