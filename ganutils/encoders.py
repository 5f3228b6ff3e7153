"""How do I go from an image back to a code? An encoder that plays along, or a search for the code.

In the bidirectional game D judges pairs: (x, E(x)), called real, and (G(z), z), called fake. E and
G both play against it.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.neighbors import KNeighborsClassifier

from ganutils.latents import sample_latents
from ganutils.losses import discriminator_loss, generator_loss
from ganutils.networks import leaky_relu, with_heads


def joint_discriminator(network, latent_dim, *, units=256):
    """Discriminator of pairs: an image and a code are read apart, then judged together.

    The judge gets what was read from either, and the products of both: a pair is right or wrong
    as a pair, and a product is the shortest way to say so.

    Args:
        network: discriminator of images; its last layer is left out, the others are used.
        latent_dim: length of one code.
        units: of each dense layer.

    Returns:
        `keras.Model` from [images, codes (batch, latent_dim)] to logits (batch, 1), positive for a
        pair of a real image and its code.

    Source: Donahue et al. 2017, arXiv 1605.09782, section 3; products as in the bilinear term of
        Miyato and Koyama 2018, arXiv 1802.05637.
    """
    image, code = with_heads(network, units).output, keras.Input((latent_dim,))
    from_image = leaky_relu(image)
    from_code = leaky_relu(layers.Dense(units)(leaky_relu(layers.Dense(units)(code))))
    products = layers.Multiply()([layers.Dense(units)(x) for x in (from_image, from_code)])
    x = layers.Concatenate()([from_image, from_code, products])
    logit = layers.Dense(1, dtype="float32")(leaky_relu(layers.Dense(units)(x)))
    return keras.Model([network.input, code], logit, name="discriminator")


def encoder_loss(real_logits):
    """-E[log(1 - D(x, E(x)))], the encoder's loss: real pairs are to be called fake.

    Args:
        real_logits: logits of pairs (x, E(x)), any shape; (batch, 1) in this course.

    Returns:
        Scalar >= 0; log 2 = 0.693 when D cannot tell.

    Raises:
        TypeError, ValueError, tf.errors.OpError: TensorFlow's, where it is not given floats.

    Source: Donahue et al. 2017, arXiv 1605.09782, section 3.4, the labels exchanged.
    """
    return tf.reduce_mean(tf.nn.softplus(real_logits))


bidirectional = (discriminator_loss, generator_loss, encoder_loss)


def make_bigan_step(discriminator, generator, encoder, *, optimizers, objective, latent_dim, seed):
    """Make one step of the bidirectional game: three gradients at one point, then three updates.

    Args:
        discriminator: model from [images, codes] to logits (batch, 1).
        generator: model from latents (batch, latent_dim) to images.
        encoder: model from images to codes (batch, latent_dim).
        optimizers: three Keras optimizers, of D, G and E; built here.
        objective: three losses: of real and fake logits for D, of fake logits for G, of real
            logits for E; such as `bidirectional`.
        latent_dim: length of one latent vector.
        seed: integer; the noise of a step is a function of (seed, step).

    Returns:
        `tf.function` (real, step) -> dict of scalars: d_loss, g_loss, e_loss; d_real and d_fake,
        the mean D(x, E(x)) and D(G(z), z) in (0, 1); e_slope, the Euclidean norm of E's gradient.

    Raises:
        ValueError: at the first step, where no gradient reaches the encoder.

    Source: Donahue et al. 2017, arXiv 1605.09782, section 3.4; Dumoulin et al. 2017,
        arXiv 1606.00704, algorithm 1.
    """
    d_loss, g_loss, e_loss = objective
    variables = [model.trainable_variables for model in (discriminator, generator, encoder)]
    for optimizer, own in zip(optimizers, variables, strict=True):
        optimizer.build(own)

    @tf.function
    def train_step(real, step):
        z = sample_latents(tf.shape(real)[0], latent_dim, seed=seed, step=step)
        with tf.GradientTape(persistent=True) as tape:
            real_logits = discriminator([real, encoder(real, training=True)], training=True)
            fake_logits = discriminator([generator(z, training=True), z], training=True)
            losses = d_loss(real_logits, fake_logits), g_loss(fake_logits), e_loss(real_logits)
        slopes = [tape.gradient(*pair) for pair in zip(losses, variables, strict=True)]
        if all(slope is None for slope in slopes[2]):
            raise ValueError("No gradient reaches the encoder: D must judge its codes.")
        for optimizer, slope, own in zip(optimizers, slopes, variables, strict=True):
            optimizer.apply(slope, own)
        values = dict(zip(("d_loss", "g_loss", "e_loss"), losses, strict=True))
        d_real, d_fake = (tf.reduce_mean(tf.sigmoid(x)) for x in (real_logits, fake_logits))
        e_slope = tf.linalg.global_norm(slopes[2])
        return values | {"d_real": d_real, "d_fake": d_fake, "e_slope": e_slope}

    return train_step


def reconstruction_errors(images, others):
    """Mean squared difference of pixels, for each pair of images.

    Args:
        images: float (count, height, width, channels) in [-1, 1].
        others: of the same shape.

    Returns:
        float32 tensor (count,), in 0..4; 0 for equal images.

    Raises:
        tf.errors.InvalidArgumentError, ValueError: TensorFlow's, where the shapes do not fit.
    """
    difference = tf.cast(images, tf.float32) - tf.cast(others, tf.float32)
    return tf.reduce_mean(tf.square(difference), axis=[1, 2, 3])


def make_squared_error_step(encoder, generator, *, optimizer):
    """Make one step of an autoencoder: G(E(x)) is to be x, pixel by pixel.

    Args:
        encoder: model from images to codes.
        generator: model from codes to images.
        optimizer: Keras optimizer of both together.

    Returns:
        `tf.function` (real, step) -> dict with one scalar, error: the batch's mean
        `reconstruction_errors`. The step number is not used.

    Source: Hinton and Salakhutdinov 2006, "Reducing the dimensionality of data with neural
        networks".
    """
    variables = encoder.trainable_variables + generator.trainable_variables
    optimizer.build(variables)

    @tf.function
    def train_step(real, step):
        with tf.GradientTape() as tape:
            copies = generator(encoder(real, training=True), training=True)
            error = tf.reduce_mean(reconstruction_errors(real, copies))
        optimizer.apply(tape.gradient(error, variables), variables)
        return {"error": error}

    return train_step


def search_codes(generator, images, starts, *, steps, rate=0.05):
    """Find codes by gradient descent: Adam on the squared error of G(z), while G stands still.

    Every image and every start has a search of its own; they only share the computation.

    Args:
        generator: model from codes to images; called with training=False.
        images: float (count, height, width, channels) in [-1, 1].
        starts: codes to start from, float (tries, count, latent_dim).
        steps: of descent, 1 or more.
        rate: Adam's step size, in units of a code.

    Returns:
        codes, float32 tensor (count, latent_dim), of the best try for each image; and errors,
        float32 array (steps + 1, tries, count): the `reconstruction_errors` before each step and
        at the end.

    Raises:
        ValueError: starts are not (tries, count, latent_dim) for as many images, or steps below 1.

    Source: Creswell and Bharath 2016, arXiv 1611.05644; Lipton and Tripathi 2017,
        arXiv 1702.04782.
    """
    tries, count, latent_dim = starts.shape
    if count != len(images) or steps < 1:
        raise ValueError(f"{starts.shape=} must be (tries, {len(images)}, dim); {steps=} from 1.")
    z = tf.Variable(tf.reshape(tf.cast(starts, tf.float32), (-1, latent_dim)))
    targets, optimizer = tf.tile(images, (tries, 1, 1, 1)), keras.optimizers.Adam(rate)
    optimizer.build([z])

    @tf.function
    def descend():
        with tf.GradientTape() as tape:
            errors = reconstruction_errors(targets, generator(z, training=False))
            total = tf.reduce_sum(errors)  # a sum: each code's slope is that of its own error
        optimizer.apply([tape.gradient(total, z)], [z])
        return tf.reshape(errors, (tries, count))

    path = [descend() for _ in range(steps)]
    errors = reconstruction_errors(targets, generator(z, training=False))
    path = np.stack([*path, tf.reshape(errors, (tries, count))])
    best = tf.argmin(path[-1], axis=0) * count + tf.range(count, dtype=tf.int64)
    return tf.gather(z, best), path


def outputs_of(model, inputs, *, batch_size=500):
    """Run a model over many inputs, some at a time.

    Args:
        model: Keras model of one input and one output; called with training=False.
        inputs: array (count, ...).
        batch_size: inputs in memory at once.

    Returns:
        float32 array (count, units): each output as one row.
    """
    parts = [
        np.asarray(model(inputs[start : start + batch_size], training=False), np.float32)
        for start in range(0, len(inputs), batch_size)
    ]
    return np.concatenate([part.reshape(len(part), -1) for part in parts])


def neighbor_accuracy(features, labels, test_features, test_labels):
    """Share of test examples whose nearest neighbor in the index has the same label.

    Args:
        features: the index, float (count, units); Euclidean distance.
        labels: integers (count,).
        test_features: float (test count, units).
        test_labels: integers (test count,).

    Returns:
        Float in 0..1.

    Raises:
        ValueError: scikit-learn's, where shapes do not fit or a value is NaN.

    Source: Cover and Hart 1967, "Nearest neighbor pattern classification".
    """
    index = KNeighborsClassifier(1, algorithm="brute").fit(features, labels)
    return float(index.score(test_features, test_labels))
