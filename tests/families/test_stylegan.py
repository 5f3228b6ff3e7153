"""StyleGAN: modulation, the places of styles and noise, mixing, the game, paths; its script."""

import json
import math

import helpers
import keras
import numpy as np
import pytest
import style_paths
import tensorflow as tf
from by_hand import STEP, check_play, game_values, variables_of

from ganutils import latents, losses, networks
from ganutils.families import stylegan
from ganutils.layers import UpsampleConv2D

SHAPE, BATCH, LATENT_DIM, STYLE_DIM = (8, 12, 1), 6, 3, 4
PLACES, ENDS = 5, [6, 30, 54, 150, 246]  # maps of 2x3, then 4x6 twice, then 8x12 twice


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(channels=1):
    mapping = stylegan.mapping_network(LATENT_DIM, widths=(5, STYLE_DIM))
    shape = (*SHAPE[:2], channels)
    synthesis = stylegan.synthesis_network(STYLE_DIM, shape, widths=(4, 3, 2))
    return mapping, synthesis


def noisy(model):
    """The model, with every weight that started at 0 moved from there."""
    for number, weight in enumerate(model.weights):
        if not np.any(weight):
            weight.assign(0.3 * normal(*weight.shape, seed=number))
    return model


# Modulation.


def bare(make=keras.layers.Conv2D, filters=5, **settings):
    init = stylegan.style_init
    if make is keras.layers.Conv2D:
        settings["padding"] = "same"
    return make(filters, 3, use_bias=False, kernel_initializer=init, **settings)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("scale", [1, 2])
def test_the_kernel_of_each_image_is_scaled_and_demodulated(scale, demodulate):
    conv = bare(UpsampleConv2D, scale=scale)
    layer = stylegan.ModulatedConv(conv, demodulate=demodulate)
    maps, styles = normal(3, 4, 6, 2), normal(3, STYLE_DIM, seed=1)
    outputs = layer(maps, styles)
    assert outputs.shape == layer.compute_output_shape(maps.shape, styles.shape)
    kernel = conv.kernel.numpy().astype(np.float64)
    dense, bias = (weight.numpy() for weight in layer.to_scale.weights)
    for row in range(3):
        s = styles[row] @ dense + bias
        own = s[None, None, :, None] * kernel  # equation 1
        if demodulate:
            own = own / np.sqrt((own**2).sum(axis=(0, 1, 2), keepdims=True) + 1e-8)  # equation 3
        large = maps[row : row + 1].repeat(scale, axis=1).repeat(scale, axis=2)
        alone = tf.nn.conv2d(large, own.astype(np.float32), 1, "SAME")
        np.testing.assert_allclose(outputs[row], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [0.02, 1.0, 300.0])
def test_demodulated_maps_have_variance_1_whatever_style_and_kernel(size):
    layer = stylegan.ModulatedConv(bare(filters=200))
    maps, styles = normal(2, 40, 40, 8), normal(2, STYLE_DIM, seed=1)
    first = layer(maps, styles).numpy()
    scales = layer.to_scale(styles).numpy()
    assert np.abs(scales).max() > 3 * np.abs(scales).min()
    assert first[:, 1:-1, 1:-1].var() == pytest.approx(1, abs=0.05)
    layer.layer.kernel.assign(size * layer.layer.kernel)
    np.testing.assert_allclose(layer(maps, styles), first, rtol=1e-3, atol=1e-3)
    plain = stylegan.ModulatedConv(layer.layer, demodulate=False)
    variances = {0.02: 1e-3, 1.0: 1.0, 300.0: 1e5}
    assert plain(maps, styles).numpy().var() == pytest.approx(variances[size], rel=1)


def test_a_convolution_that_cannot_be_modulated_is_refused():
    with pytest.raises(TypeError, match="Wrap a Conv2D"):
        stylegan.ModulatedConv(keras.layers.Dense(2))
    for settings in ({"use_bias": True}, {"use_bias": False, "activation": "relu"}):
        conv = keras.layers.Conv2D(2, 3, **settings)
        with pytest.raises(ValueError, match="before bias and activation"):
            stylegan.ModulatedConv(conv)
        stylegan.ModulatedConv(conv, demodulate=False)


# The discriminator's layer.


def test_each_example_is_told_how_much_its_group_differs():
    inputs = normal(8, 3, 5, 2)
    outputs = stylegan.MinibatchDeviation(4)(inputs).numpy()
    assert outputs.shape == (8, 3, 5, 3)
    np.testing.assert_array_equal(outputs[..., :2], inputs)
    for group in (slice(0, 4), slice(4, 8)):
        number = inputs[group].std(axis=0).mean()
        np.testing.assert_allclose(outputs[group, ..., 2], number, rtol=1e-4)
    alike = np.tile(inputs[:1], (8, 1, 1, 1))
    np.testing.assert_allclose(stylegan.MinibatchDeviation(4)(alike)[..., 2], 0, atol=2e-4)
    features = stylegan.MinibatchDeviation(2)(normal(6, 9)).numpy()
    assert features.shape == (6, 10) and features[0, 9] == features[1, 9] != features[2, 9]


