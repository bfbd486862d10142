import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

import shapeseg as ss

METRICS = ["bce", "mse", "accuracy", "precision", "recall", "iou", "dice"]
BETTER_HIGH = METRICS[2:]


def random_case(n=3, classes=2):
    rng = np.random.RandomState(0)
    truth = rng.rand(n, 16, 20, classes) < 0.3
    return (truth * 0.3 + rng.rand(*truth.shape) * 0.7).astype("float32"), truth


@st.composite
def batches(draw):
    """Probabilities and masks of one shape, which may be empty."""
    shape, bits = draw(st.tuples(*[st.integers(0, 4)] * 3, st.integers(1, 4))), draw(st.sampled_from([32, 64]))
    return draw(hnp.arrays(f"f{bits // 8}", shape, elements=st.floats(0, 1, width=bits))), draw(hnp.arrays(bool, shape))


def test_a_perfect_prediction_scores_one_and_all_zeros_only_a_high_accuracy():
    _, truth = random_case()
    perfect, nothing = (ss.Counts().add(p.astype("float32"), truth).table(["a", "b"]) for p in (truth, np.zeros(truth.shape)))
    assert (perfect[BETTER_HIGH] == 1).all(axis=None) and (perfect["mse"] == 0).all() and (perfect["bce"] < 1e-6).all()
    assert (nothing[["iou", "recall", "dice"]] == 0).all(axis=None)
    assert np.allclose(nothing.loc[["a", "b"], "accuracy"], 1 - truth.mean(axis=(0, 1, 2)))


@given(batches(), st.floats(0, 1, width=16))
def test_every_metric_is_its_formula(batch, threshold):
    batch[0].flat[:1] = threshold  # at the threshold is not above it
    p, truth = np.float64(batch[0]), batch[1]
    names, predicted, given = [f"{k}" for k in range(truth.shape[-1])], p > threshold, np.where(truth, p, 1 - p)
    table = ss.Counts(threshold).add(*batch).table(names)
    shares = dict(
        bce=(-np.log(given.clip(1e-7, 1 - 1e-7)), p >= 0), mse=((p - truth) ** 2, p >= 0), accuracy=(predicted == truth, p >= 0),
        precision=(predicted & truth, predicted), recall=(predicted & truth, truth), iou=(predicted & truth, predicted | truth),
        dice=(2 * (predicted & truth), predicted * 1 + truth))
    assert list(table) == [*shares] == METRICS and list(table.index) == [*names, "mean"] and table.index.name == "class"
    for metric, (part, whole) in shares.items():
        with np.errstate(invalid="ignore"):
            expected = part.sum((0, 1, 2)) / whole.sum((0, 1, 2))
        assert np.allclose(table.loc[names, metric], expected, rtol=1e-4, atol=2e-7, equal_nan=True), metric
        seen = expected[~np.isnan(expected)]  # a class that does not occur is left out of the mean
        assert np.isclose(table.loc["mean", metric], seen.mean() if len(seen) else np.nan, rtol=1e-4, atol=2e-7, equal_nan=True)
    assert np.array_equal(ss.iou(predicted, truth), table.loc[names, "iou"], equal_nan=True)
    assert np.array_equal(ss.iou(predicted, truth), ss.iou(truth, predicted), equal_nan=True)


@given(st.permutations(range(5)), st.integers(1, 4))
def test_neither_the_order_nor_the_size_of_batches_nor_a_turn_of_the_pictures_counts(order, size):
    p, truth = random_case(5)
    table, parts = ss.Counts().add(p, truth).table(["a", "b"]), ss.Counts()
    for n in range(0, 5, size):
        parts.add(*(np.rot90(array[order[n:n + size], ..., ::-1], axes=(1, 2)) for array in (p, truth)))
    assert np.allclose(parts.table(["b", "a"]).loc[table.index], table)


def test_sums_are_exact():
    p = np.full((1, 1024, 1024, 2), 0.1, "float32")  # so many that a sum in single precision drifts
    many = ss.Counts().add(p, np.zeros(p.shape, bool)).table(["a", "b"])
    assert np.allclose(many["mse"], 0.01, rtol=1e-6) and np.allclose(many["bce"], -np.log(0.9), rtol=1e-6)


def test_a_confidence_interval_is_students():
    values = [0.5, 0.75, 1.75]
    mean, half = ss.confidence_interval(values)
    assert mean == 1 and np.isclose(half, stats.t(2).ppf(0.975) * np.std(values, ddof=1) / 3**0.5)
    assert ss.confidence_interval([2])[0] == 2 and np.isnan(ss.confidence_interval([2])[1])
