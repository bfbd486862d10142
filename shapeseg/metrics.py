"""How good are predicted masks? Every number from counts over the whole set."""

import numpy as np
import pandas as pd
from scipy import stats

from shapeseg.figures import check_names
from shapeseg.utils import expect


class Counts:
    """Sums over any number of batches, from which every metric follows; a pixel is predicted where p > threshold."""
    def __init__(self, threshold=0.5):
        self.threshold, self.sums = threshold, 0
    def add(self, probabilities, truth):
        """Add a batch, (N, H, W, K) float in [0, 1] and (N, H, W, K) bool; return self."""
        p, truth = np.asarray(probabilities), np.asarray(truth)
        expect(truth.ndim == 4 and truth.dtype == bool, "truth", "(N, H, W, K) bool", truth)
        expect(p.shape == truth.shape and p.dtype.kind == "f", "probabilities", f"{truth.shape} float to match the truth", p)
        low, high = p.min(initial=1), p.max(initial=0)
        expect(low >= 0 and high <= 1, "probabilities", "all in [0, 1]", f"{low} to {high}", "logits go through a sigmoid first")
        predicted = p > self.threshold
        tp, fp, fn = (pixels.sum((0, 1, 2)) for pixels in (predicted & truth, predicted & ~truth, ~predicted & truth))
        tn = p[..., 0].size - tp - fp - fn
        cross_entropy = -np.log(np.clip(np.where(truth, p, 1 - p), 1e-7, 1 - 1e-7)).sum((0, 1, 2), dtype=float)
        squared_error = np.square(p - truth).sum((0, 1, 2), dtype=float)
        self.sums = self.sums + np.stack([tp, fp, fn, tn, cross_entropy, squared_error])
        return self
    def table(self, classes=None):
        """A pandas DataFrame, a row per class and "mean" (without nan), a column per metric: bce in nats, dice is the F1 score."""
        expect(np.ndim(self.sums), "batches", "at least one batch of (images, masks)", "none")
        names = check_names(classes, self.sums.shape[1])
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
    expect(predicted.ndim == 4 and predicted.dtype == bool == truth.dtype and predicted.shape == truth.shape, "predicted and truth",
           f"(N, H, W, K) bool, both of {truth.shape}", predicted, "threshold probabilities first, for example p > 0.5")
    with np.errstate(invalid="ignore"):
        return (predicted & truth).sum((0, 1, 2)) / (predicted | truth).sum((0, 1, 2))


def confidence_interval(values):
    """Mean and half of its 95% interval (Student 1908), nan for one value, of runs or of differences of runs that share a seed."""
    values = np.asarray(values, float)
    half = stats.t.ppf(0.975, values.size - 1) * stats.sem(values) if values.size > 1 else np.nan
    return float(values.mean()), float(half)
