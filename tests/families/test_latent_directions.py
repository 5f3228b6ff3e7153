"""Directions: latents of a known law, regressions with a known answer, walks along drawn bars."""

import json
import math

import latent_directions  # the script
import numpy as np
import pytest
import scipy.stats
from bars import sheared_bar

from ganutils import stroke_attributes
from ganutils.families import latent_directions as directions
from ganutils.latents import sample_latents

# Truncated latents.


def truncated(count=5, latent_dim=3, *, threshold=0.7, seed=1, step=0):
    z = directions.truncated_latents(count, latent_dim, threshold=threshold, seed=seed, step=step)
    return z.numpy()


@pytest.mark.parametrize("threshold", [0.05, 0.5, 1.0, 2.0, 8.0])
def test_truncated_latents_follow_the_truncated_normal(threshold):
    z = truncated(4000, 5, threshold=threshold)
    assert z.dtype == np.float32 and np.abs(z).max() <= threshold
    law = scipy.stats.truncnorm(-threshold, threshold)
    assert scipy.stats.kstest(z.ravel().astype(np.float64), law.cdf).pvalue > 1e-3
    assert abs(z.std() / law.std() - 1) < 5 / math.sqrt(2 * z.size)
    assert np.abs(np.corrcoef(z.T) - np.eye(5)).max() < 5 / math.sqrt(len(z))


def test_truncated_latents_are_a_pure_function_and_a_stream_of_their_own():
    np.testing.assert_array_equal(truncated(seed=4, step=2), truncated(seed=4, step=2))
    draws = [truncated(seed=s, step=k) for s in (0, 1) for k in (0, 1)]
    assert len({z.tobytes() for z in draws}) == 4
    plain = sample_latents(1000, 4, seed=1, step=0).numpy().ravel()
    other = truncated(1000, 4, threshold=9.0).ravel()
    assert abs(np.corrcoef(plain, other)[0, 1]) < 5 / math.sqrt(plain.size)


@pytest.mark.parametrize("threshold", [0, math.nan, math.inf])
def test_a_threshold_is_a_number_above_0(threshold):
    with pytest.raises(ValueError, match="threshold"):
        truncated(threshold=threshold)


# Averages.


def test_averages_keep_what_is_common_and_shrink_the_rest():
    common = np.zeros(16, np.float32)
    common[0] = 5
    z = sample_latents(4000, 16, seed=1, step=0).numpy() + common
    for size in (1, 4, 25):
        means = directions.average_latents(z, size=size, count=1500, seed=0)
        assert means.shape == (1500, 16) and means.dtype == np.float32
        rest = means - common
        assert (rest**2).mean() == pytest.approx(1 / size, rel=0.06)
    whole = directions.average_latents(z[:9], size=9, count=2, seed=3)  # without replacement
    np.testing.assert_allclose(whole, [z[:9].mean(axis=0)] * 2, rtol=1e-4, atol=1e-5)


