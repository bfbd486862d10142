import numpy as np
import pytest

import shapeseg as ss


def random_case(n=3, classes=2):
    rng = np.random.RandomState(0)
    truth = rng.rand(n, 16, 20, classes) < 0.3
    return np.clip(truth * 0.5 + rng.rand(*truth.shape) * 0.5, 0, 1).astype("float32"), truth


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
    table = ss.Counts().add(p, truth).table(["a", "b"])
    for k, name in enumerate("ab"):
        q, t = p[..., k].astype(float), truth[..., k]
        hit = ((q > 0.5) & t).sum()
        expected = {
            "bce": -np.mean(np.where(t, np.log(np.maximum(q, 1e-7)), np.log(np.maximum(1 - q, 1e-7)))),
            "mse": np.mean((q - t) ** 2), "accuracy": np.mean((q > 0.5) == t),
            "precision": hit / (q > 0.5).sum(), "recall": hit / t.sum(),
            "iou": hit / ((q > 0.5) | t).sum(), "dice": 2 * hit / ((q > 0.5).sum() + t.sum())}
        for metric, value in expected.items():
            assert table.loc[name, metric] == pytest.approx(value, rel=1e-4), metric
    assert np.allclose(table.loc["mean"], table.loc[["a", "b"]].mean())
    assert np.allclose(ss.iou(p > 0.5, truth), table.loc[["a", "b"], "iou"])


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
    with pytest.raises(ValueError, match="threshold: expected a number in \\[0, 1\\], got nan"):
        ss.Counts(float("nan"))
    with pytest.raises(ValueError, match="threshold: "):
        ss.Counts("0.5")
    counts = ss.Counts().add(*random_case())
    with pytest.raises(ValueError, match="truth: expected 2 classes as before, got 3"):
        counts.add(*random_case(classes=3))
    with pytest.raises(ValueError, match="classes: expected 2 names other than \"mean\""):
        counts.table(["a", "mean"])
    p, truth = random_case()
    bad = p.copy()
    bad[0, 0, 0, 0] = np.nan
    for call, words in [
        (lambda: ss.Counts().add(p, truth[:1]), "expected \\(N, H, W, K\\) float and bool, got"),
        (lambda: ss.Counts().add(p, truth.astype(int)), "float and bool"),
        (lambda: ss.Counts().add(truth, truth), "float and bool"),
        (lambda: ss.Counts().add(bad, truth), "probabilities: expected all in \\[0, 1\\], got nan"),
        (lambda: ss.Counts().add(p * 9, truth), "logits go through a sigmoid first"),
        (lambda: ss.Counts().table(["a"]), "expected at least one batch"),
            (lambda: ss.Counts().add(p, truth).table([]), 'classes: expected 2 names other than "mean", got \\[\\]'),
        (lambda: ss.iou(p, truth), "threshold probabilities first, for example p > 0.5"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


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


def test_wrong_rims():
    with pytest.raises(ValueError, match="masks: expected \\(N, H, W, K\\) bool"):
        ss.boundary(np.zeros((1, 4, 4, 1)), 1)
    with pytest.raises(ValueError, match="width: expected a whole number of pixels from 1, got 0"):
        ss.boundary(np.zeros((1, 4, 4, 1), bool), 0)


def test_an_interval_holds_the_mean_nineteen_times_of_twenty():
    for n in (3, 10):
        runs = np.random.RandomState(n).normal(0.9, 0.02, (4000, n))
        held = [abs(mean - 0.9) <= half for mean, half in map(ss.interval, runs)]
        assert 0.94 < np.mean(held) < 0.96


def test_one_run_has_no_interval():
    mean, half = ss.interval([0.5])
    assert mean == 0.5 and np.isnan(half)
    for wrong in ([], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="values: expected a sequence of numbers, one a run"):
            ss.interval(wrong)
