"""Image files as people have them: read a dataset of images and masks, write one."""

import json
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from scipy import ndimage
from tqdm import tqdm

from shapeseg.figures import CLASSES, check_names, outline_mask
from shapeseg.scenes import ARTICLE, check_key, draw_scene
from shapeseg.utils import atomic_write, expect, is_int, resolve_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def write_dataset(folder, config=ARTICLE, seed=0, count=16, split="train"):
    """Write `count` scenes as images/00000.png and masks/CLASS/00000.png; return the folder. FileExistsError if it is there."""
    folder = resolve_path(folder, "folder", Path.cwd())
    expect(is_int(count, 1, 10**5), "count", "an integer from 1 to 100000", count)
    check_key(config, seed, split)
    if folder.exists():
        raise FileExistsError(f"folder: {folder} is there already; give a new name or delete it")
    with atomic_write(folder) as partial:
        parts = [partial / part for part in ("images", *(f"masks/{name}" for name in config.classes))]
        for part in parts:
            part.mkdir(parents=True)
        for index in tqdm(range(count), "scenes written"):
            scene = draw_scene(config, seed, index, split)
            for part, array in zip(parts, (scene.image.squeeze(), *np.moveaxis(scene.masks, -1, 0) * np.uint8(255))):
                Image.fromarray(array).save(part / f"{index:05}.png")
    return folder


def write_labels(folder, names, masks):
    """Write masks as palette PNGs, folder/NAME.png: the number of its class, from 1, at each pixel, as `read_dataset` has it in labels/.

    masks : (N, H, W, K) bool, or a list of (H, W, K); where classes overlap, the last one has the pixel, which is said in a line
    """
    folder, lost = resolve_path(folder, "folder", Path.cwd()), 0
    expect(len(names) == len(masks), "names", f"one for each of {len(masks)} images", names)
    expect(all(mask.dtype == bool for mask in masks), "masks", "bool", masks[0], "p > 0.5 makes masks of probabilities")
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in zip(names, masks):
        picture = Image.fromarray((mask * np.arange(1, mask.shape[-1] + 1)).max(axis=-1).astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, *(round(255 * level) for colour in colormaps["tab20"].colors for level in colour)])
        with atomic_write(folder / f"{name}.png") as partial:
            picture.save(partial)
        lost += (mask.sum(axis=-1) > 1).sum()
    print(f"{folder}: {lost} pixels belong to several classes; a label file has room for the last one\n" * bool(lost), end="")
    return folder


def read_dataset(folder, classes=CLASSES, channels=None, void=()):
    """Read images and the masks of their classes, as whatever tool wrote them.

    folder : path from the current directory; the images lie in images/, or in the folder itself, and the truth in one of these:
        masks/CLASS/NAME.png, a file per image and class: 0, and one more level where the class is; its edges may be soft
        labels/NAME.png, a file per image, grey or a palette: at each pixel the number of its class, 0 for none
        one .json of COCO's, in the folder; or LabelMe's .json beside each image
    classes : sequence of str; or a dict from each name to what marks it in the files, a number or several:
        {"leaf": 3, "cell": range(1, 65536)}, for files in which each cell has its own number. In labels/ names alone count from 1
    channels : 1 (grey) or 3 (RGB), to which all images are converted; None: RGB if any of them has colours
    void : sequence of int, numbers in labels/ that stand for no class

    Returns images (N, H, W, C) uint8, in the order of their names, and masks (N, H, W, K) bool; if the images differ in size, two lists
    of arrays (H, W, C) and (H, W, K). PNG, JPEG or TIFF; 16 bits are scaled to 8 by each image's own range. What is converted or left
    out is said in a line. Raises FileNotFoundError if an image or its truth is missing, ValueError if a file is not as above.
    """
    folder, numbers = resolve_path(folder, "folder", Path.cwd()), classes if isinstance(classes, Mapping) else {}
    classes = check_names([*numbers] or classes)
    expect(channels in (None, 1, 3), "channels", "None, 1 or 3", channels)
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    paths = _files(pictures)
    if not paths:
        raise FileNotFoundError(f"folder: found no images in {pictures}; expected NAME.png files there")
    skipped = Counter()
    read_masks = _find_masks(folder, pictures, paths, classes, numbers, void, skipped)
    if left_out := sorted(paths.keys() - read_masks.keys()):
        print(f"{folder}: left out {len(left_out)} images without annotations: {', '.join(left_out[:5])}" + ", …" * (len(left_out) > 5))
    images, masks = [read_image(paths[stem]) for stem in read_masks], []
    for stem, image in zip(read_masks, images):
        masks.append(read_masks[stem](image.shape[:2]))
        expect(masks[-1].shape[:2] == image.shape[:2], paths[stem], f"masks of its size, {image.shape[:2]}", masks[-1])
    for name, count in skipped.items():
        print(f"{folder}: left out {count} annotations of {name}, which is none of the classes {classes}")
    images = _alike(images, channels, folder)
    for name, share in zip(classes, np.min([mask.mean(axis=(0, 1)) for mask in masks], axis=0)):
        if share > 0.75:
            warnings.warn(f"masks: {name} covers at least {share:.0%} of every image; if 0 marks it, invert them: ~masks", stacklevel=2)
    return (np.stack(images), np.stack(masks)) if len({image.shape for image in images}) == 1 else (images, masks)


