import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shapeseg as ss
from conftest import NETWORK, random_images, run_code
from shapeseg.inference import run_network

MODEL = ss.build_model(**NETWORK)


def wake(model):
    """Weights of the head with which the answer is not background everywhere."""
    rng = np.random.RandomState(0)
    head = model.get_layer("head")
    head.set_weights([rng.normal(size=weight.shape) for weight in head.get_weights()])
    return model


def test_prediction_does_not_depend_on_the_batch(monkeypatch):
    images = random_images(5, 24, 40, 1)
    together = ss.predict(wake(MODEL), images)
    monkeypatch.setattr("shapeseg.inference.PIXELS_PER_CALL", 2 * 24 * 40)  # two images, two and one
    assert np.allclose(ss.predict(MODEL, images), together, atol=1e-5)
    assert np.allclose(ss.predict(MODEL, images[3:4])[0], together[3], atol=1e-5)


@pytest.mark.parametrize("knobs", [NETWORK | dict(contrast=9, rays=8), ss.FAST_MODEL | dict(channels=3)], ids=["rays", "lessons"])
def test_tiles_give_the_answer_of_the_whole_image(knobs, monkeypatch):
    model = wake(ss.build_model(**knobs))
    images = random_images(1, 237, 330, knobs.get("channels", 1))
    whole = run_network(model, images)
    monkeypatch.setattr("shapeseg.inference.TILE", 100)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(run_network(model, images), whole, strict=True))
    side_by_side = knobs["contrast"] - 1, -999
    monkeypatch.setattr("shapeseg.inference.receptive_field", lambda model, row: side_by_side)
    assert not np.allclose(ss.predict(model, images), whole[0], atol=1e-2)


@given(hnp.arrays("u1", hnp.array_shapes(min_dims=3, max_dims=3, max_side=8).map(lambda s: (s[0] + 1, *s[1:], 1))), st.data())
def test_any_image_becomes_probabilities_and_evaluate_counts_those_of_all_batches(images, data):
    masks, threshold = data.draw(hnp.arrays(bool, (*images.shape[:3], 5))), data.draw(st.sampled_from([0.021, 0.5]))
    p = ss.predict(MODEL, images)
    assert p.shape == masks.shape and p.dtype == np.float32 and 0 <= p.min() and p.max() <= 1
    table = ss.evaluate(MODEL, [(images[:1], masks[:1]), (images[1:], masks[1:])], threshold, list("abcde"))
    assert np.allclose(table, ss.Counts(threshold).add(p, masks).table(list("abcde")), rtol=1e-3, equal_nan=True)


@pytest.mark.full
@pytest.mark.parametrize("code", [
    "ss.predict(ss.load_model('masks'), __import__('numpy').zeros((1, 8192, 8192, 1), 'uint8'))",
    """model = ss.build_model(seed=1)
ss.train(model, ss.ARTICLE, 8, sys.argv[1] + "/run")
ss.evaluate(model, ss.stream(ss.ARTICLE, count=32, split='test'))""",
    "[ss.find_objects(ss.load_model('objects'), ss.draw_scene(ss.CROWDED, 0, n, 'test').image) for n in range(50)]",
], ids=["predict", "train and evaluate", "find objects"])
def test_memory_stays_under_4_gib(tmp_path, code):
    # The peak of this process alone: what getrusage says includes that of the process that started it.
    output, _ = run_code(f"{code}\nprint(next(line for line in open('/proc/self/status') if 'VmHWM' in line))", tmp_path)
    assert int(output.split()[-2]) < 4 * 2**20
