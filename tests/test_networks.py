"""Networks: the source designs by arguments alone; shapes, ranges, types and first weights."""

import functools
import importlib.util
import itertools
import math
import random
from functools import partial

import keras
import numpy as np
import pytest
import systems
import tensorflow as tf
from keras import layers

from ganutils import networks, runtime
from ganutils.families.mode_collapse import MinibatchDiscrimination, Pack


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(1)


@pytest.fixture(params=["float32", "mixed_bfloat16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@functools.cache
def networks_of(name):
    """Generator and discriminator of one of the source designs, full size; not to be changed."""
    system = systems.ALL[name]
    return system.make_generator(), system.make_discriminator()


def kernels(model):
    return [v.numpy() for v in model.trainable_variables if v.name == "kernel"]


# The source designs.


def dense(inputs, outputs):
    return inputs * outputs + outputs


COUNTS = {
    "S1": (2_330_944, 212_865),
    "S2": (1_250_433, 213_633),
    "S3": (6_763_777, 3_485_441),
    "S4": (1_493_520, 533_505),
    "S5": (1_477_136, 533_505),
    "plain": (  # four numbers a channel in batch normalization: scale, shift, two moving ones
        (64 + 4) * 7 * 7 * 64 + (9 * 64 + 4) * 64 + (9 * 64 + 4) * 16 + 9 * 16,
        (25 + 1) * 32 + (25 * 32 + 1) * 64 + dense(7 * 7 * 64, 1),
    ),
    "course": (
        (32 + 4) * 7 * 7 * 64 + (9 * 64 + 4) * 64 + (9 * 64 + 4) * 16 + 9 * 16,
        (25 + 1) * 32 + (25 * 32 + 1) * 64 + dense(7 * 7 * 64, 256) + dense(256, 1),
    ),
}


@pytest.mark.parametrize("system", COUNTS)
def test_the_source_designs_have_their_parameters(system):
    generator, discriminator = networks_of(system)
    assert (generator.count_params(), discriminator.count_params()) == COUNTS[system]
    assert generator.output_shape == discriminator.input_shape == (None, 28, 28, 1)
    assert discriminator.output_shape == (None, 1)
    assert (generator.name, discriminator.name) == ("generator", "discriminator")


def kinds(model):
    """Layers and operations in order, those that only name shapes left out."""
    names = [type(x).__name__ for x in model.operations]
    return " ".join(x for x in names if x not in ("InputLayer", "Reshape", "Flatten"))


ORDERS = {
    "S1": (
        "Dense BatchNormalization LeakyReLU"
        + 2 * " Conv2DTranspose BatchNormalization LeakyReLU"
        + " Conv2DTranspose Activation",
        "Conv2D LeakyReLU Dropout Conv2D LeakyReLU Dropout Dense",
    ),
    "S2": (
        "Dense LeakyRelu"
        + 2 * " UpSampling2D Conv2D BatchNormalization ReLU"
        + " Conv2D Activation",
        2 * "Conv2D BatchNormalization LeakyRelu Dropout " + "Dense",
    ),
    "S3": (
        "Dense Dense BatchNormalization Activation UpSampling2D Conv2D UpSampling2D Conv2D",
        "Conv2D MaxPooling2D Conv2D MaxPooling2D Dense Dense",
    ),
    "course": (
        "Dense FusedBatchNormalization ReLU"
        + 2 * " UpsampleConv2D FusedBatchNormalization ReLU"
        + " UpsampleConv2D Activation",
        2 * "Conv2D LeakyRelu " + "Dense LeakyRelu Dense",
    ),
    "S4": (3 * "Dense LeakyRelu BatchNormalization " + "Dense", 2 * "Dense LeakyRelu " + "Dense"),
}


@pytest.mark.parametrize("system", ORDERS)
def test_layers_stand_in_the_order_of_the_source_designs(system):
    assert tuple(map(kinds, networks_of(system))) == ORDERS[system]


def test_strides_maps_and_activations_of_the_source_designs():
    generator, discriminator = networks_of("S1")
    ups = [x.strides for x in generator.layers if isinstance(x, layers.Conv2DTranspose)]
    downs = [x.strides for x in discriminator.layers if isinstance(x, layers.Conv2D)]
    assert (ups, downs) == ([(1, 1), (2, 2), (2, 2)], [(2, 2), (2, 2)])
    generator, discriminator = networks_of("S3")
    maps = [x.output.shape[1:] for x in discriminator.layers if isinstance(x, layers.MaxPooling2D)]
    assert maps == [(14, 14, 64), (5, 5, 128)]
    hidden = [x for x in generator.layers + discriminator.layers if hasattr(x, "activation")]
    linear = [x for x in hidden if x.activation is not keras.activations.tanh]
    assert linear == [generator.layers[2], discriminator.layers[-1]]


# Shapes, ranges, types.

SMALL_GENERATORS = {
    "mlp": partial(networks.mlp_generator, widths=(6, 5)),
    "upsample": partial(networks.dcgan_generator, widths=(4, 3), scales=(2, 2)),
    "transposed": partial(
        networks.dcgan_generator,
        widths=(4, 3),
        scales=(2, 2),
        enlarge=networks.transposed_conv,
        use_bias=True,
    ),
}
SMALL_DISCRIMINATORS = {
    "dense": partial(networks.mlp_discriminator, widths=(6, 5)),
    "strided": partial(networks.dcgan_discriminator, widths=(3, 4)),
}


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (4, 12, 3)], ids=str)
@pytest.mark.parametrize("kind", SMALL_GENERATORS)
def test_generators_make_images_in_the_whole_open_range(kind, image_shape):
    generator = SMALL_GENERATORS[kind](5, image_shape)
    assert generator.input_shape == (None, 5)
    assert generator.output_shape == (None, *image_shape)
    last = [v for v in generator.trainable_variables if v.name == "kernel"][-1]
    z = 10 * keras.random.normal((7, 5))
    mild = generator(z).numpy()
    last.assign(last * 1e4)
    extreme = generator(z).numpy()
    assert np.abs(mild).max() < 1 and np.abs(extreme).max() <= 1  # saturated, never beyond
    assert extreme.min() < -0.99 and extreme.max() > 0.99
    np.testing.assert_array_equal(np.sign(mild), np.sign(extreme))


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (4, 12, 3), (7, 7, 1)], ids=str)
@pytest.mark.parametrize("kind", SMALL_DISCRIMINATORS)
def test_discriminators_end_in_unbounded_logits(kind, image_shape):
    discriminator = SMALL_DISCRIMINATORS[kind](image_shape)
    assert discriminator.input_shape == (None, *image_shape)
    assert discriminator.output_shape == (None, 1)
    images = keras.random.uniform((3, *image_shape), -1, 1)
    before = discriminator(images)
    *_, bias = discriminator.trainable_variables
    for shift in (-50.0, 50.0):
        bias.assign([shift])
        np.testing.assert_allclose(discriminator(images), before + shift, rtol=1e-5)


