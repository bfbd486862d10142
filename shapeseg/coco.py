"""COCO's JSON files: scenes and found objects out of here, other tools' in, and COCO's own measure of both."""

import io
import json
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from itertools import combinations
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage.measure import find_contours

from shapeseg.figures import CLASSES
from shapeseg.objects import Object, encode_outlines, match_objects
from shapeseg.scenes import overlap
from shapeseg.utils import atomic_write, check_names, expect, is_int, resolve_path


def write_coco(path, objects, shape, form="polygon", results=False, classes=CLASSES):
    """Write the objects of several images as COCO's JSON, whole or not at all; return the file's path.

    Parameters
    ----------
    path : path; a relative one counts from the repository's root
    objects : sequence of sequences of Figure or Object, one per image, for example ``[scene.figures for scene in scenes]``; the
        images get the ids 1, 2, … and the names 00000.png, 00001.png, … that `write_dataset` gives them
    shape : (int, int), height and width of all images in pixels
    form : of a dataset's segmentation: "polygon", the outline, exactly, or "rle", the pixels inside
    results : bool, COCO's list of results, each with a score and its pixels, in place of a dataset with its truth
    classes : sequence of str; the category of class k has the id k + 1

    Areas and boxes are those of the whole (amodal) masks. Raises a ValueError if an argument is not as above.
    """
    expect(form in ("polygon", "rle"), "form", '"polygon" or "rle"', form)
    expect(np.shape(shape) == (2,) and all(is_int(side, 1) for side in shape), "shape", "(height, width) in pixels", shape)
    shape, classes, annotations = [int(side) for side in shape], check_names(classes), []
    for image, of_image in enumerate(objects, start=1):
        for one in of_image:
            expect(one.label in classes, "objects", f"objects of the classes {classes}", one.label)
            expect(hasattr(one, "score") or not results, "objects", "Objects, which have a score", one)
            outline = one.outline if hasattr(one, "outline") else one.vertices
            [pixels] = encode_outlines([outline], shape)
            polygon = [(outline[:, ::-1] + 0.5).ravel().tolist()]  # x, y; here a pixel's centre is at its half
            as_rle = {"size": shape, "counts": pixels["counts"].decode("ascii")}
            annotations.append({"image_id": image, "category_id": classes.index(one.label) + 1,
                                "segmentation": as_rle if results or form == "rle" else polygon,
                                **({"score": float(one.score)} if results else {
                                    "id": len(annotations) + 1, "iscrowd": 0, "area": int(rle.area(pixels)),
                                    "bbox": rle.toBbox(pixels).tolist()})})
    images = [{"id": n + 1, "file_name": f"{n:05}.png", "height": shape[0], "width": shape[1]} for n in range(len(objects))]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(classes)]
    path = resolve_path(path)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(annotations if results else {
            "images": images, "categories": categories, "annotations": annotations}))
    return path


def read_coco(path, truth=None):
    """Read the objects of a COCO dataset or, with `truth`, the dataset that they belong to, of any tool's list of results.

    Returns one list of Objects per image, in the order of the dataset's images; a dataset's score is 1. A polygon becomes the
    outline as it is; of several polygons or of a run-length encoding the outline of the largest part is traced. Raises
    FileNotFoundError if there is no such file, and ValueError if it is not a COCO file of instances.
    """
    dataset = _load(path, "path") if truth is None else _load(truth, "truth")
    results = dataset if truth is None else _load_results(dataset, path, "path")
    objects = {image: [] for image in dataset.imgs}
    for one in results.anns.values():
        segmentation = one["segmentation"]
        if isinstance(segmentation, list) and len(segmentation) == 1:
            outline = np.reshape(segmentation[0], (-1, 2))[:, ::-1] - 0.5
        else:
            outline = mask_to_polygon(results.annToMask(one) > 0)
        objects[one["image_id"]].append(Object(dataset.cats[one["category_id"]]["name"], float(one.get("score", 1)),
                                               tuple(outline.mean(axis=0).tolist()), outline))
    return list(objects.values())


def average_precision(truth, results):
    """COCO's average precision of the masks, by COCO's own tool (Lin et al. 2014; https://cocodataset.org/#detection-eval).

    `truth` is a dataset, `results` a list of results on it, from `write_coco` or any other tool. Returns a pandas
    DataFrame with one row per class and "mean": ap (the mean over the IoU thresholds 0.50, 0.55, … 0.95), ap50 and ap75;
    nan for a class that does not occur. As COCO does, it looks at the 100 surest results per class and image.
    """
    dataset = _load(truth, "truth")
    found = _load_results(dataset, results, "results")
    with _reading(truth, "truth"):
        names = [dataset.cats[number]["name"] for number in sorted(dataset.cats)]  # COCO's order
        measured = COCOeval(dataset, found, "segm")
        measured.evaluate()
        measured.accumulate()
    precision = measured.eval["precision"][..., 0, -1]  # threshold, recall, class; any size, at most 100 per image
    precision = np.where(precision < 0, np.nan, precision).mean(axis=1)
    thresholds = measured.params.iouThrs.round(2).tolist()
    table = pd.DataFrame({"ap": precision.mean(axis=0), "ap50": precision[thresholds.index(0.5)],
                          "ap75": precision[thresholds.index(0.75)]}, index=pd.Index(names, name="class"))
    table.loc["mean"] = table.mean()
    return table


