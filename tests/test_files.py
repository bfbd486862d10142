import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.io import imread

import shapeseg as ss
from conftest import CONFIG, damage
from shapeseg.files import read_image, read_mask
from test_datasets import same

GREY = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
RGB = np.stack([GREY, GREY[::-1], GREY.T.reshape(24, 32)], axis=-1)
RGBA = np.dstack([RGB, GREY])
FAR = np.hypot(*np.mgrid[-32:32, -32:32])
LEAF = (FAR < 16) * np.uint8(255)
IDS = np.kron(np.arange(1, 201).reshape(10, 20), np.pad(np.ones((4, 4)), 2))
TRUNCATE = partial(damage, kind="truncated")


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


def refuses(words, *arguments, **options):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        ss.read_dataset(*arguments, **options)


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
    ("images/00001.png", lambda path: save(path, GREY), "images/00001.png: expected a mask of circle of its size"),
    ("masks/quad/00001.png", lambda path: save(path, GREY // 255), "images/00001.png: expected a mask of quad of its size"),
    ("images", lambda path: path.rename(path.with_name("pictures")), "no images")])
def test_a_spoilt_dataset(tmp_path, name, spoil, words):
    folder = ss.write_dataset(tmp_path / "set", CONFIG, count=2)
    spoil(folder / name)
    refuses(words, folder)


