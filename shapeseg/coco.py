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
from skimage.draw import polygon2mask
from skimage.measure import find_contours

from shapeseg.checks import as_array, check_all, check_names, check_outline, check_shape, expect, listed, one_of, real, whole
from shapeseg.figures import CLASSES, Figure
from shapeseg.files import find_path, whole_file
from shapeseg.instances import Object, match
from shapeseg.scenes import Scene, overlap


def write_coco(path, objects, shape, form="polygon", results=False, classes=CLASSES):
    """Write the objects of several images as COCO's JSON, whole or not at all.

    Parameters
    ----------
    path : path
        A relative one counts from the repository's root.
    objects : sequence of sequences of Figure or Object
        One sequence an image, for example ``[scene.figures for scene in scenes]``. The images get
        the ids 1, 2, … and the names 00000.png, 00001.png, … that `write_dataset` gives them.
    shape : (int, int)
        Height and width of all images in pixels.
    form : "polygon" or "rle"
        Of a dataset's segmentation: the outline, exactly; or the pixels inside, run by run.
    results : bool
        COCO's list of results, each with a score and its pixels, in place of a dataset with its truth.
    classes : sequence of str
        The category of class k has the id k + 1.

    Returns
    -------
    pathlib.Path
        The file. Areas and boxes are those of the whole (amodal) masks.

    Raises
    ------
    ValueError
        If an argument is not as above.
    """
    expect(one_of(form, ("polygon", "rle")), "form", '"polygon" or "rle"', form)
    expect(isinstance(results, bool), "results", "True or False", results)
    shape, classes, objects = check_shape(shape), check_names(classes), _check_objects(objects)
    kinds = f"Objects of the classes {tuple(classes)}{'' if results else ', or Figures'}"
    annotations = []
    for image, several in enumerate(objects, start=1):
        for one in several:
            expect(one.label in classes and (isinstance(one, Object) or not results), "objects", kinds, one)
            outline = one.outline if hasattr(one, "outline") else one.vertices
            runs = rle.encode(np.asfortranarray(polygon2mask(shape, outline), np.uint8))
            polygon = [(outline[:, ::-1] + 0.5).ravel().tolist()]  # x, y; here a pixel's centre is at its half
            pixels = {"size": list(shape), "counts": runs["counts"].decode("ascii")}
            annotations.append({"image_id": image, "category_id": classes.index(one.label) + 1,
                                "segmentation": pixels if results or form == "rle" else polygon,
                                **({"score": one.score} if results else {
                                    "id": len(annotations) + 1, "iscrowd": 0, "area": int(rle.area(runs)),
                                    "bbox": rle.toBbox(runs).tolist()})})
    images = [{"id": n + 1, "file_name": f"{n:05}.png", "height": shape[0], "width": shape[1]} for n in range(len(objects))]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(classes)]
    path = find_path(path, "path")
    with whole_file(path) as partial:
        partial.write_text(json.dumps(annotations if results else {
            "images": images, "categories": categories, "annotations": annotations}))
    return path


def read_coco(path, truth=None):
    """Read the objects of a COCO dataset, or of the results of any tool on it.

    Parameters
    ----------
    path : path
        A dataset or, with `truth`, a list of results. A relative path counts from the repository's root.
    truth : path, optional
        The dataset that the results belong to.

    Returns
    -------
    list of list of Object
        One list an image, in the order of the dataset's images; in a dataset the score is 1 where there is none.
        A polygon becomes the outline as it is. Of several polygons or of runs the outline of the
        largest part is traced.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a COCO file of instances.
    """
    dataset = _load(path, "path") if truth is None else _load(truth, "truth")
    results = dataset if truth is None else _load_results(dataset, path, "path")
    objects = {image: [] for image in dataset.imgs}
    for one in results.anns.values():
        segmentation = one["segmentation"]
        if isinstance(segmentation, list) and len(segmentation) == 1:
            outline = np.reshape(segmentation[0], (-1, 2))[:, ::-1] - 0.5
        else:
            mask = results.annToMask(one) > 0
            expect(mask.any(), "path", "objects that have a pixel", {**one, "segmentation": "none"})
            outline = trace(mask)
        objects[one["image_id"]].append(Object(dataset.cats[one["category_id"]]["name"], one.get("score", 1),
                                               tuple(outline.mean(axis=0).tolist()), outline))
    return list(objects.values())


