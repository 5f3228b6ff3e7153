"""How good are the samples? Scores of features and probabilities, each with its limits.

Features (count, dimensions) and probabilities (count, classes) come from one classifier, usually
`classifier.classify`. Every score depends on that classifier and on the number of samples: compare
only scores made with the same ones, and put beside each what real images get (`score_samples`).
The course scores 10,000 samples against the 10,000 test images, and takes the floor from 10,000
training images against the test images. All of it is computed in float64.
"""

import math

import numpy as np
from sklearn.metrics import euclidean_distances, pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from ganutils import checks


def frechet_distance(real, fake):
    """Squared Frechet distance between the normal distributions fitted to two sets of features.

    |m_r - m_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^{1/2}) with means m and covariances S. The trace of
    the root is the sum of the roots of the eigenvalues of S_r^{1/2} S_f S_r^{1/2}, a symmetric
    matrix. Few samples bias it upwards: compare only at equal counts.

    Args:
        real: features, float (count, dimensions), more rows than columns.
        fake: features, float (count, dimensions), more rows than columns.

    Returns:
        Float >= 0, in squared units of the features; 0 for equal means and covariances.

    Raises:
        TypeError: the features are not floats.
        ValueError: too few samples, different dimensions, another shape, NaN, or beyond 1e30.

    Source: Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson and Landau 1982.
    """
    real, fake = checks.as_feature_pair(real, fake, full_rank=True)
    shift = real.mean(axis=0) - fake.mean(axis=0)
    real_cov, fake_cov = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, fake))
    values, vectors = np.linalg.eigh(real_cov)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    crossed = np.linalg.eigvalsh(root @ fake_cov @ root).clip(min=0)
    spread = np.trace(real_cov) + np.trace(fake_cov) - 2 * np.sqrt(crossed).sum()
    return float(max(shift @ shift + spread, 0.0))


def kernel_distance(real, fake, *, subsets=10, seed=0):
    """Kernel distance (KID): squared maximum mean discrepancy, kernel (x.y / dimensions + 1)^3.

    Unbiased at every sample count, so it can be below 0. Both sets are dealt at random into equal
    parts. As no sample is in two parts, the estimates are independent, and their spread gives an
    honest standard error.

    Args:
        real: features, float (count, dimensions), at least 2 * subsets rows.
        fake: features, float (count, dimensions), at least 2 * subsets rows.
        subsets: independent estimates, 2 or more; 10 of 1,000 at the course's counts.
        seed: integer >= 0, of the dealing.

    Returns:
        Pair of floats: mean of the estimates, and its standard error.

    Raises:
        TypeError: the features are not floats, or a number is no integer.
        ValueError: too few samples or subsets, different dimensions, another shape, NaN, values
            beyond 1e30, or a seed below 0.

    Source: Binkowski et al. 2018, arXiv 1801.01401, section 4 and equation 4; Zaremba et al. 2013,
        arXiv 1307.1954, for the independent parts.
    """
    subsets = checks.as_integer(subsets, "subsets", low=2, high=10**6)
    real, fake = checks.as_feature_pair(real, fake, least=2 * subsets)
    random, size = np.random.default_rng(seed), min(len(real), len(fake)) // subsets
    estimates = []
    dealt = (random.permutation(x)[: subsets * size] for x in (real, fake))
    for x, y in zip(*(np.split(part, subsets) for part in dealt), strict=True):
        within_x, within_y, across = (
            (a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))
        )
        pairs = size * (size - 1)  # an image with itself is no pair
        estimate = (within_x.sum() - np.trace(within_x)) / pairs - 2 * across.mean()
        estimates.append(estimate + (within_y.sum() - np.trace(within_y)) / pairs)
    return float(np.mean(estimates)), float(np.std(estimates, ddof=1) / math.sqrt(subsets))


