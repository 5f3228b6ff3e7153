"""How good are the samples? Scores of features and probabilities, and matchings of labels.

Features (count, dimensions) and probabilities (count, classes) come from one classifier, usually
`classifier.classify`. A score depends on that classifier and on the number of samples: compare only
what was made with the same ones, and put beside it what real images get (`score_samples`). The
course takes 10,000 samples; for the floor, as many training images; against the 10,000 test images.
All is computed in float64. Unfit input is a TypeError or ValueError that says what was found.
"""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, pairwise_distances_chunked
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from ganutils import validation


def frechet_distance(real, fake):
    """Squared Fréchet distance (FID) of the normal distributions fitted to two feature sets.

    |m_r - m_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^{1/2}) with means m and covariances S, >= 0. Each set
    needs more rows than dimensions; few rows bias it upwards, so compare at equal counts only.

    Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson and Landau 1982.
    """
    real, fake = validation.as_feature_pair(real, fake, full_rank=True)
    shift = real.mean(axis=0) - fake.mean(axis=0)
    real_cov, fake_cov = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, fake))
    values, vectors = np.linalg.eigh(real_cov)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # Tr (S_r S_f)^{1/2} by the eigenvalues of S_r^{1/2} S_f S_r^{1/2}, a symmetric matrix.
    crossed = np.linalg.eigvalsh(root @ fake_cov @ root).clip(min=0)
    spread = np.trace(real_cov) + np.trace(fake_cov) - 2 * np.sqrt(crossed).sum()
    return float(max(shift @ shift + spread, 0.0))


def kernel_distance(real, fake, *, subsets=10, seed=0):
    """Kernel distance (KID): squared maximum mean discrepancy, kernel (x.y / dimensions + 1)^3.

    Unbiased at every count, so it can be below 0. Both sets are dealt into `subsets` equal parts, 2
    rows or more each; no sample is in two of them, so their spread gives an honest error.

    Returns: mean of the parts' estimates, and its standard error.
    Bińkowski et al. 2018, arXiv 1801.01401, section 4 and equation 4; for independent parts
    Zaremba et al. 2013, arXiv 1307.1954.
    """
    subsets = validation.as_integer(subsets, "subsets", low=2, high=10**6)
    real, fake = validation.as_feature_pair(real, fake, least=2 * subsets)
    random, size = np.random.default_rng(seed), min(len(real), len(fake)) // subsets
    real, fake = (random.permutation(x)[: subsets * size] for x in (real, fake))
    estimates = []
    for x, y in zip(np.split(real, subsets), np.split(fake, subsets), strict=True):
        within_x, within_y, across = (
            (a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))
        )
        pairs = size * (size - 1)  # an image with itself is no pair
        estimate = (within_x.sum() - np.trace(within_x)) / pairs - 2 * across.mean()
        estimates.append(estimate + (within_y.sum() - np.trace(within_y)) / pairs)
    return float(np.mean(estimates)), float(np.std(estimates, ddof=1) / math.sqrt(subsets))


def classifier_score(probabilities, *, splits=10):
    """exp E KL(p(y|x) || p(y)): sure about every image, and undecided over all of them.

    The inception score with another classifier; no real image enters it. `splits` consecutive
    parts, 2 rows or more each, are scored one by one, so the rows should be in random order.

    Returns: mean over the parts, in 1..classes, and its standard error.
    Salimans et al. 2016, arXiv 1606.03498, section 4.
    """
    splits = validation.as_integer(splits, "splits", low=2, high=10**6)
    probabilities = validation.as_probabilities(probabilities, "probabilities", least=2 * splits)
    scores, tiny = [], np.finfo(np.float64).tiny  # 0 log 0 = 0
    for given in np.array_split(probabilities, splits):
        ratio = np.log(given.clip(min=tiny)) - np.log(given.mean(axis=0).clip(min=tiny))
        scores.append(np.exp((given * ratio).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores, ddof=1) / math.sqrt(splits))


def precision_recall(real, fake, *, k=3):
    """Share of fakes that look real, and share of reals that can be generated; each in 0..1.

    A ball about each feature reaches to its k-th neighbor in its own set. Precision counts fakes in
    a ball of a real one, recall reals in a ball of a fake one.

    Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.
    """
    k = validation.as_integer(k, "k", low=1, high=10**6)
    real, fake = validation.as_feature_pair(real, fake, least=k + 1)

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


