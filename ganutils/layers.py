"""Which layers does Keras lack? Fused forms of its own, and spectral normalization.

All are registered: a model that holds them is loaded by `keras.models.load_model(path)` alone, once
this room is imported.
"""

import functools

import keras
import tensorflow as tf
from keras import layers

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
        if power_iterations < 1:
            raise ValueError(f"{power_iterations=} must be at least 1.")
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
