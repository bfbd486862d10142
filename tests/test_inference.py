import numpy as np
import pytest

import shapeseg as ss
from test_models import SMALL, random_images


@pytest.fixture(scope="module")
def model():
    return ss.build_model(**SMALL, patch=2)


def test_prediction_does_not_depend_on_the_batch(model, monkeypatch):
    images = random_images(5, 24, 40, 1)
    whole = ss.predict(model, images)
    monkeypatch.setattr("shapeseg.inference.PIXELS_A_CALL", 2 * 24 * 40)  # two images, two and one
    assert np.allclose(ss.predict(model, images), whole, atol=1e-5)
    assert np.allclose(ss.predict(model, images[3:4])[0], whole[3], atol=1e-5)


@pytest.mark.parametrize("knobs", [
    dict(SMALL, patch=2, contrast=9, skip="concat"), dict(SMALL, depths=(2, 1), activation="silu"), ss.FAST_MODEL,
], ids=["small", "deep", "fast"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_give_the_answer_of_the_whole_image(knobs, channels, monkeypatch):
    model = ss.build_model(**knobs, channels=channels)
    rng = np.random.RandomState(0)
    for name, weight in zip((w.path for w in model.weights), model.weights):  # or faint probabilities hide all
        if "head" in name:
            weight.assign(rng.normal(size=weight.shape))
    images = random_images(2, 437, 630, channels)
    whole = ss.predict(model, images)
    monkeypatch.setattr("shapeseg.inference.TILE", 100)
    assert np.allclose(ss.predict(model, images), whole, atol=1e-4)
    monkeypatch.setattr("shapeseg.inference._margin", lambda model: 0)
    assert not np.allclose(ss.predict(model, images), whole, atol=1e-2)


def test_a_saved_model_predicts_the_same(model, tmp_path):
    images = random_images(2, 24, 24, 1)
    ss.save_model(model, tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert (ss.predict(ss.load_model(tmp_path / "model.keras"), images) == ss.predict(model, images)).all()


def test_evaluate_is_counts_of_predict(model, small):
    batches = ss.stream(small, 1, batch_size=4, count=6, split="test")
    images, masks = ss.draw_scenes(small, 1, range(6), "test")
    expected = ss.Counts().add(ss.predict(model, images), masks).table()
    assert np.allclose(ss.evaluate(model, batches), expected, rtol=1e-3, equal_nan=True)
    assert list(expected.index) == [*ss.CLASSES, "mean"]
    assert list(expected) == ["bce", "mse", "accuracy", "precision", "recall", "iou", "dice"]


def test_evaluate_uses_the_threshold(model, small):
    batch = ss.draw_scenes(small, 1, range(2))
    for threshold in (0.0, 0.02, 1.0):
        expected = ss.Counts(threshold).add(ss.predict(model, batch[0]), batch[1]).table()
        assert ss.evaluate(model, [batch], threshold).equals(expected)


def test_wrong_images(model):
    images = random_images(2, 16, 16, 1)
    for wrong in (images[0], images[..., 0], images.astype("float32"), np.repeat(images, 3, -1), images[:0], None):
        with pytest.raises(ValueError, match="images: expected \\(N, H, W, 1\\) uint8"):
            ss.predict(model, wrong)


def test_wrong_batches(model, small):
    from shapeseg.backend import tf

    images, masks = ss.draw_scenes(small, 1, range(2))
    endless = tf.data.Dataset.from_tensors((images, masks)).repeat()
    for batches, words in [
        (ss.stream(small), "batches: expected a finite number of them, got an endless stream"),
        (endless, "endless stream"), ((images, masks), "batches: expected pairs of arrays, for example"), ([], "expected at least one batch"),
        ([(images, masks.astype("float32"))], "masks: expected .* bool"),
    ]:
        with pytest.raises(ValueError, match=words):
            ss.evaluate(model, batches)
    with pytest.raises(ValueError, match="classes: expected 5 names"):
        ss.evaluate(model, [(images, masks)], classes=[])


def test_files_that_are_no_models(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a reference model .*masks.* got 'mask'"):
        ss.load_model("mask")
    with pytest.raises(FileNotFoundError, match="is not there"):
        ss.load_model(tmp_path / "none.keras")
    ss.save_model(model, tmp_path / "good.keras")
    whole = (tmp_path / "good.keras").read_bytes()
    for name, content in (("empty", b""), ("text", b"no model"), ("half", whole[:len(whole) // 2])):
        (tmp_path / f"{name}.keras").write_bytes(content)
        with pytest.raises(ValueError, match=f"name: expected a .keras file that save_model wrote, got .*{name}.keras"):
            ss.load_model(tmp_path / f"{name}.keras")
    with pytest.raises(ValueError, match="path: expected a name that ends in .keras"):
        ss.save_model(model, tmp_path / "model.h5")


def test_a_model_that_would_run_code_is_refused(tmp_path):
    from shapeseg.backend import keras

    image = keras.Input((None, None, 1), dtype="uint8")
    hostile = keras.Model(image, keras.layers.Lambda(lambda x: x)(image))
    hostile.save(tmp_path / "hostile.keras")
    foreign = keras.Model(image, keras.layers.Rescaling(1.0)(image))
    foreign.save(tmp_path / "foreign.keras")
    with pytest.raises(ValueError, match="expected a network from build_model or load_model"):
        ss.load_model(tmp_path / "foreign.keras")
    with pytest.raises(ValueError, match="expected a network from build_model or load_model, .* got None"):
        ss.predict(None, np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="could not be read"):
        ss.load_model(tmp_path / "hostile.keras")
