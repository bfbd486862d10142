import numpy as np
import pytest
from PIL import Image, ImageOps

from shapeseg.images import read_image

GREY = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
RGB = np.stack([GREY, GREY[::-1], GREY.T.reshape(24, 32)], axis=-1)


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def halve(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def upright(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


@pytest.mark.parametrize("name, array, mode, options, expected", [
    ("grey.png", GREY, None, {}, GREY[..., None]),
    ("rgb.png", RGB, None, {}, RGB),
    ("rgba.png", RGB, "RGBA", {}, RGB),
    ("grey_and_alpha.png", GREY, "LA", {}, GREY[..., None]),
    ("palette.png", GREY // 32 * 32, "P", {}, np.repeat((GREY // 32 * 32)[..., None], 3, axis=-1)),
    ("black_and_white.png", np.where(GREY > 99, 255, 0).astype(np.uint8), "1", {}, np.where(GREY > 99, 255, 0)[..., None]),
    ("grey.tif", GREY, None, {}, GREY[..., None]),
    ("rgb.tiff", RGB, None, {"compression": "tiff_lzw"}, RGB),
    ("grey_named_jpg.jpg", GREY, None, {"format": "PNG"}, GREY[..., None]),
    ("one_pixel.png", GREY[:1, :1], None, {}, GREY[:1, :1, None]),
])
def test_images_as_people_have_them(tmp_path, name, array, mode, options, expected):
    image = read_image(save(tmp_path / name, array, mode, **options))
    assert image.dtype == np.uint8 and image.shape == expected.shape and (image == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright(tmp_path, orientation):
    smooth = np.add.outer(np.arange(24) * 5, np.arange(32) * 3).astype(np.uint8)
    path = save(tmp_path / "photograph.jpg", smooth, exif=upright(orientation), quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    image = read_image(path)[..., 0]
    assert image.shape == ((24, 32) if orientation < 5 else (32, 24)) and (image == expected).all()


@pytest.mark.parametrize("name, write, words", [
    ("16_bits.png", lambda path: save(path, GREY.astype(np.uint16) * 200), "8 bits a channel, grey or RGB, got Pillow's mode I;16"),
    ("float.tif", lambda path: save(path, GREY.astype(np.float32)), "8 bits a channel, grey or RGB, got Pillow's mode F"),
    ("cmyk.jpg", lambda path: save(path, RGB, "CMYK"), "got Pillow's mode CMYK"),
    ("glass.png", lambda path: save(path, np.dstack([RGB, GREY])), "expected an opaque image"),
    ("key.png", lambda path: save(path, GREY, transparency=7), "expected an opaque image"),
    ("pages.tif", lambda path: Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY)]),
     "expected one image, got 2"),
    ("picture.gif", lambda path: save(path, GREY), "it cannot be read"),
    ("empty.png", lambda path: path.write_bytes(b""), "it cannot be read"),
    ("text.png", lambda path: path.write_text("no picture"), "it cannot be read"),
    ("half.png", lambda path: halve(save(path, RGB)), "it cannot be read"),
    ("half.jpg", lambda path: halve(save(path, RGB)), "it cannot be read"),
    ("half.tif", lambda path: halve(save(path, RGB)), "it cannot be read"),
    ("bomb.png", lambda path: save(path, np.zeros((10000, 10000), np.uint8)), "it cannot be read .*decompression bomb"),
])
def test_what_is_no_such_image_is_named(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: .*{words}"):
        read_image(tmp_path / name)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_image(tmp_path)
