"""COCO's JSON files: write and read scenes and found objects, and score them with COCO's own tool."""

import json
from contextlib import redirect_stdout
from itertools import combinations
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval
from skimage.measure import find_contours

from shapeseg.figures import CLASSES, check_names, overlap
from shapeseg.files import load_coco
from shapeseg.objects import Object, encode_outlines, match_objects
from shapeseg.utils import atomic_write, resolve_path


def write_coco(path, objects, shape, form="polygon", results=False, classes=CLASSES, names=None):
    """Write the Figures or Objects of several images, a sequence for each, as COCO's JSON (Lin et al. 2014); return its path.

    The images, of one `shape` (height, width) or a list of such, get the ids 1, 2, … and the files' `names` (None: 00000.png, …, as in
    `write_dataset`); class k is category k + 1. The `form` "polygon" writes the exact outline of each whole (amodal) object, "rle" the
    pixels inside; `results` writes scores and pixels alone, as a list of results. Raises a ValueError if an argument is not as above.
    """
    shapes = [tuple(map(int, one)) for one in ([shape] * len(objects) if np.ndim(shape) == 1 else shape)]
    names, classes, annotations = names or [f"{n:05}.png" for n in range(len(objects))], check_names(classes), []
    for image, one in ((image, one) for image, of_image in enumerate(objects, start=1) for one in of_image):
        outline = one.outline if hasattr(one, "outline") else one.vertices
        [pixels] = encode_outlines([outline], shapes[image - 1])
        inside = pixels | {"counts": pixels["counts"].decode("ascii")} if results or form == "rle" else [
            (outline[:, ::-1] + 0.5).ravel().tolist()]  # x, y; here a pixel's centre is at its half
        annotations.append({"image_id": image, "category_id": classes.index(one.label) + 1, "segmentation": inside})
        annotations[-1] |= {"score": float(one.score)} if results else {
            "id": len(annotations), "iscrowd": 0, "area": int(rle.area(pixels)), "bbox": rle.toBbox(pixels).tolist()}
    images = [{"id": n, "file_name": name, "height": h, "width": w} for n, (name, (h, w)) in enumerate(zip(names, shapes, strict=True), 1)]
    dataset = {"images": images, "categories": [{"id": n, "name": name} for n, name in enumerate(classes, 1)], "annotations": annotations}
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(annotations if results else dataset))
    return resolve_path(path)


def read_coco(path, truth=None):
    """Read a COCO dataset or, with the path of its dataset as `truth`, any tool's list of results: a list of Objects per image.

    A dataset's score is 1. A polygon becomes the outline as it is; of several, or of a run-length encoding, `mask_to_polygon` is the
    outline. Crowds, which are no single objects, and what has no mask are left out. Raises FileNotFoundError, ValueError.
    """
    dataset = load_coco(truth or path)
    found = load_coco(path, dataset) if truth else dataset
    objects = {image: [] for image in dataset.imgs}
    for one in (one for one in found.anns.values() if not one["iscrowd"]):
        polygons = one["segmentation"]
        single = isinstance(polygons, list) and len(polygons) == 1
        outline = np.reshape(polygons, (-1, 2))[:, ::-1] - 0.5 if single else mask_to_polygon(found.annToMask(one) > 0)
        objects[one["image_id"]].append(Object(dataset.cats[one["category_id"]]["name"], float(one.get("score", 1)),
                                               tuple(outline.mean(axis=0).tolist()), outline))
    return list(objects.values())


def average_precision(truth, results):
    """COCO's average precision of any tool's results on a dataset, by COCO's own tool: https://cocodataset.org/#detection-eval.

    One row per class and "mean": ap, the mean over the IoU thresholds 0.50, 0.55, … 0.95, ap50 and ap75; nan where a class does not
    occur. As COCO does, it looks at the 100 surest results per class and image.
    """
    dataset = load_coco(truth)
    found = load_coco(results, dataset)
    names = [dataset.cats[number]["name"] for number in sorted(dataset.cats)]  # COCO's order
    with redirect_stdout(None):
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

    ap, ap50 and ap75 are the means of `average_precision`; "counts" is the share of scenes with the right number of objects of each
    class; "pairs", of the pairs of one class that overlap by up to half of the smaller one, the share that is found, or nan.
    """
    shape, exact, pairs = scenes[0].image.shape[:2], [], []
    for scene, found in zip(scenes, objects, strict=True):
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
    first, *others = sorted(find_contours(np.pad(np.asarray(mask, float), 1), 0.5, fully_connected="high"), key=len, reverse=True)
    path = [first[:-1]]  # a contour ends where it begins
    for part in others:
        corner = [[part[0, 0], first[0, 1]]]  # along a column and a row, where no rounding tells there from back
        path += [first[:1], corner, part, corner]
    return np.concatenate(path) - 1
