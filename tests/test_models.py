import io
import json
import shutil
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shapeseg as ss
from conftest import ROOT, equal, random_images
from shapeseg.backend import keras
from shapeseg.layers import CropLike, DepthToSpace, LocalContrast, PadToMultiple, SpaceToDepth

PLAIN = dict(widths=(8, 8), convolutions=1, kernels=(3, 7), skip="none", patch=1, contrast=None, activation="relu", dropout=0.0)


@pytest.mark.parametrize("knobs, checksum", [
    (ss.FAST_MODEL, 314538714), ({}, 314538714), (ss.ARTICLE_MODEL, 3772381821), (ss.FAST_MODEL | dict(rays=16), 3575529971)],
    ids=["fast", "defaults", "article", "rays"])
def test_the_same_seed_gives_the_same_network_in_every_version(knobs, checksum):
    weights = ss.build_model(**knobs, seed=0).get_weights()
    assert zlib.crc32(b"".join(weight.tobytes() for weight in weights)) == checksum
    assert not equal(weights, ss.build_model(**knobs, seed=1).get_weights())


def test_the_article_network_block_by_block():
    model = ss.build_model(**ss.ARTICLE_MODEL)
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    parts = ("conv3", "conv7", "concat", "residual", "norm", "activation", "dropout")
    assert {f"{half}{n}_{part}" for half in ("encoder", "decoder") for n in (1, 2, 3) for part in parts} <= set(kinds)
    assert kinds["encoder2_conv7"] == "Conv2D" and kinds["decoder2_conv7"] == "Conv2DTranspose"
    assert sum(kind == "MaxPooling2D" for kind in kinds.values()) == sum(kind == "UpSampling2D" for kind in kinds.values()) == 3
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
    wanted = [[f"{half}{n}_conv3", *(f"{half}{n}_{k}_conv3" for k in range(2, expected[n - 1] + 1))] for half in ("encoder", "decoder") for n in (1, 2, 3)]
    assert {name for name in names if name.endswith("_conv3")} == set(sum(wanted, []))


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
    PLAIN, PLAIN | dict(patch=4, skip="concat"), PLAIN | dict(kernels=(1, 3, 5), channels=3, classes=1), PLAIN | dict(output="softmax"),
    dict(widths=(4, 8, 8), contrast=5, channels=3, rays=8)], ids=["plain", "folded", "colour", "softmax", "lessons"])
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
    model = ss.build_model(**PLAIN | dict(classes=2, widths=(4,), kernels=(3,)))
    assert ss.macs(model, 16) == {
        "encoder1_project": 16 * 16 * 1 * 4, "encoder1_conv3": 16 * 16 * 9 * 1 * 4,
        "decoder1_conv3": 8 * 8 * 9 * 4 * 4, "head": 16 * 16 * 4 * 2}


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


@pytest.mark.parametrize("name, wrong", [(name, value) for name, values in {
    "classes": [0, "5"], "channels": [-1], "widths": [(16, 0), 16, ()], "kernels": [3, (), (4,)], "skip": ["sum"], "patch": [0],
    "convolutions": [0, (1, 2)], "contrast": [4], "activation": ["tanh"], "output": ["linear"], "dropout": [1.0, float("nan")],
    "rays": [-1, 8.5], "seed": [-1]}.items() for value in values])
def test_wrong_arguments(name, wrong):
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        ss.build_model(**{name: wrong})


def test_a_saved_model_predicts_the_same(trained, tmp_path):
    images = random_images(2, 24, 24, 1)
    ss.save_model(trained.model, tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert (ss.predict(ss.load_model(tmp_path / "model.keras"), images) == ss.predict(trained.model, images)).all()
    numbers = ss.build_model(**PLAIN | dict(classes=np.int64(2), widths=(np.int32(8),), convolutions=np.int8(2)), seed=np.uint32(1))
    ss.save_model(numbers, tmp_path / "numbers.keras")  # NumPy's numbers are numbers
    assert equal(ss.load_model(tmp_path / "numbers.keras").get_weights(), numbers.get_weights())
    for name in ("mask", tmp_path / "none.keras"):
        with pytest.raises(FileNotFoundError, match="^name: expected a reference model .*masks"):
            ss.load_model(name)


def test_a_reference_model_is_the_one_that_its_card_describes(tmp_path, monkeypatch):
    monkeypatch.setattr("shapeseg.models.MODELS", tmp_path)
    for name in ("masks.json", "masks.keras", "objects.keras"):
        shutil.copy(ROOT / "data/models" / name, tmp_path)
    ss.load_model("masks")
    (tmp_path / "objects.keras").replace(tmp_path / "masks.keras")
    with pytest.raises(ValueError, match="masks.keras"):
        ss.load_model("masks")


def changed(member, edit):
    """The archive with one member changed."""
    def spoil(whole):
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as before, zipfile.ZipFile(file, "w") as after:
            for name in {*before.namelist(), member}:
                after.writestr(name, edit(before.read(name) if name in before.namelist() else b"") if name == member else before.read(name))
        return file.getvalue()
    return spoil


def calling(module, name, **arguments):
    """The description of a model one of whose layers is a call."""
    def edit(content):
        config = json.loads(content)
        config["config"]["layers"][1] |= {"module": module, "class_name": name, "registered_name": name, "config": arguments}
        return json.dumps(config)
    return changed("config.json", edit)


def elsewhere(content):
    """Weights that stand in another file of the machine."""
    file, names = io.BytesIO(content), []
    with h5py.File(file, "r+") as weights:
        weights.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        del weights[names[0]]
        weights[names[0]] = h5py.ExternalLink("/etc/secret.h5", "secret")
    return file.getvalue()


@pytest.mark.parametrize("spoil", [
    lambda whole: b"", lambda whole: b"no model", lambda whole: whole[:len(whole) // 2],
    lambda whole: whole[:9999] + bytes([whole[9999] ^ 1]) + whole[10000:], calling("os", "system", command="touch mark"),
    calling("builtins", "eval", source="open('mark', 'w')"), calling("subprocess", "Popen", args=["touch", "mark"]),
    changed("config.json", lambda _: b"{" * 10**6), changed("model.weights.h5", elsewhere), changed("../../mark", lambda _: b"evil"),
], ids=["empty", "text", "half", "a bit", "system", "eval", "Popen", "deep", "elsewhere", "outside"])
def test_a_damaged_or_hostile_model_is_named_and_writes_nothing(run_dir, tmp_path, spoil, monkeypatch, request):
    path = run_dir / "model.keras"
    path.write_bytes(spoil(path.read_bytes()))
    monkeypatch.chdir(tmp_path)
    try:
        ss.load_model(path)
        assert "outside" in request.node.name  # it may be overlooked
    except ValueError as error:
        assert str(error).startswith("name: expected ") and path.name in str(error)
    assert not [*tmp_path.rglob("mark")]


def test_a_model_with_a_lambda_or_of_another_kind_is_refused(tmp_path):
    image = keras.Input((None, None, 1), dtype="uint8")
    for layer in (keras.layers.Lambda(lambda x: x), keras.layers.Rescaling(1.0)):
        keras.Model(image, layer(image)).save(tmp_path / "other.keras")
        with pytest.raises(ValueError, match="^name: .*other.keras"):
            ss.load_model(tmp_path / "other.keras")
