import numpy as np
import pytest

import shapeseg as ss


def random_case(n=3, classes=2):
    rng = np.random.RandomState(0)
    truth = rng.rand(n, 16, 20, classes) < 0.3
    p = (truth * 0.3 + rng.rand(*truth.shape) * 0.7).astype("float32")
    p[0, :2, :2] = truth[0, :2, :2]  # some of them as sure as can be
    p[0, 2, 2] = ~truth[0, 2, 2]  # and wrong
    return p, truth


def test_a_perfect_prediction_scores_one():
    _, truth = random_case()
    table = ss.Counts().add(truth.astype("float32"), truth).table(["a", "b"])
    assert (table[["accuracy", "precision", "recall", "iou", "dice"]] == 1).all(axis=None)
    assert (table["mse"] == 0).all() and (table["bce"] < 1e-6).all()


def test_all_zeros_score_no_iou_but_a_high_accuracy():
    _, truth = random_case()
    table = ss.Counts().add(np.zeros(truth.shape, "float32"), truth).table(["a", "b"])
    assert (table["iou"] == 0).all() and (table["recall"] == 0).all()
    assert np.allclose(table.loc[["a", "b"], "accuracy"], 1 - truth.mean(axis=(0, 1, 2)))
    assert np.allclose(table.loc[["a", "b"], "mse"], truth.mean(axis=(0, 1, 2)))


def test_definitions():
    p, truth = random_case()
    assert ((p > 0.5) & ~truth).any() and ((p <= 0.5) & truth).any()  # of everything that can happen
    table = ss.Counts().add(p, truth).table(["a", "b"])
    for k, name in enumerate("ab"):
        q, t = p[..., k].astype(float), truth[..., k]
        hit = ((q > 0.5) & t).sum()
        expected = {
            "bce": -np.mean(np.log(np.clip(np.where(t, q, 1 - q), 1e-7, 1 - 1e-7))),
            "mse": np.mean((q - t) ** 2), "accuracy": np.mean((q > 0.5) == t),
            "precision": hit / (q > 0.5).sum(), "recall": hit / t.sum(),
            "iou": hit / ((q > 0.5) | t).sum(), "dice": 2 * hit / ((q > 0.5).sum() + t.sum())}
        for metric, value in expected.items():
            assert table.loc[name, metric] == pytest.approx(value, rel=1e-4), metric
    assert np.allclose(table.loc["mean"], table.loc[["a", "b"]].mean())
    assert np.allclose(ss.iou(p > 0.5, truth), table.loc[["a", "b"], "iou"])
    assert table.index.name == "class"


def test_sums_are_exact_for_any_kind_of_float():
    _, truth = random_case()
    for kind in (np.float16, np.float32, np.float64):
        table = ss.Counts().add(np.full(truth.shape, 0.25, kind), truth).table(["a", "b"])
        bce = -np.where(truth, np.log(0.25), np.log(0.75)).mean(axis=(0, 1, 2))
        assert np.allclose(table.loc[["a", "b"], "bce"], bce, rtol=1e-6)
        assert np.allclose(table.loc[["a", "b"], "mse"], np.where(truth, 0.5625, 0.0625).mean(axis=(0, 1, 2)), rtol=1e-12)
    sure = ss.Counts().add(truth.astype(np.float16), ~truth).table(["a", "b"])  # as wrong as can be, in half precision
    assert np.allclose(sure["bce"], -np.log(1e-7), rtol=1e-6)
    p = np.full((1, 1024, 1024, 2), 0.1, "float32")  # so many that a sum in single precision drifts
    many = ss.Counts().add(p, np.zeros(p.shape, bool)).table(["a", "b"])
    assert np.allclose(many["mse"], 0.01, rtol=1e-6) and np.allclose(many["bce"], -np.log(0.9), rtol=1e-6)


def test_batches_add_up():
    p, truth = random_case()
    parts = ss.Counts()
    for n in range(3):
        parts.add(p[n:n + 1], truth[n:n + 1])
    whole = ss.Counts().add(p, truth).table(["a", "b"])
    assert np.allclose(parts.table(["a", "b"]), whole)


def test_a_threshold_trades_precision_for_recall():
    p, truth = random_case()
    low, high = (ss.Counts(t).add(p, truth).table(["a", "b"]).loc["mean"] for t in (0.3, 0.7))
    assert low.recall > high.recall and low.precision < high.precision


def test_a_class_that_does_not_occur_is_nan_and_left_out_of_the_mean():
    truth = np.zeros((1, 4, 4, 2), bool)
    truth[..., 0] = True
    table = ss.Counts().add(truth.astype("float32"), truth).table(["a", "b"])
    assert np.isnan(table.loc["b", "iou"]) and table.loc["mean", "iou"] == 1
    assert np.isnan(ss.iou(truth, truth)[1])


def test_a_probability_at_the_threshold_is_no_prediction():
    half = np.full((1, 2, 2, 1), 0.5, "float32")
    assert ss.Counts(0.5).add(half, half > 0).table(["a"]).loc["a", "recall"] == 0


