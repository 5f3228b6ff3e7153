"""Which layers keep the game stable? What papers build into D or G, as Keras layers."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def largest_singular_value(kernel, u, *, iterations):
    """Largest singular value of a kernel by power iteration, u^T W v.

    Its gradient holds u and v constant, so it is the outer product of the two.

    Args:
        kernel: (..., columns), taken as a matrix of so many columns.
        u: (columns,), not 0: where the iteration starts, of any length. What the last one returned
            saves iterations where the kernel has changed little.
        iterations: an integer >= 1.

    Returns:
        The value, a scalar never above the true one, and the new u, of length 1; 0 and the old u
        for a kernel of zeros. Both have the dtype of u.

    Source: Miyato et al. 2018, arXiv 1802.05957, section 2.2 and appendix A.
    """
    matrix, start = tf.reshape(tf.cast(kernel, u.dtype), (-1, u.shape[0])), u
    for _ in range(iterations):
        v = tf.math.l2_normalize(tf.linalg.matvec(matrix, u), epsilon=1e-30)
        u = tf.math.l2_normalize(tf.linalg.matvec(matrix, v, transpose_a=True), epsilon=1e-30)
    u, v = tf.stop_gradient(u), tf.stop_gradient(v)
    sigma = tf.reduce_sum(v * tf.linalg.matvec(matrix, u))
    return sigma, tf.where(sigma > 0, u, start)


class SpectralNormalization(layers.Wrapper):
    """Calls a layer with its kernel W divided by the largest singular value of W.

    The singular value comes from power iteration, which starts at the vector u of the last call
    with `training=True`; only such a call keeps the new one. The kernel itself is never changed:
    its gradient comes through W / sigma(W). A kernel of zeros is used as it is.

    Args:
        layer: `keras.layers.Dense`, `Conv2D` or `Conv2DTranspose`, or a layer derived from these.
            The kernel counts as a matrix with as many columns as its last axis is long.
        power_iterations: iterations in each call, an integer >= 1. With 1, sigma is too small until
            some tens of calls have brought u near its goal.
        dtype: of u and sigma; the layer within computes in its own.
        settings: further arguments of `keras.layers.Wrapper`.

    Input and output have the shapes of the layer within.

    Raises:
        TypeError: another kind of layer.
        ValueError: power_iterations is not an integer >= 1.

    Source: Miyato et al. 2018, arXiv 1802.05957, equations 8 and 12, algorithm 1.
    """

    def __init__(self, layer, *, power_iterations=1, dtype="float32", **settings):
        if not isinstance(layer, layers.Dense | layers.Conv2D | layers.Conv2DTranspose):
            raise TypeError(f"Wrap a Dense, Conv2D or Conv2DTranspose layer, not {layer!r}.")
        if not isinstance(power_iterations, int | np.integer) or power_iterations < 1:
            raise ValueError(f"{power_iterations=} must be an integer of at least 1.")
        super().__init__(layer, dtype=dtype, autocast=False, **settings)
        self.power_iterations = int(power_iterations)

    def build(self, input_shape):
        super().build(input_shape)
        self.u = self.add_weight(self.layer.kernel.shape[-1:], "random_normal", trainable=False)

    def call(self, inputs, training=False):
        kernel, iterations = self.layer.kernel, self.power_iterations
        sigma, u = largest_singular_value(kernel, self.u.value, iterations=iterations)
        if training:
            self.u.assign(u)
        weights = [(weight, weight.value) for weight in self.layer.variables]
        with keras.StatelessScope([*weights, (kernel, kernel / tf.where(sigma > 0, sigma, 1.0))]):
            return self.layer(inputs)

    def get_config(self):
        return super().get_config() | {"power_iterations": self.power_iterations}


class MinibatchDiscrimination(layers.Layer):
    """Appends to each example how close the other examples of its batch are.

    M = x T holds a vector of `dims` numbers for each example and kernel. Feature b of example i is
    the sum, over the other examples j, of exp(-|M_ib - M_jb|_1): near batch - 1 where all are
    alike, near 0 where each is by itself. Real and fake examples need batches of their own.

    Args:
        kernels: number of features appended, an integer >= 1.
        dims: numbers in which two examples are compared, for each kernel, an integer >= 1.
        settings: further arguments of `keras.layers.Layer`.

    Input and output have the shapes (batch, features) and (batch, features + kernels); the
    distances are computed in the dtype of the weights. (kernels, dims, batch, batch) numbers are
    held in memory.

    Raises:
        ValueError: kernels or dims is not an integer >= 1; an input of another rank.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 3.2.
    """

    def __init__(self, kernels, dims, **settings):
        if not all(isinstance(n, int | np.integer) and n >= 1 for n in (kernels, dims)):
            raise ValueError(f"{kernels=} and {dims=} must be integers of at least 1.")
        super().__init__(**settings)
        self.kernels, self.dims = int(kernels), int(dims)
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


def virtual_moments(x, reference_count):
    """Mean and variance of each row together with a reference batch.

    The first R rows are the reference batch; they share its own statistics. Those of every other
    row are taken over R + 1 rows of the same weight: the reference batch and itself.

    Args:
        x: (batch, ..., channels), of float.
        reference_count: R, 1 to batch.

    Returns:
        Mean and variance, for each channel over rows and space; each can be broadcast to x.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 3.5.
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


