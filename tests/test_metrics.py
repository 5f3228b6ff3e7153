"""Metrics against closed forms, double loops and scipy; sets that are made to be scored."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from ganutils import data, metrics


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


REAL, FAKE = normal(1, (60, 4)), normal(2, (50, 4)) * [1, 2, 0.5, 1] + [0, 1, 0, 0.3]
NAN = np.where(np.arange(60) == 7, np.nan, 1.0)[:, None] * REAL


def with_moments(mean, covariance, count=40):
    """Features whose sample mean and covariance are these, up to rounding."""
    mean, covariance = np.asarray(mean, float), np.asarray(covariance, float)
    x = normal(3, (count, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ np.linalg.cholesky(covariance).T + mean


# Fréchet distance.


def test_frechet_distance_of_a_set_to_itself_and_to_shifted_copies():
    assert metrics.frechet_distance(REAL, REAL) == pytest.approx(0, abs=1e-10)
    shift = np.array([3.0, 0, -4, 0])
    assert metrics.frechet_distance(REAL, REAL + shift) == pytest.approx(25, rel=1e-9)
    # Copies scaled by c about their mean: (1 - c)^2 times the total variance.
    centered = REAL - REAL.mean(axis=0)
    expected = 0.25 * np.trace(np.cov(REAL, rowvar=False))
    assert metrics.frechet_distance(centered, 1.5 * centered) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_known_normal_distributions():
    # Commuting covariances: the sum of (sigma_r - sigma_f)^2, here 1 + 4 + 0, and 9 for the means.
    real = with_moments([0, 0, 0], np.diag([1.0, 9.0, 4.0]))
    fake = with_moments([3, 0, 0], np.diag([4.0, 1.0, 4.0]), count=70)
    assert metrics.frechet_distance(real, fake) == pytest.approx(14, rel=1e-9)
    # Non-commuting, by hand in two dimensions: Tr (A B)^{1/2} = (Tr A B + 2 (det A B)^{1/2})^{1/2}.
    a, b = np.array([[2.0, 1], [1, 2]]), np.diag([5.0, 1.0])
    expected = 4 + 6 - 2 * math.sqrt(12 + 2 * math.sqrt(15))
    found = metrics.frechet_distance(with_moments([1, 1], a), with_moments([1, 1], b))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dimensions", [1, 3, 12])
def test_frechet_distance_against_the_matrix_square_root(dimensions):
    real = normal(4, (80, dimensions)) @ normal(5, (dimensions, dimensions))
    fake = normal(6, (90, dimensions)) @ normal(7, (dimensions, dimensions)) + 0.5
    a, b = (np.cov(x, rowvar=False).reshape(dimensions, dimensions) for x in (real, fake))
    shift = real.mean(axis=0) - fake.mean(axis=0)
    expected = shift @ shift + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert metrics.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-7)
    assert metrics.frechet_distance(fake, real) == pytest.approx(expected, rel=1e-7)


def test_frechet_distance_bears_features_that_are_always_0_and_float32():
    dead = np.hstack([REAL, np.zeros((60, 2))])
    assert metrics.frechet_distance(dead, dead) == pytest.approx(0, abs=1e-9)
    alone = metrics.frechet_distance(REAL, FAKE)
    both = metrics.frechet_distance(dead, np.hstack([FAKE, np.zeros((50, 2))]))
    assert both == pytest.approx(alone, rel=1e-7)
    single = metrics.frechet_distance(REAL.astype(np.float32), FAKE.astype(np.float32))
    assert single == pytest.approx(alone, rel=1e-5)
    # One image repeated: no spread at all, so the distance is the mean's plus the whole variance.
    still = np.tile(REAL.mean(axis=0), (10, 1))
    expected = np.trace(np.cov(REAL, rowvar=False))
    assert metrics.frechet_distance(REAL, still) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_is_biased_upwards_by_few_samples():
    sizes = (50, 200, 2000)
    found = [metrics.frechet_distance(normal(8, (n, 10)), normal(9, (n, 10))) for n in sizes]
    assert found[0] > 2 * found[1] > 4 * found[2] > 0


def test_frechet_distance_refuses():
    assert math.isfinite(metrics.frechet_distance(REAL[:5], FAKE[:5]))
    for real, fake, words in [
        (REAL[:4], FAKE, "real .* at least 5"),
        (REAL, FAKE[:4], "fake .* at least 5"),
        (NAN, FAKE, "real .*NaN"),
        (REAL, NAN, "fake .*NaN"),
        (REAL, FAKE[:, :3], "4 dimensions.* fake .*3"),
        (REAL[:, 0], FAKE, r"real .*\(count, dimensions\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.frechet_distance(real, fake)
    with pytest.raises(TypeError, match="fake .*floats, not int64"):
        metrics.frechet_distance(REAL, FAKE.astype(np.int64))


# Kernel distance.


def kernel_distance_by_loops(real, fake):
    """The unbiased estimate of one part, term by term."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def mean_of_pairs(points):
        pairs = itertools.permutations(points, 2)
        return sum(kernel(x, y) for x, y in pairs) / len(points) / (len(points) - 1)

    across = sum(kernel(x, y) for x in real for y in fake) / (len(real) * len(fake))
    return mean_of_pairs(real) + mean_of_pairs(fake) - 2 * across


