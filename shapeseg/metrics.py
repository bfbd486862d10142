"""How good are predicted masks? Every number from counts over the whole set."""

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from shapeseg.figures import CLASSES
from shapeseg.utils import check_names, expect, is_number

EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON] in the cross-entropy


class Counts:
    """Sums over any number of batches, from which every metric follows; a pixel is predicted where p > threshold.

    >>> truth = np.zeros((1, 4, 4, 2), bool)
    >>> truth[:, :2] = True
    >>> Counts().add(truth.astype("float32"), truth).table(["a", "b"])["iou"].tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, threshold=0.5):
        expect(is_number(threshold, 0, 1), "threshold", "a number in [0, 1]", threshold)
        self.threshold, self.sums = float(threshold), 0

    def add(self, probabilities, truth):
        """Add a batch, (N, H, W, K) float in [0, 1] and (N, H, W, K) bool; return self."""
        p, truth = np.asarray(probabilities), np.asarray(truth)
        expect(truth.ndim == 4 and truth.dtype == bool, "truth", "(N, H, W, K) bool", truth)
        expect(p.shape == truth.shape and p.dtype.kind == "f", "probabilities", f"{truth.shape} float to match the truth", p)
        expect(p.size == 0 or p.min() >= 0 and p.max() <= 1, "probabilities", "all in [0, 1]",
               f"{p.min()} to {p.max()}" if p.size else p, "logits go through a sigmoid first")
        expect(np.ndim(self.sums) == 0 or self.sums.shape[1] == p.shape[-1], "truth", "as many classes as before", truth)
        p = p.astype(np.result_type(p, np.float32), copy=False)  # half precision has no EPSILON
        predicted, axes = p > self.threshold, (0, 1, 2)
        tp, fp, fn = (pixels.sum(axes) for pixels in (predicted & truth, predicted & ~truth, ~predicted & truth))
        tn = p[..., 0].size - tp - fp - fn
        given = np.clip(np.where(truth, p, 1 - p), EPSILON, 1 - EPSILON)  # to what is true
        cross_entropy, squared_error = -np.log(given).sum(axes, dtype=float), np.square(p - truth).sum(axes, dtype=float)
        self.sums = self.sums + np.stack([tp, fp, fn, tn, cross_entropy, squared_error])
        return self

    def table(self, classes=CLASSES):
        """A pandas DataFrame with one row per class and "mean" (which leaves nan out), one column per metric.

        bce is the binary cross-entropy in nats, accuracy the share of pixels, iou the intersection over union (Jaccard index), dice
        the F1 score; nan where a metric has nothing to divide by.
        """
        expect(np.ndim(self.sums), "batches", "at least one batch of (images, masks)", "none")
        names = check_names(classes, self.sums.shape[1])
        expect("mean" not in names, "classes", 'names other than "mean", the last row', names)
        tp, fp, fn, tn, cross_entropy, squared_error = self.sums
        pixels = tp + fp + fn + tn
        with np.errstate(invalid="ignore"):
            table = pd.DataFrame({
                "bce": cross_entropy / pixels, "mse": squared_error / pixels, "accuracy": 1 - (fp + fn) / pixels,
                "precision": tp / (tp + fp), "recall": tp / (tp + fn), "iou": tp / (tp + fp + fn),
                "dice": 2 * tp / (2 * tp + fp + fn)}, index=pd.Index(names, name="class"))
        table.loc["mean"] = table.mean()
        return table


def iou(predicted, truth):
    """Intersection over union of each class, (K,) float, of two (N, H, W, K) bool; nan for a class that neither contains."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    for name, masks in (("predicted", predicted), ("truth", truth)):
        expect(masks.ndim == 4 and masks.dtype == bool and masks.shape == truth.shape, name,
               f"{truth.shape if truth.ndim == 4 else '(N, H, W, K)'} bool", masks, "threshold probabilities first, for example p > 0.5")
    with np.errstate(invalid="ignore"):
        return (predicted & truth).sum((0, 1, 2)) / (predicted | truth).sum((0, 1, 2))


def mask_boundary(masks, width):
    """The pixels of each mask, (N, H, W, K) bool, at most `width` pixels from its edge; the image's border is one, too.

    Boundary IoU is the IoU of these in place of the masks (Cheng et al. 2021): it looks where masks are
    hard to get right, whatever the size of the figure.
    """
    side = 2 * width + 1
    return masks & ~ndimage.binary_erosion(masks, np.ones((1, side, side, 1), bool))


def confidence_interval(values):
    """Mean of a few runs and half the width of its 95% interval (Student 1908); nan for a single run.

    To compare two ways of training, give it the differences of runs that share a seed.

    >>> mean, half = confidence_interval([0.90, 0.92, 0.94])
    >>> f"{mean:.2f} ± {half:.2f}"
    '0.92 ± 0.05'
    """
    values = np.asarray(values, float)
    expect(values.ndim == 1 and values.size, "values", "a sequence of numbers, one per run", values)
    if values.size == 1:
        return float(values[0]), float("nan")
    return float(values.mean()), float(stats.t.ppf(0.975, values.size - 1) * stats.sem(values))