def test_an_mlp_discriminator_is_leaky_by_one_fifth():
    discriminator = networks.mlp_discriminator((2, 2, 1), widths=(6, 5))
    images = np.random.default_rng(0).uniform(-1, 1, (50, 2, 2, 1)).astype(np.float32)
    x = images.reshape(50, 4)
    *hidden, last = kernels(discriminator)  # the biases are 0 at the start
    for kernel in hidden:
        x = x @ kernel
        assert x.min() < 0
        x = np.where(x > 0, x, 0.2 * x)
    np.testing.assert_allclose(discriminator(images), x @ last, rtol=1e-4, atol=1e-5)


def test_convolutions_halve_the_map():
    discriminator = networks.dcgan_discriminator((28, 20, 1), widths=(2, 3, 4))
    maps = [x.output.shape[1:] for x in discriminator.layers if isinstance(x, layers.Conv2D)]
    assert maps == [(14, 10, 2), (7, 5, 3), (4, 3, 4)]


@pytest.mark.parametrize("kind", [*SMALL_GENERATORS, *SMALL_DISCRIMINATORS, "heads"])
def test_models_end_in_float32_and_are_saved_and_copied(kind, policy, tmp_path):
    if kind in SMALL_GENERATORS:
        model = SMALL_GENERATORS[kind](5, (8, 8, 1))
    else:
        model = SMALL_DISCRIMINATORS["strided" if kind == "heads" else kind]((8, 8, 1))
    if kind == "heads":
        model = networks.with_heads(model, 2)
    x = keras.random.normal((2, *model.input_shape[1:]), dtype="float32")
    outputs = model(x).numpy()
    assert outputs.dtype == np.float32 and {v.dtype for v in model.variables} == {"float32"}
    # The last kernel computes in float32, those before it in the policy's type.
    *hidden, last = [x.compute_dtype for x in model.layers if hasattr(x, "kernel")]
    assert set(hidden) == {policy.removeprefix("mixed_")} and last == "float32"
    if kind in SMALL_GENERATORS:  # bfloat16 has 256 steps in [-1, 1]; here are finer values
        assert len(np.unique(outputs)) > len(np.unique(outputs.astype("bfloat16")))

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), outputs)
    exact = runtime.in_float32(model)
    assert {x.compute_dtype for x in exact.layers if x.weights} == {"float32"}
    np.testing.assert_allclose(exact(x), outputs, rtol=0, atol=0 if policy == "float32" else 0.02)