def test_images_that_are_all_alike_have_a_slope():
    """The root's slope at 0 would be infinite."""
    alike = tf.ones((4, 2, 2, 1))
    (slope,) = helpers.gradient(lambda x: tf.reduce_sum(stylegan.leaky_deviation(x)), alike)
    assert np.isfinite(slope).all()


def test_a_discriminator_with_it_is_saved_and_loaded(tmp_path):
    after = stylegan.leaky_deviation
    discriminator = networks.dcgan_discriminator(SHAPE, widths=(4, 4), after_conv=after)
    discriminator.save(tmp_path / "d.keras")
    loaded = keras.models.load_model(tmp_path / "d.keras")
    images = helpers.real_batch(0, (8, *SHAPE))
    np.testing.assert_array_equal(loaded(images), discriminator(images))


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="size must be in 2"):
        stylegan.MinibatchDeviation(1)


# The networks.


def test_the_mapping_asks_for_the_direction_only_and_is_its_layers():
    mapping, _ = build()
    z = normal(BATCH, LATENT_DIM)
    np.testing.assert_allclose(mapping(z), mapping(7 * z), rtol=1e-4, atol=1e-5)
    x = z / np.sqrt((z**2).mean(axis=1, keepdims=True))
    for dense in [x for x in mapping.layers if isinstance(x, keras.layers.Dense)]:
        x = x @ dense.kernel.numpy() + dense.bias.numpy()
        x = np.where(x > 0, x, 0.2 * x)
    np.testing.assert_allclose(mapping(z), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_their_shape_and_range(channels):
    _, synthesis = build(channels)
    assert synthesis.input_shape == [(None, PLACES, STYLE_DIM), (None, ENDS[-1])]
    noisy(synthesis)
    inputs = [normal(BATCH, PLACES, STYLE_DIM), normal(BATCH, ENDS[-1])]
    images = synthesis(inputs)
    assert images.shape == (BATCH, *SHAPE[:2], channels) and images.dtype == tf.float32
    assert 0.01 < np.abs(images).max() <= 1


@pytest.mark.parametrize("place", range(PLACES))
def test_each_place_has_its_style_and_its_noise(place):
    """By slopes of an image: of its styles at the other places' detached, of its noise."""
    _, synthesis = build()
    strengths = [
        x for x in synthesis.layers if type(x) is keras.layers.Conv2D and x.kernel_size == (1, 1)
    ]
    assert len(strengths) == PLACES
    styles, noise = tf.constant(normal(1, PLACES, STYLE_DIM)), tf.constant(normal(1, ENDS[-1]))
    silent = synthesis([styles, noise])
    np.testing.assert_array_equal(silent, synthesis([styles, 2 * noise]))  # it starts at 0
    strengths[place].kernel.assign(tf.ones_like(strengths[place].kernel))
    with tf.GradientTape() as tape:
        tape.watch([styles, noise])
        total = tf.reduce_sum(tf.square(synthesis([styles, noise])))
    style_slopes, noise_slopes = tape.gradient(total, [styles, noise])
    assert np.abs(style_slopes[0, place]).max() > 1e-6
    start = 0 if place == 0 else ENDS[place - 1]
    moved = np.zeros(ENDS[-1], bool)
    moved[start : ENDS[place]] = True
    np.testing.assert_array_equal(noise_slopes[0].numpy() != 0, moved)


def test_a_style_of_a_place_leaves_the_maps_before_it_alone():
    _, synthesis = build()
    blocks = [x for x in synthesis.layers if isinstance(x, stylegan.ModulatedConv)]
    heads = keras.Model(synthesis.input, [block.output for block in blocks])
    styles, noise = normal(1, PLACES, STYLE_DIM), normal(1, ENDS[-1])
    before = heads([styles, noise])
    for place in range(PLACES):
        other = styles.copy()
        other[:, place] += 1
        after = heads([other, noise])
        changed = [not np.array_equal(*two) for two in zip(before, after, strict=True)]
        assert changed == [k >= place for k in range(PLACES)] + [True]


def test_one_model_of_both_has_one_style_at_all_places():
    mapping, synthesis = build()
    generator = stylegan.style_generator(mapping, synthesis)
    z, noise = normal(BATCH, LATENT_DIM), normal(BATCH, ENDS[-1], seed=1)
    styles = np.stack([mapping(z)] * PLACES, axis=1)
    np.testing.assert_array_equal(generator([z, noise]), synthesis([styles, noise]))
    assert generator.get_layer("mapping") is mapping


@pytest.mark.parametrize("shape, said", [((6, 8, 1), "divide"), ((8, 8), "image_shape must be")])
def test_sides_that_do_not_halve_are_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        stylegan.synthesis_network(STYLE_DIM, shape, widths=(4, 3, 2))


def test_networks_that_do_not_fit_are_refused():
    _, synthesis = build()
    with pytest.raises(ValueError, match="makes 5 numbers, not 4"):
        stylegan.style_generator(stylegan.mapping_network(LATENT_DIM, widths=(5,)), synthesis)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_generator_is_saved_and_loaded(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    generator = noisy(stylegan.style_generator(*build()))
    generator.save(tmp_path / "style.keras")
    loaded = keras.models.load_model(tmp_path / "style.keras")
    inputs = [normal(BATCH, LATENT_DIM), normal(BATCH, ENDS[-1])]
    np.testing.assert_array_equal(loaded(inputs), generator(inputs))
    loaded_block = loaded.get_layer("synthesis").layers[-2]
    assert isinstance(loaded_block, stylegan.ModulatedConv) and not loaded_block.demodulate


# Mixing and the game.


def test_mixing_takes_each_place_from_the_one_or_the_other():
    first, second = normal(BATCH, STYLE_DIM), normal(BATCH, STYLE_DIM, seed=1)
    chosen = np.random.default_rng(2).random((BATCH, PLACES)) < 0.5
    mixed = stylegan.mixed_styles(first, second, chosen).numpy()
    assert mixed.shape == (BATCH, PLACES, STYLE_DIM)
    for row, place in np.ndindex(chosen.shape):
        source = second if chosen[row, place] else first
        np.testing.assert_array_equal(mixed[row, place], source[row])
    for_all = stylegan.mixed_styles(first, second, chosen[0]).numpy()
    every = stylegan.mixed_styles(first, second, np.tile(chosen[0], (BATCH, 1)))
    np.testing.assert_array_equal(for_all, every)


@pytest.mark.parametrize("mixing", [True, False])
def test_the_game_is_its_definition(mixing):
    generator = noisy(stylegan.style_generator(*build()))
    mapping, synthesis = (generator.get_layer(name) for name in ("mapping", "synthesis"))
    discriminator = networks.dcgan_discriminator(SHAPE, widths=(4, 4))
    for weight in discriminator.weights:
        weight.assign(10 * weight)  # of a size at which gradients can be told from 0
    drawn = latents.sample_latents(BATCH, 2 * LATENT_DIM + ENDS[-1], seed=5, step=STEP)
    last = latents.sample_classes(BATCH, PLACES, seed=5, step=STEP).numpy()
    assert len(set(last)) > 2

    def define():
        first = mapping(drawn[:, :LATENT_DIM])
        second = mapping(drawn[:, LATENT_DIM : 2 * LATENT_DIM])
        rows = []
        for row in range(BATCH):
            own = [second if mixing and k > last[row] else first for k in range(PLACES)]
            rows.append(tf.stack([w[row] for w in own]))
        fake = synthesis([tf.stack(rows), drawn[:, 2 * LATENT_DIM :]])
        values = game_values(discriminator(real), discriminator(fake))
        return values["d_loss"], values["g_loss"], values

    play = stylegan.make_style_play(
        discriminator, generator, objective=losses.non_saturating, seed=5, mixing=mixing
    )
    real = helpers.real_batch(0, (BATCH, *SHAPE))
    check_play(play, define, real, variables_of(discriminator), variables_of(generator))


def test_second_styles_begin_at_each_place_or_nowhere():
    last = latents.sample_classes(5000, PLACES, seed=1, step=0).numpy()
    chosen = np.arange(PLACES) > last[:, None]
    counts = np.bincount(chosen.sum(axis=1), minlength=PLACES)
    assert not chosen[:, 0].any() and (np.abs(counts / 5000 - 1 / PLACES) < 0.03).all()


# What is measured.


def test_truncation_goes_from_the_center_to_the_style():
    styles, center = normal(BATCH, STYLE_DIM), normal(STYLE_DIM, seed=1)
    truncate = stylegan.truncated_styles
    np.testing.assert_allclose(truncate(styles, center, 1), styles, atol=1e-6)
    np.testing.assert_array_equal(truncate(styles, center, 0), np.tile(center, (BATCH, 1)))
    np.testing.assert_allclose(truncate(styles, center, 0.5), (styles + center) / 2, atol=1e-6)
    spread = truncate(styles, styles.mean(axis=0), 0.3).var(axis=0) / styles.var(axis=0)
    np.testing.assert_allclose(spread, 0.09, rtol=1e-4)


@pytest.mark.parametrize("epsilon", [1e-3, 0.25])
def test_a_linear_eye_sees_a_line_as_long_as_it_is(epsilon):
    start, end, matrix = normal(50, 4), normal(50, 4, seed=1), normal(4, 7, seed=2)
    fractions = np.random.default_rng(3).random((50, 1))
    lengths = stylegan.path_lengths(
        lambda x: x @ matrix.astype(float),
        lambda t: start + t * (end - start).astype(float),
        fractions,
        epsilon=epsilon,
    )
    right = np.sum(((end - start).astype(float) @ matrix) ** 2, axis=1)
    np.testing.assert_allclose(lengths, right, rtol=1e-6)


def test_an_arc_is_as_long_as_its_angle_and_a_curved_eye_counts_its_slope():
    start, end = np.float32([[5, 0, 0]]), np.float32([[0, 5, 0]])

    def arc(t):
        return latents.slerp(start, end, np.float32(t))

    fractions = np.float32([[0.3]])
    (length,) = stylegan.path_lengths(lambda x: x, arc, fractions, epsilon=1e-2)
    assert length == pytest.approx((5 * math.pi / 2) ** 2, rel=1e-3)

    def line(t):
        return 2 * t

    (length,) = stylegan.path_lengths(np.square, line, np.array([[0.3]]), epsilon=1e-6)
    assert length == pytest.approx((2 * 2 * 0.6) ** 2, rel=1e-4)


def test_no_step_has_no_length():
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        stylegan.path_lengths(np.square, np.square, np.ones((2, 1)), epsilon=0.0)


@pytest.mark.parametrize("a, b, c", [(1.0, 0.0, 0.0), (1.0, 2.0, 0.0), (1.0, 1.0, 2.0)])
def test_the_share_that_a_part_moves_is_the_total_effect(a, b, c):
    x, y, other_x, other_y = np.random.default_rng(0).normal(size=(4, 400_000))

    def value(x, y):
        return a * x + b * y + c * x * y + 3

    variance = a**2 + b**2 + c**2
    moved = stylegan.share_moved(value(x, y), value(other_x, y))
    assert moved == pytest.approx((a**2 + c**2) / variance, abs=0.02)
    moved = stylegan.share_moved(value(x, y), value(x, other_y))
    assert moved == pytest.approx((b**2 + c**2) / variance, abs=0.02)
    assert stylegan.share_moved(value(x, y), value(other_x, other_y)) == pytest.approx(1, abs=0.02)
    assert stylegan.share_moved(value(x, y), value(x, y)) == 0


def test_shares_of_nothing_are_refused():
    for before, after in (
        (np.ones(4), np.arange(4)),
        (np.arange(4), np.arange(5)),
        (np.ones((4, 2)), np.ones((4, 2))),
    ):
        with pytest.raises(ValueError, match="of one shape"):
            stylegan.share_moved(before, after)


# The script.


@pytest.mark.parametrize("places, names", [(1, "28"), (3, "14 28"), (5, "7 14 28"), (7, "4 8")])
def test_the_script_knows_the_places_of_each_resolution(places, names):
    height = int(names.split()[-1]) * (4 if places == 7 else 1)
    parts = style_paths.resolutions(places, height)
    assert list(parts)[: len(names.split())] == names.split()
    assert sum(parts.values()).tolist() == [1] * places
    assert [int(p.sum()) for p in parts.values()] == [1] + [2] * (len(parts) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("variant", style_paths.VARIANTS)
def test_the_script_measures_a_row(variant, monkeypatch, tmp_path):
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    row, pictures = style_paths.measure(
        variant,
        seed=0,
        steps=2,
        marks=(1e-3, 1e3),
        source="digits",
        count=100,
        few=50,
        judge={"steps": 3, "features": 8, "batch_size": 32},
    )
    json.dumps(row)
    assert row["on_the_way"][0]["step"] == 2 and 0 < row["seconds"] < 1e3
    assert [entry["psi"] for entry in row["truncation"]] == [1.0, 0.7, 0.5, 0.3]
    kinds = ["z", "z_ends"] + (["w", "w_ends"] if variant != "dcgan" else [])
    assert [name for name in row["paths"] if name not in ("apart", "epsilons")] == kinds
    assert all(row["paths"][kind]["relative"] > 0 for kind in kinds)
    assert all(shown.shape[1:] == (28, 28) for shown in pictures.values())
    if variant != "dcgan":
        assert list(row["parts"]) == ["7", "14", "28", "all", "noise"]
        assert row["parts"]["noise"]["slant"] < 1e-2  # its strengths have hardly left 0
        assert 0.5 < row["parts"]["all"]["pixels"] < 1.5