class VirtualBatchNormalization(layers.Layer):
    """Normalizes by a fixed reference batch, so that no example depends on its batch.

    The first R rows of the input are the reference batch, which `WithReference` puts there. They
    are normalized by their own statistics, every other row by those of the reference batch and
    itself (`virtual_moments`). Training and inference are the same.

    Args:
        reference_count: R, an integer >= 1.
        epsilon: added to the variance, > 0.
        settings: further arguments of `keras.layers.Layer`.

    Input and output have the shape (batch, ..., channels), batch >= R; the statistics are computed
    in the dtype of the weights.

    Raises:
        ValueError: reference_count is not an integer >= 1, epsilon not above 0, or the batch has
            fewer rows than the reference batch.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 3.5.
    """

    def __init__(self, reference_count, *, epsilon=1e-3, **settings):
        if not isinstance(reference_count, int | np.integer) or reference_count < 1 or epsilon <= 0:
            raise ValueError(f"{reference_count=} must be an integer >= 1, and {epsilon=} above 0.")
        super().__init__(**settings)
        self.reference_count, self.epsilon = int(reference_count), epsilon
        self.input_spec = layers.InputSpec(min_ndim=2)

    def build(self, input_shape):
        self.gamma = self.add_weight(input_shape[-1:], "ones", autocast=False, name="gamma")
        self.beta = self.add_weight(input_shape[-1:], "zeros", autocast=False, name="beta")

    def call(self, inputs):
        if (rows := inputs.shape[0]) is not None and rows < (count := self.reference_count):
            raise ValueError(f"The batch has {rows} rows, fewer than the {count} of reference.")
        x = tf.cast(inputs, self.variable_dtype)
        mean, variance = virtual_moments(x, self.reference_count)
        scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast((x - mean) * scale + self.beta, inputs.dtype)

    def get_config(self):
        own = {"reference_count": self.reference_count, "epsilon": self.epsilon}
        return super().get_config() | own


class WithReference(layers.Layer):
    """Puts a fixed reference batch in front of every batch.

    Args:
        reference: floats (R, ...), at least one row; never changed, and no weight of the layer.
        settings: further arguments of `keras.layers.Layer`.

    Input and output have the shapes (batch, ...) and (R + batch, ...); the output has the dtype of
    the input.

    Raises:
        ValueError: the reference batch has no rows or fewer than two axes, or the input's shape
            differs from it beyond the first axis.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 3.5.
    """

    def __init__(self, reference, **settings):
        super().__init__(**settings)
        self.reference = np.array(reference, np.float32)
        if self.reference.ndim < 2 or not len(self.reference):
            raise ValueError(f"A reference batch of shape {self.reference.shape} holds no rows.")

    def call(self, inputs):
        theirs, ours = inputs.shape[1:], self.reference.shape[1:]
        if not theirs.is_compatible_with(ours):
            raise ValueError(f"Rows of shape {theirs} do not fit a reference batch of rows {ours}.")
        return tf.concat([tf.cast(self.reference, inputs.dtype), inputs], axis=0)

    def get_config(self):
        return super().get_config() | {"reference": self.reference.tolist()}


class DropReference(layers.Layer):
    """Takes the reference batch away again: all rows but the first `count`.

    Args:
        count: number of rows to take away, an integer >= 1.
        settings: further arguments of `keras.layers.Layer`.

    Input and output have the shapes (count + batch, ...) and (batch, ...).

    Raises:
        ValueError: count is not an integer >= 1, or the batch has fewer rows.
    """

    def __init__(self, count, **settings):
        if not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{count=} must be an integer of at least 1.")
        super().__init__(**settings)
        self.count = int(count)

    def call(self, inputs):
        rows = inputs.shape[0]
        if rows is not None and rows < self.count:
            raise ValueError(
                f"The batch has {rows} rows, fewer than the {self.count} to take away."
            )
        return inputs[self.count :]

    def get_config(self):
        return super().get_config() | {"count": self.count}


class Pack(layers.Layer):
    """Joins several examples along the last axis, so that a discriminator sees them as one.

    Pack i holds the examples i * size to i * size + size - 1, in this order.

    Args:
        size: examples in a pack, an integer >= 1; with 1 nothing changes.
        settings: further arguments of `keras.layers.Layer`.

    Input and output have the shapes (batch, ..., channels) and (batch / size, ..., size *
    channels).

    Raises:
        ValueError: size is not an integer >= 1, or does not divide the batch.
        tf.errors.InvalidArgumentError: size does not divide a batch whose rows a graph learned of
            only when it ran.

    Source: Lin et al. 2018, arXiv 1712.04086, section 3.
    """

    def __init__(self, size, **settings):
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{size=} must be an integer of at least 1.")
        super().__init__(**settings)
        self.size = int(size)
        self.input_spec = layers.InputSpec(min_ndim=2)

    def call(self, inputs):
        if inputs.shape[0] is not None and inputs.shape[0] % self.size:
            raise ValueError(f"Packs of {self.size} do not divide a batch of {inputs.shape[0]}.")
        message = f"Packs of {self.size} do not divide the batch."
        rest = tf.shape(inputs)[0] % self.size
        with tf.control_dependencies([tf.debugging.assert_equal(rest, 0, message=message)]):
            return tf.concat([inputs[i :: self.size] for i in range(self.size)], axis=-1)

    def get_config(self):
        return super().get_config() | {"size": self.size}