# Small pieces.


def test_bn_relu_normalizes_and_then_cuts():
    z = keras.Input((3,))
    model = keras.Model(z, networks.bn_relu(z))
    x = np.float32([[1, 2, -30], [3, 2.5, -10]])
    standard = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    got = model(x, training=True).numpy()
    np.testing.assert_allclose(got, np.maximum(standard, 0), rtol=1e-4)
    assert got[:, 2].max() > 0  # all its inputs were negative


@pytest.mark.parametrize("enlarge", [networks.transposed_conv, networks.upsample_conv])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_enlarging_multiplies_the_sides_by_the_scale(enlarge, scale):
    x = keras.Input((4, 5, 2))
    assert enlarge(x, 7, scale, kernel_size=3).shape == (None, 4 * scale, 5 * scale, 7)


def coverage(enlarge, kernel_size):
    """How often each output pixel is covered: ones through a kernel of ones, borders cut off."""
    ones = np.ones((1, 6, 6, 1), np.float32)
    result = enlarge(ones, 1, 2, kernel_size=kernel_size, kernel_initializer="ones")
    return result.numpy()[0, 3:-3, 3:-3, 0]


def test_transposed_convolution_leaves_a_checkerboard_and_upsampling_does_not():
    # Along one side, a kernel of 3 at stride 2 covers pixels once and twice in turn.
    uneven = coverage(networks.transposed_conv, 3)
    assert sorted(np.unique(uneven)) == [1, 2, 4]
    np.testing.assert_array_equal(uneven[2:, 2:], uneven[:-2, :-2])  # period 2, both ways
    assert np.all(uneven[1:] != uneven[:-1]) and np.all(uneven[:, 1:] != uneven[:, :-1])
    np.testing.assert_array_equal(coverage(networks.upsample_conv, 3), np.full((6, 6), 9))
    # A kernel that the stride divides is even too; 5 at stride 2, as in S1, is not.
    np.testing.assert_array_equal(coverage(networks.transposed_conv, 4), np.full((6, 6), 4))
    assert sorted(np.unique(coverage(networks.transposed_conv, 5))) == [4, 6, 9]
    np.testing.assert_array_equal(coverage(networks.upsample_conv, 5), np.full((6, 6), 25))


SIZES = {
    ((28, 28, 1), (9, 5, 4), (1, 2, 2)): (7, 7, 9),
    ((28, 28, 1), (8, 4, 3, 2), (2, 2, 1, 1)): (7, 7, 8),
    ((12, 8, 3), (5,), (4,)): (3, 2, 5),
    ((8, 8, 1), (5, 4), (1, 1)): (8, 8, 5),
}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_smallest_map(sizes):
    assert networks.smallest_map(*sizes) == SIZES[sizes]
    image_shape, widths, scales = sizes
    generator = networks.dcgan_generator(3, image_shape, widths=widths, scales=scales)
    assert generator.output_shape == (None, *image_shape)


