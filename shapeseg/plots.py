"""The pictures that two notebooks show. Each function draws one and shows it."""

import inspect
import re

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from shapeseg.figures import CLASSES, check_names
from shapeseg.metrics import confidence_interval
from shapeseg.utils import expect

# One colour per class everywhere (Okabe and Ito 2008: told apart with any kind of colour vision).
PALETTE = {"circle": "#0072B2", "triangle": "#D55E00", "quad": "#009E73", "pentagon": "#F0E442", "unknown": "#CC79A7"}
MORE_COLOURS = (*PALETTE.values(), "#56B4E9", "#E69F00", "#999999")

# What the pictures look like; a notebook that draws its own says plt.rcParams.update(ss.STYLE).
STYLE = {"figure.dpi": 80, "savefig.bbox": "tight", "font.size": 10, "axes.titlesize": 10,
         "axes.spines.top": False, "axes.spines.right": False, "image.cmap": "gray"}


def show(function):
    """Show the source of a function or class without its docstring: the code that is the lesson, written once."""
    source = re.sub(r'^ *""".*?"""\n', "", inspect.getsource(function), count=1, flags=re.MULTILINE | re.DOTALL)
    display(Markdown(f"```python\n{source}```"))


def class_colours(classes):
    """A colour for each class name: our classes their own, others the next that no class has."""
    free = [colour for colour in MORE_COLOURS if colour not in {PALETTE.get(name) for name in classes}]
    free += [to_hex(plt.get_cmap("tab20")(n % 20)) for n in range(len(classes))]
    return [PALETTE[name] if name in PALETTE else free.pop(0) for name in classes]


def compose(masks, image=None, classes=None):
    """Masks (H, W, K), bool or in [0, 1], as a picture (H, W, 3), over a dimmed image (H, W, C) uint8; overlaps are striped."""
    masks, image = np.asarray(masks), np.uint8([[[0]]]) if image is None else np.asarray(image)
    expect(masks.ndim == 3 and masks.dtype.kind in "bf", "masks", "(H, W, K) bool, or float in [0, 1]", masks)
    colours = np.array([to_rgb(colour) for colour in class_colours(check_names(classes, masks.shape[-1]))])
    expect(image.dtype == np.uint8 and image.ndim == 3 and image.shape[:2] in (masks.shape[:2], (1, 1)), "image",
           f"{masks.shape[:2] + ('C',)} uint8 to match the masks", image)
    yes, stripe = masks > 0.5, np.add.outer(*map(np.arange, masks.shape[:2]))[..., None] // max(2, len(masks) // 40)
    count = yes.sum(axis=-1, keepdims=True)
    masks = np.where(count > 1, yes & (yes.cumsum(axis=-1) == 1 + stripe % np.maximum(count, 1)), masks)
    total = masks.sum(axis=-1, keepdims=True, dtype=float)
    return masks @ colours / np.maximum(total, 1) + np.maximum(1 - total, 0) * (0.5 * image / 255)


def _panels(images, titles, columns, width, alpha=None):
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(width * columns, (width + 0.3 * bool(titles)) * rows + 0.4), squeeze=False)
    plt.setp(axes, frame_on=False, xticks=[], yticks=[])
    for ax, image, name in zip(axes.flat, map(np.asarray, images), titles or [""] * len(images)):
        ax.imshow(image.squeeze(), vmin=0, vmax=255 if image.dtype == np.uint8 else 1, alpha=alpha,
                  interpolation="nearest" if image.shape[0] < 100 else "antialiased")
        ax.set_title(name)
    return fig, axes.flat


@plt.rc_context(STYLE)
def show_images(images, titles=None, title="", columns=None, width=2.6, legend=()):
    """Images (uint8, bool, or float in [0, 1]) side by side; `legend` names the classes whose colours they show."""
    fig, _ = _panels(images, titles, columns, width)
    _finish(fig, title, legend)


def show_scene(image, masks, classes=None, title="One image, and one mask per class"):
    classes = check_names(classes, masks.shape[-1])
    panels = [to_rgb(colour) * masks[..., k:k + 1] for k, colour in enumerate(class_colours(classes))]
    show_images([image, *panels, compose(masks, classes=classes)], ["image", *classes, "composed"], title, width=1.9)


