"""The doctor before the operation: what will go wrong when a network is trained on a dataset?"""

import numpy as np
import pandas as pd
from scipy import ndimage, signal

from shapeseg.datasets import check_pair, draw_scenes, find_duplicates
from shapeseg.figures import check_names
from shapeseg.models import receptive_field
from shapeseg.scenes import SceneConfig

SHIFT = 16  # pixels: how far masks may have slipped


def check_dataset(images, masks, classes=None, validation=None, model=None, trained_on=None):
    """Look a dataset over before training: print in sentences what will go wrong, and return a table of its classes.

    images, masks, classes : as `read_dataset` returns them; names of the masks, without them as `evaluate` names them
    validation : the same pair, of the images that the training is watched with: does it hold all classes, and none of the images?
    model, trained_on : a network: does it see whole objects? The SceneConfig or pair that it learned from: are they of one size?

    Returns a pandas.DataFrame, a row per class: images that hold it, its share of all pixels, its objects (connected regions), and
    the smallest, median and largest size of those that end inside their image (the longer side of the box around, in pixels; 0 if
    none does). Its attrs["problems"] lists the sentences. Raises a ValueError if an argument is not as above.
    """
    images, masks = check_pair((images, masks), "images and masks")
    classes = check_names(classes, masks[0].shape[-1])
    table = _describe(masks, classes)
    problems = [f"{row.Index}: {row.images} of {len(images)} images hold it, in {row.share:.2%} of the pixels. "
                + ("That is little to learn from." if row.images else "Is its name right, and its number?")
                for row in table.itertuples() if row.share < 0.001 or row.images < min(3, len(images))]
    borders = np.mean([np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean(axis=0) for mask in masks], axis=0)
    problems += [f"{name}: it covers {share:.0%} of the pixels and most of the images' border. If that is not {name} but the "
                 "ground, the masks are inverted: take ~masks." for name, share, border in zip(classes, table.share, borders)
                 if share > 0.5 and border > 0.6]
    problems += _find_slips(images, masks)
    problems += ["There is one image only: cut it in two, to train and to test, to see what is learned."] * (len(images) == 1)
    if validation is not None:
        others, truth = check_pair(validation, "validation")
        problems += [f"{name}: no validation image holds it, so nobody can see whether it is learned."
                     for name, number in _describe(truth, classes).images.items() if not number and table.images[name]]
        if same := find_duplicates(images, others):
            problems.append(f"{len({j for _, j in same})} validation images are training images as well (number {same[0][1]} is number "
                            f"{same[0][0]} there), so the score will be too good. ss.split_dataset keeps them together.")
    sides = np.array([max(image.shape[:2]) for image in images])
    small, large = ([mask for mask, side in zip(masks, sides) if (side > 1.5 * sides.min()) == which] for which in (False, True))
    mixed = [f"{name}: in the larger images its objects are {b} pixels across, in the smaller ones {a}. Bring all to one scale."
             for name, a, b in zip(classes, *(_describe(part, classes)["median"] for part in (small, large or small))) if 0 < 1.7 * a < b]
    problems += mixed + _find_sizes(table, model, None if mixed else trained_on)
    print("\n".join(f"- {problem}" for problem in problems) or "Nothing found that would go wrong.")
    table.attrs["problems"] = problems
    return table


def _describe(masks, classes):
    rows = []
    for k in range(len(classes)):
        one_class = [mask[..., k] for mask in masks]
        found = [(mask.shape, np.subtract([side.stop for side in box], [side.start for side in box]))
                 for mask in one_class for box in ndimage.find_objects(ndimage.label(mask)[0])]
        sizes = [max(sides) for shape, sides in found if (sides < shape).all()] or [0]
        rows.append((sum(mask.any() for mask in one_class), np.concatenate([*map(np.ravel, one_class)]).mean(), len(found),
                     *np.quantile(sizes, (0, 0.5, 1)).round().astype(int)))
    return pd.DataFrame(rows, pd.Index(classes, name="class"), ["images", "share", "objects", "smallest", "median", "largest"])


def _find_slips(images, masks):
    """Where the masks' edges lie on edges of the images, the correlation of both has its peak at no shift."""
    maps = []
    for image, mask in zip(images, masks):
        grey, inside = ndimage.gaussian_filter(image.mean(axis=-1), 1), mask.any(axis=-1)
        strength = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
        edges = (inside ^ ndimage.binary_erosion(inside, border_value=1)).astype(float)
        if edges.any() and strength.std() > 0:
            clipped = np.minimum(strength, np.quantile(strength, 0.99)) - strength.mean()
            both = signal.fftconvolve(np.pad(clipped, SHIFT), edges[::-1, ::-1], "valid")
            maps.append(both / np.sqrt(edges.sum()) / strength.std())
    if not maps:
        return []
    fit = np.mean(maps, axis=0)
    (row, column), here, usual = np.subtract(np.unravel_index(fit.argmax(), fit.shape), SHIFT), fit[SHIFT, SHIFT], np.median(fit)
    if max(abs(row), abs(column)) > 2 and fit.max() - usual > 1.3 * (here - usual) and fit.max() > 3:
        return [f"The masks fit the images best when they move by {row} rows and {column} columns: they have slipped."]
    return ["The edges of the masks do not lie on edges of the images: is each mask that of its image?"] * bool(here < usual + 3)


def _find_sizes(table, model, trained_on):
    table = table[table["median"] > 0]
    problems = [f"{name}: half of its objects are less than 8 pixels across. Enlarge the images."
                for name, size in table["median"].items() if size < 8]
    if model is not None:
        sees = np.ptp(receptive_field(model, 2**12)) + 1
        problems += [f"{name}: objects are up to {size} pixels across, and the network sees {sees}. Make the images smaller, or "
                     "the network deeper." for name, size in table.largest.items() if size > sees]
    if trained_on is not None:
        _, known = draw_scenes(trained_on) if isinstance(trained_on, SceneConfig) else check_pair(trained_on, "trained_on")
        known = _describe(known, range(known[0].shape[-1]))["median"]
        ours, theirs = table["median"].median(), known[known > 0].median()
        if abs(np.log(ours / theirs)) > np.log(1.7):  # and not if one of them has no objects
            problems.append(f"The objects are {ours:.0f} pixels across, and those that the network has learned from {theirs:.0f}: "
                            f"scale the images by {theirs / ours:.2f}.")
    return problems