def _alike(images, channels, folder):
    """All with 8 bits and the same number of channels; a line says what had to change."""
    colours, deep = sum(image.shape[-1] == 3 for image in images), sum(image.dtype != np.uint8 for image in images)
    channels = channels or (3 if colours else 1)
    if deep:
        print(f"{folder}: {deep} of {len(images)} images have 16 bits per channel; each is scaled to 8 by its own range")
    if changed := colours if channels == 1 else len(images) - colours:
        print(f"{folder}: {changed} of {len(images)} images are {'RGB' if channels == 1 else 'grey'}; all are read with channels={channels}")
    result = []
    for image in images:
        if image.dtype != np.uint8:
            low = float(image.min())
            image = np.rint((image - low) * (255 / max(image.max() - low, 1))).astype(np.uint8)
        if image.shape[-1] > channels:
            image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
        result.append(np.repeat(image, channels // image.shape[-1], axis=-1))
    return result


def _files(folder, needed=()):
    files = {}  # from an image's name without its suffix, as it is shown, to its path
    for path in sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() != ".json" and path.is_file()):
        stem = unicodedata.normalize("NFC", path.stem)
        expect(path.suffix.lower() in SUFFIXES, folder, f"images alone ({', '.join(SUFFIXES)})", path.name, "convert or remove it")
        expect(stem not in files, folder, "one image of each name", f"{stem} twice", "remove one")
        files[stem] = path
    if missing := sorted(needed - files.keys() if needed else ()):
        raise FileNotFoundError(f"{folder / missing[0]}.png is not there; each image needs one")
    return files


def _find_masks(folder, pictures, paths, classes, numbers, void, skipped):
    """From the name of each image that has some truth to a function from its size to its masks; what is skipped is counted."""
    if (folder / "masks").is_dir():
        of_class = {name: _files(resolve_path(f"masks/{name}", start=folder), paths.keys()) for name in classes}
        return {stem: lambda _, stem=stem: np.stack([
            _is_one_of(files[stem], numbers[name]) if numbers else read_mask(files[stem]) for name, files in of_class.items()], axis=-1)
            for stem in paths}
    if (folder / "labels").is_dir():
        files, numbers = _files(folder / "labels", paths.keys()), numbers or {name: n for n, name in enumerate(classes, start=1)}
        return {stem: lambda _, stem=stem: _read_labels(files[stem], numbers, void) for stem in paths}
    found = {unicodedata.normalize("NFC", path.stem): path for path in sorted([*folder.glob("[!.]*.json"), *pictures.glob("[!.]*.json")])}
    if found.keys() & paths.keys():
        return {stem: lambda shape, stem=stem: _read_labelme(found[stem], classes, shape, skipped) for stem in paths if stem in found}
    if len(found) != 1:
        raise FileNotFoundError(f"folder: expected masks/, labels/, one COCO file or LabelMe's .json beside the images in {folder}")
    return _read_coco(*found.values(), paths, classes, skipped)


def _numbers(path):
    return read_image(path, colours=False)[..., 0]


def _is_one_of(path, wanted):
    return np.isin(_numbers(path), np.atleast_1d(wanted))


def _read_labels(path, numbers, void):
    known, levels = [0, *void, *np.concatenate([np.atleast_1d(one) for one in numbers.values()])], np.unique(_numbers(path))
    unknown = sorted({*levels.tolist()} - {*map(int, known)})
    expect(not unknown, path, f"the numbers of {numbers}, of void={void}, and 0", f"also {unknown[:8]}", "give each a class, or name it in void")
    return np.stack([_is_one_of(path, wanted) for wanted in numbers.values()], axis=-1)


def _read_labelme(path, classes, shape, skipped):
    masks = np.zeros((*shape, len(classes)), bool)
    try:
        for one in json.loads(path.read_bytes())["shapes"]:
            points, kind = np.array(one["points"], float)[:, ::-1] - 0.5, one.get("shape_type", "polygon")  # a pixel's centre is at its half
            if kind == "rectangle":
                points = np.array([points[0], (points[0, 0], points[1, 1]), points[1], (points[1, 0], points[0, 1])])
            elif kind == "circle":
                angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
                points = points[0] + np.hypot(*points[1] - points[0]) * np.stack([np.sin(angles), np.cos(angles)], axis=-1)
            expect(kind in ("polygon", "rectangle", "circle"), "shapes", "polygons, rectangles and circles", kind, "draw it as a polygon")
            if one["label"] in classes:
                masks[..., classes.index(one["label"])] |= outline_mask(points, shape)
            else:
                skipped[one["label"]] += 1
    except Exception as error:
        raise ValueError(f"{path}: expected LabelMe's annotations ({error!r})") from error
    return masks


def _read_coco(path, paths, classes, skipped):
    coco, masks = load_coco(path, "folder"), {}
    for number, image in coco.imgs.items():
        stem = unicodedata.normalize("NFC", Path(image["file_name"]).stem)
        expect(stem in paths, path, "all its images in the folder", f"none of the name {image['file_name']}")
        masks[stem] = np.zeros((image["height"], image["width"], len(classes)), bool)
        for one in coco.imgToAnns[number]:
            name = coco.cats[one["category_id"]]["name"]
            if name in classes:
                masks[stem][..., classes.index(name)] |= coco.annToMask(one) > 0
            else:
                skipped[name] += 1
    return {stem: lambda _, stem=stem: masks[stem] for stem in paths if stem in masks}


def load_coco(path, name, truth=None):
    """A COCO dataset, or a list of results on one, as pycocotools has it; a ValueError if the file is none."""
    path = resolve_path(path, name)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: expected a COCO file, and {path} is not there")
    try:
        content, coco = json.loads(path.read_bytes()), COCO()
        expect(truth is None or all("score" in one for one in content), "results", "a list with a score and a segmentation each", "none")
        content = content if truth is None else truth.dataset | {"annotations": content}
        kept = [one | {"segmentation": parts} for one in content["annotations"] for parts in [one.get("segmentation") or []]
                if isinstance(parts, dict) or any(len(polygon) >= 6 for polygon in parts)]
        # As COCO's own readers have it: no crowd; an area counts only where sizes are scored apart. 0 is for it no id at all.
        annotations = [{"iscrowd": 0, "area": 0} | one | {"id": number} for number, one in enumerate(kept, start=1)]
        coco.dataset = content | {"annotations": annotations}
        with redirect_stdout(None):
            coco.createIndex()
        for one in annotations:  # a number that is not there, and what is no segmentation
            coco.cats[one["category_id"]], coco.annToRLE(one)
    except Exception as error:
        raise ValueError(f"{name}: expected COCO's instances or results on them, got {path} ({error!r})") from error
    left_out = len(content["annotations"]) - len(kept)
    print(f"{path}: left out {left_out} annotations without a mask\n" * bool(left_out), end="")
    return coco


def read_image(path, colours=True):
    """Read a PNG, JPEG or TIFF file, upright: (H, W, C), C 1 (grey) or 3 (RGB), uint8 or uint16; or, not `colours`, a palette's indices."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG", "JPEG", "TIFF")) as file:  # of a camera's notes, say
            frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # some phones add a preview
            bands, image = getattr(file, "tag_v2", {}).get(277, 0), ImageOps.exif_transpose(file)
    except Exception as error:
        advice = "cut it into pieces, or raise PIL.Image.MAX_IMAGE_PIXELS" if "exceeds limit" in str(error) else "write it again"
        raise ValueError(f"{path}: expected grey or RGB as PNG, JPEG or TIFF, and it cannot be read ({error!r}); {advice}") from None
    expect(frames == 1, path, "one image", f"{frames} in one file", "write each to a file of its own")
    expect(bands <= len(image.getbands()), path, "grey or RGB", f"{bands} bands", "write those that you need as grey or RGB")
    grey, mode = image.mode in ("1", "L", "LA"), image.mode
    expect(grey or mode in ("P", "PA", "RGB", "RGBA", "I;16", "I;16B"), path, "8 bits of grey or RGB, or 16 of grey", f"Pillow's mode {mode}",
           "convert it to one of these")
    if mode.startswith("I;16") or mode == "P" and not colours:
        return np.asarray(image, np.uint8 if mode == "P" else np.uint16)[..., None]
    array = np.asarray(image.convert("LA" if grey else "RGBA"))
    expect(array[..., -1].min() == 255, path, "an opaque image", f"{len(image.getbands())} bands, of which the last, opacity, is not full "
           "everywhere", "put it on a ground of one colour, or write the other bands alone")
    return array[..., :-1]


def read_mask(path):
    """Read a mask file, (H, W) bool, or raise a ValueError if it holds more than a class and its soft edges."""
    mask, lossy = read_image(path, colours=False), path.suffix.lower() in (".jpg", ".jpeg")
    expect((mask == mask[..., :1]).all(), path, "a grey mask", "colours", "give each class a file of its own")
    mask, levels = mask[..., 0], np.unique(mask)
    if len(levels) == 1 or not lossy and len(levels) == 2 and levels[0] == 0:
        return mask > 0
    between = (mask > 0) & (mask < levels[-1])
    flat = between & (ndimage.minimum_filter(mask, 3) == ndimage.maximum_filter(mask, 3))  # 3 × 3 pixels of one level are no edge
    far = between & (ndimage.distance_transform_edt(mask < levels[-1]) > 48)
    soft = lossy or len(levels) > 4 and flat.sum() <= 0.1 * between.sum() and not far.any()
    expect(soft and levels[-1] > 127, path, "0, and one level more where the class is", f"the levels {levels[:8].tolist()}", "say what they mean: "
           'classes={"name": range(1, 65536)} if all but 0 are the class, {"name": number} if one of them is')
    return mask > 127
