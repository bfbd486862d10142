"""The pictures that two notebooks show. Each function draws one and shows it."""

import ast
import inspect

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from shapeseg.figures import CLASSES
from shapeseg.metrics import confidence_interval
from shapeseg.utils import check_names, expect

# One colour per class everywhere (Okabe and Ito 2008: told apart with any kind of colour vision).
PALETTE = {"circle": "#0072B2", "triangle": "#D55E00", "quad": "#009E73", "pentagon": "#F0E442", "unknown": "#CC79A7"}
MORE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#E69F00", "#999999")

# What the pictures look like; a notebook that draws its own says plt.rcParams.update(ss.STYLE).
STYLE = {"figure.dpi": 80, "savefig.bbox": "tight", "font.size": 10, "axes.titlesize": 10,
         "axes.spines.top": False, "axes.spines.right": False, "image.cmap": "gray"}


def show(function):
    """Show the source of a function or class without its docstring: the code that is the lesson, written once."""
    source = inspect.getsource(function)
    definition = ast.parse(source).body[0]
    if ast.get_docstring(definition):
        lines, docstring = source.splitlines(keepends=True), definition.body[0]
        source = "".join(lines[:docstring.lineno - 1] + lines[docstring.end_lineno:])
    display(Markdown(f"```python\n{source}```"))


def class_colours(classes):
    """A colour for each class name: our classes their own, others the next that no class has."""
    free = [colour for colour in MORE_COLOURS if colour not in {PALETTE.get(name) for name in classes}]
    free += [plt.get_cmap("tab20")(n % 20) for n in range(len(classes))]
    return [PALETTE[name] if name in PALETTE else free.pop(0) for name in classes]


def compose(masks, image=None, classes=None):
    """Masks (H, W, K), bool or float in [0, 1], as one colour picture (H, W, 3), float; where classes overlap, their colours mix.

    An image (H, W, C) uint8 is shown dimmed where no class is. `classes` are the names of the channels; None for ``CLASSES``.
    """
    masks, image = np.asarray(masks), None if image is None else np.asarray(image)
    expect(masks.ndim == 3 and masks.dtype.kind in "bf", "masks", "(H, W, K) bool, or float in [0, 1]", masks)
    expect(image is None or image.dtype == np.uint8 and image.ndim == 3 and image.shape[:2] == masks.shape[:2], "image",
           f"{masks.shape[:2] + ('C',)} uint8 to match the masks", image)
    colours = [to_rgb(colour) for colour in class_colours(check_names(classes or CLASSES, masks.shape[-1]))]
    weight = masks.astype(float)
    total = weight.sum(axis=-1, keepdims=True)
    cover = np.minimum(total, 1)
    mixed = weight @ np.array(colours) / np.maximum(total, 1e-9)
    return cover * mixed + (1 - cover) * (0 if image is None else 0.5 * image / 255)


def _panels(count, columns, width, height):
    """A figure with so many axes in rows of `columns`, all without frames."""
    columns = columns or count
    rows = -(-count // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows + 0.4), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    return fig, axes.flat


@plt.rc_context(STYLE)
def show_images(images, titles=None, title="", columns=None, width=2.6, legend=()):
    """Images (uint8, bool, or float in [0, 1]) side by side in rows of `columns`, each `width` inches wide.

    `legend` names the classes whose colours the images show.
    """
    fig, axes = _panels(len(images), columns, width, width + 0.3 * bool(titles))
    for n, (ax, image) in enumerate(zip(axes, map(np.asarray, images))):
        ax.imshow(image.squeeze(), vmin=0, vmax=255 if image.dtype == np.uint8 else 1,
                  interpolation="nearest" if image.shape[0] < 100 else "antialiased")
        ax.set_title(titles[n] if titles else "")
    _finish(fig, title, legend)


def show_scene(image, masks, classes=None, title="One image, and one mask per class"):
    """An image, each of its masks, and all of them composed into one picture."""
    classes = check_names(classes or CLASSES, masks.shape[-1])
    panels = [to_rgb(colour) * masks[..., k:k + 1] for k, colour in enumerate(class_colours(classes))]
    show_images([image, *panels, compose(masks, classes=classes)], ["image", *classes, "composed"], title, width=1.9)


@plt.rc_context(STYLE)
def show_objects(images, objects, titles=None, title="", columns=None, width=3.2, classes=None):
    """Images side by side, with the outlines of the Objects or Figures in each; a dot marks each centre."""
    classes = classes or list(dict.fromkeys([*CLASSES, *(one.label for of_image in objects for one in of_image)]))
    colours = dict(zip(classes, class_colours(classes)))
    fig, axes = _panels(len(images), columns, width, width + 0.3)
    for n, (ax, image) in enumerate(zip(axes, images)):
        ax.imshow(image.squeeze(), vmin=0, vmax=255, alpha=0.6)
        for one in objects[n]:
            outline = one.outline if hasattr(one, "outline") else one.vertices
            ax.plot(*np.append(outline, outline[:1], axis=0).T[::-1], color=colours[one.label], linewidth=1.8)
            ax.plot(*one.centre[::-1], ".", color=colours[one.label])
        ax.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5), title=titles[n] if titles else "")
    _finish(fig, title, classes)