def classifier_score(probabilities, *, splits=10):
    """exp E KL(p(y|x) || p(y)): sure about every image, and undecided over all of them.

    The inception score, with another classifier in place of Inception. No real image enters it.

    Args:
        probabilities: float (count, classes), rows of sum 1, in random order; at least 2 a split.
        splits: consecutive parts, each scored by itself; 2 or more.

    Returns:
        Pair of floats: mean over the splits, in 1..classes, and its standard error.

    Raises:
        TypeError: the probabilities are not floats, or splits is no integer.
        ValueError: too few samples or splits, another shape, NaN, or rows of another sum.

    Source: Salimans et al. 2016, arXiv 1606.03498, section 4.
    """
    splits = checks.as_integer(splits, "splits", low=2, high=10**6)
    probabilities = checks.as_probabilities(probabilities, "probabilities", least=2 * splits)
    scores, tiny = [], np.finfo(np.float64).tiny  # 0 log 0 = 0
    for given in np.array_split(probabilities, splits):
        ratio = np.log(given.clip(min=tiny)) - np.log(given.mean(axis=0).clip(min=tiny))
        scores.append(np.exp((given * ratio).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores, ddof=1) / math.sqrt(splits))


def precision_recall(real, fake, *, k=3):
    """How many samples look real, and how much of what is real can be generated.

    Around every point of a set lies a ball that reaches to its k-th neighbor in the set. Precision
    is the share of fakes in a ball of a real one; recall that of reals in a ball of a fake one.

    Args:
        real: features, float (count, dimensions), more than k rows; as many as fake to compare.
        fake: features, float (count, dimensions), more than k rows.
        k: neighbors, 1 or more.

    Returns:
        Pair of floats in 0..1: precision and recall.

    Raises:
        TypeError: the features are not floats, or k is no integer.
        ValueError: too few samples, different dimensions, another shape, NaN, or beyond 1e30.

    Source: Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.
    """
    k = checks.as_integer(k, "k", low=1, high=10**6)
    real, fake = checks.as_feature_pair(real, fake, least=k + 1)

    def share_inside(points, centers):
        neighbors = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(centers)
        radii = neighbors.kneighbors()[0][:, -1]  # of each center among the other ones
        chunks = pairwise_distances_chunked(
            points,
            centers,
            reduce_func=lambda distances, start: (distances <= radii).any(axis=1),
            working_memory=64,  # MiB
        )
        return float(np.concatenate(list(chunks)).mean())

    return share_inside(fake, real), share_inside(real, fake)


def class_shares(probabilities):
    """Share of the samples that go to each class, by the largest probability.

    Args:
        probabilities: float (count, classes), rows of sum 1.

    Returns:
        float64 array (classes,) of sum 1.

    Raises:
        TypeError: the probabilities are not floats.
        ValueError: another shape, no row, NaN, or rows of another sum.
    """
    probabilities = checks.as_probabilities(probabilities, "probabilities")
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return counts / len(probabilities)


def class_divergence(real_shares, fake_shares):
    """KL(fake || real) between the shares of classes, in nats.

    In this direction a class that is never generated leaves it finite.

    Args:
        real_shares: float (classes,) of sum 1.
        fake_shares: float (classes,) of sum 1.

    Returns:
        Float >= 0, 0 for equal shares; infinite where a class is generated that is never real.

    Raises:
        TypeError: the shares are not floats.
        ValueError: different numbers of classes, another shape, NaN, or another sum.

    Source: the direction of the mode-coverage tests, Lin et al. 2018, arXiv 1712.04086, section 4.
    """
    real_shares = checks.as_shares(real_shares, "real_shares")
    fake_shares = checks.as_shares(fake_shares, "fake_shares")
    if real_shares.shape != fake_shares.shape:
        raise ValueError(f"{len(real_shares)} real and {len(fake_shares)} fake classes.")
    there = fake_shares > 0
    if (real_shares[there] == 0).any():
        return math.inf
    ratio = np.log(fake_shares[there] / real_shares[there])
    return float(max((fake_shares[there] * ratio).sum(), 0.0))


