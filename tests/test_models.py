import numpy as np
import pytest

import shapeseg as ss

SMALL = dict(widths=(8, 8), blocks=2, dropout=0.0)


def random_images(*shape):
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)


def test_the_article_network_block_by_block():
    model = ss.build_model(**ss.ARTICLE_MODEL)
    names = [layer.name for layer in model.layers]
    for block in ("encoder1", "encoder2", "encoder3", "decoder3", "decoder2", "decoder1"):
        for part in ("conv3", "conv7", "concat", "residual", "norm", "activation", "dropout"):
            assert f"{block}_{part}" in names
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    assert kinds["encoder2_conv7"] == "Conv2D" and kinds["decoder2_conv7"] == "Conv2DTranspose"
    assert sum(kind == "MaxPooling2D" for kind in kinds.values()) == 3
    assert sum(kind == "UpSampling2D" for kind in kinds.values()) == 3
    assert model.output_shape == (None, None, None, 5) and kinds["masks"] == "Activation"


def test_what_a_block_computes():
    from shapeseg.backend import keras

    model = ss.build_model(blocks=2, widths=(8, 12), dropout=0.0)
    layers = {layer.name: layer for layer in model.layers}
    images = random_images(2, 16, 16, 1)

    def output(name):
        return keras.Model(model.input, layers[name].output)(images).numpy()

    for block, width, before in (("encoder1", 8, "fold"), ("encoder2", 12, "encoder1_pool"),
                                 ("decoder2", 12, "encoder2_pool"), ("decoder1", 8, "decoder2_up")):
        branches = [output(f"{block}_conv{kernel}") for kernel in (3, 7)]
        residual = f"{block}_project" if f"{block}_project" in layers else before
        total = output(f"{block}_residual")
        assert total.shape[-1] == width
        assert np.allclose(total, np.concatenate(branches, -1) + output(residual), atol=1e-5)
        moving = layers[f"{block}_norm"]  # fresh: mean 0, variance 1, scale 1, offset 0
        normal = total / np.sqrt(1 + moving.epsilon)
        assert np.allclose(output(f"{block}_activation"), np.maximum(normal, 0), atol=1e-5)
    assert np.allclose(output("rescale"), images / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("skip", ["add", "concat"])
def test_a_skip_joins_the_encoder_to_the_decoder_at_its_resolution(skip):
    model = ss.build_model(**SMALL, skip=skip)
    for block in (1, 2):
        joined = [tensor._keras_history.operation.name for tensor in model.get_layer(f"decoder{block}_skip").input]
        assert joined == [f"decoder{block}_up", f"encoder{block}_activation"]


@pytest.mark.parametrize("keywords", [
    dict(SMALL), dict(SMALL, patch=2), dict(SMALL, patch=4, skip="concat"), dict(SMALL, skip="add"),
    dict(SMALL, kernels=(3,)), dict(SMALL, kernels=(1, 3, 5)), dict(SMALL, channels=3, classes=1),
    dict(SMALL, output="softmax"), dict(blocks=1, widths=(4,)),
    dict(SMALL, depths=(2, 3), contrast=5, activation="silu", channels=3),
])
@pytest.mark.parametrize("size", [(1, 1), (37, 50), (64, 32)])
def test_any_size_goes_in_and_comes_out(keywords, size):
    model = ss.build_model(**keywords)
    images = random_images(2, *size, keywords.get("channels", 1))
    probabilities = ss.predict(model, images)
    assert probabilities.shape == (2, *size, keywords.get("classes", 5)) and probabilities.dtype == np.float32
    assert np.isfinite(probabilities).all() and probabilities.min() >= 0 and probabilities.max() <= 1


def test_folding_only_rearranges():
    from shapeseg.models import DepthToSpace, SpaceToDepth

    image = random_images(2, 8, 12, 3).astype("float32")
    folded = SpaceToDepth(4)(image)
    assert folded.shape == (2, 2, 3, 48)
    for row, column in np.ndindex(2, 3):  # a folded pixel holds its patch, row by row
        patch = image[:, 4 * row:4 * row + 4, 4 * column:4 * column + 4]
        assert (folded[:, row, column].numpy() == patch.reshape(2, -1)).all()
    assert (DepthToSpace(4)(folded).numpy() == image).all()
    assert (SpaceToDepth(1)(image).numpy() == image).all() and (DepthToSpace(1)(image).numpy() == image).all()


def test_local_contrast_is_blind_to_light_and_contrast():
    from shapeseg.models import LocalContrast

    layer = LocalContrast(5)
    image = np.random.RandomState(0).uniform(-1, 1, (1, 12, 14, 2)).astype("float32")
    window = image[0, 3:8, 4:9]  # around (5, 6)
    contrast = layer(image).numpy()
    local = image - layer.mean(image).numpy()
    assert np.allclose(local[0, 5, 6], image[0, 5, 6] - window.mean((0, 1)), atol=1e-5)
    spread = np.sqrt((local[0, 3:8, 4:9] ** 2).mean((0, 1)) + layer.FLOOR)
    assert np.allclose(contrast[0, 5, 6], local[0, 5, 6] / spread, atol=1e-4)
    assert np.allclose(layer(image * 0.5 + 0.4), contrast, atol=0.1)  # but for the floor
    assert np.allclose(layer(np.full_like(image, 0.3)), 0, atol=1e-4)


def test_padding_repeats_the_border_and_is_cropped_again():
    from shapeseg.models import CropLike, PadToMultiple

    image = random_images(1, 5, 6, 1).astype("float32")
    padded = PadToMultiple(4)(image)
    assert padded.shape == (1, 8, 8, 1)
    assert (padded.numpy() == np.pad(image, ((0, 0), (0, 3), (0, 2), (0, 0)), mode="edge")).all()
    assert (CropLike()([padded, image]).numpy() == image).all()


def test_a_network_starts_at_the_classes_prior():
    probabilities = ss.predict(ss.build_model(**SMALL), random_images(1, 64, 64, 1))
    assert 0.003 < probabilities.mean() < 0.1


def test_the_same_seed_gives_the_same_network():
    first, same, other = (ss.build_model(**SMALL, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, same))
    assert any((a != b).any() for a, b in zip(first, other))


def test_softmax_channels_compete():
    model = ss.build_model(**SMALL, output="softmax")
    images = random_images(1, 16, 16, 1)
    assert np.allclose(model(images).numpy().sum(axis=-1), 1, atol=1e-5)  # with the background
    assert (ss.predict(model, images).sum(axis=-1) < 1).all()  # without it


@pytest.mark.parametrize("wrong, words", [
    (dict(classes=0), "classes: expected a whole number from 1 to 1000, got 0"),
    (dict(channels=-1), "channels: "), (dict(blocks=0, widths=()), "blocks: "), (dict(blocks=2), "widths: expected 2"),
    (dict(widths=(16, 32, 1)), "widths: "), (dict(widths=16), "widths: "), (dict(kernels=3), "kernels: "), (dict(kernels=()), "kernels: "), (dict(kernels=(4,)), "kernels: .*odd"),
    (dict(skip="sum"), 'skip: expected "none", "add" or "concat", got \'sum\''), (dict(patch=0), "patch: "),
    (dict(output="linear"), "output: "), (dict(dropout=1.0), "dropout: "), (dict(dropout=float("nan")), "dropout: "),
    (dict(seed=-1), "seed: "), (dict(depths=(1, 2)), "depths: expected None or 3 whole"), (dict(depths=(1, 0, 1)), "depths: "),
    (dict(contrast=4), "contrast: expected None or an odd"),
    (dict(activation="tanh"), "activation: "),
])
def test_wrong_arguments(wrong, words):
    with pytest.raises(ValueError, match=words):
        ss.build_model(**wrong)


def test_a_block_without_one_of_its_parts():
    whole = {layer.name for layer in ss.build_model(**SMALL).layers}
    plain = ss.build_model(**SMALL, normalize=False)
    assert whole - {layer.name for layer in plain.layers} == {name for name in whole if name.endswith("_norm")}
    assert plain.get_layer("encoder1_conv3").use_bias  # which the normalization would have undone
    alone = {layer.name for layer in ss.build_model(**SMALL, residual=False).layers}
    assert not any(name.endswith("_residual") for name in alone) and "encoder1_norm" in alone
    for knob in ("normalize", "residual"):
        with pytest.raises(ValueError, match=f"{knob}: expected True or False, got 1"):
            ss.build_model(**SMALL, **{knob: 1})


@pytest.mark.parametrize("skip", ["add", "concat"])
def test_cut_skips_carry_nothing(tmp_path, skip):
    model = ss.build_model(**SMALL, skip=skip)
    images = random_images(2, 32, 32, 1)
    before = ss.predict(model, images)
    twin, half = ss.cut_skips(model), ss.cut_skips(model, ["decoder1_skip"])
    answers = [before, ss.predict(twin, images), ss.predict(half, images)]
    assert all(np.abs(a - b).max() > 1e-4 for a, b in ((answers[0], answers[1]), (answers[0], answers[2]), (answers[1], answers[2])))
    assert (ss.predict(model, images) == before).all()  # the model itself is as it was
    ss.save_model(twin, tmp_path / "twin.keras")
    assert (ss.predict(ss.load_model(tmp_path / "twin.keras"), images) == answers[1]).all()


def test_a_cut_sum_is_the_decoder_alone():
    """Adding nothing is the network without skips, with one more block before the head."""
    from shapeseg.backend import keras

    model = ss.cut_skips(ss.build_model(**SMALL, skip="add"))
    joined = keras.Model(model.input, [model.get_layer(f"decoder1_{part}").output for part in ("up", "skip")])
    before, after = joined(random_images(1, 32, 32, 1))
    assert (before.numpy() == after.numpy()).all()


def test_there_must_be_a_skip_to_cut():
    for model, names in ((ss.build_model(**SMALL), None), (ss.build_model(**SMALL, skip="add"), ["decoder9_skip"]),
                         (ss.build_model(**SMALL, skip="add"), "decoder1_skip")):
        with pytest.raises(ValueError, match="names: expected some of the model's skips"):
            ss.cut_skips(model, names)


def test_multiply_adds_counted_by_hand():
    model = ss.build_model(classes=2, blocks=1, widths=(4,), kernels=(3,), dropout=0.0)
    assert ss.multiply_adds(model, 16) == {
        "encoder1_project": 16 * 16 * 1 * 4, "encoder1_conv3": 16 * 16 * 9 * 1 * 4,
        "decoder1_conv3": 8 * 8 * 9 * 4 * 4, "head": 16 * 16 * 4 * 2}


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_a_new_network_expects_background(output):
    means = ss.predict(ss.build_model(**ss.FAST_MODEL, output=output), ss.draw_scenes(indices=range(2))[0]).mean((0, 1, 2))
    assert ((0.01 < means) & (means < 0.04)).all()