def test_wrong_arguments():
    p, truth = random_case()
    counts, ragged = ss.Counts().add(p, truth), [[1], [2, 3]]
    bad, both = p.copy(), "probabilities and truth: expected (N, H, W, K) float and bool, got "
    bad[0, 0, 0, 0] = np.nan
    masks = "predicted and truth: expected (N, H, W, K) bool, got "
    advice = "threshold probabilities first, for example p > 0.5"
    for call, words in [
        (lambda: ss.Counts(float("nan")), "threshold: expected a number in [0, 1], got nan"),
        (lambda: ss.Counts(1.5), "threshold: expected a number in [0, 1], got 1.5"),
        (lambda: ss.Counts("0.5"), "threshold: expected a number in [0, 1], got '0.5'"),
        (lambda: counts.add(*random_case(classes=3)), "truth: expected 2 classes as before, got 3"),
        (lambda: counts.table(["a", "mean"]), "classes: expected 2 names other than \"mean\", got ['a', 'mean']"),
        (lambda: counts.table([]), 'classes: expected 2 names other than "mean", got []'),
        (lambda: ss.Counts().table(["a"]), "batches: expected at least one batch of (images, masks), got none"),
        (lambda: counts.add(p, truth[:1]), f"{both}(3, 16, 20, 2) float32 and (1, 16, 20, 2) bool"),
        (lambda: counts.add(p, truth.astype(int)), f"{both}(3, 16, 20, 2) float32 and (3, 16, 20, 2) int64"),
        (lambda: counts.add(truth, truth), f"{both}(3, 16, 20, 2) bool and (3, 16, 20, 2) bool"),
        (lambda: counts.add(ragged, truth), "probabilities: expected an array, got [[1], [2, 3]] ("),
        (lambda: counts.add(p, ragged), "truth: expected an array, got [[1], [2, 3]] ("),
        (lambda: counts.add(bad, truth), "probabilities: expected all in [0, 1], got nan to nan; logits go through a sigmoid first"),
        (lambda: counts.add(truth * 1.5, truth), "probabilities: expected all in [0, 1], got 0.0 to 1.5; logits go"),
        (lambda: ss.iou(p, truth), f"{masks}(3, 16, 20, 2) float32 and (3, 16, 20, 2) bool; {advice}"),
        (lambda: ss.iou(truth, truth[:1]), f"{masks}(3, 16, 20, 2) bool and (1, 16, 20, 2) bool; {advice}"),
        (lambda: ss.iou(ragged, truth), "predicted: expected an array, got "),
        (lambda: ss.iou(truth, ragged), "truth: expected an array, got "),
        (lambda: ss.boundary(p, 1), f"masks: expected (N, H, W, K) bool, got (3, 16, 20, 2) float32; {advice}"),
        (lambda: ss.boundary(ragged, 1), "masks: expected an array, got "),
        (lambda: ss.boundary(truth, 0), "width: expected a whole number of pixels from 1, got 0"),
        (lambda: ss.interval(ragged), "values: expected an array, got "),
        (lambda: ss.interval([]), "values: expected a sequence of numbers, one a run, got (0,) float64"),
        (lambda: ss.interval([[1.0, 2.0]]), "values: expected a sequence of numbers, one a run, got (1, 2) float64"),
        (lambda: ss.interval(["1"]), "values: expected a sequence of numbers, one a run, got (1,) <U1"),
    ]:
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith(words)


def test_the_rim_of_a_mask():
    rng = np.random.RandomState(0)
    masks = np.repeat(np.repeat(rng.rand(2, 8, 8, 3) > 0.5, 5, 1), 5, 2)
    rims = [ss.boundary(masks, width) for width in (1, 2, 3, 40)]
    for narrow, wide in zip(rims, rims[1:]):
        assert (narrow <= wide).all() and (wide <= masks).all()
    assert (rims[-1] == masks).all()
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1), (0, 0)))  # a pixel with all eight neighbours in the mask is no rim
    inner = np.all([padded[:, r:r + 40, c:c + 40] for r in range(3) for c in range(3)], axis=0)
    assert (rims[0] == masks & ~inner).all()
    assert (ss.boundary(np.rot90(masks, axes=(1, 2)), 2) == np.rot90(rims[1], axes=(1, 2))).all()


def test_an_interval_holds_the_mean_nineteen_times_of_twenty():
    for n in (3, 10):
        runs = np.random.RandomState(n).normal(0.9, 0.02, (4000, n))
        held = [abs(mean - 0.9) <= half for mean, half in map(ss.interval, runs)]
        assert 0.94 < np.mean(held) < 0.96


def test_one_run_has_no_interval():
    mean, half = ss.interval([0.5])
    assert mean == 0.5 and np.isnan(half)
    assert ss.interval([0.25, 0.75])[1] == pytest.approx(12.7062 * 0.25, rel=1e-4)  # Student's t of one degree of freedom