def mode_coverage(samples, modes, *, deviation, radius=3.0):
    """How much of a mixture with equally likely modes do the samples cover?

    Each sample belongs to its nearest mode (the first of equally near ones) and is of high quality
    if it is no further than radius * deviation from it. In two dimensions a share of
    1 - exp(-radius^2 / 2) of a Gaussian is: 0.989 at 3. Reverse KL is KL(fake || real) in nats
    between the shares of the modes; every sample counts in it, of high quality or not. It is 0 for
    equal shares, and log(modes / m) if m modes get equal shares and the others none.

    Args:
        samples: float (count, dimensions), the published tests take 2,500.
        modes: float (modes, dimensions), the centers.
        deviation: standard deviation of each mode in each coordinate, > 0, in units of samples.
        radius: how far high quality reaches, in deviations, > 0.

    Returns:
        Dict: "modes", integer, how many have a sample of high quality; "high_quality", float, the
        share of such samples in 0..1; "reverse_kl", float in 0..log(modes).

    Raises:
        TypeError: samples or modes are not floats, or a number is none.
        ValueError: no row, different dimensions, another shape, NaN, values beyond 1e30, or a
            number not above 0.

    Source: Lin et al. 2018, arXiv 1712.04086, section 4; Srivastava et al. 2017, arXiv 1705.07761.
    """
    samples, modes = checks.as_samples_and_modes(samples, modes)
    reach = checks.as_positive(radius, "radius") * checks.as_positive(deviation, "deviation")
    distances = np.stack([np.linalg.norm(samples - mode, axis=1) for mode in modes], axis=1)
    nearest, good = distances.argmin(axis=1), distances.min(axis=1) <= reach
    shares = np.bincount(nearest, minlength=len(modes)) / len(samples)
    reverse_kl = class_divergence(np.full(len(modes), 1 / len(modes)), shares)
    covered = len(np.unique(nearest[good]))
    return {"modes": covered, "high_quality": good.mean().item(), "reverse_kl": reverse_kl}


def nearest_neighbors(images, training_images, *, count=1):
    """Nearest training images of each sample, pixel by pixel: is it memorizing?

    Args:
        images: float (samples, height, width, channels) in [-1, 1].
        training_images: float (N, height, width, channels) in [-1, 1], at least `count`.
        count: neighbors of each sample, 1 or more.

    Returns:
        distances, float64 (samples, count), Euclidean over all pixels, ascending; and indices into
        training_images, integers (samples, count).

    Raises:
        TypeError: the images are not floats, or count is no integer.
        ValueError: too few training images, different shapes, another range, or NaN.
    """
    images = checks.as_images(images, "images")
    count = checks.as_integer(count, "count", low=1, high=10**6)
    training_images = checks.as_images(training_images, "training_images", least=count)
    if images.shape[1:] != training_images.shape[1:]:
        raise ValueError(f"images are {images.shape[1:]}, training {training_images.shape[1:]}.")
    search = NearestNeighbors(n_neighbors=count, algorithm="brute")
    search.fit(training_images.reshape(len(training_images), -1))
    distances, indices = search.kneighbors(images.reshape(len(images), -1))
    return distances.astype(np.float64), indices


