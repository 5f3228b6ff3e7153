"""`python -m ganutils`: what is on this machine, and does it train a GAN as it should?

The self-test takes three steps of a tiny DCGAN, twice, and compares its losses with NumPy's, which
finds the gradients without calculus: it moves one weight at a time. The exit code is 0 or 1.
"""

import platform
import sys
from pathlib import Path

try:
    from ganutils import runtime  # isort: skip  # first: it imports TensorFlow quietly

    import keras
    import numpy as np
    import tensorflow as tf

    from ganutils import __version__, _mnist, classifier, latents, losses, networks, steps
except ImportError as error:
    said = str(error).rstrip(".")
    sys.exit(f"{said}. If a package is missing: pip install -r requirements.txt")

SEED, STEPS, RATE = 1, 3, 1.0
TOLERANCE = 0.001  # ten times what rounding to TF32, as some GPUs do, would cost here
# Of the generator's weights (dense, gamma, beta, convolution), then the discriminator's.
SHAPES = [(2, 8), (8,), (8,), (3, 3, 2, 1), (3, 3, 1, 2), (2,), (8, 1), (1,)]
ENDS = np.cumsum([np.prod(shape) for shape in SHAPES])


def mnist_said():
    """Where MNIST is, or what a notebook will do without it; nothing is downloaded."""
    files = [file for (file,) in _mnist.places("mnist")]
    for file in filter(Path.exists, files):
        try:
            return f"MNIST, {len(_mnist.find('mnist', 'train')[1]):,} images to train, in {file}"
        except (OSError, ValueError) as error:
            return f"only scikit-learn's 1,797 digits. {str(error).rstrip('.')}"
    missing = " and no ".join(map(str, files))
    return f"scikit-learn's 1,797 digits, until MNIST is downloaded (no {missing})"


def parts_of(flat):
    """The weights in one long row, each in its shape."""
    parts = zip(np.split(flat, ENDS[:-1]), SHAPES, strict=True)
    return [part.reshape(shape) for part, shape in parts]


def tensorflow_losses(flat, real):
    """d_loss and g_loss of each step from these weights on, (steps, 2), in each of two runs."""
    generator = networks.dcgan_generator(2, (4, 4, 1), widths=(2,), scales=(2,))
    discriminator = networks.dcgan_discriminator((4, 4, 1), widths=(2,), kernel_size=3)
    discriminator, generator = map(runtime.in_float32, (discriminator, generator))
    train_step = steps.make_train_step(
        discriminator,
        generator,
        d_optimizer=keras.optimizers.SGD(RATE),
        g_optimizer=keras.optimizers.SGD(RATE),
        objective=losses.non_saturating,
        latent_dim=2,
        seed=SEED,
    )
    variables, runs = generator.trainable_variables + discriminator.trainable_variables, []
    for _ in range(2):
        for variable, part in zip(variables, parts_of(flat), strict=True):
            variable.assign(part)
        values = [train_step(tf.constant(real), tf.constant(i)) for i in range(STEPS)]
        runs.append([[float(v["d_loss"]), float(v["g_loss"])] for v in values])
    return np.array(runs)


def convolve(x, kernel, stride):
    """TensorFlow's convolution in NumPy, (batch, height, width, channels), zeros around."""
    size = len(kernel)
    around = (size - stride) // 2, (size - stride + 1) // 2
    x = np.pad(x, [(0, 0), around, around, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel)


def numpy_losses(flat, real, z):
    """d_loss and g_loss of the tiny DCGAN with these weights, by NumPy in float64."""
    dense, gamma, beta, kernel, d_kernel, d_bias, d_dense, d_last = parts_of(flat)
    x = z @ dense
    x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) * gamma + beta, 0)
    x = x.reshape(-1, 2, 2, 2).repeat(2, axis=1).repeat(2, axis=2)
    images = np.concatenate([real, np.tanh(convolve(x, kernel, 1))])
    x = convolve(images, d_kernel, 2) + d_bias
    logits = np.maximum(x, 0.2 * x).reshape(len(x), -1) @ d_dense + d_last
    real_logits, fake_logits = np.split(logits, 2)
    d_loss = np.logaddexp(0, -real_logits).mean() + np.logaddexp(0, fake_logits).mean()
    return np.array([d_loss, np.logaddexp(0, -fake_logits).mean()])


def numpy_run(flat, real, noise):
    """The losses of each step by NumPy, (steps, 2), every slope measured."""
    told, moves = [], 1e-5 * np.eye(len(flat))
    for z in noise:
        told.append(numpy_losses(flat, real, z))
        rises = [numpy_losses(flat + m, real, z) - numpy_losses(flat - m, real, z) for m in moves]
        d_slopes, g_slopes = np.transpose(rises) / 2e-5
        flat = flat - RATE * np.where(np.arange(len(flat)) < ENDS[3], g_slopes, d_slopes)
    return np.array(told)


def self_test(*, repeats_to=0.0):
    """What is wrong with training on this machine, in words; None where all is well."""
    random = np.random.default_rng(SEED)
    real = random.uniform(-1, 1, (16, 4, 4, 1)).astype(np.float32)
    flat = random.normal(0, 0.5, ENDS[-1])
    noise = np.array([latents.sample_latents(16, 2, seed=SEED, step=i) for i in range(STEPS)])
    first, second = tensorflow_losses(flat, real)
    if not (abs(noise.mean()) < 0.5 and 0.5 < noise.std() < 1.5):
        return f"random numbers that should be normal have a spread of {noise.std():.3g}"
    if not np.isfinite([first, second]).all():
        return f"the losses are not finite: {first.tolist()}, then {second.tolist()}"
    if np.abs(first - second).max() > repeats_to:
        return f"the same steps gave {first.tolist()}, and then {second.tolist()}"
    expected = numpy_run(flat, real, noise)
    for step, gap in enumerate(np.abs(first - expected).max(axis=1)):
        if gap > TOLERANCE:
            suspect = "gradients or updates are wrong" if step else "the networks compute wrongly"
            return f"{suspect}, the losses of step {step} are off by {gap:.3g}"
    return None


def main():
    """Print what is here and how the self-test went; returns the exit code, 0 or 1."""
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = ", ".join(found.get("device_name", "a nameless GPU") for found in details)
    versions = f"TensorFlow {tf.__version__}, Keras {keras.__version__}, NumPy {np.__version__}"
    print(f"ganutils {__version__}, Python {platform.python_version()}, {versions}.")
    print(f"Cores: {runtime.CORES}. GPU: {names or 'none that TensorFlow sees'}.")
    print(f"Data: {mnist_said()}.")
    print(f"Trained classifiers are kept in {classifier.cache_folder()}.")
    try:
        runtime.fast_precision()
        wrong = self_test(repeats_to=1e-5 if gpus else 0.0)  # a GPU may add in any order
    except Exception as error:  # a broken build may raise anything
        wrong = f"{type(error).__name__}: {error}".rstrip(".")
    if wrong is None:
        print("Self-test: three steps of a tiny GAN, finite, the same twice, and as by NumPy.")
        return 0
    print(f"Self-test FAILED on {names or 'the processor'}: {wrong}.")
    if gpus:
        print("Without the GPU: set CUDA_VISIBLE_DEVICES=-1, or uninstall tensorflow-metal.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