def average_precision(truth, results):
    """COCO's average precision of the masks, by COCO's own tool.

    Parameters
    ----------
    truth, results : path
        A dataset, and a list of results on it, from `write_coco` or from any other tool.

    Returns
    -------
    pandas.DataFrame
        One row a class and "mean". Columns ap (the mean over the IoU thresholds 0.50, 0.55, … 0.95),
        ap50 and ap75 (at one of them). nan for a class that does not occur. As COCO does, it looks at
        the 100 surest results of a class and image.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a COCO file of instances.

    References
    ----------
    Lin et al. 2014, "Microsoft COCO"; https://cocodataset.org/#detection-eval.
    """
    dataset = _load(truth, "truth")
    found = _load_results(dataset, results, "results")
    with _reading(truth, "truth", "a COCO dataset whose objects have an area, and are a crowd or not"):
        names = [dataset.cats[number]["name"] for number in sorted(dataset.cats)]  # COCO's order
        measured = COCOeval(dataset, found, "segm")
        measured.evaluate()
        measured.accumulate()
    precision = measured.eval["precision"][..., 0, -1]  # threshold, recall, class; any size, at most 100 an image
    precision = np.where(precision < 0, np.nan, precision).mean(axis=1)
    thresholds = measured.params.iouThrs.round(2).tolist()
    table = pd.DataFrame({"ap": precision.mean(axis=0), "ap50": precision[thresholds.index(0.5)],
                          "ap75": precision[thresholds.index(0.75)]}, index=pd.Index(names, name="class"))
    table.loc["mean"] = table.mean()
    return table


def evaluate_objects(scenes, objects):
    """How good are found objects?

    Parameters
    ----------
    scenes : sequence of Scene
        All of one size.
    objects : sequence of sequences of Object
        What was found in each.

    Returns
    -------
    dict of str to float
        Each in [0, 1]: ap, ap50 and ap75 (means of `average_precision`, which looks at 100 objects of a
        class and image at most, over the classes); "counts", the
        share of the scenes with the exact number of objects of each class; "pairs", the share of the
        pairs of one class that overlap by up to half of the smaller one whose two figures are both
        found (see `match`), nan where there are no such pairs.

    Raises
    ------
    ValueError
        If an argument is not as above.
    """
    scenes, objects = check_all(scenes, Scene, "scenes", "Scenes"), _check_objects(objects)
    sizes = {scene.masks.shape[:2] for scene in scenes}
    expect(len(sizes) == 1, "scenes", "at least one, all of one size", scenes)
    expect(len(objects) == len(scenes), "objects", f"a sequence for each of {len(scenes)} scenes", objects)
    shape = sizes.pop()
    with TemporaryDirectory() as folder:
        truth = write_coco(f"{folder}/truth.json", [scene.figures for scene in scenes], shape, "rle")
        results = write_coco(f"{folder}/results.json", objects, shape, results=True)
        scores = average_precision(truth, results).loc["mean"].to_dict()
    exact, pairs = [], []
    for scene, found in zip(scenes, objects, strict=True):
        exact.append(Counter(one.label for one in found) == Counter(figure.label for figure in scene.figures))
        matched = match(scene.figures, found, shape)
        pairs += [min(matched[i], matched[j]) >= 0 for i, j, share in twins(scene.figures) if share <= 0.5]
    return scores | {"counts": float(np.mean(exact)), "pairs": float(np.mean(pairs)) if pairs else float("nan")}


def twins(figures):
    """Pairs of one class that overlap: their numbers, and what share of the smaller one's pixels they have in common."""
    figures = check_all(figures, Figure, "figures", "Figures")
    pairs = [(i, j) for (i, a), (j, b) in combinations(enumerate(figures), 2)
             if a.label == b.label and np.hypot(*np.subtract(a.centre, b.centre)) < a.radius + b.radius]
    shares = [(i, j, overlap(figures[i], figures[j])) for i, j in pairs]
    return [pair for pair in shares if pair[2] > 0]


