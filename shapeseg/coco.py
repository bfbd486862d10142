"""COCO's JSON files: scenes and found objects out of here, other tools' in, and COCO's own measure of both."""

import io
import json
from collections import Counter
from contextlib import redirect_stdout
from itertools import combinations
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage.draw import polygon2mask
from skimage.measure import find_contours

from shapeseg.figures import CLASSES
from shapeseg.files import ROOT, whole_file
from shapeseg.instances import Object, match
from shapeseg.scenes import overlap, whole


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
    if form not in ("polygon", "rle"):
        raise ValueError(f'form: expected "polygon" or "rle", got {form!r}')
    if not (isinstance(shape, tuple) and len(shape) == 2 and all(whole(side, 1) for side in shape)):
        raise ValueError(f"shape: expected (height, width) in pixels, got {shape!r}")
    annotations = []
    for image, several in enumerate(objects, start=1):
        for one in several:
            if getattr(one, "label", None) not in classes or results and not hasattr(one, "score"):
                raise ValueError(f"objects: expected Objects of the classes {tuple(classes)}"
                                 f"{'' if results else ', or Figures'}, got {one!r}")
            outline = one.outline if hasattr(one, "outline") else one.vertices
            runs = rle.encode(np.asfortranarray(polygon2mask(shape, outline), np.uint8))
            polygon = [(outline[:, ::-1] + 0.5).ravel().tolist()]  # x, y; here a pixel's centre is at its half
            pixels = {"size": list(shape), "counts": runs["counts"].decode("ascii")}
            annotations.append({"image_id": image, "category_id": list(classes).index(one.label) + 1,
                                "segmentation": pixels if results or form == "rle" else polygon,
                                **({"score": one.score} if results else {
                                    "id": len(annotations) + 1, "iscrowd": 0, "area": int(rle.area(runs)),
                                    "bbox": rle.toBbox(runs).tolist()})})
    images = [{"id": n + 1, "file_name": f"{n:05}.png", "height": shape[0], "width": shape[1]} for n in range(len(objects))]
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(classes)]
    path = ROOT / path
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
        One list an image, in the order of the dataset's images; the score is 1 where there is none.
        A polygon becomes the outline as it is. Of several polygons or of runs the outline of the
        largest part is traced.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a COCO file of instances.
    """
    dataset = _load(truth or path)
    results = _load_results(dataset, path) if truth else dataset
    objects = {image: [] for image in dataset.imgs}
    for one in results.anns.values():
        segmentation = one["segmentation"]
        if isinstance(segmentation, list) and len(segmentation) == 1:
            outline = np.reshape(segmentation[0], (-1, 2))[:, ::-1] - 0.5
        else:
            outline = trace(results.annToMask(one) > 0)
        objects[one["image_id"]].append(Object(dataset.cats[one["category_id"]]["name"], float(one.get("score", 1)),
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
        ap50 and ap75 (at one of them). nan for a class that does not occur.

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
    dataset = _load(truth)
    names = [category["name"] for category in dataset.cats.values()]
    found = _load_results(dataset, results)
    with redirect_stdout(io.StringIO()):
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
        Each in [0, 1]: ap, ap50 and ap75 (means of `average_precision` over the classes); "counts", the
        share of the scenes with the exact number of objects of each class; "pairs", the share of the
        pairs of one class that overlap by up to half of the smaller one whose two figures are both
        found (see `match`), nan where there are no such pairs.
    """
    scenes, shape = list(scenes), scenes[0].masks.shape[:2]
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
    pairs = [(i, j) for (i, a), (j, b) in combinations(enumerate(figures), 2)
             if a.label == b.label and np.hypot(*np.subtract(a.centre, b.centre)) < a.radius + b.radius]
    shares = [(i, j, overlap(figures[i], figures[j])) for i, j in pairs]
    return [pair for pair in shares if pair[2] > 0]


def trace(mask):
    """The outline of the largest part of a mask, half a pixel outside its pixels' centres; (V, 2) rows and columns."""
    contours = find_contours(np.pad(np.asarray(mask, float), 1), 0.5, fully_connected="high")
    if not contours:
        raise ValueError("mask: expected at least one pixel that is set, got none")
    return max(contours, key=lambda line: polygon2mask(np.add(mask.shape, 2), line).sum())[:-1] - 1


def _load(path):
    try:
        with redirect_stdout(io.StringIO()):
            dataset = COCO(ROOT / path)
        assert dataset.imgs and dataset.cats, "it has no images or no categories"
        dataset.dataset.setdefault("info", {})  # older versions of the tool ask for it
        return dataset
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: expected a COCO dataset of instances ({type(error).__name__}: {error})") from error


def _load_results(dataset, path):
    try:
        results = json.loads((ROOT / path).read_text())
        assert isinstance(results, list), "it is no list"
        with redirect_stdout(io.StringIO()):
            return dataset.loadRes(results) if results else COCO()
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: expected COCO's list of results on that dataset ({type(error).__name__}: {error})") from error