def test_kernel_distance_against_a_double_loop():
    # The parts as the code deals them: both sets by one generator, real first.
    random = np.random.default_rng(11)
    real, fake = (random.permutation(x)[:48].reshape(3, 16, 4) for x in (REAL, FAKE))
    estimates = [kernel_distance_by_loops(x, y) for x, y in zip(real, fake, strict=True)]
    mean, error = metrics.kernel_distance(REAL, FAKE, subsets=3, seed=11)
    assert mean == pytest.approx(np.mean(estimates), rel=1e-9)
    assert error == pytest.approx(np.std(estimates, ddof=1) / 3**0.5, rel=1e-9)


@pytest.mark.parametrize("count", [100, 1000])
def test_kernel_distance_is_unbiased_at_small_counts_and_its_error_is_honest(count):
    # Both sets from one distribution: the truth is 0, at 10 samples a part as at 100.
    runs = [
        metrics.kernel_distance(normal((s, 0), (count, 3)), normal((s, 1), (count, 3)))
        for s in range(40)
    ]
    means, errors = np.transpose(runs)
    spread = means.std(ddof=1)
    assert abs(means.mean()) < 4 * spread / 40**0.5
    assert (means < 0).any() and (means > 0).any()
    assert 0.6 < errors.mean() / spread < 1.6


def test_kernel_distance_sees_a_shift_and_repeats():
    real, shifted = normal(12, (400, 4)), normal(13, (400, 4)) + 0.5
    mean, error = metrics.kernel_distance(real, shifted)
    assert mean > 5 * error > 0
    assert metrics.kernel_distance(real, shifted) == (mean, error)
    assert metrics.kernel_distance(real, shifted, seed=1) != (mean, error)


def test_kernel_distance_refuses():
    assert metrics.kernel_distance(REAL[:20], FAKE[:20])[1] > 0
    for real, fake, subsets, words in [
        (REAL[:19], FAKE, 10, "real .* at least 20"),
        (REAL, FAKE[:19], 10, "fake .* at least 20"),
        (NAN, FAKE, 10, "real .*NaN"),
        (REAL, FAKE, 1, "subsets"),
        (REAL, FAKE, 2.0, "subsets .*integer"),
    ]:
        with pytest.raises((TypeError, ValueError), match=words):
            metrics.kernel_distance(real, fake, subsets=subsets)


# Classifier score.


def test_classifier_score_of_sure_and_even_probabilities_is_the_number_of_classes():
    one_hot = np.tile(np.eye(10), (20, 1))
    score, error = metrics.classifier_score(one_hot)
    assert score == pytest.approx(10, rel=1e-9) and error == pytest.approx(0, abs=1e-9)
    only_three = np.tile(np.eye(10)[:3], (20, 1))
    assert metrics.classifier_score(only_three)[0] == pytest.approx(3, rel=1e-9)


def test_classifier_score_of_constant_probabilities_is_1():
    for row in (np.full(10, 0.1), np.eye(10)[4], np.array([0.5, 0.3, 0.2])):
        found = metrics.classifier_score(np.tile(row, (40, 1)))
        assert found == pytest.approx((1, 0), abs=1e-12)


def test_classifier_score_against_its_definition():
    probabilities = np.random.default_rng(14).dirichlet([0.3] * 5, 60)
    scores = []
    for part in probabilities.reshape(3, 20, 5):
        divergences = [scipy.stats.entropy(row, part.mean(axis=0)) for row in part]
        scores.append(math.exp(sum(divergences) / 20))
    score, error = metrics.classifier_score(probabilities, splits=3)
    assert score == pytest.approx(np.mean(scores), rel=1e-9)
    assert error == pytest.approx(np.std(scores, ddof=1) / 3**0.5, rel=1e-9)


