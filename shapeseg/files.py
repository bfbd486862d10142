"""Image files as people have them: read a dataset of images and masks, write one."""

import json
import unicodedata
from collections import Counter
from contextlib import redirect_stdout
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from scipy import ndimage
from tqdm import tqdm

from shapeseg.figures import CLASSES, check_names, outline, outline_mask
from shapeseg.scenes import ARTICLE, draw_scene
from shapeseg.utils import atomic_write, expect, is_int, resolve_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def write_dataset(folder, config=ARTICLE, seed=0, count=16, split="train"):
    """Write `count` scenes as images/00000.png and masks/CLASS/00000.png; return the folder. FileExistsError if it is there."""
    folder = resolve_path(folder, "folder", Path.cwd())
    if folder.exists():
        raise FileExistsError(f"folder: {folder} is there already; give a new name or delete it")
    with atomic_write(folder) as written:
        parts = [written / part for part in ("images", *(f"masks/{name}" for name in config.classes))]
        for part in parts:
            part.mkdir(parents=True)
        for index in tqdm(range(count), "scenes written"):
            scene = draw_scene(config, seed, index, split)
            for part, array in zip(parts, (scene.image.squeeze(), *np.moveaxis(scene.masks, -1, 0) * np.uint8(255))):
                Image.fromarray(array).save(part / f"{index:05}.png")
    return folder


def write_labels(folder, names, masks):
    """Write masks as `read_dataset` has them in labels/: folder/NAME.png, palettes of the numbers of the classes, from 1.

    names, masks : list of str; (N, H, W, K) bool or a list of (H, W, K), K to 255; where classes overlap, the last has the pixel
    """
    folder = resolve_path(folder, "folder", Path.cwd())
    good = len(names) == len(masks) and all(mask.dtype == bool and mask.ndim == 3 for mask in masks)
    expect(good, "masks", f"(H, W, K) bool for each of {len(names)} names", [*masks], "p > 0.5 makes masks of probabilities")
    colours = [round(255 * level) for colour in colormaps["tab20"].colors for level in colour]
    there = [path.name for name in names if (path := folder / f"{name}.png").exists() and Image.open(path).mode != "P"]
    expect(not there, "folder", "one without other images of these names", there, "give a new folder")
    for name, mask in zip(names, masks):
        picture = Image.fromarray((mask * np.arange(1, mask.shape[-1] + 1)).max(axis=-1).astype(np.uint8))
        picture.putpalette([0, 0, 0, *colours * 12])
        with atomic_write(folder / f"{name}.png") as written:
            picture.save(written)
    if lost := sum((mask.sum(axis=-1) > 1).sum() for mask in masks):
        print(f"{folder}: {lost} pixels belong to several classes; a label file has room for the last one")
    return folder


def read_dataset(folder, classes=CLASSES, channels=None, void=()):
    """Read images and the masks of their classes, as whatever tool wrote them.

    folder : path from the current directory; the images lie in images/, or in the folder itself, and the truth in one of these:
        masks/CLASS/NAME.png (of one class also masks/NAME.png): 0, and one more level where the class is; its edges may be soft
        labels/NAME.png, a file per image, grey or a palette: at each pixel the number of its class, 0 for none
        one .json of COCO's, in the folder; or LabelMe's .json beside each image
    classes : sequence of str; or a dict from each name to the number, or numbers, that mark it in the files: {"leaf": 3, "stem":
        [1, 2]}; True stands for all but 0, where each cell has a number of its own. In labels/ names alone count from 1
    channels : 1 (grey) or 3 (RGB), to which all images are converted; None: RGB if any of them has colours
    void : sequence of int, numbers in labels/ that stand for no class

    Returns images (N, H, W, C) uint8, in the order of their names, and masks (N, H, W, K) bool; lists of arrays, if their sizes
    differ. PNG, JPEG or TIFF; 16 bits of grey are scaled to 8 by each image's own range. A line says what is converted or left out.
    Raises FileNotFoundError if an image or its truth is missing, ValueError if a file is not as above.
    """
    folder = resolve_path(folder, "folder", Path.cwd())
    numbers = dict(classes) if isinstance(classes, dict) else {}
    numbers = {name: range(1, 2**16) if one is True else [one] if is_int(one) else [*one] for name, one in numbers.items()}
    classes, paths = check_names([*numbers] or classes), _find_images(folder)
    parts = _find_parts(folder, paths, classes, numbers, void)
    if left_out := sorted(paths.keys() - parts.keys()):
        print(f"{folder}: left out {len(left_out)} images without annotations: {', '.join(left_out[:5])}" + ", …" * (len(left_out) > 5))
    images, masks, skipped = [*read_images(folder, channels, parts).values()], [], Counter()
    for (stem, read_parts), image in zip(parts.items(), images):
        masks.append(np.zeros((*image.shape[:2], len(classes)), bool))
        for name, mask in read_parts(image.shape[:2]):
            if name in classes:
                turned = mask.shape == image.shape[1::-1]
                expect(mask.shape == image.shape[:2], paths[stem], f"a mask of {name} of its size, {image.shape[:2]}", mask,
                       "perhaps the image's EXIF data turn it upright; turn the mask, too" * turned)
                masks[-1][..., classes.index(name)] |= mask
            else:
                skipped[name] += 1
    for name, count in skipped.items():
        print(f"{folder}: left out {count} annotations of {name}, which is none of the classes {classes}")
    return (np.stack(images), np.stack(masks)) if len({image.shape for image in images}) == 1 else (images, masks)