def evaluate_objects(scenes, objects):
    """How good are the objects, one list per scene, that were found in scenes of one size? A dictionary of numbers in [0, 1].

    ap, ap50 and ap75 are the means of `average_precision`; "counts" is the share of the scenes with the exact number of objects of
    each class; "pairs" the share of the pairs of one class that overlap by up to half of the smaller one whose two figures are both
    found (see `match_objects`), nan where there are no such pairs.
    """
    expect(len(scenes) and len({scene.image.shape for scene in scenes}) == 1, "scenes", "at least one, all of one size", scenes)
    expect(len(objects) == len(scenes), "objects", f"a sequence for each of {len(scenes)} scenes", objects)
    shape = scenes[0].image.shape[:2]
    with TemporaryDirectory() as folder:
        truth = write_coco(f"{folder}/truth.json", [scene.figures for scene in scenes], shape, "rle")
        results = write_coco(f"{folder}/results.json", objects, shape, results=True)
        scores = average_precision(truth, results).loc["mean"].to_dict()
    exact, pairs = [], []
    for scene, found in zip(scenes, objects):
        exact.append(Counter(one.label for one in found) == Counter(figure.label for figure in scene.figures))
        matched = match_objects(scene.figures, found, shape)
        pairs += [min(matched[i], matched[j]) >= 0 for i, j, share in overlapping_pairs(scene.figures) if share <= 0.5]
    return scores | {"counts": float(np.mean(exact)), "pairs": float(np.mean(pairs)) if pairs else float("nan")}


def overlapping_pairs(figures):
    """Pairs of one class that overlap: their numbers, and what share of the smaller one's pixels they have in common."""
    near = [(i, j) for (i, a), (j, b) in combinations(enumerate(figures), 2)
            if a.label == b.label and np.hypot(*np.subtract(a.centre, b.centre)) < a.radius + b.radius]
    shares = [(i, j, overlap(figures[i], figures[j])) for i, j in near]
    return [pair for pair in shares if pair[2] > 0]


def mask_to_polygon(mask):
    """The outline of the largest part of a mask (H, W) bool, half a pixel outside its pixels' centres; (V, 2) rows and columns."""
    expect(np.ndim(mask) == 2 and np.any(mask), "mask", "(H, W) bool with at least one pixel that is set", mask)

    contours = find_contours(np.pad(np.asarray(mask, float), 1), 0.5, fully_connected="high")
    return max(contours, key=lambda v: abs(v[:-1, 0] @ v[1:, 1] - v[1:, 0] @ v[:-1, 1]))[:-1] - 1  # shoelace formula


def _load(path, name):
    with _reading(path, name) as path:
        dataset = COCO(path)
        for part, found in (("images", dataset.imgs), ("categories", dataset.cats), ("annotations", dataset.anns)):
            if len(found) != len(dataset.dataset[part]) or not found and part != "annotations":
                raise ValueError(f"it has no {part}, or two of one id")
        _check_annotations(dataset, dataset.dataset["annotations"])
        for number, one in enumerate(dataset.dataset["annotations"], start=1):
            one["id"] = number  # COCO's tool takes 0 for no annotation at all
        dataset.createIndex()
        dataset.dataset.setdefault("info", {})  # older versions of the tool ask for it
        return dataset


def _load_results(dataset, path, name):
    with _reading(path, name) as path:
        results = json.loads(path.read_text())
        if not isinstance(results, list) or not all("score" in one for one in results):
            raise ValueError("it is no list of results, each with a score")
        _check_annotations(dataset, results)
        return dataset.loadRes(results) if results else COCO()


@contextmanager
def _reading(path, name):
    """Silence COCO's tool; whatever it stumbles over is a ValueError about the file."""
    path = resolve_path(path, name)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: expected a COCO file, and {path} is not there")
    try:
        with redirect_stdout(io.StringIO()):
            yield path
    except Exception as error:
        raise ValueError(f"{name}: expected COCO's instances or results on them, got {path} ({type(error).__name__}: {error})") from error


def _check_annotations(dataset, annotations):
    """Raise an error unless each shows pixels of its image: of run lengths that end too early COCO's tool makes up the rest."""
    for one in annotations:
        image, segmentation, _ = dataset.imgs[one["image_id"]], one["segmentation"], dataset.cats[one["category_id"]]["name"]
        if isinstance(segmentation, list):
            expect(segmentation and min(map(len, segmentation)) >= 6, "segmentation", "polygons of at least 3 points", one)
            continue
        counts = segmentation["counts"] if isinstance(segmentation["counts"], list) else _run_lengths(segmentation["counts"])
        expect(segmentation["size"] == [image["height"], image["width"]] and min(counts) >= 0
               and sum(counts) == image["height"] * image["width"], "segmentation", "the size and all pixels of its image", one)


def _run_lengths(text):
    """The run lengths in COCO's text: five bits per letter, the lowest first; after the third minus the last but one."""
    lengths, value, bits = [], 0, 0
    for letter in text.encode("ascii"):
        value |= (letter - 48 & 31) << bits
        bits += 5
        if not letter - 48 & 32:  # the number's last letter; its highest bit is the sign
            value -= (letter - 48 & 16) << bits - 4
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = bits = 0
    return lengths