def trace(mask):
    """The outline of the largest part of a mask, half a pixel outside its pixels' centres; (V, 2) rows and columns."""
    mask = as_array(mask, "mask")
    expect(mask.ndim == 2 and mask.dtype == bool, "mask", "(H, W) bool", mask)
    expect(mask.any(), "mask", "at least one pixel that is set", mask)
    contours = find_contours(np.pad(mask.astype(float), 1), 0.5, fully_connected="high")
    return max(contours, key=_area)[:-1] - 1


def _area(line):
    """What a closed line encloses, in pixels (the shoelace formula)."""
    row, column = line.T
    return abs(row[:-1] @ column[1:] - row[1:] @ column[:-1]) / 2


def _check_objects(objects):
    """Return several sequences of Figures or Objects as lists, or raise a ValueError."""
    expected = "Objects or Figures, a sequence an image"
    expect(listed(objects) is not None, "objects", expected, objects)
    return [check_all(several, (Figure, Object), "objects", expected) for several in objects]


def _load(path, name):
    with _reading(path, name, "a COCO dataset of instances") as path:
        dataset = COCO(path)
        for part, found in (("images", dataset.imgs), ("categories", dataset.cats), ("annotations", dataset.anns)):
            given = dataset.dataset[part]
            if not isinstance(given, list) or len(found) != len(given) or not found and part != "annotations":
                raise ValueError(f"it has no {part}, or two of one id")
        for image in dataset.imgs.values():
            check_shape((image["height"], image["width"]))
        _check_annotations(dataset, dataset.anns.values())
        for number, one in enumerate(dataset.dataset["annotations"], start=1):
            one["id"] = number  # COCO's tool takes 0 for no annotation at all
        dataset.createIndex()
        dataset.dataset.setdefault("info", {})  # older versions of the tool ask for it
        return dataset


def _load_results(dataset, path, name):
    with _reading(path, name, "COCO's list of results on that dataset") as path:
        results = json.loads(path.read_text())
        if not isinstance(results, list):
            raise ValueError("it is no list")
        _check_annotations(dataset, results, scored=True)
        return dataset.loadRes(results) if results else COCO()


@contextmanager
def _reading(path, name, expected):
    """Silence COCO's tool; whatever it stumbles over is a ValueError about the file."""
    path = find_path(path, name)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: expected {expected}, and {path} is not there")
    try:
        with redirect_stdout(io.StringIO()):
            yield path
    except Exception as error:
        raise ValueError(f"{name}: expected {expected}, got {path} ({type(error).__name__}: {error})") from error


def _check_annotations(dataset, annotations, scored=False):
    """Raise an error unless each of these shows pixels of an image; COCO's tool would not see all that is wrong."""
    for one in annotations:
        image, segmentation = dataset.imgs[one["image_id"]], one["segmentation"]
        expect(isinstance(dataset.cats[one["category_id"]]["name"], str), "name", "a text", one)
        expect(real(one["score"] if scored else one.get("score", 1)), "score", "a number", one)
        expect("bbox" in one or not (scored and isinstance(segmentation, list)), "bbox", "a box beside the polygons of results", one)
        if isinstance(segmentation, list):
            for polygon in segmentation:
                check_outline(np.reshape(polygon, (-1, 2)), "segmentation")
            expect(segmentation, "segmentation", "at least one polygon", one)
        else:
            expect(segmentation["size"] == [image["height"], image["width"]], "size", "that of the image", one)
            runs = segmentation["counts"] if isinstance(segmentation["counts"], list) else _run_lengths(segmentation["counts"])
            good = all(whole(run) for run in runs) and sum(runs) == image["height"] * image["width"]
            expect(good, "counts", "whole numbers that add up to the image's pixels", one)


def _run_lengths(text):
    """The run lengths in COCO's text: five bits a letter, the lowest first; after the third less the last but one."""
    runs, value, bits = [], 0, 0
    for letter in text.encode("ascii"):
        value |= (letter - 48 & 31) << bits
        bits += 5
        if not letter - 48 & 32:  # the number's last letter; its highest bit is the sign
            value -= (letter - 48 & 16) << bits - 4
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    return runs
