import json
import zlib
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shapeseg as ss
from conftest import damage, equal, random_images, run_code
from shapeseg.backend import keras
from shapeseg.layers import CropLike, DepthToSpace, LocalContrast, PadToMultiple, SpaceToDepth

PLAIN = dict(widths=(8, 8), convolutions=1, kernels=(3, 7), skip="none", patch=1, contrast=None, activation="relu", dropout=0.0)


@pytest.mark.parametrize("knobs, checksum", [
    (ss.FAST_MODEL, 314538714), ({}, 314538714), (ss.ARTICLE_MODEL, 2651782969), (ss.FAST_MODEL | dict(rays=16), 2466109779)],
    ids=["fast", "defaults", "article", "rays"])
def test_the_same_seed_gives_the_same_network_in_every_version(knobs, checksum):
    weights = ss.build_model(**knobs, seed=0).get_weights()
    assert zlib.crc32(b"".join(weight.tobytes() for weight in weights)) == checksum
    assert not equal(weights, ss.build_model(**knobs, seed=1).get_weights())


def test_the_article_network_block_by_block():
    model = ss.build_model(**ss.ARTICLE_MODEL)
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    parts = ("conv3", "conv7", "concat", "residual", "norm", "activation")
    assert {f"{half}{n}_{part}" for half in ("encoder", "decoder") for n in (1, 2, 3, 4) for part in parts} <= set(kinds)
    assert kinds["encoder2_conv7"] == "Conv2D" and kinds["decoder2_conv7"] == "Conv2DTranspose"
    assert sum(kind == "MaxPooling2D" for kind in kinds.values()) == sum(kind == "UpSampling2D" for kind in kinds.values()) == 4
    assert model.output_shape == (None, None, None, 5) and kinds["masks"] == "Activation"


def test_what_a_block_computes():
    model = ss.build_model(**PLAIN | dict(widths=(8, 12)))
    layers = {layer.name: layer for layer in model.layers}
    outputs = keras.Model(model.input, {name: layer.output for name, layer in layers.items()})(random_images(2, 16, 16, 1))
    outputs = {name: output.numpy() for name, output in outputs.items()}
    for block, width, before in (("encoder1", 8, "fold"), ("encoder2", 12, "encoder1_pool"),
                                 ("decoder2", 12, "encoder2_pool"), ("decoder1", 8, "decoder2_up")):
        branches = [outputs[f"{block}_conv{kernel}"] for kernel in (3, 7)]
        shortcut = outputs[f"{block}_project" if f"{block}_project" in layers else before]
        assert sum(branch.shape[-1] for branch in branches) == width
        total = np.concatenate(branches, axis=-1) + shortcut
        assert np.allclose(outputs[f"{block}_residual"], total, atol=1e-5)
        gamma, beta, mean, variance = layers[f"{block}_norm"].get_weights()
        normal = (total - mean) / np.sqrt(variance + layers[f"{block}_norm"].epsilon) * gamma + beta
        assert np.allclose(outputs[f"{block}_activation"], np.maximum(normal, 0), atol=1e-4)


@pytest.mark.parametrize("convolutions, expected", [(3, [3, 3, 3]), ((2, 1, 3), [2, 1, 3]), (None, [1, 2, 2]), (1, [1, 1, 1])])
def test_how_many_convolutions_a_block_has(convolutions, expected):
    names = {layer.name for layer in ss.build_model(widths=(4, 4, 4), convolutions=convolutions, skip="none").layers}
    wanted = {f"{half}{n}{f'_{k}' * (k > 1)}_conv3" for half in ("encoder", "decoder")
              for n, count in enumerate(expected, start=1) for k in range(1, count + 1)}
    assert {name for name in names if name.endswith("_conv3")} == wanted


