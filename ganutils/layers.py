"""Which layers does Keras lack? Its own functions in fewer operations."""

import tensorflow as tf
from keras import layers, ops


class FusedBatchNormalization(layers.BatchNormalization):
    """Keras' batch normalization over the last axis, with its training pass as one operation.

    Keras builds that pass from a dozen elementwise operations, each of which reads and writes the
    whole map: on a CPU, much time for little arithmetic. TensorFlow has one fused operation for
    it. Weights and inference are those of `keras.layers.BatchNormalization`; the moving
    variance follows the unbiased variance of the batch, n / (n - 1) times that of Keras.

    Takes the arguments of `keras.layers.BatchNormalization`; axis, scale and center must be left as
    they are (else ValueError). Input and output have the shape (batch, channels) or (batch, height,
    width, channels); the statistics are computed in float32 whatever the input is.

    Source: Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1.
    """

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.axis != -1 or not (self.scale and self.center):
            raise ValueError("The fused operation needs axis=-1, scale=True and center=True.")

    def call(self, inputs, training=False, mask=None):
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
        return ops.reshape(outputs, ops.shape(inputs))


class UpsampleConv2D(layers.Conv2D):
    """Repeat every pixel, then convolve, as one transposed convolution.

    In each place an entry of the kernel meets one of scale x scale copies of a pixel. Adding up the
    entries that meet copies of the same pixel gives a kernel of kernel_size + scale - 1 pixels for
    a transposed convolution of stride `scale`: the same function for fewer multiplications, 4 / 9
    of them for 3x3 and a scale of 2. Weights are those of `keras.layers.Conv2D`.

    Args:
        filters: channels of the result.
        kernel_size: side of the kernel in pixels, an odd integer.
        scale: factor by which height and width grow, an integer >= 1.
        conv: further arguments of `keras.layers.Conv2D`, bar strides, padding and dilation.

    Input and output have the shapes (batch, height, width, channels) and (batch, height * scale,
    width * scale, filters); zeros are put around the image, as by `padding="same"`.

    Raises:
        ValueError: kernel_size is even, or scale below 1.

    Source: Karras et al. 2018, arXiv 1710.10196, whose program fuses the two in this way.
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
        return {key: value for key, value in config.items() if key != "padding"}
