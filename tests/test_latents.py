"""Random numbers: a pure function of (seed, step, name); the great circle between two latents."""

import numpy as np
import pytest
import tensorflow as tf

from ganutils import latents, runtime


def draw(count=4, latent_dim=3, *, seed=1, step=0):
    return latents.sample_latents(count, latent_dim, seed=seed, step=step).numpy()


def test_the_same_seed_and_step_give_the_same_latents_whatever_happened_before():
    first = draw(seed=5, step=7)
    tf.random.set_seed(99)
    draw(seed=6, step=7)
    tf.random.normal((3,))
    np.testing.assert_array_equal(draw(seed=5, step=7), first)
    assert first.shape == (4, 3) and first.dtype == np.float32


def test_every_seed_and_every_step_has_its_own_latents():
    draws = [draw(seed=seed, step=step) for seed in (0, 1, 2) for step in (0, 1, 2, 2**40)]
    assert len({z.tobytes() for z in draws}) == 12
    values = np.concatenate([z.ravel() for z in draws])
    assert len(np.unique(values)) == values.size  # nor does one draw repeat a part of another


def test_a_stream_is_the_pair_and_a_name_is_folded_in_as_one_number():
    np.testing.assert_array_equal(latents.stream(3, tf.Variable(5)), np.int64([3, 5]))
    number = (ord("c") << 24) + (ord("l") << 16) + (ord("a") << 8) + ord("s")
    expected = tf.random.fold_in(tf.constant([3, 5], tf.int64), number)
    np.testing.assert_array_equal(latents.stream(3, 5, "clas"), expected)
    for name in ("class", "é"):
        with pytest.raises(ValueError, match="ASCII"):
            latents.stream(3, 5, name)


def test_streams_of_all_names_and_neighboring_steps_are_independent():
    keys = [
        latents.stream(1, step, name)
        for name in ("", "clas", "code", "mix", "trun", "mode", "dust")
        for step in (0, 1, 2)
    ]
    draws = np.array([tf.random.stateless_normal((10_000,), seed=key) for key in keys])
    assert abs(np.corrcoef(draws) - np.eye(len(keys))).max() < 5 / 10_000**0.5