def test_classifier_score_refuses():
    even = np.full((20, 4), 0.25)
    for probabilities, splits, words in [
        (even[:19], 10, "at least 20"),
        (even * 2, 10, "sum.* 1"),
        (np.log(even), 10, "softmax"),
        (even, 1, "splits"),
        (even[0], 10, r"\(count, classes\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.classifier_score(probabilities, splits=splits)


# Precision and recall.


def precision_recall_by_loops(real, fake, k):
    def share(points, centers):
        radii = [sorted(math.dist(c, other) for other in centers)[k] for c in centers]  # [0]: self
        balls = list(zip(centers, radii, strict=True))
        return sum(any(math.dist(p, c) <= r for c, r in balls) for p in points) / len(points)

    return share(fake, real), share(real, fake)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_precision_and_recall_against_double_loops(k):
    found = metrics.precision_recall(REAL, FAKE, k=k)
    assert found == pytest.approx(precision_recall_by_loops(REAL, FAKE, k))
    assert 0 < min(found) and max(found) < 1 and found[0] != found[1]
    assert metrics.precision_recall(FAKE, REAL, k=k) == pytest.approx(found[::-1])


def test_precision_and_recall_of_identical_disjoint_and_partial_sets():
    assert metrics.precision_recall(REAL, REAL) == (1, 1)
    assert metrics.precision_recall(REAL, REAL + 100) == (0, 0)
    # Two far groups of equal size, one of them generated: all of it is real, half is missed.
    groups = np.concatenate([REAL, REAL + 100])
    assert metrics.precision_recall(groups, REAL) == (1, 0.5)
    assert metrics.precision_recall(REAL, groups) == (0.5, 1)
    # One perfect sample repeated is precise, and covers nothing else.
    assert metrics.precision_recall(REAL, np.tile(REAL[:1], (50, 1))) == (1, pytest.approx(1 / 60))


def test_precision_and_recall_refuse():
    for real, fake, k, words in [
        (REAL[:3], FAKE, 3, "real .* at least 4"),
        (REAL, FAKE[:3], 3, "fake .* at least 4"),
        (REAL, FAKE, 0, "k must"),
        (REAL, NAN, 3, "fake .*NaN"),
        (REAL, FAKE[:, :2], 3, "4 dimensions.* fake .*2"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.precision_recall(real, fake, k=k)


# Density and coverage.


def density_coverage_by_loops(real, fake, neighbors):
    radii = [sorted(math.dist(c, other) for other in real)[neighbors] for c in real]  # [0]: self
    inside = [[math.dist(c, p) <= r for p in fake] for c, r in zip(real, radii, strict=True)]
    return np.sum(inside) / neighbors / len(fake), np.any(inside, axis=1).mean()


@pytest.mark.parametrize("neighbors", [1, 5, 9])
def test_density_and_coverage_against_double_loops(neighbors):
    found = metrics.density_coverage(REAL, FAKE, neighbors=neighbors)
    assert found == pytest.approx(density_coverage_by_loops(REAL, FAKE, neighbors))
    assert 0 < min(found) and found[1] < 1 and found[0] != found[1]
    swapped = metrics.density_coverage(FAKE, REAL, neighbors=neighbors)
    assert swapped == pytest.approx(density_coverage_by_loops(FAKE, REAL, neighbors))
    assert all(type(value) is float for value in found)


def test_density_and_coverage_of_points_on_a_line():
    real = np.array([0.0, 1.0, 3.0, 4.5])[:, None]  # one neighbor: radii 1, 1, 1.5, 1.5
    fake = np.array([0.5, 1.0, 3.5, 9.0])[:, None]  # in 2 balls, in 2 (a border), in 2, in none
    assert metrics.density_coverage(real, fake, neighbors=1) == (6 / 4, 1)
    far = np.array([4.0, 9.5])[:, None]  # in 2, in none; the balls about 0 and 1 stay empty
    assert metrics.density_coverage(real, far, neighbors=1) == (2 / 2, 2 / 4)
    fake = np.array([1.1, 2.0, 5.0, 9.0])[:, None]  # two neighbors: radii 3, 2, 2, 3.5
    assert metrics.density_coverage(real, fake, neighbors=2) == ((4 + 4 + 2 + 0) / (2 * 4), 1)


@pytest.mark.parametrize("neighbors", [1, 3, 5])
def test_density_and_coverage_expect_1_and_lemma_2_of_one_distribution(neighbors):
    # All points are alike, so any other one is equally likely to be the nearest: both are exact.
    n, m = 60, 40
    runs = [
        metrics.density_coverage(*np.split(square, [n]), neighbors=neighbors)
        for square in np.random.default_rng(25).uniform(size=(30, n + m, 2))
    ]
    means, errors = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1) / 30**0.5
    # Missed: the nearest `neighbors` of the n - 1 + m others are real, all of them.
    missed = math.prod((n - i) / (n + m - i) for i in range(1, neighbors + 1))
    assert abs(means[0] - 1) < 4 * errors[0] < 0.2
    assert abs(means[1] - (1 - missed)) < 4 * errors[1] < 0.1
    # With equally many, and many, the lemma comes close to 1 - 2^-k.
    missed = math.prod((10**4 - i) / (2 * 10**4 - i) for i in range(1, neighbors + 1))
    assert missed == pytest.approx(2.0**-neighbors, rel=0.01)


def test_one_far_real_point_stretches_recall_and_precision_not_density():
    # A fake beside nothing, between a cloud and one outlier whose ball reaches the cloud.
    cloud, outlier = normal(26, (100, 2)), np.array([[20.0, 0.0]])
    real, fake = np.concatenate([cloud, outlier]), np.array([[10.0, y] for y in range(8)])
    assert metrics.precision_recall(real, fake)[0] == 1
    density, coverage = metrics.density_coverage(real, fake, neighbors=3)
    assert (density, coverage) == (pytest.approx(1 / 3), pytest.approx(1 / 101))
    # Repeating one sample is dense, and covers what is near it.
    density, coverage = metrics.density_coverage(REAL, np.tile(REAL[:1], (50, 1)))
    assert density > 0.2 and coverage == pytest.approx(density * 5 / 60)


@pytest.mark.parametrize("metric", [metrics.precision_recall, metrics.density_coverage])
def test_balls_in_several_chunks(metric, monkeypatch):
    found, counts = metric(REAL, FAKE), []
    whole = metrics.pairwise_distances_chunked

    def in_parts(*arguments, working_memory, **keywords):
        parts = list(whole(*arguments, working_memory=0.004, **keywords))
        counts.append(len(parts))
        return parts

    monkeypatch.setattr(metrics, "pairwise_distances_chunked", in_parts)
    assert metric(REAL, FAKE) == found and min(counts) > 3


def test_density_and_coverage_refuse():
    for real, fake, neighbors, words in [
        (REAL[:5], FAKE, 5, "real .* at least 6"),
        (REAL, FAKE[:5], 5, "fake .* at least 6"),
        (REAL, FAKE, 0, "neighbors must"),
        (REAL, NAN, 5, "fake .*NaN"),
        (REAL, FAKE[:, :2], 5, "4 dimensions.* fake .*2"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.density_coverage(real, fake, neighbors=neighbors)


# Classes.


def test_class_shares_count_the_largest_probability():
    rows = [[0.6, 0.4, 0], [0.5, 0.1, 0.4], [0, 0.51, 0.49], [1, 0, 0]]
    assert metrics.class_shares(np.array(rows)).tolist() == [0.75, 0.25, 0]


def test_class_divergence_is_the_closed_form_in_this_direction():
    real, fake = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert metrics.class_divergence(real, fake) == pytest.approx(expected, rel=1e-12)
    assert metrics.class_divergence(real, real) == 0
    assert metrics.class_divergence(fake, real) != pytest.approx(expected, rel=1e-3)
    # Only m of n equally frequent classes are generated: log(n / m).
    only_two = np.array([0.5, 0.5, 0, 0, 0])
    found = metrics.class_divergence(np.full(5, 0.2), only_two)
    assert found == pytest.approx(math.log(5 / 2), rel=1e-12)
    assert metrics.class_divergence(only_two, np.full(5, 0.2)) == math.inf
    # A share too small for its inverse.
    found = metrics.class_divergence(np.array([1.0, 5e-324]), np.array([0.5, 0.5]))
    assert found == pytest.approx(math.log(0.5) - math.log(5e-324) / 2)


def test_classes_refuse():
    with pytest.raises(ValueError, match="probabilities .*sum.* 1"):
        metrics.class_shares(np.ones((2, 3)))
    half = np.array([0.5, 0.5])
    for real, fake, error, words in [
        (half, np.array([3, 4]), TypeError, "fake_shares .*floats"),
        (1.2 * half, half, ValueError, "real_shares .*sum.* 1.2"),
        (half, np.array([0.5, 0.5, 0.0]), ValueError, "2 real and 3 fake"),
    ]:
        with pytest.raises(error, match=words):
            metrics.class_divergence(real, fake)


# Modes.

RING = np.stack([np.cos(np.arange(8) * math.tau / 8), np.sin(np.arange(8) * math.tau / 8)], axis=1)


def mode_coverage_by_loops(samples, modes, reach):
    counts, good = [0] * len(modes), [0] * len(modes)
    for sample in samples:
        far = [math.dist(sample, mode) for mode in modes]
        counts[far.index(min(far))] += 1
        good[far.index(min(far))] += min(far) <= reach
    return {
        "modes": sum(count > 0 for count in good),
        "high_quality": sum(good) / len(samples),
        "reverse_kl": scipy.stats.entropy(counts, np.ones(len(modes))),
    }


@pytest.mark.parametrize("deviation, radius", [(0.05, 3.0), (0.2, 1.5), (1.0, 3.0)])
def test_mode_coverage_against_loops(deviation, radius):
    modes = normal(23, (6, 3))
    samples = np.concatenate([normal(24, (70, 3)), modes[[0, 2, 2]] + 0.01])
    found = metrics.mode_coverage(samples, modes, deviation=deviation, radius=radius)
    assert found == pytest.approx(mode_coverage_by_loops(samples, modes, deviation * radius))
    assert 0 < found["reverse_kl"] < math.log(6)
    assert [type(value) for value in found.values()] == [int, float, float]


@pytest.mark.parametrize("m", [1, 3, 8])
def test_mode_coverage_of_a_collapse_to_m_modes(m):
    for kind in (np.float32, np.float64):
        found = metrics.mode_coverage(np.tile(RING[:m], (20, 1)).astype(kind), RING, deviation=0.01)
        assert found["modes"] == m and found["high_quality"] == 1
        assert found["reverse_kl"] == pytest.approx(math.log(8 / m), abs=1e-12)


def test_mode_coverage_at_the_border_of_high_quality():
    # Numbers without rounding: three deviations of 1/4 about the origin end at 3/4.
    modes = np.array([[0.0, 0.0], [16.0, 0.0]])
    for sample, inside in [
        ([0.75, 0.0], True),
        ([0.0, -0.75], True),
        ([0.45, 0.6 - 1e-9], True),
        ([np.nextafter(0.75, 1), 0.0], False),
        ([0.0, np.nextafter(-0.75, -1)], False),
        ([0.54, 0.54], False),  # inside the square, outside the circle
        ([15.25, 0.0], True),
        ([np.nextafter(15.25, 0), 0.0], False),
    ]:
        found = metrics.mode_coverage(np.array([sample]), modes, deviation=0.25)
        assert found["modes"] == found["high_quality"] == inside, sample
        assert found["reverse_kl"] == pytest.approx(math.log(2))
    tight = metrics.mode_coverage(np.array([[0.75, 0.0]]), modes, deviation=0.25, radius=2.9)
    assert tight["modes"] == 0


def test_mode_coverage_counts_every_sample_in_the_shares():
    # Three at the first mode; one nearest to the second, far from it: a share, not a mode.
    modes, samples = np.array([[0.0], [10.0]]), np.array([[0.0], [0.1], [-0.1], [8.0]])
    found = metrics.mode_coverage(samples, modes, deviation=0.1)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert (found["modes"], found["high_quality"]) == (1, 0.75)
    assert found["reverse_kl"] == pytest.approx(expected, rel=1e-12)


def test_mode_coverage_without_any_sample_of_high_quality():
    found = metrics.mode_coverage(1.5 * RING, RING, deviation=0.01)
    assert found == {"modes": 0, "high_quality": 0, "reverse_kl": 0}
    center = metrics.mode_coverage(np.zeros((50, 2)), RING, deviation=0.01)
    assert (center["modes"], center["high_quality"]) == (0, 0)
    assert center["reverse_kl"] == pytest.approx(math.log(8))  # ties go to the first


@pytest.mark.parametrize("name, deviation", [("ring", 0.01), ("grid", 0.05)])
def test_mode_coverage_of_real_samples(name, deviation):
    centers, share = getattr(data, f"{name}_modes")(), 1 - math.exp(-4.5)
    for step in range(3):
        samples = getattr(data, f"{name}_of_gaussians")(2500, seed=25, step=step)
        found = metrics.mode_coverage(samples, centers, deviation=deviation)
        assert found["modes"] == len(centers)
        assert abs(found["high_quality"] - share) < 5 * math.sqrt(share * (1 - share) / 2500)
        # Twice the count times the divergence is about chi-squared of k degrees of freedom.
        k = len(centers) - 1
        assert abs(2 * 2500 * found["reverse_kl"] - k) < 5 * math.sqrt(2 * k)
        assert found["reverse_kl"] > 0


def test_mode_coverage_refuses():
    for samples, modes, sizes, words in [
        (RING[:0], RING, {}, "^samples has 0 rows"),
        (RING, RING[:0], {}, "^modes has 0 rows"),
        (RING[0], RING, {}, r"^samples .*shape .*\(2,\)"),
        (np.full((3, 2), np.nan), RING, {}, "^samples .*NaN"),
        (RING, np.full((8, 2), np.inf), {}, "^modes .*inf"),
        (REAL, RING, {}, "samples has 4 dimensions, modes 2"),
        (RING, RING, {"deviation": 0.0}, "^deviation"),
        (RING, RING, {"deviation": -0.01}, "^deviation"),
        (RING, RING, {"deviation": math.nan}, "^deviation"),
        (RING, RING, {"radius": 0}, "^radius"),
        (RING, RING, {"radius": math.inf}, "^radius"),
        (np.eye(2, dtype=int), RING, {}, "^samples .*floats, not int64"),
        (RING, [[0, 1]], {}, "^modes .*floats, not int64"),
    ]:
        with pytest.raises((TypeError, ValueError), match=words):
            metrics.mode_coverage(samples, modes, **{"deviation": 0.01, **sizes})


# Memorizing, and the size of the support.

TRAINING = np.random.default_rng(17).uniform(-1, 1, (30, 4, 3, 2)).astype(np.float32)


def test_nearest_neighbors_against_a_double_loop():
    images = np.random.default_rng(18).uniform(-1, 1, (7, 4, 3, 2)).astype(np.float32)
    distances, indices = metrics.nearest_neighbors(images, TRAINING, count=3)
    assert distances.shape == indices.shape == (7, 3) and distances.dtype == np.float64
    for image, near, index in zip(images, distances, indices, strict=True):
        every = [math.dist(image.ravel(), other.ravel()) for other in TRAINING]
        assert index.tolist() == np.argsort(every)[:3].tolist()
        np.testing.assert_allclose(near, np.sort(every)[:3], rtol=1e-5)


def test_nearest_neighbors_find_a_copy():
    distances, indices = metrics.nearest_neighbors(TRAINING[[4, 9]], TRAINING)
    assert indices.tolist() == [[4], [9]]
    np.testing.assert_allclose(distances, 0, atol=1e-3)


def test_nearest_neighbors_refuse():
    for images, training, count, words in [
        (TRAINING + 1, TRAINING, 1, r"^images .*\[-1, 1\]"),
        (TRAINING, TRAINING / 2 + 0.5, 1, "^training_images .*nothing below 0"),
        (TRAINING, TRAINING[:2], 3, "training_images .*at least 3"),
        (TRAINING, TRAINING[..., :1], 1, "images are"),
        (TRAINING, TRAINING, 0, "count"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.nearest_neighbors(images, training, count=count)


def draws(size, count, seed):
    """Uniform draws from `size` points at distance 1 or more from one another, a little blurred."""
    random = np.random.default_rng(seed)
    points = random.integers(size, size=count)
    return np.stack([points, np.zeros(count)], axis=1) + random.uniform(-0.1, 0.1, (count, 2))


@pytest.mark.parametrize("size, batch_size", [(300, 20), (1000, 40), (1000, 25)])
def test_support_size_of_a_set_of_known_size(size, batch_size):
    sizes = {"threshold": 0.5, "batch_size": batch_size}
    runs = [
        metrics.support_size(draws(size, 100 * batch_size, seed), **sizes) for seed in range(20)
    ]
    estimates, lows, highs = np.transpose(runs)
    assert (lows < estimates).all() and (estimates < highs).all()
    assert np.median(estimates) == pytest.approx(size, rel=0.15)
    covered = (lows <= size) & (size <= highs)
    assert covered.mean() >= 0.8  # 95 % bounds: 16 of 20 would be rarer than 1 in 300
    assert 1.2 < np.median(highs / lows) < 4


def test_support_size_where_no_batch_or_every_batch_holds_a_pair():
    # Ten batches of two, that is of one pair: all points the same, or all different. Wilson's
    # bound of a share of 0 in 10 is z^2 / (10 + z^2), that of 10 in 10 the rest to 1.
    z2 = scipy.stats.chi2.ppf(0.95, 1)
    estimate, low, high = metrics.support_size(draws(1, 20, 0), threshold=0.5, batch_size=2)
    assert (estimate, low) == (0, 0)
    assert high == pytest.approx(-1 / math.log(z2 / (10 + z2)), rel=1e-9)
    different = np.arange(20.0)[:, None]
    estimate, low, high = metrics.support_size(different, threshold=0.5, batch_size=2)
    assert estimate == high == math.inf
    assert low == pytest.approx(-1 / math.log(10 / (10 + z2)), rel=1e-9)


def test_support_size_where_some_batches_hold_a_pair():
    # Every point twice, in batches of two: some seeds deal a few of the copies together.
    samples, shares = np.repeat(np.arange(10.0), 2)[:, None], set()
    z2 = scipy.stats.chi2.ppf(0.95, 1)
    for seed in range(20):
        dealt = np.random.default_rng(seed).permutation(samples).reshape(10, 2)
        p = np.mean(dealt[:, 0] == dealt[:, 1])
        if p > 0:
            middle, reach = p + z2 / 20, math.sqrt(z2 * (p * (1 - p) / 10 + z2 / 400))
            bounds = [x / (1 + z2 / 10) for x in (middle + reach, middle - reach)]
            found = metrics.support_size(samples, threshold=0.5, batch_size=2, seed=seed)
            assert found == pytest.approx([-1 / math.log(1 - x) for x in (p, *bounds)], rel=1e-9)
            shares.add(p)
    assert len(shares) > 1


def test_support_size_refuses():
    for threshold, batch_size, words in [
        (1.0, 11, "100 rows; at least 110"),
        (1.0, 1, "batch_size"),
        (0.0, 10, "threshold"),
        (math.nan, 10, "threshold"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.support_size(normal(19, (100, 2)), threshold=threshold, batch_size=batch_size)


# The whole row.


def judged(seed, count=80, scale=1.0):
    """A pair (features, probabilities) as a classifier would give it."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([0.2] * 3, count)
    return random.normal(size=(count, 4)) * scale, probabilities


def test_a_row_holds_every_score_with_the_floor_of_held_out_images():
    real, fake, held_out = judged(20), judged(21, scale=2), judged(22)
    row = metrics.score_samples(real, fake, held_out=held_out)
    for i, (features, probabilities) in enumerate((fake, held_out)):
        shares = [metrics.class_shares(x) for x in (real[1], probabilities)]
        assert {name: pair[i] for name, pair in row.items()} == {
            "frechet_distance": metrics.frechet_distance(real[0], features),
            "kernel_distance": metrics.kernel_distance(real[0], features)[0],
            "kernel_error": metrics.kernel_distance(real[0], features)[1],
            "classifier_score": metrics.classifier_score(probabilities)[0],
            "classifier_error": metrics.classifier_score(probabilities)[1],
            "precision": metrics.precision_recall(real[0], features)[0],
            "recall": metrics.precision_recall(real[0], features)[1],
            "density": metrics.density_coverage(real[0], features)[0],
            "coverage": metrics.density_coverage(real[0], features)[1],
            "class_divergence": metrics.class_divergence(*shares),
        }
    assert all(len(pair) == 2 and set(map(type, pair)) == {float} for pair in row.values())


def test_a_row_refuses_floors_of_another_count_and_what_the_metrics_refuse():
    with pytest.raises(ValueError, match="80 fake and 70 held out"):
        metrics.score_samples(judged(1), judged(2), held_out=judged(3, count=70))
    with pytest.raises(ValueError, match="4 rows; a covariance"):
        metrics.score_samples(judged(1), judged(2, count=4), held_out=judged(3, count=4))


def test_the_table_shows_every_system_and_the_floor():
    scores = {"recall": (0.25, 0.875), "frechet_distance": (123.456, 5.0)}
    other = {"recall": (0.5, 0.875), "frechet_distance": (math.inf, 5.0)}
    table = metrics.format_scores({"A system": scores, "B": other})
    assert [line.split() for line in table.splitlines()] == [
        ["A", "system", "B", "real"],
        ["recall", "0.25", "0.5", "0.875"],
        ["frechet_distance", "123.5", "inf", "5"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_the_table_refuses_systems_with_different_floors():
    with pytest.raises(ValueError, match="same floor"):
        metrics.format_scores({"A": {"recall": (0.25, 0.875)}, "B": {"recall": (0.25, 0.9)}})
    with pytest.raises(ValueError, match="one or more"):
        metrics.format_scores({})


# Labels that were asked for.


def test_label_accuracy_counts_the_images_that_are_read_as_asked():
    probabilities = np.array([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2]])
    assert metrics.label_accuracy(probabilities, [0, 1, 1, 0]) == 1
    assert metrics.label_accuracy(probabilities, np.array([0, 1, 0, 1])) == 0.5
    with pytest.raises(ValueError, match="1, 4"):
        metrics.label_accuracy(probabilities, [0])


def test_intra_class_distances_are_those_within_each_class():
    random = np.random.default_rng(4)
    labels = np.arange(60) % 3
    real = random.normal(size=(60, 2)) + 10 * labels[:, None]
    # The same points in another order, class 1 shifted by (3, 4), class 2 spread by a factor of 2.
    fake = real.copy()
    fake[labels == 1] += (3, 4)
    center = real[labels == 2].mean(axis=0)
    fake[labels == 2] = 2 * (real[labels == 2] - center) + center
    order = random.permutation(60)
    found = metrics.intra_class_frechet((real, labels), (fake[order], labels[order]), classes=3)
    spread = np.trace(np.cov(real[labels == 2], rowvar=False))  # (2 - 1)^2 of it
    np.testing.assert_allclose(found, [0, 25, spread], atol=1e-9)
    # Wrong classes are seen within classes, though not over all.
    swapped = metrics.intra_class_frechet((real, labels), (real, (labels + 1) % 3), classes=3)
    assert swapped.min() > 100 and metrics.frechet_distance(real, real[order]) < 1e-9


# Codes that are matched to classes.


def test_renamed_classes_match_without_error_and_every_wrong_code_counts():
    rng = np.random.default_rng(0)
    labels, renamed = rng.permutation(np.arange(1000) % 10), rng.permutation(10)
    matched, error = metrics.match_codes(renamed[labels], labels, 10)
    np.testing.assert_array_equal(matched[renamed], np.arange(10))
    assert error == 0
    wrong = renamed[labels]
    wrong[:30] = renamed[(labels[:30] + 1) % 10]
    assert metrics.match_codes(wrong, labels, 10)[1] == pytest.approx(0.03)


def test_no_matching_has_fewer_errors():
    found, labels = np.random.default_rng(1).integers(0, 4, (2, 200))
    matchings = itertools.permutations(range(4))
    errors = [np.mean(np.take(matching, found) != labels) for matching in matchings]
    assert metrics.match_codes(found, labels, 4)[1] == pytest.approx(min(errors))


def test_a_code_that_takes_two_classes_leaves_another_code_without_any():
    labels = np.repeat(np.arange(10), 100)
    merged = np.where(labels == 9, 4, labels)  # 9s carry the code of the 4s
    merged[labels == 1] = np.tile([1, 9], 50)  # and two codes share the 1s
    matched, error = metrics.match_codes(merged, labels, 10)
    assert sorted(matched) == list(range(10)) and error == pytest.approx(0.15)


@pytest.mark.parametrize("wrong", [[0, 10], [-1, 0]])
def test_codes_and_labels_out_of_range_are_refused(wrong):
    for codes, labels, name in ((wrong, [0, 1], "codes"), ([0, 1], wrong, "labels")):
        with pytest.raises(ValueError, match=f"{name} .*0 to 9"):
            metrics.match_codes(codes, labels, 10)


# Clusters, and neighbors.

SHARES = np.array([[0.6, 0.4, 0], [0.9, 0.1, 0], [0.8, 0.2, 0], [0.3, 0.7, 0], [0.1, 0.8, 0.1]])
LABELS = np.array([4, 7, 4, 2, 2])


def test_clusters_are_named_by_their_surest_image_or_by_most():
    np.testing.assert_array_equal(metrics.surest_labels(SHARES, LABELS), [7, 2, 2])
    np.testing.assert_array_equal(metrics.majority_labels(SHARES, LABELS), [4, 2, 0])
    tied = metrics.majority_labels(SHARES[:2], np.array([8, 5]))
    np.testing.assert_array_equal(tied, [5, 0, 0])


def test_the_error_counts_images_in_a_cluster_of_another_name():
    for names, error in (([7, 2, 2], 0.4), ([4, 2, 0], 0.2), ([2, 4, 7], 1)):
        assert metrics.cluster_error(SHARES, LABELS, np.array(names)) == pytest.approx(error)


def test_no_names_do_better_than_the_majority():
    random = np.random.default_rng(0)
    shares, labels = random.dirichlet(np.ones(4), 200), random.integers(0, 3, 200)
    every = map(np.array, np.ndindex(3, 3, 3, 3))
    best = min(metrics.cluster_error(shares, labels, names) for names in every)
    most = metrics.majority_labels(shares, labels)
    assert metrics.cluster_error(shares, labels, most) == best


def test_errors_of_what_does_not_fit_are_refused():
    for shares, labels, names, words in [
        (SHARES, LABELS, [1, 2], "2 names"),
        (SHARES, LABELS[:4], [1, 2, 3], "4 labels"),
        (SHARES[:0], LABELS[:0], [1, 2, 3], "0 labels"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.cluster_error(shares, labels, np.array(names))


def test_neighbor_accuracy_against_every_distance():
    random = np.random.default_rng(0)
    features, tests = random.normal(size=(50, 4)), random.normal(size=(30, 4))
    labels, test_labels = random.integers(0, 3, 50), random.integers(0, 3, 30)
    nearest = [min(range(50), key=lambda i: np.linalg.norm(features[i] - test)) for test in tests]
    expected = np.mean(labels[nearest] == test_labels)
    found = metrics.neighbor_accuracy(features, labels, tests, test_labels)
    assert found == pytest.approx(expected) and 0 < found < 1
    assert metrics.neighbor_accuracy(features, labels, features, labels) == 1