@pytest.mark.parametrize(
    "image_shape, widths, scales",
    [
        ((28, 28, 1), (8, 4), (2, 2, 1)),
        ((28, 28, 1), (8, 4, 2), (2, 2)),
        ((30, 28, 1), (8, 4), (2, 2)),
        ((28, 30, 1), (8, 4), (2, 2)),
        ((28, 28, 1), (8, 4, 2), (2, 2, 2)),
    ],
)
def test_scales_that_do_not_fit_are_refused(image_shape, widths, scales):
    with pytest.raises(ValueError, match="as many as .* divide"):
        networks.dcgan_generator(3, image_shape, widths=widths, scales=scales)


# Networks on points.


@pytest.mark.parametrize("inputs, outputs, widths", [(2, 1, (6, 5)), (3, 2, (4,)), (1, 4, ())])
def test_a_point_network_is_a_chain_of_dense_layers_with_relu_between(inputs, outputs, widths):
    model = networks.point_network(inputs, outputs, widths=widths)
    assert model.input_shape == (None, inputs) and model.output_shape == (None, outputs)
    for v in model.trainable_variables:  # biases start at 0, which would hide them
        v.assign(keras.random.normal(v.shape))
    points = np.random.default_rng(0).normal(size=(50, inputs)).astype(np.float32)
    numbers = [v.numpy() for v in model.trainable_variables]
    assert len(numbers) == 2 * (len(widths) + 1) == len(model.variables)
    x = points
    for kernel, bias in zip(numbers[:-2:2], numbers[1:-2:2], strict=True):
        x = np.maximum(x @ kernel + bias, 0)
    right = x @ numbers[-2] + numbers[-1]
    np.testing.assert_allclose(model(points), right, rtol=1e-4, atol=1e-5)
    assert np.abs(right).max() > 1  # the last layer bounds nothing


def test_a_point_network_uses_what_it_is_given_in_its_place():
    made, seen = [], []

    def dense_layer(units):
        made.append(units)
        return layers.Dense(units, use_bias=False)

    def after(x, name, factor):
        seen.append((name, x.shape))
        return layers.Rescaling(factor)(x)

    model = networks.point_network(
        2,
        3,
        widths=(6, 5),
        dense=dense_layer,
        after_dense=lambda x: after(x, "after_dense", 10.0),
        first=lambda x: after(x, "first", -2.0),
        last=lambda x: after(x, "last", 0.5),
    )
    assert made == [6, 5, 3]  # every dense layer, the last one included
    hidden = [("after_dense", (None, 6)), ("after_dense", (None, 5))]
    assert seen == [("first", (None, 2)), *hidden, ("last", (None, 5))]
    a, b, c = kernels(model)
    points = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    # No activation is left, so all is linear: -2 * 10 * 10 * 0.5 = -100.
    np.testing.assert_allclose(model(points), -100 * points @ a @ b @ c, rtol=1e-4, atol=1e-4)


def test_a_point_network_may_pack_points_and_compare_a_batch():
    compare = MinibatchDiscrimination(3, 2)
    model = networks.point_network(2, 1, widths=(6,), first=Pack(4), last=compare)
    assert model(keras.random.normal((12, 2))).shape == (3, 1)
    shapes = [kernel.shape for kernel in kernels(model)]
    assert shapes == [(8, 6), (6, 6), (9, 1)]  # 2 * 4 numbers a pack; 3 features more at the end


# First weights.


def test_first_kernels_are_normal_of_standard_deviation_002():
    for kernel in itertools.chain(*map(kernels, networks_of("course"))):
        n = kernel.size
        assert abs(kernel.mean()) < 5 * 0.02 / n**0.5
        assert abs(kernel.std() / 0.02 - 1) < 5 / (2 * n) ** 0.5
        assert n < 3000 or np.abs(kernel).max() > 3 * 0.02  # not uniform, not cut at 2 sigma


def test_glorot_first_kernels_are_of_another_size():
    for kernel in itertools.chain(*map(kernels, networks_of("S1"))):
        *window, inputs, outputs = kernel.shape
        fans = math.prod(window) * (inputs + outputs)
        assert np.abs(kernel).max() <= (6 / fans) ** 0.5
        assert abs(kernel.std() / (2 / fans) ** 0.5 - 1) < 5 / (2 * kernel.size) ** 0.5


