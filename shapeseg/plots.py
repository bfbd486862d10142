"""Every picture that a notebook shows. Each function draws one and shows it."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, Patch, Rectangle

from shapeseg.checks import as_array, check_names, expect
from shapeseg.figures import CLASSES, fill
from shapeseg.metrics import interval

# One colour a class everywhere (Okabe and Ito 2008: told apart with any kind of colour vision).
PALETTE = {"circle": "#0072B2", "triangle": "#D55E00", "quad": "#009E73", "pentagon": "#F0E442",
           "unknown": "#CC79A7"}

plt.rcParams.update({"figure.dpi": 80, "savefig.bbox": "tight", "font.size": 10, "axes.titlesize": 10,
                     "axes.spines.top": False, "axes.spines.right": False, "image.cmap": "gray"})


def show(function):
    """Show the source of a function or class: the code that is the lesson, written once."""
    display(Markdown(f"```python\n{inspect.getsource(function)}```"))


def compose(masks, image=None, classes=CLASSES):
    """Masks as one colour picture; where classes overlap, their colours mix.

    Parameters
    ----------
    masks : (H, W, K) array of bool, or of float in [0, 1]
    image : (H, W, C) array of uint8, optional
        Shown, dimmed, where no class is; black without it.
    classes : sequence of str
        Names of the channels.

    Returns
    -------
    (H, W, 3) array of float
        In [0, 1].

    Raises
    ------
    ValueError
        If an argument is not as above.
    """
    masks, image, names = _check_composed(masks, image, classes)
    colours = np.array([to_rgb(PALETTE[name]) for name in names]).reshape(-1, 3)
    weight = masks.astype(float)
    total = weight.sum(axis=-1, keepdims=True)
    cover = np.minimum(total, 1)
    mixed = weight @ colours / np.maximum(total, 1e-9)
    below = 0 if image is None else 0.5 * image / 255
    return cover * mixed + (1 - cover) * below


def show_images(images, titles=None, title="", columns=None, width=2.6, legend=()):
    """Images side by side, in rows of `columns`.

    Parameters
    ----------
    images : sequence of (H, W), (H, W, 1) or (H, W, 3) arrays
        uint8 in [0, 255], or bool or float in [0, 1].
    titles : sequence of str, optional
    title : str
        What to see.
    columns : int, optional
    width : float
        Of one image, in inches.
    legend : sequence of str
        Names of the classes whose colours the images show.
    """
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    height = width + 0.3 * bool(titles)
    fig, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows + 0.4), squeeze=False)
    for n, ax in enumerate(axes.flat):
        ax.axis("off")
        if n < len(images):
            image = np.asarray(images[n])
            ax.imshow(image.squeeze(), vmin=0, vmax=255 if image.dtype == np.uint8 else 1,
                      interpolation="nearest" if image.shape[0] < 100 else "antialiased")
            ax.set_title(titles[n] if titles else "")
    if legend:
        class_legend(fig, legend)
    _finish(fig, title)


def show_scene(image, masks, classes=CLASSES, title="One image, and one mask a class"):
    """An image, each of its masks, and all of them composed into one picture."""
    panels = [compose(masks[..., k:k + 1], classes=[name]) for k, name in enumerate(classes)]
    show_images([image, *panels, compose(masks, classes=classes)], ["image", *classes, "composed"], title, width=1.9)


def show_objects(images, objects, titles=None, title="", columns=None, width=3.2):
    """Images side by side, with the outlines of the objects in each.

    Parameters
    ----------
    images : sequence of (H, W, C) arrays of uint8
    objects : sequence of sequences of Object or Figure
        One sequence an image. A dot marks each centre.
    titles, title, columns, width
        As for `show_images`.
    """
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(width * columns, (width + 0.3) * rows + 0.4), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for n, (ax, image) in enumerate(zip(axes.flat, images)):
        ax.imshow(image.squeeze(), vmin=0, vmax=255, alpha=0.6)
        for one in objects[n]:
            outline = one.outline if hasattr(one, "outline") else one.vertices
            ax.plot(*np.append(outline, outline[:1], axis=0).T[::-1], color=PALETTE[one.label], linewidth=1.8)
            ax.plot(*one.centre[::-1], ".", color=PALETTE[one.label])
        ax.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
        ax.set_title(titles[n] if titles else "")
    fig.legend(handles=[plt.Line2D([], [], color=PALETTE[name], label=name) for name in CLASSES],
               frameon=False, loc="lower center", ncols=len(CLASSES), bbox_to_anchor=(0.5, -0.04))
    _finish(fig, title)


def show_fill(vertices):
    """One outline on the pixel grid, and the pixels that `fill` finds inside it.

    Parameters
    ----------
    vertices : (V, 2) array of float
        (row, column) in pixels; best for a figure of few pixels.
    """
    box, inside = fill(vertices)
    rows, columns = np.mgrid[box]
    fig, ax = plt.subplots(figsize=(5.2, 5.2))
    ax.pcolormesh(columns, rows, inside, cmap="Blues", vmax=3, edgecolor="0.8", linewidth=0.5)
    ax.invert_yaxis()
    ax.plot(columns[inside], rows[inside], ".", color="black", markersize=4, label="pixel centre inside")
    ax.plot(columns[~inside], rows[~inside], ".", color="0.7", markersize=4, label="pixel centre outside")
    ax.plot(*np.append(vertices, vertices[:1], axis=0).T[::-1], color=PALETTE["triangle"], label="outline")
    ax.set(xlabel="column (pixels)", ylabel="row (pixels)", aspect="equal")
    ax.locator_params(integer=True)
    fig.legend(frameon=False, loc="lower center", ncols=3, bbox_to_anchor=(0.5, -0.07))
    _finish(fig, "A pixel belongs to the figure if its centre lies inside the outline")


def show_predictions(images, truth, probabilities, classes=CLASSES, titles=None,
                     title="The image, the truth, the prediction, and where they differ", width=2.6):
    """The article's figure: a row a scene; image, truth, prediction, wrong pixels.

    Parameters
    ----------
    images : (N, H, W, C) array of uint8
    truth : (N, H, W, K) array of bool
    probabilities : (N, H, W, K) array of float in [0, 1]
    classes : sequence of str
    titles : sequence of str, optional
        One a scene.
    title : str
    width : float
        Of one image, in inches.
    """
    panels, names = [], []
    for n, (image, masks, p) in enumerate(zip(images, truth, probabilities)):
        wrong = ((p > 0.5) != masks).any(axis=-1)
        panels += [image, compose(masks, image, classes), compose(p > 0.5, image, classes), wrong]
        names += [titles[n] if titles else "image", "truth", "prediction", f"wrong: {wrong.mean():.2%} of the pixels"]
    columns = 4
    fig, axes = plt.subplots(len(images), columns, squeeze=False,
                             figsize=(width * columns, (width + 0.25) * len(images) + 0.6))
    for ax, panel, name in zip(axes.flat, panels, names):
        ax.imshow(panel.squeeze(), vmin=0, vmax=255 if panel.dtype == np.uint8 else 1)
        ax.set_title(name)
        ax.axis("off")
    class_legend(fig, classes)
    _finish(fig, title)


def show_curves(table, x, columns, ylabel, title, logy=False):
    """Columns of a table against one of its columns, as lines in one picture."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    for column in columns:
        ax.plot(table[x], table[column], marker=".", label=column)
    ax.set(xlabel=x, ylabel=ylabel, yscale="log" if logy else "linear")
    ax.legend(frameon=False)
    _finish(fig, title)