def test_skips_join_encoder_and_decoder_and_a_block_may_lack_one_of_its_parts():
    for skip in ("add", "concat"):
        layer = ss.build_model(**PLAIN | dict(skip=skip)).get_layer("decoder2_skip")
        assert [tensor._keras_history.operation.name for tensor in layer.input] == ["decoder2_up", "encoder2_activation"]
    full = {layer.name for layer in ss.build_model(**PLAIN).layers}
    bare = ss.build_model(**PLAIN, normalize=False)
    assert full - {layer.name for layer in bare.layers} == {name for name in full if name.endswith("_norm")}
    assert bare.get_layer("encoder1_conv3").use_bias  # which the normalization would have undone
    alone = {layer.name for layer in ss.build_model(**PLAIN, residual=False).layers}
    assert not any(name.endswith("_residual") for name in alone) and "encoder1_norm" in alone


@pytest.mark.parametrize("knobs", [
    PLAIN, PLAIN | dict(patch=4, skip="concat"), PLAIN | dict(kernels=(1, 3, 5), channels=3, classes=1),
    PLAIN | dict(output="softmax"), dict(widths=(4, 8, 8), contrast=5, channels=3, rays=8)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (37, 50)])
def test_any_size_goes_in_and_comes_out(knobs, size):
    p = ss.predict(ss.build_model(**knobs), random_images(2, *size, knobs.get("channels", 1)))
    assert p.shape == (2, *size, knobs.get("classes", 5)) and p.dtype == np.float32 and p.min() >= 0 and p.max() <= 1


@given(hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), st.sampled_from([1, 2, 4]))
def test_folding_only_rearranges_what_was_padded_and_is_cropped_again(shape, patch):
    image = random_images(*shape).astype("float32")
    padded = PadToMultiple(patch)(image).numpy()
    more = [(0, 0), *((0, -side % patch) for side in shape[1:3]), (0, 0)]
    assert (padded == np.pad(image, more, mode="edge")).all()
    folded = SpaceToDepth(patch)(padded).numpy()
    for row, column in np.ndindex(*folded.shape[1:3]):  # a folded pixel holds its patch, row by row
        block = padded[:, patch * row:patch * (row + 1), patch * column:patch * (column + 1)]
        assert (folded[:, row, column] == block.reshape(shape[0], -1)).all()
    assert (CropLike()([DepthToSpace(patch)(folded), image]).numpy() == image).all()


def test_local_contrast_is_blind_to_light_and_contrast():
    layer = LocalContrast(5)
    image = np.random.RandomState(0).uniform(-1, 1, (1, 12, 14, 2)).astype("float32")
    contrast, local = layer(image).numpy(), image - layer.mean(image).numpy()
    assert np.allclose(local[0, 5, 6], image[0, 5, 6] - image[0, 3:8, 4:9].mean((0, 1)), atol=1e-5)
    spread = np.sqrt((local[0, 3:8, 4:9] ** 2).mean((0, 1)) + layer.FLOOR)
    assert np.allclose(contrast[0, 5, 6], local[0, 5, 6] / spread, atol=1e-4)
    assert np.allclose(layer(image * 0.5 + 0.4), contrast, atol=0.1)  # but for the floor
    assert np.allclose(layer(np.full_like(image, 0.3)), 0, atol=1e-4)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_a_new_network_expects_background(output):
    model, images = ss.build_model(output=output), ss.draw_scenes(indices=range(2))[0]
    p = ss.predict(model, images)
    assert ((0.01 < p.mean((0, 1, 2))) & (p.mean((0, 1, 2)) < 0.04)).all()
    if output == "softmax":
        assert np.allclose(model(images).numpy().sum(axis=-1), 1, atol=1e-5)  # with the background
        assert (p.sum(axis=-1) < 1).all()  # without it


def test_macs_counted_by_hand():
    assert ss.macs(ss.build_model(**PLAIN | dict(classes=2, widths=(4,), kernels=(3,))), 16) == {
        "encoder1_project": 16**2 * 4, "encoder1_conv3": 16**2 * 9 * 4, "decoder1_conv3": 8**2 * 9 * 4 * 4, "head": 16**2 * 4 * 2}