@plt.rc_context(STYLE)
def show_predictions(images, truth, probabilities, classes=None, titles=None,
                     title="The image, the truth, the prediction, and where they differ", width=2.6):
    """The article's figure: one row per scene; image, truth, prediction, wrong pixels. Arrays as `evaluate` has them."""
    classes = check_names(classes or CLASSES, truth.shape[-1])
    fig, axes = _panels(4 * len(images), 4, width, width + 0.25)
    for n, (image, masks, p) in enumerate(zip(images, truth, probabilities)):
        wrong = ((p > 0.5) != masks).any(axis=-1)
        panels = {titles[n] if titles else "image": image, "truth": compose(masks, image, classes),
                  "prediction": compose(p > 0.5, image, classes), f"wrong: {wrong.mean():.2%} of the pixels": wrong}
        for ax, (name, panel) in zip(axes[4 * n:], panels.items()):
            ax.imshow(panel.squeeze(), vmin=0, vmax=255 if panel.dtype == np.uint8 else 1)
            ax.set_title(name)
    _finish(fig, title, classes)


@plt.rc_context(STYLE)
def show_curves(table, x, columns, ylabel, title, logy=False):
    """Columns of a table against one of its columns, as lines in one picture."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    for column in columns:
        ax.plot(table[x], table[column], marker=".", label=column)
    ax.set(xlabel=x, ylabel=ylabel, yscale="log" if logy else "linear")
    ax.legend(frameon=False)
    _finish(fig, title)


@plt.rc_context(STYLE)
def show_bars(values, ylabel, title):
    """One bar per name of a dictionary or Series; class names have their colour."""
    values = dict(values)
    fig, ax = plt.subplots(figsize=(7, 3))
    bars = ax.bar(list(values), list(values.values()), color=[PALETTE.get(name, "0.6") for name in values])
    ax.bar_label(bars, fmt="{:.3g}")
    ax.set_ylabel(ylabel)
    _finish(fig, title)


@plt.rc_context(STYLE)
def show_matrix(table, title, xlabel="", ylabel=""):
    """A table of shares in [0, 1] as a heat map, each cell with its number; nan is left white."""
    rows, columns = table.shape
    fig, ax = plt.subplots(figsize=(0.85 * columns + 1.8, 0.5 * rows + 1.4))
    ax.imshow(table, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for row, column in np.argwhere(np.isfinite(table.to_numpy(float))):
        share = table.iat[row, column]
        ax.text(column, row, f"{share:.0%}", ha="center", va="center", color="white" if share > 0.6 else "black")
    ax.set_xticks(range(columns), table.columns)
    ax.set_yticks(range(rows), table.index)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[:].set_visible(False)
    _finish(fig, title)


@plt.rc_context(STYLE)
def show_intervals(tables, ylabel, title, baseline=None):
    """Means of several runs with their 95% intervals, and the runs themselves as dots; a dashed line at `baseline`.

    `tables` has one picture per name: a DataFrame with one row per run; its index says what a dot's colour shows, its
    columns stand side by side.
    """
    colours = [PALETTE[name] for name in ("circle", "triangle", "quad", "unknown", "pentagon")]  # yellow last: it is faint
    fig, axes = plt.subplots(1, len(tables), figsize=(max(7, 4.6 * len(tables)), 3.4), sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes.flat, tables.items()):
        groups = list(dict.fromkeys(table.index))
        for n, (group, colour) in enumerate(zip(groups, colours)):
            place = np.arange(table.shape[1]) + 0.8 * ((n + 0.5) / len(groups) - 0.5)
            runs = table.loc[[group]].to_numpy(float)
            means, halves = np.transpose([confidence_interval(column) for column in runs.T])
            ax.errorbar(place, means, halves, fmt="_", color=colour, capsize=4, markersize=14, linewidth=2, label=group)
            ax.plot(np.tile(place, len(runs)), runs.ravel(), "o", color=colour, markersize=4, alpha=0.5)
        if baseline is not None:
            ax.axhline(baseline, color="black", linestyle="--", linewidth=1)
        ax.set_xticks(range(table.shape[1]), table.columns)
        ax.set_title(name)
    axes[0, 0].set_ylabel(ylabel)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _finish(fig, title)


def _finish(fig, title, classes=()):
    """Title, and a legend of the class colours below; then show it."""
    if classes:
        handles = [Patch(color=colour, label=name) for name, colour in zip(classes, class_colours(classes))]
        fig.legend(handles=handles, loc="lower center", ncols=min(len(classes), 8), frameon=False, bbox_to_anchor=(0.5, -0.03))
    fig.suptitle(title)
    fig.tight_layout()
    plt.show()
