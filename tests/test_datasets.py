from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage.io import imread

import shapeseg as ss
from conftest import CONFIG

GREY = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
RGB = np.stack([GREY, GREY[::-1], GREY.T.reshape(24, 32)], axis=-1)


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
    assert [len(images) for images, _ in parts] == [batch_size] * (count // batch_size) + [count % batch_size] * (count % batch_size > 0)
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


@pytest.mark.parametrize("spoil, error, words", [
    (lambda d: (d / "masks/quad/00001.png").unlink(), FileNotFoundError, "quad.*00001.png"),
    (lambda d: halve(d / "images/00000.png"), ValueError, "images/00000.png: "),
    (lambda d: flip(d / "masks/quad/00001.png"), ValueError, "quad/00001.png: "),
    (lambda d: (d / "images/00002.txt").write_bytes(b""), ValueError, "images: expected .*00002.txt"),
    (lambda d: (d / "images/00001.JPG").write_bytes(b""), ValueError, "images: expected .*00001"),
    (lambda d: save(d / "masks/quad/00001.png", np.repeat(RGB[:16], 8, 0)[:64].repeat(2, 1)), ValueError, "quad/00001.png: expected a grey mask"),
    (lambda d: save(d / "masks/quad/00001.png", np.ones((64, 64), np.uint8)), ValueError, "masks/quad/00001.png: expected 0 and 255"),
    (lambda d: save(d / "images/00001.png", np.zeros((32, 32), np.uint8)), ValueError, "00001.png: expected \\(64, 64, 1\\)"),
    (lambda d: [path.unlink() for path in (d / "images").iterdir()], FileNotFoundError, "no images"),
])
def test_a_spoilt_dataset(tmp_path, spoil, error, words):
    folder = ss.write_dataset(tmp_path / "set", CONFIG, count=2)
    spoil(folder)
    with pytest.raises(error, match=words):
        ss.read_dataset(folder)


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def flip(path):
    whole = bytearray(path.read_bytes())
    whole[60] ^= 1
    path.write_bytes(whole)


def halve(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def read(path, shape=GREY.shape):
    """The one image of a folder that has one class."""
    save(path.parents[1] / "masks/thing" / f"{path.stem}.png", np.zeros(shape, np.uint8))
    return ss.read_dataset(path.parents[1], ["thing"])[0][0]


@pytest.mark.parametrize("name, array, mode, options, expected", [
    ("grey.png", GREY, None, {}, GREY[..., None]), ("rgb.png", RGB, None, {}, RGB), ("rgba.png", RGB, "RGBA", {}, RGB),
    ("grey_and_alpha.png", GREY, "LA", {}, GREY[..., None]), ("rgb.tiff", RGB, None, {"compression": "tiff_lzw"}, RGB),
    ("palette.png", GREY // 32 * 32, "P", {}, np.repeat((GREY // 32 * 32)[..., None], 3, axis=-1)),
    ("black_and_white.png", np.where(GREY > 99, 255, 0).astype(np.uint8), "1", {}, np.where(GREY > 99, 255, 0)[..., None]),
    ("grey_named_jpg.jpg", GREY, None, {"format": "PNG"}, GREY[..., None]), ("one.tif", GREY[:1, :1], None, {}, GREY[:1, :1, None])])
def test_images_as_people_have_them(tmp_path, name, array, mode, options, expected):
    image = read(save(tmp_path / "images" / name, array, mode, **options), expected.shape[:2])
    assert image.dtype == np.uint8 and image.shape == expected.shape and (image == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    smooth = np.add.outer(np.arange(24) * 5, np.arange(32) * 3).astype(np.uint8)
    path = save(tmp_path / "images/photograph.jpg", smooth, exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert expected.shape == ((24, 32) if orientation < 5 else (32, 24))
    assert (read(path, expected.shape)[..., 0] == expected).all()


@pytest.mark.parametrize("name, write", [
    ("16_bits.png", lambda path: save(path, GREY.astype(np.uint16) * 200)), ("float.tif", lambda path: save(path, GREY.astype("f4"))),
    ("cmyk.jpg", lambda path: save(path, RGB, "CMYK")), ("glass.png", lambda path: save(path, np.dstack([RGB, GREY]))),
    ("pages.tif", lambda path: Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY)])),
    ("empty.png", lambda path: path.write_bytes(b"")), ("half.png", lambda path: halve(save(path, RGB))), ("half.jpg", lambda path: halve(save(path, RGB))),
    ("bomb.png", lambda path: save(path, np.zeros((10000, 10000), np.uint8)))])
def test_what_is_no_such_image_is_named(tmp_path, name, write):
    write(save(tmp_path / "images" / name, GREY, format="PNG"))
    with pytest.raises(ValueError, match=f"{name}: "):
        read(tmp_path / "images" / name)