def density_coverage(real, fake, *, neighbors=5):
    """How deep among real ones the fakes lie, and the share of reals with a fake close by.

    A ball about each real feature reaches to its neighbor of that number in the real set. Density
    is the number of balls about a fake, a mean over fakes, divided by `neighbors`: it can be above
    1. Coverage is the share of balls with a fake in them. Of equally many reals and fakes from one
    distribution 1 is expected, and for the coverage about 1 - 2^-neighbors.

    Naeem et al. 2020, arXiv 2002.09797, section 3 and lemma 2.
    """
    neighbors = validation.as_integer(neighbors, "neighbors", low=1, high=10**6)
    real, fake = validation.as_feature_pair(real, fake, least=neighbors + 1)
    search = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(real)
    radii = search.kneighbors()[0][:, -1:]  # of each real one among the other ones
    chunks = pairwise_distances_chunked(
        real,
        fake,
        reduce_func=lambda d, start: (d <= radii[start : start + len(d)]).sum(axis=1),
        working_memory=64,  # MiB
    )
    held = np.concatenate(list(chunks))  # fakes in each ball
    return float(held.sum() / (neighbors * len(fake))), float((held > 0).mean())


def class_shares(probabilities):
    """Share of the samples in each class, by the largest probability: float64 (classes,)."""
    probabilities = validation.as_probabilities(probabilities, "probabilities")
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return counts / len(probabilities)


def class_divergence(real_shares, fake_shares):
    """KL(fake || real) between shares of classes, in nats; 0 for equal ones.

    In this direction a class that is never generated leaves it finite; a generated one that is
    never real makes it infinite. As in Lin et al. 2018, arXiv 1712.04086, section 4.
    """
    real_shares = validation.as_probabilities(real_shares, "real_shares", shape=("classes",))
    fake_shares = validation.as_probabilities(fake_shares, "fake_shares", shape=("classes",))
    if real_shares.shape != fake_shares.shape:
        raise ValueError(f"{len(real_shares)} real and {len(fake_shares)} fake classes.")
    there = fake_shares > 0
    if (real_shares[there] == 0).any():
        return math.inf
    ratio = np.log(fake_shares[there]) - np.log(real_shares[there])
    return float(max((fake_shares[there] * ratio).sum(), 0.0))


def mode_coverage(samples, modes, *, deviation, radius=3.0):
    """How much of a mixture with equally likely modes do the samples cover?

    A sample belongs to its nearest mode, and is of high quality within `radius` deviations of it:
    in two dimensions 0.989 of a Gaussian are, at 3. Every sample counts in the modes' shares.

    Args:
        samples: float (count, dimensions); published tests take 2,500.
        modes: float (modes, dimensions), the centers.
        deviation: standard deviation of each mode, in units of samples.

    Returns: dict of "modes", how many have a sample of high quality; "high_quality", the share of
    such samples; "reverse_kl", KL(fake || real) in nats, log(modes / m) if m get equal shares.
    Lin et al. 2018, arXiv 1712.04086, section 4; Srivastava et al. 2017, arXiv 1705.07761.
    """
    samples, modes = validation.as_feature_pair(samples, modes, names=("samples", "modes"), least=1)
    deviation = validation.as_positive(deviation, "deviation")
    radius = validation.as_positive(radius, "radius")
    distances = np.stack([np.linalg.norm(samples - mode, axis=1) for mode in modes], axis=1)
    nearest, good = distances.argmin(axis=1), distances.min(axis=1) <= radius * deviation
    shares = np.bincount(nearest, minlength=len(modes)) / len(samples)
    reverse_kl = class_divergence(np.full(len(modes), 1 / len(modes)), shares)
    covered = len(np.unique(nearest[good]))
    return {"modes": covered, "high_quality": good.mean().item(), "reverse_kl": reverse_kl}