def test_averages_are_a_function_of_their_seed():
    z = np.eye(30, dtype=np.float32)
    one, same, other = (
        directions.average_latents(z, size=3, count=20, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert set(np.count_nonzero(one, axis=1)) == {3} and len(np.unique(one, axis=0)) > 15
    with pytest.raises(ValueError, match="size"):
        directions.average_latents(z[:2], size=3, count=1, seed=0)


# Directions.

UNIT = np.array([0.6, 0.0, -0.8, 0.0, 0.0])


def normal(count, latent_dim=5, step=0):
    return sample_latents(count, latent_dim, seed=7, step=step).numpy().astype(np.float64)


def test_a_linear_value_gives_back_its_direction_and_slope():
    z = normal(50)
    before = z.copy()
    direction, slope = directions.fit_direction(z, 2.5 * z @ UNIT + 9)
    np.testing.assert_allclose(direction, UNIT, atol=1e-9)
    assert slope == pytest.approx(2.5)
    np.testing.assert_array_equal(z, before)


def test_a_curved_value_gives_its_mean_gradient():
    z = normal(200_000)
    direction, slope = directions.fit_direction(z, np.sin(z @ UNIT) + z[:, 1] ** 2)
    np.testing.assert_allclose(direction, UNIT, atol=0.02)
    assert slope == pytest.approx(math.exp(-0.5), abs=0.02)  # the mean of cos of a standard normal


def test_groups_take_out_what_differs_between_them():
    z = normal(4000)
    groups = (z[:, 1] > 0).astype(int)
    values = z @ UNIT + 10 * groups
    mixed, _ = directions.fit_direction(z, values)
    apart, slope = directions.fit_direction(z, values, groups=groups)
    assert abs(mixed[1]) > 0.9
    np.testing.assert_allclose(apart, UNIT, atol=1e-9)
    assert slope == pytest.approx(1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"values": np.ones(9)}, "one row"),
        ({"values": np.full(20, 0.1)}, "vary"),
        ({"z": np.ones((20, 5))}, "vary"),
        ({"values": np.ones((20, 2))}, "One value"),
        ({"groups": np.zeros(19, int)}, "group"),
        ({"groups": np.arange(20)}, "vary"),
        ({"z": np.ones((20, 20))}, "more rows"),
        ({"z": np.full((20, 5), np.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    given = {"z": normal(20), "values": normal(20)[:, 0], "groups": None} | change
    with pytest.raises(ValueError, match=message):
        directions.fit_direction(given["z"], given["values"], groups=given["groups"])


def test_projecting_out_leaves_nothing_along_the_others():
    random = np.random.default_rng(0)
    direction, others = random.normal(size=8), random.normal(size=(3, 8))
    others = np.vstack([others, others.sum(axis=0)])  # dependent
    rest = directions.project_out(direction, others)
    np.testing.assert_allclose(others @ rest, 0, atol=1e-12)
    assert np.linalg.norm(rest) == pytest.approx(1)
    basis = scipy.linalg.null_space(others)
    expected = basis @ (basis.T @ direction)
    np.testing.assert_allclose(rest, expected / np.linalg.norm(expected))
    np.testing.assert_allclose(directions.project_out(rest, others), rest)  # nothing more to take


def test_a_direction_within_the_others_is_refused():
    with pytest.raises(ValueError, match="nothing is left"):
        directions.project_out(UNIT, np.eye(5)[:3])
    with pytest.raises(ValueError, match="must be"):
        directions.project_out(UNIT, np.eye(4))


def test_principal_directions_of_a_linear_layer_are_its_singular_vectors():
    random = np.random.default_rng(1)
    left = np.linalg.qr(random.normal(size=(5, 5)))[0]
    right = np.linalg.qr(random.normal(size=(12, 5)))[0]
    strength = np.array([5.0, 3.0, 2.0, 1.0, 0.5])
    z = np.linalg.qr(normal(3000) - normal(3000).mean(axis=0))[0] * math.sqrt(3000)  # exactly white
    found, shares = directions.principal_directions(
        z, z @ (left * strength) @ right.T + 4, components=3
    )
    np.testing.assert_allclose(np.abs(found @ left[:, :3]), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(shares, strength[:3] ** 2 / (strength**2).sum(), rtol=1e-6)


def test_principal_directions_go_through_what_is_not_linear():
    z = normal(20_000)
    activations = np.maximum(z * [3, 1, 0.2, 0.1, 0.05], 0)
    found, shares = directions.principal_directions(z, activations, components=2)
    np.testing.assert_allclose(np.abs(found), np.eye(5)[:2], atol=0.05)
    assert 0.8 < shares[0] < 1 and shares[0] > shares[1]


def test_components_are_counted():
    with pytest.raises(ValueError, match="components"):
        directions.principal_directions(normal(20), np.ones((20, 4)), components=5)
    with pytest.raises(ValueError, match="one row"):
        directions.principal_directions(normal(20), np.ones((19, 4)), components=1)
    with pytest.raises(ValueError, match="fewer than 2"):
        directions.principal_directions(normal(20), normal(20)[:, :1] * np.ones(4), components=2)


# Walks. The "generator" draws a bar whose shear is the first entry of z; the "judge" reads a sign.


def test_walk_effects_of_a_known_generator():
    def draw(z):
        return np.concatenate([sheared_bar(0.1 * entry) for entry in np.asarray(z)[:, 0]])

    def read(images):
        return (stroke_attributes.stroke_slant(images) > 0.05).astype(int)

    z = np.array([[-2.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    effects = directions.walk_effects(draw, read, z, [1.0, 0.0], [-2, 0, 1])
    assert {name: rows.shape for name, rows in effects.items()} == dict.fromkeys(
        ("slant", "width", "kept"), (3, 3)
    )
    np.testing.assert_allclose(
        effects["slant"], [[-0.4, -0.2, -0.1], [-0.2, 0, 0.1], [-0.1, 0.1, 0.2]], atol=0.01
    )
    np.testing.assert_array_equal(effects["kept"], [[1, 1, 0], [1, 1, 1], [1, 0, 1]])
    still = directions.walk_effects(draw, read, z, [0.0, 1.0], [-3, 3])
    np.testing.assert_array_equal(still["width"], [stroke_attributes.stroke_width(draw(z))] * 2)
    assert still["kept"].all()


# The measurement over seeds.


@pytest.mark.slow
def test_the_script_makes_a_whole_row(tmp_path, monkeypatch):
    monkeypatch.setenv("GANUTILS_CACHE", str(tmp_path))
    monkeypatch.setenv("GANUTILS_PRECISION", "float32")
    for name, short in {"STEPS": (0, 2), "SCALES": (1.0,), "THRESHOLDS": (1.0,)}.items():
        monkeypatch.setattr(latent_directions, name, short)
    monkeypatch.setattr(latent_directions, "SIZES", (1, 2))
    for name in ("COMPONENTS", "RANDOM"):
        monkeypatch.setattr(latent_directions, name, 2)
    few = {"count": 160, "few": 70, "walks": 8, "pairs": 3, "judge_steps": 20}
    row, pictures = latent_directions.measure("dcgan", seed=1, steps=3, source="digits", **few)
    assert json.loads(json.dumps(row))["directions"].keys() == {"slant", "width", "random"}
    assert {name: image.shape for name, image in pictures.items()} == dict.fromkeys(
        ("slant", "width"), (42, 28, 28)
    )
    assert len(row["directions"]["random"]) == 2
    steps = row["walk_steps"]
    for name in ("slant", "width"):
        walks = row["directions"][name]["walks"]
        assert walks.keys() == {"pooled", "within", "projected"}
        for walk in walks.values():
            assert walk["kept"][steps.index(0)] == 1 and len(walk[name]) == len(steps)
        cosines = row["directions"][name]["cosine"]
        assert cosines["pooled"] == pytest.approx(1) and 0 < cosines["projected"] < 1
    for score in ("frechet", "precision", "recall", "unsure"):  # scaled by 1 is not scaled
        assert row["scaled"][0][score] == pytest.approx(row["middles"]["samples"][score])
    assert [len(part["kept"]) for part in row["arithmetic"]] == [10, 10]
    single, pairs = (np.mean(part["length"]) for part in row["arithmetic"])
    assert 1.1 < single / pairs < 2  # sqrt(2), were the codes many and independent
    shares = [part["share"] for part in row["components"]]
    assert shares[0] >= shares[1] > 0 and sum(shares) <= 1.0001
    assert set(row["nearest"]) == {"samples", "spherical", "test"}
