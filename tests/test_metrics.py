"""Metrics against closed forms, double loops and scipy; sets that are made to be scored."""

import math

import numpy as np
import pytest
import scipy.linalg

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


# Frechet distance.


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
    root = scipy.linalg.sqrtm(a @ b).real
    expected = shift @ shift + np.trace(a + b - 2 * root)
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
        (REAL[:4], FAKE, "real has 4 rows; .* at least 5"),
        (REAL, FAKE[:4], "fake has 4 rows; .* at least 5"),
        (NAN, FAKE, "real holds NaN"),
        (REAL, NAN, "fake holds NaN"),
        (REAL, FAKE[:, :3], "4 dimensions and fake 3"),
        (REAL[:, 0], FAKE, r"real must have the shape \(count, dimensions\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.frechet_distance(real, fake)
    with pytest.raises(TypeError, match="fake must hold floats, not int64"):
        metrics.frechet_distance(REAL, FAKE.astype(np.int64))


# Kernel distance.


def kernel_distance_by_loops(real, fake):
    """The unbiased estimate of one part, term by term."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def mean_of_pairs(points):
        pairs = [(i, j) for i in range(len(points)) for j in range(len(points)) if i != j]
        return sum(kernel(points[i], points[j]) for i, j in pairs) / len(pairs)

    across = sum(kernel(x, y) for x in real for y in fake) / (len(real) * len(fake))
    return mean_of_pairs(real) + mean_of_pairs(fake) - 2 * across


def test_kernel_distance_against_a_double_loop():
    # The parts as the docstring deals them: both sets by one generator, real first.
    random = np.random.default_rng(11)
    real, fake = (random.permutation(x)[:48].reshape(3, 16, 4) for x in (REAL, FAKE))
    estimates = [kernel_distance_by_loops(x, y) for x, y in zip(real, fake, strict=True)]
    mean, error = metrics.kernel_distance(REAL, FAKE, subsets=3, seed=11)
    assert mean == pytest.approx(np.mean(estimates), rel=1e-9)
    assert error == pytest.approx(np.std(estimates, ddof=1) / 3**0.5, rel=1e-9)


def test_kernel_distance_is_unbiased_at_small_counts_and_its_error_is_honest():
    # Both sets from one distribution: the truth is 0, at 10 samples a part as at 100.
    for count in (100, 1000):
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
    for arguments, keywords, words in [
        ((REAL[:19], FAKE), {}, "real has 19 rows; at least 20"),
        ((REAL, FAKE[:19]), {}, "fake has 19 rows; at least 20"),
        ((NAN, FAKE), {}, "real holds NaN"),
        ((REAL, FAKE), {"subsets": 1}, "subsets must be in 2"),
        ((REAL, FAKE), {"subsets": 2.0}, "subsets must be an integer"),
    ]:
        with pytest.raises((TypeError, ValueError), match=words):
            metrics.kernel_distance(*arguments, **keywords)


# Classifier score.


def test_classifier_score_of_sure_and_even_probabilities_is_the_number_of_classes():
    one_hot = np.tile(np.eye(10), (20, 1))
    score, error = metrics.classifier_score(one_hot)
    assert score == pytest.approx(10, rel=1e-9) and error == pytest.approx(0, abs=1e-9)
    only_three = np.tile(np.eye(10)[:3], (20, 1))
    assert metrics.classifier_score(only_three)[0] == pytest.approx(3, rel=1e-9)


def test_classifier_score_of_constant_probabilities_is_1():
    for row in (np.full(10, 0.1), np.eye(10)[4], np.array([0.5, 0.3, 0.2])):
        score, error = metrics.classifier_score(np.tile(row, (40, 1)))
        assert (score, error) == (pytest.approx(1, abs=1e-12), pytest.approx(0, abs=1e-12))


def test_classifier_score_against_its_definition():
    probabilities = np.random.default_rng(14).dirichlet([0.3] * 5, 60)
    scores = []
    for part in probabilities.reshape(3, 20, 5):
        marginal = part.mean(axis=0)
        divergences = [
            sum(p * math.log(p / q) for p, q in zip(row, marginal, strict=True)) for row in part
        ]
        scores.append(math.exp(sum(divergences) / 20))
    score, error = metrics.classifier_score(probabilities, splits=3)
    assert score == pytest.approx(np.mean(scores), rel=1e-9)
    assert error == pytest.approx(np.std(scores, ddof=1) / 3**0.5, rel=1e-9)


def test_classifier_score_refuses():
    even = np.full((20, 4), 0.25)
    for probabilities, splits, words in [
        (even[:19], 10, "19 rows; at least 20"),
        (even * 2, 10, "rows that sum to 1"),
        (np.log(even), 10, "softmax"),
        (even, 1, "splits must be in 2"),
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


def test_precision_and_recall_in_several_chunks(monkeypatch):
    real, fake = normal(15, (3000, 2)), normal(16, (3500, 2)) * 2
    found = metrics.precision_recall(real, fake)  # 3500 x 3000 distances: more than one chunk
    whole = metrics.pairwise_distances_chunked

    def in_one(*arguments, working_memory, **keywords):
        parts = list(whole(*arguments, working_memory=4096, **keywords))
        assert len(parts) == 1
        return parts

    monkeypatch.setattr(metrics, "pairwise_distances_chunked", in_one)
    assert metrics.precision_recall(real, fake) == found


def test_precision_and_recall_refuse():
    for real, fake, k, words in [
        (REAL[:3], FAKE, 3, "real has 3 rows; at least 4"),
        (REAL, FAKE[:3], 3, "fake has 3 rows; at least 4"),
        (REAL, FAKE, 0, "k must be in 1"),
        (REAL, NAN, 3, "fake holds NaN"),
        (REAL, FAKE[:, :2], 3, "one classifier"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.precision_recall(real, fake, k=k)


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


def test_classes_refuse():
    with pytest.raises(ValueError, match="probabilities must be >= 0 with rows that sum to 1"):
        metrics.class_shares(np.ones((2, 3)))
    with pytest.raises(TypeError, match="fake_shares must hold floats"):
        metrics.class_divergence(np.array([0.5, 0.5]), np.array([3, 4]))
    with pytest.raises(ValueError, match="real_shares .* sum 1.2"):
        metrics.class_divergence(np.array([0.6, 0.6]), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="2 real and 3 fake"):
        metrics.class_divergence(np.array([0.5, 0.5]), np.array([0.5, 0.5, 0.0]))


# Modes.

RING = np.stack([np.cos(np.arange(8) * math.tau / 8), np.sin(np.arange(8) * math.tau / 8)], axis=1)


def mode_coverage_by_loops(samples, modes, reach):
    counts, good = [0] * len(modes), [0] * len(modes)
    for sample in samples:
        far = [math.dist(sample, mode) for mode in modes]
        counts[far.index(min(far))] += 1
        good[far.index(min(far))] += min(far) <= reach
    shares = [count / len(samples) for count in counts]
    kl = sum(share * math.log(share * len(modes)) for share in shares if share)
    return {
        "modes": sum(count > 0 for count in good),
        "high_quality": sum(good) / len(samples),
        "reverse_kl": kl,
    }


@pytest.mark.parametrize("deviation, radius", [(0.05, 3.0), (0.2, 1.5), (1.0, 3.0)])
def test_mode_coverage_against_loops(deviation, radius):
    modes = normal(23, (6, 3))
    samples = np.concatenate([normal(24, (70, 3)), modes[[0, 2, 2]] + 0.01])
    found = metrics.mode_coverage(samples, modes, deviation=deviation, radius=radius)
    assert found == pytest.approx(mode_coverage_by_loops(samples, modes, deviation * radius))
    assert 0 < found["reverse_kl"] < math.log(6)
    assert [type(value) for value in found.values()] == [int, float, float]


def test_mode_coverage_of_one_sample_at_each_mode():
    found = metrics.mode_coverage(RING, RING, deviation=0.01)
    assert found == {"modes": 8, "high_quality": 1, "reverse_kl": 0}
    single = metrics.mode_coverage(RING.astype(np.float32), RING, deviation=0.01)
    assert single == found


@pytest.mark.parametrize("m", [1, 3, 8])
def test_mode_coverage_of_a_collapse_to_m_modes(m):
    found = metrics.mode_coverage(np.tile(RING[:m], (20, 1)), RING, deviation=0.01)
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


@pytest.mark.parametrize(
    "draw, centers, deviation",
    [
        (data.ring_of_gaussians, data.ring_modes(), 0.01),
        (data.grid_of_gaussians, data.grid_modes(), 0.05),
    ],
)
def test_mode_coverage_of_real_samples(draw, centers, deviation):
    for step in range(3):
        samples = draw(2500, seed=25, step=step)
        found = metrics.mode_coverage(samples, centers, deviation=deviation)
        share = 1 - math.exp(-4.5)
        assert found["modes"] == len(centers)
        assert abs(found["high_quality"] - share) < 5 * math.sqrt(share * (1 - share) / 2500)
        # Twice the count times the divergence is about chi-squared of k degrees of freedom.
        k = len(centers) - 1
        assert abs(2 * 2500 * found["reverse_kl"] - k) < 5 * math.sqrt(2 * k)
        assert found["reverse_kl"] > 0


def test_mode_coverage_refuses():
    for samples, modes, keywords, words in [
        (RING[:0], RING, {}, "^samples has 0 rows"),
        (RING, RING[:0], {}, "^modes has 0 rows"),
        (RING[0], RING, {}, r"^samples must have the shape .* not \(2,\)"),
        (np.full((3, 2), np.nan), RING, {}, "^samples holds NaN"),
        (RING, np.full((8, 2), np.inf), {}, "^modes holds NaN or inf"),
        (REAL, RING, {}, "samples have 4 dimensions, modes 2"),
        (RING, RING, {"deviation": 0.0}, "^deviation must be above 0"),
        (RING, RING, {"deviation": -0.01}, "^deviation must be above 0"),
        (RING, RING, {"deviation": math.nan}, "^deviation must be above 0"),
        (RING, RING, {"radius": 0}, "^radius must be above 0"),
        (RING, RING, {"radius": math.inf}, "^radius must be above 0 and finite"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.mode_coverage(samples, modes, **{"deviation": 0.01, **keywords})
    for samples, modes, name in [
        (np.eye(2, dtype=int), RING, "samples"),
        (RING, [[0, 1]], "modes"),
    ]:
        with pytest.raises(TypeError, match=f"^{name} must hold floats, not int64"):
            metrics.mode_coverage(samples, modes, deviation=0.01)


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
        (TRAINING + 1, TRAINING, 1, r"^images must be in \[-1, 1\]"),
        (TRAINING, TRAINING / 2 + 0.5, 1, "^training_images .* nothing below 0"),
        (TRAINING, TRAINING[:2], 3, "training_images has 2 rows; at least 3"),
        (TRAINING, TRAINING[..., :1], 1, "images are"),
        (TRAINING, TRAINING, 0, "count must be in 1"),
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
    runs = [
        metrics.support_size(
            draws(size, 100 * batch_size, seed), threshold=0.5, batch_size=batch_size
        )
        for seed in range(20)
    ]
    estimates, lows, highs = np.transpose(runs)
    assert (lows < estimates).all() and (estimates < highs).all()
    assert np.median(estimates) == pytest.approx(size, rel=0.15)
    covered = (lows <= size) & (size <= highs)
    assert covered.mean() >= 0.8  # 95 % bounds: 16 of 20 would be rarer than 1 in 300
    assert 1.2 < np.median(highs / lows) < 4


def test_support_size_by_hand():
    # Ten batches of two, that is of one pair: all points the same, or all different.
    # Wilson's bound of a share of 0 in 10 is z^2 / (10 + z^2), that of 10 in 10 the rest to 1.
    estimate, low, high = metrics.support_size(draws(1, 20, 0), threshold=0.5, batch_size=2)
    assert (estimate, low) == (0, 0)
    assert high == pytest.approx(1 / -math.log(1 - 10 / 13.8416))
    different = np.arange(20.0)[:, None]
    estimate, low, high = metrics.support_size(different, threshold=0.5, batch_size=2)
    assert estimate == high == math.inf
    assert low == pytest.approx(1 / -math.log(1 - 3.8416 / 13.8416))


def test_support_size_with_half_of_the_batches():
    # Every point twice, in batches of two: some seed deals a few of the copies together.
    samples = np.repeat(np.arange(10.0), 2)[:, None]
    for seed in range(50):
        dealt = np.random.default_rng(seed).permutation(samples).reshape(10, 2)
        share = np.mean(dealt[:, 0] == dealt[:, 1])
        if 0 < share < 1:
            found = metrics.support_size(samples, threshold=0.5, batch_size=2, seed=seed)[0]
            assert found == pytest.approx(1 / -math.log(1 - share))
            return
    raise AssertionError("no seed deals a pair")


def test_support_size_refuses():
    samples = normal(19, (100, 2))
    for arguments, words in [
        ({"threshold": 1.0, "batch_size": 11}, "100 rows; at least 110"),
        ({"threshold": 1.0, "batch_size": 1}, "batch_size must be in 2"),
        ({"threshold": 0.0, "batch_size": 10}, "threshold must be above 0"),
        ({"threshold": math.nan, "batch_size": 10}, "threshold must be above 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            metrics.support_size(samples, **arguments)


# The whole row.


def judged(seed, count=80, scale=1.0):
    """A pair (features, probabilities) as a classifier would give it."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([0.2] * 3, count)
    return random.normal(size=(count, 4)) * scale, probabilities


def test_a_row_holds_every_score_with_the_floor_of_held_out_images():
    real, fake, held_out = judged(20), judged(21, scale=2), judged(22)
    row = metrics.score_samples(real, fake, held_out=held_out)
    kernel = [metrics.kernel_distance(real[0], x[0]) for x in (fake, held_out)]
    assert row["frechet_distance"] == (
        metrics.frechet_distance(real[0], fake[0]),
        metrics.frechet_distance(real[0], held_out[0]),
    )
    assert list(zip(row["kernel_distance"], row["kernel_error"], strict=True)) == kernel
    assert row["classifier_score"][0] == metrics.classifier_score(fake[1])[0]
    assert row["classifier_error"][1] == metrics.classifier_score(held_out[1])[1]
    assert row["precision"][0] == metrics.precision_recall(real[0], fake[0])[0]
    assert row["recall"][1] == metrics.precision_recall(real[0], held_out[0])[1]
    shares = [metrics.class_shares(x[1]) for x in (real, fake)]
    assert row["class_divergence"][0] == metrics.class_divergence(*shares)
    assert len(row) == 8 and all(len(pair) == 2 for pair in row.values())
    assert all(isinstance(value, float) for pair in row.values() for value in pair)
    same = metrics.score_samples(real, held_out, held_out=held_out)
    assert all(score == floor for score, floor in same.values())


def test_a_row_refuses_floors_of_another_count_and_what_the_metrics_refuse():
    with pytest.raises(ValueError, match="80 fake and 70 held out"):
        metrics.score_samples(judged(1), judged(2), held_out=judged(3, count=70))
    with pytest.raises(ValueError, match="4 rows; a covariance"):
        metrics.score_samples(judged(1), judged(2, count=4), held_out=judged(3, count=4))


def test_the_table_shows_every_system_and_the_floor():
    scores = {"recall": (0.25, 0.875), "frechet_distance": (123.456, 5.0)}
    other = {"recall": (0.5, 0.875), "frechet_distance": (math.inf, 5.0)}
    table = metrics.format_scores({"A system": scores, "B": other})
    lines = [line.split() for line in table.splitlines()]
    assert lines == [
        ["A", "system", "B", "real"],
        ["recall", "0.25", "0.5", "0.875"],
        ["frechet_distance", "123.5", "inf", "5"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_the_table_refuses_systems_with_different_floors():
    scores = {"recall": (0.25, 0.875)}
    with pytest.raises(ValueError, match="same floor"):
        metrics.format_scores({"A": scores, "B": {"recall": (0.25, 0.9)}})
    with pytest.raises(ValueError, match="one or more"):
        metrics.format_scores({})