def show_bars(values, ylabel, title, baseline=None):
    """One bar a class.

    Parameters
    ----------
    values : pandas.Series or dict
        From a name to a number; class names get their colour.
    ylabel, title : str
    baseline : float, optional
        A dashed line to compare with.
    """
    values = dict(values)
    fig, ax = plt.subplots(figsize=(7, 3))
    bars = ax.bar(list(values), list(values.values()), color=[PALETTE.get(name, "0.6") for name in values])
    ax.bar_label(bars, fmt="{:.3g}")
    if baseline is not None:
        ax.axhline(baseline, color="black", linestyle="--", linewidth=1)
    ax.set_ylabel(ylabel)
    _finish(fig, title)


def show_matrix(table, title, xlabel="", ylabel=""):
    """A table of shares as a heat map, each cell with its number.

    Parameters
    ----------
    table : pandas.DataFrame
        In [0, 1]; nan is left white.
    title, xlabel, ylabel : str
    """
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


def show_class_curves(x, y, xlabel, ylabel, title, diagonal=False):
    """One line a class, in its colour.

    Parameters
    ----------
    x, y : pandas.DataFrame
        One column a class, equal in shape; nan leaves a gap.
    xlabel, ylabel, title : str
    diagonal : bool
        Also draw the line from (0, 0) to (1, 1), to compare with.
    """
    fig, ax = plt.subplots(figsize=(6.5, 4))
    if diagonal:
        ax.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="equal")
    for name in y:
        ax.plot(x[name], y[name], marker=".", color=PALETTE.get(name, "0.4"), label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _finish(fig, title)


def show_shares(values, groups, xlabel, ylabel, title):
    """In each group the share that is true, with its 95% interval (Wilson 1927).

    Parameters
    ----------
    values : pandas.Series of bool
    groups : pandas.Series of category
        In the order of its categories; a group without values keeps its place.
    xlabel, ylabel, title : str
    """
    table = values.astype(float).groupby(groups, observed=False).agg(["mean", "size"])
    share, n = table["mean"].to_numpy(), np.maximum(table["size"].to_numpy(), 1)
    z = 1.96  # standard deviations on each side hold 95%
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    fig, ax = plt.subplots(figsize=(7, 3.2))
    place = np.arange(len(table))
    ax.vlines(place, middle - half, middle + half, color="0.6", linewidth=4)
    ax.plot(place, share, "o", color="black")
    ax.set_xticks(place, [f"{name}\n({size})" for name, size in zip(table.index, table["size"])])
    ax.set(xlabel=f"{xlabel} (in brackets: how many)", ylabel=ylabel)
    ax.set_ylim(-0.03 * ax.get_ylim()[1], None)
    _finish(fig, title)


def show_intervals(tables, ylabel, title, baseline=None):
    """Means of several runs with their 95% intervals, and the runs themselves as dots.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        A picture each, all on one axis: one row a run; the index says what a dot's colour shows,
        the columns stand side by side.
    ylabel, title : str
    baseline : float, optional
        A dashed line to compare with.
    """
    colours = [PALETTE[name] for name in ("circle", "triangle", "quad", "unknown", "pentagon")]  # yellow last: it is faint
    fig, axes = plt.subplots(1, len(tables), figsize=(max(7, 4.6 * len(tables)), 3.4), sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes.flat, tables.items()):
        groups = list(dict.fromkeys(table.index))
        for n, (group, colour) in enumerate(zip(groups, colours)):
            place = np.arange(table.shape[1]) + 0.8 * ((n + 0.5) / len(groups) - 0.5)
            runs = table.loc[[group]].to_numpy(float)
            means, halves = np.transpose([interval(column) for column in runs.T])
            ax.errorbar(place, means, halves, fmt="_", color=colour, capsize=4, markersize=14, linewidth=2, label=group)
            ax.plot(np.tile(place, len(runs)), runs.ravel(), "o", color=colour, markersize=4, alpha=0.5)
        if baseline is not None:
            ax.axhline(baseline, color="black", linestyle="--", linewidth=1)
        ax.set_xticks(range(table.shape[1]), table.columns)
        ax.set_title(name)
    axes[0, 0].set_ylabel(ylabel)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _finish(fig, title)


def show_network(model, shapes, title="Height is the resolution, width the number of channels"):
    """An encoder and a decoder as boxes, from left to right in the order of the data.

    Parameters
    ----------
    model : keras.Model
        From `build_model`.
    shapes : dict
        From the name of each layer to its output's shape (H, W, C).
    title : str
        What to see.
    """
    boxes = {}  # from what is drawn to the layer whose output it is; the last layer of a block wins
    for layer in model.layers:
        stage, _, part = layer.name.partition("_")
        idle = stage in ("rescale", "pad", "logits") or getattr(layer, "patch", None) == 1
        if not idle:
            boxes[layer.name if part in ("pool", "up", "skip") else stage] = layer.name
    tallest = max(height for height, _, _ in shapes.values())
    least = sum(shapes[name][2] for name in boxes.values()) / 120
    fig, ax = plt.subplots(figsize=(11, 4.2))
    left, middles = 0, {}
    for box, name in boxes.items():
        height, _, channels = shapes[name]
        height, width = height / tallest, max(channels, least)
        moves = box.endswith(("pool", "up", "skip")) or box in ("fold", "unfold")
        colour = ("0.8" if moves else PALETTE["circle"] if box.startswith("encoder") else
                  PALETTE["triangle"] if box.startswith(("decoder", "join")) else "0.45")
        ax.bar(left, height, width, bottom=-height / 2, align="edge", color=colour, edgecolor="white", linewidth=0.5)
        middles[box] = (left + width / 2, height / 2)
        ax.text(left + width / 2, -0.55, f"{shapes[name][0]}²·{channels}  {box}", rotation=90, ha="center", va="top",
                fontsize=8)
        left += width + 3 * least
    for box, (x, top) in middles.items():
        if box.endswith("skip"):
            start = middles[box.replace("decoder", "encoder").removesuffix("_skip")]
            ax.annotate("", (x, top), start, arrowprops=dict(arrowstyle="->", connectionstyle="arc3,rad=-0.15", color="0.3"))
    ax.set(xlim=(-3 * least, left), ylim=(-1.2, 0.75))
    ax.axis("off")
    handles = [Patch(color=colour, label=label) for colour, label in (
        (PALETTE["circle"], "encoder block"), (PALETTE["triangle"], "decoder block"),
        ("0.8", "pooling, upsampling, folding, skips"), ("0.45", "image, contrast, head, masks"))]
    ax.legend(handles=handles, loc="upper right", ncols=4, frameon=False, fontsize=8, bbox_to_anchor=(1, 1.15))
    _finish(fig, title)


def show_depths(values, ylabels, title, baseline=1):
    """How numbers change from block to block; one picture a quantity, with a logarithmic axis.

    Parameters
    ----------
    values : dict
        From the name of a network, at most four, to its quantities: sequences of one float a block.
    ylabels : sequence of str
        One a quantity.
    title : str
        What to see.
    baseline : float
        A dashed line to compare with.
    """
    fig, axes = plt.subplots(1, len(ylabels), figsize=(4.8 * len(ylabels), 3.4), squeeze=False)
    for n, (ax, ylabel) in enumerate(zip(axes.flat, ylabels)):
        for (name, quantities), key in zip(values.items(), ("circle", "triangle", "quad", "unknown")):
            ax.plot(range(1, len(quantities[n]) + 1), quantities[n], marker=".", label=name, color=PALETTE[key])
        ax.axhline(baseline, color="black", linestyle="--", linewidth=1)
        ax.set(xlabel="after this many blocks", ylabel=ylabel, yscale="log")
    fig.legend(*ax.get_legend_handles_labels(), loc="lower center", ncols=len(values), frameon=False,
               bbox_to_anchor=(0.5, -0.07))
    _finish(fig, title)


def show_spread(groups, title):
    """Mean and spread of each channel; one picture a group, all on one axis.

    Parameters
    ----------
    groups : dict
        From the name of a group to an array (N, H, W, C).
    title : str
        What to see.
    """
    fig, axes = plt.subplots(1, len(groups), figsize=(3.8 * len(groups), 2.9), sharey=True, squeeze=False)
    for ax, (name, values) in zip(axes.flat, groups.items()):
        values = np.asarray(values)
        mean, spread = values.mean((0, 1, 2)), values.std((0, 1, 2))
        ax.errorbar(range(len(mean)), mean, spread, fmt=".", color=PALETTE["circle"], ecolor="0.6")
        ax.axhline(0, color="black", linestyle="--", linewidth=1)
        ax.set(xlabel="channel", title=name)
    axes[0, 0].set_ylabel("mean ± standard deviation")
    _finish(fig, title)


def show_receptive_fields(images, gradients, boxes, radii, titles, title):
    """Which pixels the middle pixel's output looks at, on top of an image.

    Parameters
    ----------
    images : sequence of (H, W, 1) arrays of uint8
    gradients : sequence of (H, W) arrays of float
        Size of the gradient of one output with respect to each pixel; at least 0.
    boxes : sequence of (first, last)
        Rows, and columns, that the output can see by the rule; may lie outside the image.
    radii : sequence of float
        Pixels. A circle of each is drawn about the middle.
    titles : sequence of str
        One an image.
    title : str
        What to see.
    """
    fig, axes = plt.subplots(1, len(images), figsize=(4.9 * len(images), 5.0), squeeze=False, layout="constrained")
    for ax, image, gradient, (first, last), name in zip(axes.flat, images, gradients, boxes, titles):
        size = len(image)
        ax.imshow(0.6 * image.squeeze(), vmin=0, vmax=255)
        heat = np.log10(gradient / gradient.max() + 1e-12)
        shown = ax.imshow(np.ma.masked_less(heat, -4), cmap="magma", vmin=-4, vmax=0, alpha=0.85)
        ax.add_patch(Rectangle((first, first), last - first, last - first, fill=False, color=PALETTE["pentagon"], linewidth=2))
        for radius in radii:
            ax.add_patch(Circle((size / 2, size / 2), radius, fill=False, color="white", linestyle="--"))
        ax.set(title=name, xlabel="column in pixels", ylabel="row in pixels" if ax is axes[0, 0] else "",
               xlim=(min(0, first) - 4, max(size, last) + 4), ylim=(max(size, last) + 4, min(0, first) - 4))
    fig.colorbar(shown, ax=axes, label="gradient, decimal logarithm (0: the greatest)", shrink=0.75)
    fig.suptitle(title)
    plt.show()


def _check_composed(masks, image, classes):
    """Return the arguments of `compose` as arrays and a list, or raise a ValueError."""
    masks = as_array(masks, "masks")
    expect(masks.ndim == 3 and masks.dtype.kind in "bf" and ((masks >= 0) & (masks <= 1)).all(), "masks",
           "(H, W, K) bool, or float in [0, 1]", masks)
    names = check_names(classes, masks.shape[-1])
    expect(set(names) <= set(PALETTE), "classes", f"some of {', '.join(PALETTE)}", classes)
    if image is not None:
        image = as_array(image, "image")
        expect(image.dtype == np.uint8 and image.ndim == 3 and image.shape[:2] == masks.shape[:2] and image.shape[2] in (1, 3),
               "image", f"{masks.shape[:2] + ('C',)} uint8 to match the masks", image)
    return masks, image, names


def class_legend(fig, classes=CLASSES):
    """A legend of the class colours below a figure."""
    handles = [Patch(color=PALETTE[name], label=name) for name in classes]
    fig.legend(handles=handles, loc="lower center", ncols=len(classes), frameon=False, bbox_to_anchor=(0.5, -0.03))


def _finish(fig, title):
    fig.suptitle(title)
    fig.tight_layout()
    plt.show()