def nearest_neighbors(images, training_images, *, count=1):
    """Nearest training images of each sample, pixel by pixel: is it memorizing?

    Both are float (count, height, width, channels) in [-1, 1].

    Returns: Euclidean distances, float64 (samples, count), ascending; and indices of training
    images, integers of the same shape.
    """
    images = validation.as_images(images, "images")
    count = validation.as_integer(count, "count", low=1, high=10**6)
    training_images = validation.as_images(training_images, "training_images", least=count)
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
        samples: float (count, dimensions), features or flat images; 10 batches or more.
        threshold: distance below which two samples count as one; take it from real data.
        batch_size: s; best where about half of the batches hold a pair.

    Returns: the estimate, and the 95 % bounds low and high (Wilson's, of p). Where no batch holds a
    pair, estimate and high are infinite; where each does, estimate and low are 0.
    Arora and Zhang 2017, arXiv 1706.08224, section 2.
    """
    batch_size = validation.as_integer(batch_size, "batch_size", low=2, high=10**6)
    samples, _ = validation.as_feature_pair(samples, samples, least=10 * batch_size)
    threshold = validation.as_positive(threshold, "threshold")
    count = len(samples) // batch_size
    dealt = np.random.default_rng(seed).permutation(samples)[: count * batch_size]
    found = sum(pdist(batch).min() < threshold for batch in np.split(dealt, count))
    bounds = binomtest(found, count).proportion_ci(method="wilson")
    shares = np.array([found / count, bounds.high, bounds.low])
    with np.errstate(divide="ignore"):  # shares of 0 and of 1
        sizes = batch_size * (batch_size - 1) / 2 / -np.log1p(-shares)
    return tuple(sizes.tolist())


def score_samples(real, fake, *, held_out):
    """All scores of a set of samples, each beside its floor: what other real images get.

    All three are pairs (features, probabilities): of the reference, the course's 10,000 test
    images; of as many samples; and of as many other real images.

    Returns: dict from name to the pair of floats (score of fake, floor: that of held_out).
    """
    if len(fake[0]) != len(held_out[0]):
        raise ValueError(f"{len(fake[0])} fake and {len(held_out[0])} held out; take equally many.")
    columns = []
    for features, probabilities in (fake, held_out):
        scores = {"frechet_distance": frechet_distance(real[0], features)}
        scores["kernel_distance"], scores["kernel_error"] = kernel_distance(real[0], features)
        scores["classifier_score"], scores["classifier_error"] = classifier_score(probabilities)
        scores["precision"], scores["recall"] = precision_recall(real[0], features)
        scores["density"], scores["coverage"] = density_coverage(real[0], features)
        shares = class_shares(real[1]), class_shares(probabilities)
        scores["class_divergence"] = class_divergence(*shares)
        columns.append(scores)
    return {name: (score, columns[1][name]) for name, score in columns[0].items()}


def format_scores(results):
    """Lay out the scores of several systems as a text table whose last column is the floor.

    results: dict from the name of a system to what `score_samples` returned for it. Systems with
    different floors cannot be compared, and are refused.
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


def label_accuracy(probabilities, labels):
    """Share of images, in 0..1, whose most probable class is the label that was asked for.

    probabilities: (count, classes), as from `classifier.classify`; labels: integers (count,).
    """
    return float(accuracy_score(labels, np.argmax(probabilities, axis=1)))


def intra_class_frechet(real, fake, *, classes):
    """Fréchet distance within each class: float64 (classes,), a number for each label asked for.

    real and fake: pairs of features (count, dimensions) and integer arrays of labels (count,); in
    each class more images than dimensions, here as there.
    """
    (features, labels), (fake_features, fake_labels) = real, fake
    return np.array(
        [
            frechet_distance(features[labels == c], fake_features[fake_labels == c])
            for c in range(classes)
        ]
    )


def match_codes(codes, labels, classes):
    """Match codes to classes one to one, with as few errors as any matching makes.

    codes and labels: integers (count,), 0 to classes - 1, of the same images.

    Returns: the class that each code stands for, integers (classes,); and the share of images whose
    code stands for another class, a float in 0..1.
    Kuhn 1955, "The Hungarian method for the assignment problem".
    """
    codes = validation.as_labels(codes, len(codes), classes, "codes")
    labels = validation.as_labels(labels, len(codes), classes)
    counts = confusion_matrix(codes, labels, labels=range(classes))
    rows, matched = linear_sum_assignment(counts, maximize=True)
    return matched, float(1 - counts[rows, matched].sum() / counts.sum())


def surest_labels(shares, labels):
    """Name each cluster after the one image that is surest to be in it: integers (classes,).

    shares: (count, classes), rows of q(y|x); labels: integer array (count,), what images show.
    Makhzani et al. 2016, arXiv 1511.05644, section 6.
    """
    return labels[np.argmax(shares, axis=0)]


def majority_labels(shares, labels):
    """Name each cluster after the label that most of its images have; an empty one is called 0.

    Arguments and what is returned: as for `surest_labels`. On a tie the smallest label wins.
    """
    clusters, classes = np.argmax(shares, axis=1), range(shares.shape[1])
    return np.array([np.bincount(labels[clusters == c], minlength=1).argmax() for c in classes])


def cluster_error(shares, labels, names):
    """Share of images, in 0..1, in a cluster of another name than theirs.

    names: integer array (classes,), from `surest_labels` or `majority_labels`, best of other
    images; the rest as for these. An image is in the cluster of its largest share.
    """
    if not len(labels) or shares.shape != (len(labels), len(names)):
        raise ValueError(f"{shares.shape=} for {len(labels)} labels and {len(names)} names.")
    return float(np.mean(names[np.argmax(shares, axis=1)] != labels))


def neighbor_accuracy(features, labels, test_features, test_labels):
    """Share of test examples, in 0..1, whose nearest neighbor in the index has the same label.

    features and labels are the index: (count, dimensions), Euclidean, and integers (count,).
    Cover and Hart 1967, "Nearest neighbor pattern classification".
    """
    index = KNeighborsClassifier(1, algorithm="brute").fit(features, labels)
    return float(index.score(test_features, test_labels))