def support_size(samples, *, threshold, batch_size=100, seed=0):
    """Birthday-paradox estimate of how many different samples there are.

    Among s draws from N equally likely ones there are s (s - 1) / 2 pairs, each of which coincides
    with probability 1 / N. With p the share of batches in which a pair is nearer than the
    threshold, N = s (s - 1) / (2 ln(1 / (1 - p))). Unequal probabilities make it smaller.

    Args:
        samples: float (count, dimensions), features or flat images; at least 10 batches.
        threshold: distance > 0 below which two samples count as one; take it from real data.
        batch_size: s, 2 or more. Best where about half of the batches hold a pair.
        seed: integer >= 0, of the dealing into batches.

    Returns:
        Three floats: the estimate, and the 95 % bounds low and high (Wilson's, of p). Where no
        batch holds a pair, estimate and high are infinite and only low says something; where every
        batch does, estimate and low are 0 and only high does.

    Raises:
        TypeError: the samples are not floats, batch_size is no integer, or threshold no number.
        ValueError: fewer than 10 batches, a threshold not above 0, another shape, NaN, values
            beyond 1e30, or a seed below 0.

    Source: Arora and Zhang 2017, arXiv 1706.08224, section 2.
    """
    s = checks.as_integer(batch_size, "batch_size", low=2, high=10**6)
    samples, _ = checks.as_feature_pair(samples, samples, least=10 * s)
    if not 0 < threshold < math.inf:
        raise ValueError(f"threshold must be above 0 and finite, not {threshold}.")
    count = len(samples) // s
    dealt = np.random.default_rng(seed).permutation(samples)[: count * s]
    found = [
        euclidean_distances(batch)[np.triu_indices(s, 1)].min() < threshold
        for batch in np.split(dealt, count)
    ]
    p, z2 = np.mean(found), 1.96**2
    middle = p + z2 / (2 * count)
    width = math.sqrt(z2 * (p * (1 - p) + z2 / (4 * count)) / count)
    bounds = (middle + width) / (1 + z2 / count), (middle - width) / (1 + z2 / count)
    with np.errstate(divide="ignore"):  # p = 0 or p = 1
        sizes = s * (s - 1) / 2 / -np.log1p(-np.round([p, *bounds], 12).clip(0, 1))
    return tuple(sizes.tolist())


def score_samples(real, fake, *, held_out):
    """All scores of a set of samples, each beside its floor: what real images get.

    Real, fake and held_out are pairs (features, probabilities) from `classifier.classify`.

    Args:
        real: the reference, the course's 10,000 test images.
        fake: the samples, 10,000 in this course; more than there are dimensions.
        held_out: other real images, as many as fake.

    Returns:
        Dict from name to the pair of floats (score of fake, floor: the same score of held_out).

    Raises:
        TypeError, ValueError: as the metrics do; or the counts of fake and held_out differ.
    """
    if len(fake[0]) != len(held_out[0]):
        raise ValueError(f"{len(fake[0])} fake and {len(held_out[0])} held out; take equally many.")
    columns = []
    for features, probabilities in (fake, held_out):
        scores = {"frechet_distance": frechet_distance(real[0], features)}
        scores["kernel_distance"], scores["kernel_error"] = kernel_distance(real[0], features)
        scores["classifier_score"], scores["classifier_error"] = classifier_score(probabilities)
        scores["precision"], scores["recall"] = precision_recall(real[0], features)
        shares = class_shares(real[1]), class_shares(probabilities)
        scores["class_divergence"] = class_divergence(*shares)
        columns.append(scores)
    return {name: (score, columns[1][name]) for name, score in columns[0].items()}


def format_scores(results):
    """Lay out the scores of several systems as a text table whose last column is the floor.

    Args:
        results: dict from the name of a system to what `score_samples` returned for it.

    Returns:
        String: a line of names, then a line for each score.

    Raises:
        ValueError: nothing to lay out, or the floors differ: then the scores cannot be compared.
    """
    floors = [{name: floor for name, (_, floor) in scores.items()} for scores in results.values()]
    if not floors or any(floor != floors[0] for floor in floors):
        raise ValueError("Give scores of one or more systems that have the same floor.")
    width = max(12, *(len(system) + 2 for system in results))
    lines = [" " * 18 + "".join(f"{system:>{width}}" for system in [*results, "real"])]
    for name, floor in floors[0].items():
        values = [*(scores[name][0] for scores in results.values()), floor]
        lines.append(f"{name:18}" + "".join(f"{value:{width}.4g}" for value in values))
    return "\n".join(lines)
