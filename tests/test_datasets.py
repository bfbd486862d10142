import unicodedata
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from skimage.io import imread

import shapeseg as ss
from conftest import CONFIG, damage
from shapeseg.datasets import read_image, read_mask

GREY = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
RGB = np.stack([GREY, GREY[::-1], GREY.T.reshape(24, 32)], axis=-1)
RGBA = np.dstack([RGB, GREY])
TRUNCATE = partial(damage, kind="truncated")


def same(a, b):
    return all((u == v).all() for x, y in zip(a, b, strict=True) for u, v in zip(x, y, strict=True))


@given(st.lists(st.integers(0, 99), min_size=1, max_size=5), st.sampled_from(ss.SPLITS))
def test_draw_scenes_stacks_draw_scene(indices, split):
    scenes = [ss.draw_scene(CONFIG, 4, index, split) for index in indices]
    assert same(zip(*ss.draw_scenes(CONFIG, 4, np.array(indices), split)), [(scene.image, scene.masks) for scene in scenes])


@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 9))
def test_a_stream_is_its_scenes_in_order_from_any_start(batch_size, start, count):
    batches = ss.stream(CONFIG, 4, batch_size, start, count, "test")
    parts = list(batches)
    assert [len(images) for images, _ in parts] == [min(batch_size, count - n) for n in range(0, count, batch_size)]
    assert same(parts, list(batches))  # it begins anew each time
    if count:
        assert same([map(np.concatenate, zip(*parts))], [ss.draw_scenes(CONFIG, 4, range(start, start + count), "test")])
    endless = ss.stream(CONFIG, 4, batch_size, start, split="test")
    assert same(list(islice(endless, count // batch_size)), parts[:count // batch_size])


def test_arrays_and_a_dataset_size_are_gone_through_in_new_orders():
    arrays = ss.draw_scenes(CONFIG, 0, range(6))
    orders = {}
    for name, data, seed in (("a", arrays, 0), ("b", CONFIG, 0), ("c", arrays, 1)):
        batches = list(ss.stream(data, seed, 1, count=12, **({} if data is arrays else {"dataset_size": 6})))
        orders[name] = [images[0].tobytes() for images, _ in batches]
        places = [next(n for n in range(6) if (arrays[0][n] == images[0]).all()) for images, _ in batches]
        assert sorted(places[:6]) == sorted(places[6:]) == list(range(6)) and places[:6] != places[6:]
        assert all((masks[0] == arrays[1][n]).all() for n, (_, masks) in zip(places, batches))
    assert orders["a"] == orders["b"] != orders["c"]


@pytest.mark.parametrize("name", ["article", "colour", "single"])
def test_what_is_written_is_read_back(tmp_path, name):
    config = replace(ss.SCENE_CONFIGS[name], size=64, radius=(0.1, 0.2))
    ss.write_dataset(tmp_path / "set", config, seed=2, count=3, split="validation")
    assert same([ss.read_dataset(tmp_path / "set", config.classes)], [ss.draw_scenes(config, 2, range(3), "validation")])
    assert imread(tmp_path / "set/masks" / config.classes[0] / "00001.png").max() in (0, 255)


def test_a_dataset_is_whole_or_absent(tmp_path):
    too_many = ss.SceneConfig(size=64, figures=(60, 60), radius=(0.3, 0.45), opacity=(0.9, 0.9))
    with pytest.raises(ValueError, match="^figures: "):
        ss.write_dataset(tmp_path / "set", too_many, count=2)
    assert list(tmp_path.iterdir()) == []
    ss.write_dataset(tmp_path / "set", CONFIG, count=1)
    with pytest.raises(FileExistsError, match="^folder: "):
        ss.write_dataset(tmp_path / "set", CONFIG, count=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("name, spoil, words", [
    ("masks/quad/00001.png", Path.unlink, "quad.*00001.png is not there"), ("images/00000.png", TRUNCATE, "images/00000.png: "),
    ("masks/quad/00001.png", partial(damage, kind="flipped"), "quad/00001.png: "),
    ("images/00002.txt", Path.touch, "images: expected .*00002.txt"), ("images/00001.JPG", Path.touch, "images: expected .*00001"),
    ("masks/quad/00001.png", lambda path: save(path, RGB.repeat(2, 1)), "quad/00001.png: expected a grey mask"),
    ("images/00001.png", lambda path: save(path, GREY), "00001.png: expected \\(64, 64, 1\\)"),
    ("images", lambda path: path.rename(path.with_name("pictures")), "no images")])
def test_a_spoilt_dataset(tmp_path, name, spoil, words):
    folder = ss.write_dataset(tmp_path / "set", CONFIG, count=2)
    spoil(folder / name)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        ss.read_dataset(folder)


@pytest.mark.parametrize("name, array, mode, options, expected", [
    ("grey.png", GREY, None, {}, GREY[..., None]), ("rgb.png", RGB, None, {}, RGB), ("rgba.png", RGB, "RGBA", {}, RGB),
    ("grey_and_alpha.png", GREY, "LA", {}, GREY[..., None]), ("rgb.tiff", RGB, None, {"compression": "tiff_lzw"}, RGB),
    ("palette.png", GREY // 32 * 32, "P", {}, np.repeat((GREY // 32 * 32)[..., None], 3, axis=-1)),
    ("black_and_white.png", np.where(GREY > 99, 255, 0).astype(np.uint8), "1", {}, np.where(GREY > 99, 255, 0)[..., None]),
    ("png.jpg", GREY, None, {"format": "PNG"}, GREY[..., None]), ("one.tif", GREY[:1, :1], None, {}, GREY[:1, :1, None])])
def test_images_as_people_have_them(tmp_path, name, array, mode, options, expected):
    image = read_image(save(tmp_path / name, array, mode, **options))
    assert image.dtype == np.uint8 and image.shape == expected.shape and (image == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = save(tmp_path / "photograph.jpg", GREY, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert expected.shape == ((24, 32) if orientation < 5 else (32, 24)) and (read_image(path)[..., 0] == expected).all()


@pytest.mark.parametrize("name, write", [
    ("float.tif", lambda path: save(path, GREY.astype("f4"))), ("cmyk.jpg", lambda path: save(path, RGB, "CMYK")),
    ("glass.png", lambda path: save(path, RGBA)), ("bomb.png", lambda path: save(path, np.zeros((14000, 14000), bool))),
    ("pages.tif", lambda path: Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY)])),
    *((name, lambda path: TRUNCATE(save(path, RGB))) for name in ("half.png", "half.jpg")), ("empty.png", Path.touch),
    *(("bands.tif", lambda path, options=options: tifffile.imwrite(path, RGBA, **options)) for options in (
        {"photometric": "rgb"}, {"photometric": "minisblack", "planarconfig": "contig"},
        {"photometric": "rgb", "extrasamples": [0]}, {"photometric": "rgb", "extrasamples": [2]}))])  # never dropped silently
def test_what_is_no_such_image_is_named(tmp_path, name, write):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: " + ".*4 bands" * (name == "bands.tif")):
        read_image(tmp_path / name)


FAR = np.hypot(*np.mgrid[-32:32, -32:32])
LEAF = (FAR < 16) * np.uint8(255)
IDS = np.kron(np.arange(1, 201).reshape(10, 20), np.pad(np.ones((4, 4)), 2))


@pytest.mark.parametrize("levels, mask", [
    ("0, 1, 255", np.select([FAR < 16, FAR < 18], [1, 255])), ("0, 1, 2, 3, 4, 5, …", IDS),
    ("0, 50, 100, 150, 200, 255", np.clip(6 - FAR // 5, 0, 5).astype(int) * 50 + 5 * (FAR < 10)),  # near each other, but flat
    ("0, 1, 2, 3, 4, 5, …", IDS * (np.arange(80)[:, None] % 8 == 3) * (np.arange(160) % 8 == 3)),  # of single pixels
    ("3, 7, 255", np.select([FAR < 10, FAR < 20], [255, 7], 3)), ("0, 128, 255", np.select([FAR < 16, FAR < 18], [255, 128]))])
def test_a_mask_with_several_levels_is_never_cut_silently(tmp_path, levels, mask):
    with pytest.raises(ValueError, match=f"got the levels {levels}; .*mask > 0"):
        read_mask(save(tmp_path / "mask.png", mask.astype(np.uint8)))


@pytest.mark.parametrize("name, mask, options", [
    ("ones.png", LEAF // 255, {}), ("two_bytes.png", LEAF.astype(np.uint16) * 3, {}), ("palette.png", LEAF // 255, "P"),
    ("jpeg.jpg", LEAF, {}), ("soft.png", gaussian_filter(LEAF, 1), {}), ("softer.tif", gaussian_filter(LEAF, 3), {}),
    ("antialiased.png", np.clip(16.5 - FAR, 0, 1) * 255, {}), ("nothing.png", LEAF * 0, {}), ("all.png", LEAF * 0 + 255, {}), ("ones_alone.png", LEAF * 0 + 1, {})])
def test_a_mask_of_one_class_passes_with_soft_edges_too(tmp_path, name, mask, options):
    expected = (mask > 0) & (mask > np.max(mask) / 2)
    if options == "P":
        image = Image.fromarray(mask, "P")
        image.putpalette([0, 0, 0, 128, 0, 0])  # dark red, as annotation tools have it
        image.save(tmp_path / name)
    else:
        save(tmp_path / name, mask.astype(mask.dtype if mask.dtype == np.uint16 else np.uint8))
    assert (read_mask(tmp_path / name) != expected).mean() < 0.01


@pytest.mark.parametrize("name, write", [
    ("exif.jpg", lambda path: save(path, GREY, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\xff\0\0\x1a" + b"\0" * 7)),
    ("resolution.tif", lambda path: tifffile.imwrite(path, GREY, extratags=[(282, "2I", 2, (1, 1, 1, 1), True)])),
    ("large.png", lambda path: save(path, np.zeros((9600, 9600), bool)))])
def test_what_is_odd_beside_the_pixels_does_not_matter(tmp_path, name, write):
    write(tmp_path / name)
    assert read_image(tmp_path / name).shape in ((*GREY.shape, 1), (9600, 9600, 1))


@pytest.mark.parametrize("array, byteorder", [(GREY, "<"), (RGB, "<"), (RGB, ">")])
def test_16_bits_per_channel_are_scaled_by_the_images_own_range(tmp_path, capsys, array, byteorder):
    save(tmp_path / "images/deep.tif", GREY), save(tmp_path / "masks/thing/deep.png", GREY * 0)
    photometric = "rgb" if array is RGB else "minisblack"
    tifffile.imwrite(tmp_path / "images/deep.tif", array.astype(np.uint16) * 5 + 1000, photometric=photometric, byteorder=byteorder)
    expected = np.rint((array - float(array.min())) * (255 / np.ptp(array)))
    assert (ss.read_dataset(tmp_path, ["thing"])[0].squeeze() == expected).all()
    assert "1 of 1 images have 16 bits" in capsys.readouterr().out


def test_inverted_masks_are_warned_of(tmp_path):
    save(tmp_path / "images/a.png", GREY), save(tmp_path / "masks/thing/a.png", np.where(GREY > 20, 255, 0).astype(np.uint8))
    with pytest.warns(UserWarning, match="thing covers at least 9.% of every image"):
        ss.read_dataset(tmp_path, ["thing"])


def test_names_are_found_however_an_umlaut_is_written(tmp_path, monkeypatch):
    one, other = (unicodedata.normalize(form, "Blätter") for form in ("NFC", "NFD"))
    save(tmp_path / other / "images" / f"{one}.png", GREY), save(tmp_path / other / "masks" / other / f"{other}.png", GREY // 255)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (ss.read_dataset(f"~/{one}", [one])[0][0, ..., 0] == GREY).all()