@pytest.mark.parametrize("knobs", [PLAIN, PLAIN | dict(kernels=(3,), patch=2, convolutions=2, skip="add")], ids=["plain", "deep"])
def test_a_pixel_sees_its_receptive_field_and_no_more(knobs):
    model, size, row = ss.build_model(**knobs), 96, 48
    rng = np.random.RandomState(0)
    first, last = ss.receptive_field(model, row)
    assert 0 < first < row < last < size - 1
    logits = keras.Model(model.input, model.get_layer("logits").output)
    image = random_images(1, size, size, 1)
    before, seen = logits(image).numpy()[0, row], []
    for changed in (first - 1, first, last, last + 1):
        other = image.copy()
        other[0, changed] = rng.randint(0, 256, (size, 1))
        seen.append((logits(other).numpy()[0, row] != before).any())
    assert not seen[0] and not seen[3] and (seen[1] or seen[2])


def test_a_saved_model_predicts_the_same(trained, tmp_path):
    images = random_images(2, 24, 24, 1)
    ss.save_model(trained.model, tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert (ss.predict(ss.load_model(tmp_path / "model.keras"), images) == ss.predict(trained.model, images)).all()
    for name in ("mask", tmp_path / "none.keras"):
        with pytest.raises(FileNotFoundError, match="^name: expected a reference model .*masks"):
            ss.load_model(name)


def other(layer):
    return lambda path: keras.Model(image := keras.Input((None, None, 1), dtype="uint8"), layer(image)).save(path)


@pytest.mark.parametrize("spoil", [*(partial(damage, kind=kind) for kind in ("emptied", "truncated", "swapped")),
                                   other(keras.layers.Rescaling(1.0)),
                                   other(keras.layers.Lambda(lambda x: __import__("pathlib").Path("mark").touch() or x))])
def test_a_damaged_or_hostile_or_other_model_is_named_and_runs_no_code(run_dir, spoil, monkeypatch):
    monkeypatch.chdir(run_dir)
    spoil(run_dir / "model.keras")
    (run_dir / "mark").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="^name: expected .*model.keras"):
        ss.load_model(run_dir / "model.keras")
    assert not (run_dir / "mark").exists()


def test_keras_settings_for_another_backend_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path)), monkeypatch.setenv("KERAS_BACKEND", "torch")
    run_code("ss.build_model")


def test_a_new_head_keeps_all_other_weights_and_what_the_network_sees():
    grey = ss.build_model(**PLAIN | dict(patch=2, contrast=5, kernels=(3, 5)), rays=4, seed=3)
    images, names = random_images(2, 24, 24, 1), {layer.name for layer in grey.layers}
    for model in (ss.new_head(grey, 5), ss.new_head(grey, 5, channels=1, seed=1)):  # other classes, not more
        for layer in model.layers:
            same = equal(layer.get_weights(), grey.get_layer(layer.name).get_weights())
            assert layer.name in names and same == (layer.name != "head")
    softmax = ss.new_head(ss.build_model(**PLAIN, output="softmax"), 2)
    assert softmax.output_shape[-1] == 3 and np.allclose(softmax(images).numpy().sum(axis=-1), 1, atol=1e-5)
    colour = ss.new_head(grey, 2, channels=3)
    assert colour.input_shape[-1] == 3 and np.allclose(colour.get_layer("head").bias, np.log(0.02 / 0.98))  # background, at first
    features = [keras.Model(model.input, model.get_layer("decoder1_activation").output) for model in (grey, colour)]
    assert np.allclose(features[0](images), features[1](images.repeat(3, axis=-1)), atol=1e-4)  # a grey photograph in colours
    again = ss.new_head(colour, 2, channels=1)
    assert np.allclose(again.get_layer("encoder1_conv3").get_weights(), grey.get_layer("encoder1_conv3").get_weights(), atol=1e-6)
