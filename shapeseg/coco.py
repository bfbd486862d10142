"""COCO's JSON files: write and read scenes and found objects, and score them with COCO's own tool."""

import json
from contextlib import contextmanager, redirect_stdout
from itertools import combinations
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage.measure import find_contours

from shapeseg.figures import CLASSES, check_names, overlap
from shapeseg.objects import Object, encode_outlines, match_objects
from shapeseg.utils import atomic_write, expect, is_int, is_number, resolve_path


def write_coco(path, objects, shape, form="polygon", results=False, classes=CLASSES):
    """Write the Figures or Objects of several images, a sequence for each, as COCO's JSON (Lin et al. 2014); return its path.

    The images, all of one `shape` (height, width) in pixels, get the ids 1, 2, … and the names 00000.png, … of `write_dataset`;
    class k is category k + 1. The `form` "polygon" writes the exact outline of each whole (amodal) object, "rle" the pixels inside;
    `results` writes scores and pixels alone, as a list of results. Raises a ValueError if an argument is not as above.
    """
    expect(form in ("polygon", "rle"), "form", '"polygon" or "rle"', form)
    expect(all(np.iterable(one) for one in objects), "objects", "a sequence of Figures or Objects for each image", objects)
    expect(np.shape(shape) == (2,) and all(is_int(side, 1) for side in shape), "shape", "(height, width) in pixels", shape)
    (height, width), classes, annotations = map(int, shape), check_names(classes), []
    for image, one in ((image, one) for image, of_image in enumerate(objects, start=1) for one in of_image):
        expect(one.label in classes, "objects", f"objects of the classes {classes}", one.label)
        expect(hasattr(one, "score") or not results, "objects", "Objects, which have a score", one)
        outline = one.outline if hasattr(one, "outline") else one.vertices
        [pixels] = encode_outlines([outline], (height, width))
        inside = pixels | {"counts": pixels["counts"].decode("ascii")} if results or form == "rle" else [
            (outline[:, ::-1] + 0.5).ravel().tolist()]  # x, y; here a pixel's centre is at its half
        annotations.append({"image_id": image, "category_id": classes.index(one.label) + 1, "segmentation": inside})
        annotations[-1] |= {"score": float(one.score)} if results else {
            "id": len(annotations), "iscrowd": 0, "area": int(rle.area(pixels)), "bbox": rle.toBbox(pixels).tolist()}
    dataset = {"images": [{"id": n + 1, "file_name": f"{n:05}.png", "height": height, "width": width} for n in range(len(objects))],
               "categories": [{"id": n + 1, "name": name} for n, name in enumerate(classes)], "annotations": annotations}
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(annotations if results else dataset))
    return resolve_path(path)


def read_coco(path, truth=None):
    """Read a COCO dataset or, with the path of its dataset as `truth`, any tool's list of results: a list of Objects per image.

    A dataset's score is 1. A polygon becomes the outline as it is; of several, or of a run-length encoding, `mask_to_polygon` is the
    outline, with the same pixels. Crowds, which are no single objects, and what has no pixels are left out, and counted in a line.
    Raises FileNotFoundError if there is no such file, ValueError if it is not COCO's of instances.
    """
    dataset = _load(path, "path") if truth is None else _load(truth, "truth")
    found = dataset if truth is None else _load(path, "path", dataset)
    objects, left_out = {image: [] for image in dataset.imgs}, []
    with _reading(path, "path"):
        for one in found.anns.values():
            polygons, pixels = one["segmentation"], found.annToMask(one) > 0
            single = isinstance(polygons, list) and len(polygons) == 1
            if one["iscrowd"] or not (single or pixels.any()):
                left_out.append(one["iscrowd"])
                continue
            outline = np.reshape(polygons, (-1, 2))[:, ::-1] - 0.5 if single else mask_to_polygon(pixels)
            objects[one["image_id"]].append(Object(dataset.cats[one["category_id"]]["name"], float(one.get("score", 1)),
                                                   tuple(outline.mean(axis=0).tolist()), outline))
    note = f"{path}: left out {sum(left_out)} crowd regions and {len(left_out) - sum(left_out)} annotations without pixels\n"
    print(note * bool(left_out), end="")
    return list(objects.values())


def average_precision(truth, results):
    """COCO's average precision of any tool's results on a dataset, by COCO's own tool: https://cocodataset.org/#detection-eval.

    One row per class and "mean": ap, the mean over the IoU thresholds 0.50, 0.55, … 0.95, ap50 and ap75; nan where a class does not
    occur. As COCO does, it looks at the 100 surest results per class and image.
    """
    dataset = _load(truth, "truth")
    found = _load(results, "results", dataset)
    with _reading(truth, "truth"):
        names = [dataset.cats[number]["name"] for number in sorted(dataset.cats)]  # COCO's order
        expect("mean" not in names, "categories", 'names other than "mean", the last row', names)
        measured = COCOeval(dataset, found, "segm")
        measured.evaluate()
        measured.accumulate()
    precision = measured.eval["precision"][..., 0, -1]  # threshold, recall, class; any size, at most 100 per image
    precision = np.where(precision < 0, np.nan, precision).mean(axis=1)
    table = pd.DataFrame({"ap": precision.mean(axis=0), "ap50": precision[0], "ap75": precision[5]}, pd.Index(names, name="class"))
    table.loc["mean"] = table.mean()
    return table