@pytest.mark.parametrize("name, array, mode, options, expected", [
    ("grey.png", GREY, None, {}, GREY[..., None]), ("rgb.png", RGB, None, {}, RGB), ("rgba.png", RGB, "RGBA", {}, RGB),
    ("grey_and_alpha.png", GREY, "LA", {}, GREY[..., None]), ("rgb.tiff", RGB, None, {"compression": "tiff_lzw"}, RGB),
    ("palette.png", GREY // 32 * 32, "P", {}, np.repeat((GREY // 32 * 32)[..., None], 3, axis=-1)),
    ("black_and_white.png", np.where(GREY > 99, 255, 0).astype(np.uint8), "1", {}, np.where(GREY > 99, 255, 0)[..., None]),
    ("png.jpg", GREY, None, {"format": "PNG"}, GREY[..., None]), ("one.tif", GREY[:1, :1], None, {}, GREY[:1, :1, None]),
    *((name, GREY.astype(np.uint16) * 5 + 1000, None, {}, GREY[..., None]) for name in ("deep.png", "deep.tif"))])
def test_images_as_people_have_them(tmp_path, name, array, mode, options, expected):
    image = read_image(save(tmp_path / name, array, mode, **options))
    assert image.dtype == np.uint8 and image.shape == expected.shape and (image == expected).all()


def test_a_photograph_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    image = read_image(save(tmp_path / "images/a.jpg", LEAF[:, :40], exif=exif))[..., 0]
    assert image.shape == (40, 64) and abs(image - np.rot90(LEAF[:, :40], -1).astype(float)).mean() < 5
    save(tmp_path / "masks/a.png", LEAF[:, :40])  # painted on it as it lies in the file
    refuses("a.jpg: .*EXIF.*turn the mask", tmp_path, ["leaf"])


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
    with pytest.raises(ValueError, match=f"{name}: "):
        read_image(tmp_path / name)


@pytest.mark.parametrize("levels, mask", [
    ("0, 1, 255", np.select([FAR < 16, FAR < 18], [1, 255])), ("0, 1, 2, 3, 4, 5", IDS),
    ("0, 50, 100, 150, 200, 255", np.clip(6 - FAR // 5, 0, 5).astype(int) * 50 + 5 * (FAR < 10)),  # near each other, but flat
    ("0, 1, 2, 3, 4, 5", IDS * (np.arange(80)[:, None] % 8 == 3) * (np.arange(160) % 8 == 3)),  # of single pixels
    ("3, 7, 255", np.select([FAR < 10, FAR < 20], [255, 7], 3)), ("0, 128, 255", np.select([FAR < 16, FAR < 18], [255, 128]))])
def test_a_mask_with_several_levels_is_never_cut_silently(tmp_path, levels, mask):
    with pytest.raises(ValueError, match=rf"got the levels \[{levels}.*; say what they mean"):
        read_mask(save(tmp_path / "mask.png", mask.astype(np.uint8)))


@pytest.mark.parametrize("name, mask, options", [
    ("ones.png", LEAF // 255, {}), ("two_bytes.png", LEAF.astype(np.uint16) * 3, {}), ("palette.png", LEAF // 255, "P"),
    ("jpeg.jpg", LEAF, {}), ("soft.png", gaussian_filter(LEAF, 1), {}), ("softer.tif", gaussian_filter(LEAF, 3), {}),
    ("soft_and_deep.png", gaussian_filter(LEAF.astype(np.uint16) * 257, 1), {}), ("nothing.png", LEAF * 0, {}),
    ("antialiased.png", np.clip(16.5 - FAR, 0, 1) * 255, {}), ("all.png", LEAF * 0 + 255, {}), ("only_ones.png", LEAF * 0 + 1, {})])
def test_a_mask_of_one_class_passes_with_soft_edges_too(tmp_path, name, mask, options):
    expected = (mask > 0) & (mask > np.max(mask) / 2)
    if options == "P":
        image = Image.fromarray(mask, "P")
        image.putpalette([0, 0, 0, 128, 0, 0])  # dark red, as annotation tools have it
        image.save(tmp_path / name)
    else:
        save(tmp_path / name, mask.astype(mask.dtype if mask.dtype == np.uint16 else np.uint8))
    assert (read_mask(tmp_path / name) != expected).mean() < 0.01


SCENES = [ss.draw_scene(replace(CONFIG, size=size), 3, n) for n, size in enumerate((64, 80, 96))]
ORDERED = np.arange(1, 6)  # the number of each class


def labels_of(scene):
    return (scene.masks * ORDERED).max(axis=-1).astype(np.uint8)  # where classes overlap, the last


def write_images(folder, scenes=SCENES):
    for n, scene in enumerate(scenes):
        save(folder / f"{n}.png", scene.image[..., 0])


def test_label_files_with_numbers_void_and_a_number_for_each_object(tmp_path):
    write_images(tmp_path / "images")
    for n, scene in enumerate(SCENES):
        labels = labels_of(scene)
        labels[0] = 255
        save(tmp_path / f"labels/{n}.png", labels)
    refuses(r"labels/0.png: expected .*also \[255\]", tmp_path)
    images, masks = ss.read_dataset(tmp_path, void=[255])
    for scene, image, mask in zip(SCENES, images, masks, strict=True):
        assert (image == scene.image).all() and (mask[1:] == (labels_of(scene)[1:, :, None] == ORDERED)).all() and not mask[0].any()
    _, [mask, *_] = ss.read_dataset(tmp_path, {"round": 1, "cornered": {2, 3, 4, 5}}, void=[255])
    assert (mask[1:] == np.stack([labels_of(SCENES[0]) == 1, labels_of(SCENES[0]) > 1], axis=-1)[1:]).all()
    assert (ss.read_dataset(tmp_path, {"any": True}, void=[255])[1][0][..., 0] == mask.any(axis=-1)).all()
    save(tmp_path / "labels/1.png", labels_of(SCENES[1]), "RGB")  # all bands alike: still numbers
    assert (ss.read_dataset(tmp_path, void=[255])[1][1] == (labels_of(SCENES[1])[..., None] == ORDERED)).all()
    save(tmp_path / "labels/1.png", SCENES[1].image.repeat(3, axis=-1) // np.uint8((1, 2, 3)))
    refuses("labels/1.png: expected a grey mask or a palette, got 'colours'", tmp_path, void=[255])
    (tmp_path / "labels/1.png").unlink()
    refuses("labels/1.png is not there", tmp_path, void=[255])


def test_the_masks_of_one_class_may_lie_in_masks_itself_and_names_are_written_in_one_way(tmp_path):
    save(tmp_path / "images/Blätter.png", GREY), save(tmp_path / f"masks/{normalize('NFD', 'Blätter')}.png", GREY // 128)
    assert (ss.read_dataset(tmp_path, ["leaf"])[1][0, ..., 0] == (GREY >= 128)).all()
    save(tmp_path / "images/a.png", RGB), save(tmp_path / "images/b.png", GREY)
    refuses("masks/a.png is not there.* in all 2 are missing: a, b", tmp_path, ["leaf"])
    assert [*(images := ss.read_images(tmp_path))] == ["Blätter", "a", "b"] and (images["a"] == RGB).all()
    assert ss.read_images(tmp_path, 1, ["b"])["b"].shape == (24, 32, 1)


def test_masks_in_which_each_object_has_its_number(tmp_path):
    save(tmp_path / "images/a.png", IDS.astype(np.uint8)), save(tmp_path / "masks/cell/a.png", IDS.astype(np.uint8))
    refuses(r"say what they mean: classes=\{", tmp_path, ["cell"])
    assert (ss.read_dataset(tmp_path, {"cell": True})[1][0, ..., 0] == (IDS > 0)).all()


@pytest.mark.parametrize("place", ["", "images"])
def test_labelme_beside_the_images(tmp_path, capsys, place):
    write_images(tmp_path / place)
    for n, scene in enumerate(SCENES[:2]):
        shapes = [dict(label=figure.label, points=(figure.vertices[:, ::-1] + 0.5).tolist(), shape_type="polygon") for figure in scene.figures]
        shapes += [dict(label="dust", points=[[2, 2], [9, 9]] if n else [[9, 2], [9, 9], [2, 9], [2, 2]], shape_type="rectangle")]
        shapes += [dict(label="drop", points=[[40, 30], [43, 34]], shape_type="circle"), shapes[0] | dict(shape_type=None)]
        (tmp_path / place / f"{n}.json").write_text(json.dumps(dict(shapes=shapes, imagePath=f"{n}.png", imageData=None)))
    images, masks = ss.read_dataset(tmp_path)
    assert len(images) == 2 and all((mask == scene.masks).all() for mask, scene in zip(masks, SCENES))
    out = capsys.readouterr().out
    assert "left out 1 images without annotations: 2" in out and "left out 2 annotations of dust" in out
    _, masks = ss.read_dataset(tmp_path, ["dust", "drop"])
    assert all(mask[2:9, 2:9, 0].all() and mask[..., 0].sum() == 49 for mask in masks)
    rows, columns = np.nonzero(masks[0][..., 1])
    assert abs(len(rows) - np.pi * 25) < 4 and abs(rows.mean() - 29.5) < 0.1 and abs(columns.mean() - 39.5) < 0.1
    (tmp_path / place / "1.json").write_text(json.dumps(dict(shapes=[dict(label="quad", points=[[2, 2]], shape_type="point")])))
    refuses("1.json: expected LabelMe's annotations .*point", tmp_path)
    (tmp_path / place / "1.json").write_text(json.dumps(dict(shapes=shapes, imageHeight=640, imageWidth=640)))
    refuses("1.json: .*imageHeight and imageWidth: .*resized", tmp_path)  # after it was annotated


def test_a_coco_file_beside_the_images(tmp_path, capsys):
    folder = ss.write_dataset(tmp_path / "set", CONFIG, seed=3, count=3)
    scenes = [ss.draw_scene(CONFIG, 3, n) for n in range(3)]
    (folder / "masks").rename(tmp_path / "masks")
    ss.write_coco(folder / "instances.json", [scene.figures for scene in scenes], (64, 64), "rle")
    images, masks = ss.read_dataset(folder)
    assert all((masks[n] == scene.masks).all() and (images[n] == scene.image).all() for n, scene in enumerate(scenes))
    assert (ss.read_dataset(folder, ["quad"])[1][..., 0] == masks[..., 2]).all()
    assert "none of the classes" in capsys.readouterr().out
    (folder / "images/00001.png").unlink()
    refuses("instances.json: expected all its images.*00001", folder)
    (folder / "instances.json").unlink()
    refuses("expected masks/, labels/, one COCO file or LabelMe", folder)


def test_grey_and_colour_are_brought_together(tmp_path, capsys):
    for name, image in (("grey", GREY), ("colour", RGB)):
        save(tmp_path / f"images/{name}.png", image), save(tmp_path / f"masks/leaf/{name}.png", GREY * 0)
    images, _ = ss.read_dataset(tmp_path, ["leaf"])
    assert images.shape[-1] == 3 and (images[0] == RGB).all() and (images[1] == GREY[..., None]).all()
    assert ss.read_dataset(tmp_path, ["leaf"], channels=1)[0].shape[-1] == 1
    out = capsys.readouterr().out
    assert "1 of 2 images are grey, and read with channels=3" in out and "1 of 2 images are RGB, and read with channels=1" in out


def test_labels_are_written_as_they_are_read(tmp_path, capsys):
    write_images(tmp_path / "images")
    ss.write_labels(tmp_path / "labels", "012", [scene.masks for scene in SCENES])
    assert Image.open(tmp_path / "labels/0.png").mode == "P"
    for mask, scene in zip(ss.read_dataset(tmp_path)[1], SCENES, strict=True):
        assert (mask == (labels_of(scene)[..., None] == ORDERED)).all()
    with pytest.raises(ValueError, match="folder: expected one without other images .*0.png"):  # the images themselves
        ss.write_labels(tmp_path / "images", "012", [scene.masks for scene in SCENES])
    several = sum((scene.masks.sum(axis=-1) > 1).sum() for scene in SCENES)
    assert (f"{several} pixels belong to several classes" in capsys.readouterr().out) == (several > 0)