@plt.rc_context(STYLE)
def show_objects(images, objects, titles=None, title="", columns=None, width=3.2, classes=None):
    """Images side by side, with the outlines of the Objects or Figures in each; a dot marks each centre."""
    labels = [one.label for of_image in objects for one in of_image]
    classes = list(dict.fromkeys([*(classes or (CLASSES if {*labels} <= {*CLASSES} else ())), *labels]))
    colours = dict(zip(classes, class_colours(classes)))
    fig, axes = _panels(images, titles, columns, width, alpha=0.6)
    rim = [withStroke(linewidth=2.8, foreground="0.3")]  # yellow on white would not be seen
    for ax, of_image in zip(axes, objects):
        ax.autoscale(False)  # what lies outside of the image is not shown
        for one in of_image:
            outline = one.outline if hasattr(one, "outline") else one.vertices
            ax.plot(*np.append(outline, outline[:1], axis=0).T[::-1], color=colours[one.label], linewidth=1.8, path_effects=rim)
            ax.plot(*one.centre[::-1], ".", color=colours[one.label])
    _finish(fig, title, classes)


def show_predictions(images, truth, probabilities, classes=None, titles=None,
                     title="The image, the truth, the prediction, and where they differ", width=2.6):
    """The article's figure: one row per scene; image, truth, prediction, wrong pixels. Arrays as `evaluate` has them."""
    classes, panels, names = check_names(classes, truth[0].shape[-1]), [], []
    for image, masks, p, name in zip(images, truth, probabilities, titles or ["image"] * len(images)):
        wrong = ((p > 0.5) != masks).any(axis=-1)
        panels += [image, compose(masks, image, classes), compose(p > 0.5, image, classes), wrong]
        names += [name, "truth", "prediction", f"wrong: {wrong.mean():.2%} of the pixels"]
    show_images(panels, names, title, 4, width, classes)


@plt.rc_context(STYLE)
def show_curves(table, x, columns, ylabel, title, logy=False):
    ax = table.plot(x, columns, marker=".", logy=logy, ylabel=ylabel, figsize=(7, 3.2))
    ax.legend(frameon=False)
    _finish(ax.figure, title)


@plt.rc_context(STYLE)
def show_intervals(tables, ylabel, title, baseline=None):
    """Means and 95% intervals of runs, a table's rows, and the runs as dots in the colour of their index; dashed line: baseline."""
    colours = [PALETTE[name] for name in ("circle", "triangle", "quad", "unknown", "pentagon")]  # yellow last: it is faint
    fig, axes = plt.subplots(1, len(tables), figsize=(max(7, 4.6 * len(tables)), 3.4), sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes.flat, tables.items()):
        groups = table.groupby(level=0, sort=False)
        for n, (colour, (group, runs)) in enumerate(zip(colours, groups)):
            place = np.arange(table.shape[1]) + 0.8 * ((n + 0.5) / len(groups) - 0.5)
            means, halves = np.transpose([confidence_interval(column) for column in runs.to_numpy(float).T])
            ax.errorbar(place, means, halves, fmt="_", color=colour, capsize=4, markersize=14, linewidth=2, label=group)
            ax.plot(place, runs.T, "o", color=colour, markersize=4, alpha=0.5)
        if baseline is not None:
            ax.axhline(baseline, color="black", linestyle="--", linewidth=1)
        ax.set(title=name, xticks=range(table.shape[1]), xticklabels=table.columns)
    axes[0, 0].set_ylabel(ylabel)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _finish(fig, title)


def _finish(fig, title, classes=()):
    if classes:
        handles = [Patch(facecolor=colour, edgecolor="0.4", label=name) for name, colour in zip(classes, class_colours(classes))]
        fig.legend(handles=handles, loc="lower center", ncols=min(len(classes), 8), frameon=False, bbox_to_anchor=(0.5, -0.03))
    fig.suptitle(title)
    fig.tight_layout()
    plt.show()
