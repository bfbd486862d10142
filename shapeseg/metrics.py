"""How good are predicted masks? Every number from counts over the whole set."""

import math

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from shapeseg.checks import as_array, check_names, expect, real, whole
from shapeseg.figures import CLASSES

EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON] in the cross-entropy


class Counts:
    """Sums over any number of batches, from which every metric follows.

    Parameters
    ----------
    threshold : float
        In [0, 1]; a pixel is predicted where its probability is greater.

    Raises
    ------
    ValueError
        If the threshold is not such a number.

    Examples
    --------
    >>> truth = np.zeros((1, 4, 4, 2), bool)
    >>> truth[:, :2] = True
    >>> Counts().add(truth.astype("float32"), truth).table(["a", "b"])["iou"].tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, threshold=0.5):
        expect(real(threshold, 0, 1), "threshold", "a number in [0, 1]", threshold)
        self.threshold = float(threshold)
        self.sums = 0

    def add(self, probabilities, truth):
        """Add a batch; return self.

        Parameters
        ----------
        probabilities : (N, H, W, K) array of float
            In [0, 1].
        truth : (N, H, W, K) array of bool

        Raises
        ------
        ValueError
            If shapes differ, here or from the batch before, types are not as above, or a probability is
            outside [0, 1] or nan.
        """
        p, truth = as_array(probabilities, "probabilities"), as_array(truth, "truth")
        if p.shape != truth.shape or truth.ndim != 4 or truth.dtype != bool or p.dtype.kind != "f":
            raise ValueError(f"probabilities and truth: expected (N, H, W, K) float and bool, got "
                             f"{p.shape} {p.dtype} and {truth.shape} {truth.dtype}")
        if p.size and not (p.min() >= 0 and p.max() <= 1):
            raise ValueError(f"probabilities: expected all in [0, 1], got {p.min()} to {p.max()}; "
                             "logits go through a sigmoid first")
        if np.ndim(self.sums) and self.sums.shape[1] != truth.shape[-1]:
            raise ValueError(f"truth: expected {self.sums.shape[1]} classes as before, got {truth.shape[-1]}")
        p = p.astype(np.result_type(p, np.float32), copy=False)  # half precision has no EPSILON
        predicted, axes = p > self.threshold, (0, 1, 2)
        # Cross-entropy looks at the probability that was given to what is true.
        given = np.clip(np.where(truth, p, 1 - p), EPSILON, 1 - EPSILON)
        self.sums = self.sums + np.stack([
            (predicted & truth).sum(axes), (predicted & ~truth).sum(axes), (~predicted & truth).sum(axes),
            np.full(p.shape[-1], math.prod(p.shape[:3])),
            -np.log(given).sum(axes, dtype=np.float64), np.square(p - truth).sum(axes, dtype=np.float64)])
        return self

    def table(self, classes=CLASSES):
        """One row a class and "mean"; one column a metric.

        Returns
        -------
        pandas.DataFrame
            Columns bce (binary cross-entropy, in nats), mse, accuracy (share of pixels), precision,
            recall, iou (intersection over union, the Jaccard index) and dice (the F1 score). nan
            where a metric has nothing to divide by; the mean leaves nan out.

        Raises
        ------
        ValueError
            If nothing was added, the number of classes differs, or one is called "mean".
        """
        if np.ndim(self.sums) == 0:
            raise ValueError("batches: expected at least one batch of (images, masks), got none")
        names = check_names(classes, self.sums.shape[1], other="mean")
        hit, false, missed, pixels, cross_entropy, squared_error = self.sums
        with np.errstate(invalid="ignore"):
            table = pd.DataFrame({
                "bce": cross_entropy / pixels,
                "mse": squared_error / pixels,
                "accuracy": 1 - (false + missed) / pixels,
                "precision": hit / (hit + false),
                "recall": hit / (hit + missed),
                "iou": hit / (hit + false + missed),
                "dice": 2 * hit / (2 * hit + false + missed),
            }, index=pd.Index(names, name="class"))
        table.loc["mean"] = table.mean()
        return table


def iou(predicted, truth):
    """Intersection over union of each class (Jaccard index).

    Parameters
    ----------
    predicted, truth : (N, H, W, K) array of bool
        Masks; channel k is class k.

    Returns
    -------
    (K,) array of float
        In [0, 1]; nan for a class that neither array contains.

    Raises
    ------
    ValueError
        If the arrays differ in shape or are not boolean.
    """
    predicted, truth = as_array(predicted, "predicted"), as_array(truth, "truth")
    if predicted.shape != truth.shape or truth.ndim != 4 or predicted.dtype != bool or truth.dtype != bool:
        raise ValueError(f"predicted and truth: expected (N, H, W, K) bool, got {predicted.shape} "
                         f"{predicted.dtype} and {truth.shape} {truth.dtype}; threshold probabilities "
                         "first, for example p > 0.5")
    axes = (0, 1, 2)
    with np.errstate(invalid="ignore"):
        return (predicted & truth).sum(axes) / (predicted | truth).sum(axes)


def boundary(masks, width):
    """The rim of each mask: its pixels that are at most `width` pixels from its edge.

    Boundary IoU is the IoU of the rims in place of the masks (Cheng et al. 2021): it looks where
    masks are hard to get right, whatever the size of the figure.

    Parameters
    ----------
    masks : (N, H, W, K) array of bool
    width : int
        In pixels, rows, columns and diagonals alike, at least 1. The image's border counts as an edge.

    Returns
    -------
    (N, H, W, K) array of bool

    Raises
    ------
    ValueError
        If the masks are not such an array, or the width is not such a number.

    Examples
    --------
    >>> mask = np.zeros((1, 7, 7, 1), bool)
    >>> mask[0, 1:6, 1:6] = True
    >>> int(boundary(mask, 1).sum()), int(boundary(mask, 2).sum())
    (16, 24)
    """
    masks = as_array(masks, "masks")
    expect(masks.ndim == 4 and masks.dtype == bool, "masks", "(N, H, W, K) bool", masks,
           "threshold probabilities first, for example p > 0.5")
    expect(whole(width, 1), "width", "a whole number of pixels from 1", width)
    if not masks.size:
        return masks.copy()
    window = (1, *(2 * min(int(width), side) + 1 for side in masks.shape[1:3]), 1)  # wider ones see no more
    inner = ndimage.minimum_filter(masks.view(np.uint8), window, mode="constant", cval=0)
    return masks & (inner == 0)


def interval(values):
    """Mean of a few runs, and half the width of its 95% interval (Student 1908).

    To compare two ways of training, give it the differences of runs that share a seed: what the
    seed does to both falls away.

    Parameters
    ----------
    values : sequence of float
        One number a run.

    Returns
    -------
    mean, half : float
        The mean of many such runs lies within mean ± half, 19 times of 20, if runs scatter
        normally. `half` is nan for a single run, which says nothing about its spread.

    Raises
    ------
    ValueError
        If the values are not such numbers.

    Examples
    --------
    >>> mean, half = interval([0.90, 0.92, 0.94])
    >>> f"{mean:.2f} ± {half:.2f}"
    '0.92 ± 0.05'
    """
    values = as_array(values, "values")
    expect(values.ndim == 1 and values.size and values.dtype.kind in "iuf", "values", "a sequence of numbers, one a run", values)
    values = values.astype(float)
    if values.size == 1:
        return float(values[0]), float("nan")
    return float(values.mean()), float(stats.t.ppf(0.975, values.size - 1) * stats.sem(values))