def small_kernels():
    """The builders' own first kernels, several of one shape in G and in D."""
    models = (
        networks.dcgan_generator(4, (8, 8, 1), widths=(4, 4, 4, 4), scales=(2, 2, 1, 1)),
        networks.dcgan_discriminator((8, 8, 4), widths=(4, 4, 4), kernel_size=3),
        networks.mlp_generator(4, (2, 2, 1), widths=(5, 5, 5)),
        networks.mlp_discriminator((2, 2, 1), widths=(5, 5, 5)),
    )
    return [kernel for model in models for kernel in kernels(model)]


def test_the_seed_decides_the_first_weights_and_no_two_layers_share_them():
    starts = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        starts.append(small_kernels())
    for first, again, other in zip(*starts, strict=True):
        np.testing.assert_array_equal(first, again)
        assert not np.isclose(first, other).all()
    for shape, count in [((3, 3, 4, 4), 6), ((5, 5), 4)]:
        alike = [kernel for kernel in starts[0] if kernel.shape == shape]
        assert len(alike) == count
        for one, other in itertools.combinations(alike, 2):
            assert not np.isclose(one, other).all()


def test_another_python_process_starts_with_the_same_weights():
    """A seed drawn while importing would repeat within a process and not beyond it."""
    random.seed(2)
    elsewhere = importlib.util.module_from_spec(networks.__spec__)
    networks.__spec__.loader.exec_module(elsewhere)  # as a process with other luck has it
    starts = []
    for module in (networks, elsewhere):
        keras.utils.set_random_seed(1)
        starts.append(kernels(module.dcgan_discriminator((8, 8, 1), widths=(2, 3))))
    for here, there in zip(*starts, strict=True):
        np.testing.assert_array_equal(here, there)


# Heads.


def test_heads_share_the_trunk_and_replace_the_last_layer():
    network = networks.dcgan_discriminator((8, 8, 1), widths=(3, 4))
    model = networks.with_heads(network, 1, 10)
    images = tf.random.stateless_uniform((3, 8, 8, 1), (0, 1), -1, 1)
    logit, logits = model(images)
    assert logit.shape == (3, 1) and logits.shape == (3, 10)
    assert logit.dtype == logits.dtype == tf.float32
    trunk = network.trainable_variables[:-2]
    assert [id(v) for v in model.trainable_variables[: len(trunk)]] == [id(v) for v in trunk]
    assert model.count_params() == network.count_params() + dense(2 * 2 * 4, 10)
    # Each head is the affine map of the features that the old last layer saw.
    features = keras.Model(network.input, network.layers[-1].input)(images).numpy()
    for head, out in zip(model.layers[-2:], (logit, logits), strict=True):
        kernel, bias = (v.numpy() for v in head.weights)
        np.testing.assert_allclose(out, features @ kernel + bias, atol=1e-5)
    assert not np.allclose(logit, network(images), rtol=1e-3, atol=0)


def test_one_head_gives_one_tensor():
    encoder = networks.with_heads(networks.mlp_discriminator((8, 8, 1), widths=(16,)), 5)
    assert encoder(tf.zeros((2, 8, 8, 1))).shape == (2, 5)
    assert encoder.count_params() == dense(64, 16) + dense(16, 5)
    assert kernels(encoder)[-1].std() == pytest.approx(0.02, rel=0.4)  # as in the DCGAN


@pytest.mark.parametrize("sizes", [(), (0,), (3, -1)])
def test_heads_without_outputs_are_refused(sizes):
    with pytest.raises(ValueError, match="one output or more"):
        networks.with_heads(networks.mlp_discriminator((2, 2, 1), widths=(2,)), *sizes)


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1, 1), 28, (0, 28, 1), (None, 28, 1)])
def test_a_shape_that_is_no_images_is_refused(shape):
    builders = (networks.dcgan_generator, networks.mlp_generator)
    builders = [functools.partial(build, 8) for build in builders]
    for build in (*builders, networks.dcgan_discriminator, networks.mlp_discriminator):
        with pytest.raises(ValueError, match=r"image_shape must be \(height, width, channels\)"):
            build(shape)