def read_images(folder, channels=None, names=None):
    """Read images, all or those of these names, as `read_dataset` does: a dict from NAME to (H, W, C) uint8."""
    folder = resolve_path(folder, "folder", Path.cwd())
    paths = _find_images(folder)
    images = {name: read_image(paths[name]) for name in (paths if names is None else names)}
    colours = sum(image.shape[-1] == 3 for image in images.values())
    channels = channels or (3 if colours else 1)
    if changed := colours if channels == 1 else len(images) - colours:
        print(f"{folder}: {changed} of {len(images)} images are {'RGB' if channels == 1 else 'grey'}, and read with {channels=}")
    return {name: np.asarray(Image.fromarray(image).convert("L"))[..., None] if image.shape[-1] > channels
            else image.repeat(channels // image.shape[-1], axis=-1) for name, image in images.items()}


def _find_images(folder):
    if paths := _files(folder / "images" if (folder / "images").is_dir() else folder):
        return paths
    raise FileNotFoundError(f"folder: found no images in {folder}, nor in its images/; expected NAME.png files there")


def _files(folder, needed=()):
    """From the name of each image in a folder, without its suffix, to its path."""
    files = {}
    for path in sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() != ".json" and path.is_file()):
        expect(path.suffix.lower() in SUFFIXES, folder, f"images alone ({', '.join(SUFFIXES)})", path.name, "convert or remove it")
        stem = unicodedata.normalize("NFC", path.stem)  # one way to write ä, which has two
        expect(stem not in files, folder, "one image of each name", f"{stem} twice", "remove one")
        files[stem] = path
    if missing := sorted({*needed} - {*files}):
        more = f"; in all {len(missing)} are missing: {', '.join(missing[:8])}" + ", …" * (len(missing) > 8)
        raise FileNotFoundError(f"{folder / missing[0]}.png is not there; each image needs one" + more * (len(missing) > 1))
    return files


def _find_parts(folder, paths, classes, numbers, void):
    """From the name of each image that has some truth to a function from its size to its parts, pairs of a class and a mask."""
    if (folder / "masks").is_dir():
        one = len(classes) == 1 and not (folder / "masks" / classes[0]).is_dir() and _files(folder / "masks")
        files = {name: _files(folder / "masks" / ("" if one else name), paths) for name in classes}
        return {stem: partial(_read_masks, {name: files[name][stem] for name in classes}, numbers) for stem in paths}
    if (folder / "labels").is_dir():
        files, numbers = _files(folder / "labels", paths), numbers or {name: [n] for n, name in enumerate(classes, start=1)}
        return {stem: partial(_read_labels, files[stem], numbers, void) for stem in paths}
    found = sorted({*folder.glob("[!.]*.json"), *next(iter(paths.values())).parent.glob("[!.]*.json")})
    found = {unicodedata.normalize("NFC", path.stem): path for path in found}
    if found.keys() & paths.keys():
        return {stem: partial(_read_labelme, found[stem]) for stem in paths if stem in found}
    if len(found) != 1:
        raise FileNotFoundError(f"folder: expected masks/, labels/, one COCO file or LabelMe's .json beside the images in {folder}")
    coco = load_coco(*found.values())
    of_image = [(unicodedata.normalize("NFC", Path(image["file_name"]).stem), number) for number, image in coco.imgs.items()]
    missing = sorted({*dict(of_image)} - {*paths})
    expect(not missing, *found.values(), "all its images in the folder", f"none of the names {missing[:5]}")
    return {stem: partial(_read_coco, coco, [number for name, number in of_image if name == stem])  # one entry per annotator
            for stem in paths if stem in dict(of_image)}


def _read_masks(files, numbers, _):
    return [(name, np.isin(_read_numbers(path), numbers[name]) if numbers else read_mask(path)) for name, path in files.items()]


def _read_labels(path, numbers, void, _):
    labels = _read_numbers(path)
    unknown = np.setdiff1d(labels, [0, *void, *chain(*numbers.values())]).tolist()
    expect(not unknown, path, f"the numbers of {[*numbers]}, of void={void}, and 0", f"also {unknown[:8]}",
           'give each a class, classes={"name": number}, or name it in void; {"name": True} if each object has its number')
    return [(name, np.isin(labels, wanted) & ~np.isin(labels, void)) for name, wanted in numbers.items()]


def _read_labelme(path, shape):
    parts = []
    try:
        annotations = json.loads(path.read_bytes())
        size = annotations.get("imageHeight") or shape[0], annotations.get("imageWidth") or shape[1]
        expect(size == shape, "imageHeight and imageWidth", f"the image's, {shape}", f"the size {size}", "was it resized or turned since?")
        for one in annotations["shapes"]:
            points = np.array(one["points"], float)[:, ::-1] - 0.5  # here a pixel's centre is at its half
            kind = one.get("shape_type") or "polygon"
            expect(kind in ("polygon", "rectangle", "circle"), "shapes", "polygons, rectangles and circles", kind, "draw it as a polygon")
            if kind == "rectangle":
                points = np.stack([points.min(axis=0), points.max(axis=0)])[[[0, 0], [0, 1], [1, 1], [1, 0]], [0, 1]]
            elif kind == "circle":
                points = points[0] + np.hypot(*points[1] - points[0]) * outline("circle", None)
            parts.append((one["label"], outline_mask(points, shape)))
    except Exception as error:
        raise ValueError(f"{path}: expected LabelMe's annotations ({error!r})") from error
    return parts


def _read_coco(coco, numbers, _):
    return [(coco.cats[one["category_id"]]["name"], coco.annToMask(one) > 0) for number in numbers for one in coco.imgToAnns[number]]


def load_coco(path, truth=None):
    """A COCO dataset, or a list of results on one, as pycocotools has it, without the annotations that have no mask."""
    path, coco = resolve_path(path), COCO()
    try:
        content = json.loads(path.read_bytes())
        content = content if truth is None else truth.dataset | {"annotations": content}
        kept = [one for one in content["annotations"] if one.get("segmentation")]
        # As COCO's own readers have it: no crowd; an area counts only where sizes are scored apart. 0 is for it no id at all.
        coco.dataset = content | {"annotations": [{"iscrowd": 0, "area": 0} | one | {"id": n} for n, one in enumerate(kept, 1)]}
        with redirect_stdout(None):
            coco.createIndex()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected COCO's instances, or results on them ({error!r})") from error
    if left_out := len(content["annotations"]) - len(kept):
        print(f"{path}: left out {left_out} annotations without a mask")
    return coco


def read_image(path, colours=True):
    """Read an image file, upright: (H, W, C) uint8, C 1 (grey) or 3 (RGB); not `colours`: numbers of a palette or of 16 bits."""
    try:
        with path.open("rb") as raw, Image.open(raw, formats=("PNG", "JPEG", "TIFF")) as file:
            frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # some phones add a preview
            bands, image = getattr(file, "tag_v2", {}).get(277, 0), ImageOps.exif_transpose(file)
    except Exception as error:
        raise ValueError(f"{path}: expected grey or RGB as PNG, JPEG or TIFF, and it cannot be read ({error!r})") from error
    expect(frames == 1, path, "one image", f"{frames} in one file", "write each to a file of its own")
    expect(bands <= len(image.getbands()), path, "grey or RGB", f"{bands} bands", "write those that you need")
    mode, grey = image.mode, image.mode in ("1", "L", "LA")
    if mode.startswith("I;16") or mode == "P" and not colours:
        numbers = np.asarray(image, np.uint16)[..., None]
        return np.rint((numbers - numbers.min()) * (255 / max(int(np.ptp(numbers)), 1))).astype(np.uint8) if colours else numbers
    expect(grey or mode in ("P", "PA", "RGB", "RGBA"), path, "8 bits of grey or RGB, or 16 of grey", f"mode {mode}", "convert it")
    array = np.asarray(image.convert("LA" if grey else "RGBA"))
    expect(array[..., -1].min() == 255, path, "an opaque image", "transparent pixels", "write it without the last band, opacity")
    return array[..., :-1]


def _read_numbers(path):
    numbers = read_image(path, colours=False)
    expect((numbers == numbers[..., :1]).all(), path, "a grey mask or a palette", "colours", "write numbers, or a file per class")
    return numbers[..., 0]


def read_mask(path):
    """Read a mask file, (H, W) bool, or raise a ValueError if it holds more than a class and its soft edges."""
    mask, lossy = _read_numbers(path), path.suffix.lower() in (".jpg", ".jpeg")
    levels = np.unique(mask)
    if len(levels) == 1 or not lossy and len(levels) == 2 and levels[0] == 0:
        return mask > 0
    between = (mask > 0) & (mask < levels[-1])
    flat = between & (ndimage.minimum_filter(mask, 3) == ndimage.maximum_filter(mask, 3))  # 3 × 3 pixels of one level are no edge
    far = between & (ndimage.distance_transform_edt(mask < levels[-1]) > 48)
    soft = lossy or len(levels) > 4 and flat.sum() <= 0.1 * between.sum() and not far.any()
    expect(soft and levels[-1] > 127, path, "0, and one level more where the class is", f"the levels {levels[:8].tolist()}",
           'say what they mean: classes={"name": True} if all but 0 are the class, {"name": number} if one of them is')
    return mask > levels[-1] / 2