def evaluate_objects(scenes, objects):
    """How good are the objects, one list per scene, that were found in scenes of one size? A dictionary of numbers in [0, 1].

    ap, ap50 and ap75 are the means of `average_precision`; "counts" is the share of the scenes with the exact number of objects of
    each class; "pairs" the share of the pairs of one class that overlap by up to half of the smaller one whose two figures are both
    found (see `match_objects`), nan where there are no such pairs. Raises a ValueError if an argument is not as above.
    """
    expect(len({scene.image.shape for scene in scenes}) == 1, "scenes", "at least one, all of one size", scenes)
    expect(len(objects) == len(scenes), "objects", f"a sequence for each of {len(scenes)} scenes", objects)
    shape, exact, pairs = scenes[0].image.shape[:2], [], []
    for scene, found in zip(scenes, objects):
        exact.append(sorted(one.label for one in found) == sorted(figure.label for figure in scene.figures))
        matched = match_objects(scene.figures, found, shape)
        pairs += [min(matched[i], matched[j]) >= 0 for i, j, share in overlapping_pairs(scene.figures) if share <= 0.5]
    with TemporaryDirectory() as folder:
        truth = write_coco(f"{folder}/truth.json", [scene.figures for scene in scenes], shape, "rle")
        means = average_precision(truth, write_coco(f"{folder}/results.json", objects, shape, results=True)).loc["mean"]
    return means.to_dict() | {"counts": float(np.mean(exact)), "pairs": float(np.mean(pairs or np.nan))}


def overlapping_pairs(figures):
    """Pairs of one class that overlap: their numbers, and what share of the smaller one's pixels they have in common."""
    pairs = [(i, j) for i, j in combinations(range(len(figures)), 2) if figures[i].label == figures[j].label]
    return [(i, j, share) for i, j in pairs if (share := overlap(figures[i], figures[j])) > 0]


def mask_to_polygon(mask):
    """The outline of a mask (H, W) bool, half a pixel outside its pixels' centres; (V, 2) rows and columns.

    Several parts and holes become one outline by seams, there and back, which `fill` does not see; it begins with the largest.
    """
    expect(np.ndim(mask) == 2 and np.any(mask), "mask", "(H, W) bool with at least one pixel that is set", mask)
    first, *others = sorted(find_contours(np.pad(np.asarray(mask, float), 1), 0.5, fully_connected="high"), key=len, reverse=True)
    path = [first[:-1]]  # a contour ends where it begins
    for part in others:
        corner = [[part[0, 0], first[0, 1]]]  # along a column and a row, where no rounding tells there from back
        path += [first[:1], corner, part, corner]
    return np.concatenate(path) - 1


def _load(path, name, truth=None):
    with _reading(path, name) as path:
        coco, content = COCO(), json.loads(path.read_bytes())
        good = isinstance(content, dict) if truth is None else isinstance(content, list) and all(
            is_number(one["score"]) and "segmentation" in one for one in content)
        expect(good, "content", "a dataset; or results, each with a score and a segmentation, and their dataset as truth", type(content).__name__)
        content = content if truth is None else truth.dataset | {"annotations": content}
        sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
        categories, kept = {category["id"] for category in content["categories"]}, []
        expect(len(sizes) + len(categories) == len(content["images"] + content["categories"]), "images and categories", "an id each", path)
        for one in content["annotations"]:
            size, segmentation = sizes.get(one["image_id"], [0, 0]), one.get("segmentation")
            good = one["category_id"] in categories and all(is_int(side, 1) for side in size)
            expect(good, "annotations", f"one of the categories {categories} and an image with a height and a width", one)
            if isinstance(segmentation, dict):
                counts = segmentation["counts"]
                good = isinstance(counts, str) and counts or all(map(is_int, counts)) and sum(counts) == np.prod(size)
                expect(segmentation["size"] == size and good, "segmentation", f"run lengths of all pixels of its image, {size}", one)
                segmentation = segmentation if isinstance(counts, str) else rle.frPyObjects(segmentation, *size)
            else:
                good = all(np.ndim(points) == 1 and len(points) % 2 == 0 and np.abs(points).max(initial=0) < 2**16
                           for points in segmentation or ())
                expect(good, "segmentation", "polygons as lists x, y, x, y, … in pixels", one)
                segmentation = [points for points in segmentation or () if len(points) >= 6]
            # As COCO's own readers have it: no crowd; an area counts only where sizes are scored apart. 0 is for it no id at all.
            kept += [{"iscrowd": 0, "area": 0} | one | {"segmentation": segmentation, "id": len(kept) + 1}] if segmentation else []
        left_out = len(content["annotations"]) - len(kept)
        coco.dataset = content | {"annotations": kept}
        coco.createIndex()
    print(f"{path}: left out {left_out} annotations without a mask\n" * bool(left_out), end="")
    return coco


@contextmanager
def _reading(path, name):
    """Silence COCO's tool; whatever it stumbles over is a ValueError about the file."""
    path = resolve_path(path, name)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: expected a COCO file, and {path} is not there")
    try:
        with redirect_stdout(None):
            yield path
    except Exception as error:
        raise ValueError(f"{name}: expected COCO's instances or results on them, got {path} ({error!r})") from error