@pytest.mark.parametrize("seed, step", [(1, 0), (1, 1), (2, 0)])
def test_moments_are_those_of_a_standard_normal(seed, step):
    z = draw(20_000, 10, seed=seed, step=step).astype(np.float64)
    n = z.size
    # Five standard errors of each sample moment; the variances are 1/n, 2/n and 96/n.
    assert abs(z.mean()) < 5 * (1 / n) ** 0.5
    assert abs((z**2).mean() - 1) < 5 * (2 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 5 * (96 / n) ** 0.5
    covariance = np.cov(z, rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(10), atol=5 * (2 / len(z)) ** 0.5)


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_integers_tensors_and_variables_name_the_same_draw(dtype):
    expected = draw(seed=3, step=11)
    for step in (tf.constant(11, dtype), tf.Variable(11, dtype=dtype)):
        z = latents.sample_latents(tf.constant(4), 3, seed=tf.constant(3, dtype), step=step)
        np.testing.assert_array_equal(z, expected)


def test_a_step_variable_advances_inside_a_function_that_is_traced_once():
    step = tf.Variable(0, dtype=tf.int64)
    traces = []

    @tf.function
    def graph_draw(step):
        traces.append("Python runs only while tracing")
        return latents.sample_latents(4, 3, seed=1, step=step)

    for now in range(4):
        step.assign(now)
        np.testing.assert_array_equal(graph_draw(step), draw(seed=1, step=now))
    assert len(traces) == 1


# Interpolation.


def circle(start, end, fraction):
    """Rotate start toward end in their plane, in float64: a formula without sin(angle) below it."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    length = np.linalg.norm(start)
    u, v = start / length, end / np.linalg.norm(end)
    across = v - (u @ v) * u
    angle = np.arctan2(np.linalg.norm(across), u @ v)
    across /= np.linalg.norm(across)
    return length * (np.cos(fraction * angle) * u + np.sin(fraction * angle) * across)


def ends(length=8.0, latent_dim=64):
    z = draw(2, latent_dim, seed=4).astype(np.float64)
    return (z / np.linalg.norm(z, axis=1, keepdims=True) * length).astype(np.float32)


def test_slerp_of_unequal_lengths_ends_at_its_ends():
    start, end = ends()
    unequal = latents.slerp(start, 3 * end, np.float32([[0], [1]]))
    np.testing.assert_allclose(unequal, [start, 3 * end], rtol=1e-5, atol=1e-6)


def test_slerp_keeps_the_length_and_a_straight_line_does_not():
    start, end = ends()
    fractions = np.linspace(0, 1, 9, dtype=np.float32)[:, None]
    path = latents.slerp(start, end, fractions)
    assert path.shape == (9, 64) and path.dtype == tf.float32
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 8, rtol=1e-5)
    line = (1 - fractions) * start + fractions * end
    assert np.linalg.norm(line, axis=1).min() < 0.8 * 8


def test_slerp_turns_at_constant_speed():
    start, end = ends()
    path = latents.slerp(start, end, np.linspace(0, 1, 9, dtype=np.float32)[:, None]).numpy()
    turns = np.arccos(np.sum(path[1:] * path[:-1], axis=1) / 64)
    np.testing.assert_allclose(turns, np.arccos(start @ end / 64) / 8, rtol=1e-3)


@pytest.mark.parametrize("latent_dim", [2, 3, 64])
def test_slerp_is_a_rotation_in_the_plane_of_its_ends(latent_dim):
    start, end = ends(latent_dim=latent_dim)
    for fraction in (0.0, 0.1, 0.5, 0.9, 1.0, 1.5):
        expected = circle(start, end, fraction)
        np.testing.assert_allclose(latents.slerp(start, end, fraction), expected, atol=1e-4)


def test_slerp_of_unequal_lengths_is_its_formula():
    start, end = np.float64([3, 0, 0]), np.float64([1, 1, 0])
    angle, fraction = np.pi / 4, 0.3
    expected = np.sin(0.7 * angle) / np.sin(angle) * start + np.sin(0.3 * angle) / np.sin(
        angle
    ) * np.asarray(end)
    actual = latents.slerp(start.astype(np.float32), end.astype(np.float32), fraction)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("turn", [0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3])
def test_slerp_of_nearly_parallel_latents_is_finite_and_between_them(turn):
    start = np.float32([8, 0])
    end = np.float32([8 * np.cos(turn), 8 * np.sin(turn)])
    path = latents.slerp(start, end, np.float32([[0], [0.25], [0.5], [1]]))
    expected = [8 * np.cos(turn * f) for f in (0, 0.25, 0.5, 1)]
    np.testing.assert_allclose(path[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(path[:, 1], 8 * np.sin(turn) * np.float32([0, 0.25, 0.5, 1]), 1e-3)


def test_slerp_interpolates_each_row_of_a_batch():
    start, end = draw(5, 6, seed=1), draw(5, 6, seed=2)
    together = latents.slerp(start, end, 0.3)
    for row in range(5):
        alone = latents.slerp(start[row], end[row], 0.3)
        np.testing.assert_allclose(together[row], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [tf.constant, np.asarray, np.ndarray.tolist])
def test_slerp_takes_float64_and_gives_float32(kind):
    start, end = ends().astype(np.float64)
    path = latents.slerp(kind(start), kind(end), 0.25)
    assert path.dtype == tf.float32
    np.testing.assert_allclose(path, circle(start, end, 0.25), atol=1e-4)


def classes(count=4, number=10, *, seed=1, step=0):
    return latents.sample_classes(count, number, seed=seed, step=step).numpy()


def test_classes_are_a_function_of_seed_and_step_and_independent_of_the_latents():
    draws = [classes(50, seed=seed, step=step) for seed in (0, 1, 2) for step in (0, 1, 2**40)]
    assert len({labels.tobytes() for labels in draws}) == 9
    np.testing.assert_array_equal(classes(50, seed=2, step=tf.Variable(1)), draws[7])
    labels = classes(20_000, seed=3, step=5)
    assert labels.dtype == np.int32 and set(labels) == set(range(10))
    counts = np.bincount(labels)
    # chi-squared of 9 degrees of freedom: mean 9, deviation sqrt(18)
    assert ((counts - 2000) ** 2 / 2000).sum() < 9 + 5 * 18**0.5
    z = draw(20_000, 3, seed=3, step=5)
    means = np.stack([z[labels == k].mean(axis=0) for k in range(10)])
    assert np.abs(means).max() < 5 / counts.min() ** 0.5
    assert abs(np.corrcoef(labels[:-1], labels[1:])[0, 1]) < 5 / 20_000**0.5


def test_labels_are_joined_as_one_hot_rows_or_as_shares():
    z = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    expected = [[1, 2, 0, 0, 1], [3, 4, 1, 0, 0]]
    for labels in ([2, 0], np.array([2, 0]), tf.constant([2, 0], tf.int64), np.eye(3)[[2, 0]]):
        joined = latents.join_classes(z, labels, 3)
        assert joined.dtype == tf.float32
        np.testing.assert_array_equal(joined, expected)
    np.testing.assert_array_equal(
        latents.join_classes(z, [[0.5, 0.5, 0], [0, 0.25, 0.75]], 3)[:, 2:],
        [[0.5, 0.5, 0], [0, 0.25, 0.75]],
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "labels, kind, named",
    [
        ([0, 3], tf.errors.InvalidArgumentError, "labels must be from 0 to 2"),
        ([-1, 0], tf.errors.InvalidArgumentError, "labels must be from 0 to 2"),
        (np.eye(4)[:2], ValueError, r"\(2, 4\) are not \(count,\) or \(count, 3\)"),
        ([[0], [1]], ValueError, r"\(2, 1\) are not"),
        ([0.0, 1.0], ValueError, r"\(2,\) are not"),
    ],
)
def test_labels_out_of_range_and_rows_of_another_width_are_refused(labels, kind, named, compiled):
    join = tf.function(latents.join_classes) if compiled else latents.join_classes
    with pytest.raises(kind, match=named):
        join(tf.zeros((2, 4)), tf.constant(labels), 3)


@pytest.mark.parametrize("count, size", [(5, 7), (1, 1), (300, 100)])
def test_on_a_gpu_latents_are_the_same_in_a_program_of_xla(count, size, monkeypatch):
    """And those of a CPU, up to rounding; XLA's own normal numbers are others."""

    def in_xla(function):
        return tf.function(function, jit_compile=True)(tf.constant(9)).numpy()

    z = draw(count, size, seed=4, step=9)
    own = in_xla(lambda step: latents.sample_latents(count, size, seed=4, step=step))
    assert abs(own - z).max() > 1e-2
    monkeypatch.setattr(runtime, "on_gpu", lambda: True)
    for found in (
        draw(count, size, seed=4, step=9),
        in_xla(lambda step: latents.sample_latents(count, size, seed=4, step=step)),
    ):
        assert found.shape == (count, size) and found.dtype == np.float32
        np.testing.assert_allclose(found, z, atol=1e-5)
