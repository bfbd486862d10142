"""The doctor before the operation: what will go wrong when a network is trained on a dataset?"""

import numpy as np
import pandas as pd
from scipy import ndimage, signal

from shapeseg.datasets import check_pair, draw_scenes, find_duplicates
from shapeseg.figures import check_names
from shapeseg.models import receptive_field
from shapeseg.scenes import SceneConfig
from shapeseg.utils import expect

FEW, SMALL, SHIFT = 0.001, 8, 16  # share of the pixels; pixels across; pixels, how far masks may have slipped


def check_dataset(images, masks, classes=None, validation=None, model=None, trained_on=None):
    """Look a dataset over before training: print in sentences what will go wrong, and return a table of its classes.

    images, masks : as `read_dataset` returns them; `validation` the same pair of the images that the training is watched with
    classes : names of the masks; without them as `evaluate` names them
    model : a network from `build_model` or `load_model`; are the objects smaller than what it sees?
    trained_on : a SceneConfig or a pair (images, masks) that it was trained on; are the objects of the same size?

    Returns a pandas.DataFrame, one row per class: images that hold it, its share of all pixels, its objects (connected regions), and
    their smallest, middle and largest size in pixels (the longer side of the box around). Its attrs["problems"] lists the sentences.
    Raises a ValueError if an argument is not as above.
    """
    images, masks = check_pair((images, masks), "images and masks")
    classes = check_names(classes, masks[0].shape[-1])
    table, problems = describe(masks, classes), []
    for name, row in table.iterrows():
        if not row.images:
            problems.append(f"{name}: no image holds it. Is its name right, and its number?")
        elif row.share < FEW or row.images < min(3, len(images)):
            problems.append(f"{name}: {row.images} of {len(images)} images hold it, in {row.share:.2%} of the pixels. That is little to learn from.")
    problems += [f"{name}: it covers {share:.0%} of the pixels and most of the border of the images. If that is the ground, and not {name}, "
                 "the masks are inverted: take ~masks." for name, share in zip(classes, _grounds(masks)) if share]
    problems += _misplaced(images, masks)
    if len(images) == 1:
        problems.append("There is one image only. What is learned from it cannot be tested: cut it in two, one half to train, one to test.")
    if validation is not None:
        others, truth = check_pair(validation, "validation")
        expect(truth[0].shape[-1] == len(classes), "validation", f"masks of {len(classes)} classes", truth[0])
        problems += [f"{name}: no validation image holds it, so nobody will see whether it is learned." for name, row in describe(truth, classes).iterrows()
                     if not row.images and table.images[name]]
        if same := find_duplicates(images, others):
            problems.append(f"{len({j for _, j in same})} validation images are in the training images, too (for example number {same[0][1]}, there "
                            f"number {same[0][0]}): the score will be too good. Split with ss.split_dataset.")
    problems += _sizes(table, model, trained_on, len(classes))
    print("\n".join(f"- {problem}" for problem in problems) or "Nothing found that would go wrong.")
    table.attrs["problems"] = problems
    return table


def describe(masks, classes):
    rows = []
    for k, name in enumerate(classes):
        sizes = [max(box.stop - box.start for box in region) for mask in masks
                 for region in ndimage.find_objects(ndimage.label(mask[..., k])[0])]
        pixels = sum(mask[..., k].sum() for mask in masks)
        rows.append((sum(mask[..., k].any() for mask in masks), pixels / sum(mask[..., k].size for mask in masks), len(sizes),
                     *(np.quantile(sizes, (0, 0.5, 1)).round().astype(int) if sizes else (0, 0, 0))))
    columns = ["images", "share", "objects", "smallest", "middle", "largest"]
    return pd.DataFrame(rows, pd.Index(classes, name="class"), columns)


def _grounds(masks):
    """For each class its share of the pixels if it looks like the ground, else 0."""
    borders = np.mean([np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean(axis=0) for mask in masks], axis=0)
    shares = np.mean([mask.mean(axis=(0, 1)) for mask in masks], axis=0)
    return np.where((borders > 0.6) & (shares > 0.5), shares, 0)


def _misplaced(images, masks):
    """Where the edges of the masks lie on edges of the images, their correlation has its peak at no shift."""
    maps = []
    for image, mask in zip(images, masks):
        grey = ndimage.gaussian_filter(image.mean(axis=-1), 1)
        strength = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
        inside = mask.any(axis=-1)
        edges = (inside ^ ndimage.binary_erosion(inside, border_value=1)).astype(float)
        if edges.any() and strength.std() > 0:
            strength = (np.minimum(strength, np.quantile(strength, 0.99)) - strength.mean())
            both = signal.fftconvolve(np.pad(strength, SHIFT), edges[::-1, ::-1], "valid")
            maps.append(both / np.sqrt(edges.sum()) / strength.std())
    if not maps:
        return []
    total = np.mean(maps, axis=0)
    row, column = np.unravel_index(total.argmax(), total.shape)
    shift, here, best, usual = (row - SHIFT, column - SHIFT), total[SHIFT, SHIFT], total.max(), np.median(total)
    if max(map(abs, shift)) > 2 and best - usual > 1.3 * (here - usual) and best > 3:
        return [f"The edges of the masks fit the images best when the masks move by {shift[0]} rows and {shift[1]} columns: they have slipped."]
    return ["The edges of the masks do not lie on edges of the images: is each mask that of its image?"] if here < 1 else []


def _sizes(table, model, trained_on, count):
    seen, problems = table[table.objects > 0], []
    problems += [f"{name}: half of its objects are less than {SMALL} pixels across. Enlarge the images before." for name, row in seen.iterrows() if row.middle < SMALL]
    if model is not None:
        first, last = receptive_field(model, 2**12)
        problems += [f"{name}: objects are up to {row.largest} pixels across, and the network sees {last - first + 1}. Make the images smaller, or the network "
                     "deeper." for name, row in seen.iterrows() if row.largest > last - first + 1]
    if trained_on is not None and len(seen):
        known = draw_scenes(trained_on, 0, range(16))[1] if isinstance(trained_on, SceneConfig) else check_pair(trained_on, "trained_on")[1]
        whole = describe([mask.any(axis=-1, keepdims=True) for mask in known], ["any"]).middle.iloc[0]
        ratio = seen.middle.median() / whole
        if not 0.6 < ratio < 1.7:
            problems.append(f"The objects are {ratio:.1f} times as large as those that the network was trained with ({seen.middle.median():.0f} and {whole} pixels "
                            f"across): scale the images by {1 / ratio:.2f}.")
    return problems
