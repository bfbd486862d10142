"""One scene: a config, a seed and an index become an image and its masks."""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from operator import sub
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np

from shapeseg.checks import check_all, expect, listed, one_of, real, whole
from shapeseg.figures import CLASSES, KINDS, LABELS, NOVEL_KINDS, Figure, fill, outline, place

SPLITS = ("train", "validation", "test")
TEXTURE_CELLS = 24  # a side
ROOM = 2**33  # bytes that the images and masks of one call may need


@cache
def _noise_levels(noise):
    """The 256 equally likely levels of the noise: quantiles of a normal distribution, rounded."""
    normal = NormalDist()
    return np.array([round(noise * normal.inv_cdf((k + 0.5) / 256)) for k in range(256)])


@dataclass(frozen=True)
class SceneConfig:
    """What a scene looks like. Validates itself.

    Parameters
    ----------
    size : int
        Height and width in pixels, at least 16.
    channels : 1 or 3
        Grey or colour.
    classes : tuple of str
        The mask channels, in order; each one of ``CLASSES``.
    kinds : tuple of str
        The kinds of figure that may be drawn; each one's class must be in `classes`. A figure's
        class is drawn first, each equally often, then its kind among those of the class.
    figures : (int, int)
        Fewest and most figures a scene.
    radius : (float, float)
        Smallest and largest radius, as a fraction of the size.
    opacity : (float, float)
        Least and greatest opacity, in (0, 1].
    visible : float
        In [0, 1]: the share of each outline that can be seen in the image. Seen means that the
        grey levels (in colour: of at least one channel) on its two sides differ by `contrast`.
    noise : float
        Standard deviation of the noise in grey levels.
    gradient, texture : float
        Amplitude in grey levels of a slow change of the light across the image, and of a mottled
        texture.
    blur : int
        Number of passes of a [1, 2, 1] / 4 filter in each direction, before the noise.
    twins : (float, float), optional
        Figures come in pairs: the second is of the first one's class and overlaps it by at least
        and at most this share of the smaller one's area.

    Raises
    ------
    ValueError
        If a value is out of its range or two of them contradict each other.

    Examples
    --------
    >>> SceneConfig(size=128, figures=(1, 3)).contrast
    16
    """

    size: int = 512
    channels: int = 1
    classes: tuple = CLASSES
    kinds: tuple = KINDS
    figures: tuple = (1, 8)
    radius: tuple = (0.05, 0.16)
    opacity: tuple = (0.4, 0.9)
    visible: float = 1.0
    noise: float = 4.0
    gradient: float = 0.0
    texture: float = 0.0
    blur: int = 0
    twins: tuple = None

    def __post_init__(self):
        for name in ("classes", "kinds", "figures", "radius", "opacity", "twins"):  # lists, as from JSON
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check("size", whole(self.size, 16), "a whole number of at least 16")
        self._check("channels", whole(self.channels) and self.channels in (1, 3), "1 or 3")
        self._check("classes", _names(self.classes, CLASSES), f"some of {', '.join(CLASSES)}")
        self._check("kinds", _names(self.kinds, LABELS), f"some of {', '.join(LABELS)}")
        self._check("kinds", {LABELS[kind] for kind in self.kinds} == set(self.classes),
                    f"kinds of each of the classes {self.classes} and of no other")
        self._check("figures", _range(self.figures, 1, 1000, whole), "(fewest, most), from 1 to 1000")
        self._check("radius", _range(self.radius, 4 / int(self.size), 0.45),
                    f"(smallest, largest), from {4 / int(self.size):.3g} (4 pixels) to 0.45")
        self._check("opacity", _range(self.opacity, 0.05, 1), "(least, greatest), from 0.05 to 1")
        for name, greatest in (("visible", 1), ("noise", 40), ("gradient", 100), ("texture", 100)):
            self._check(name, real(getattr(self, name), 0, greatest), f"a number from 0 to {greatest}")
        self._check("blur", whole(self.blur, 0, 10), "a whole number from 0 to 10")
        self._check("twins", self.twins is None or _range(self.twins, 0.05, 0.9),
                    "None or (least, greatest), from 0.05 to 0.9")
        self._check("figures", not self.twins or self.figures[0] >= 2, "at least 2, because figures come in pairs")
        for name, kind in (("size", int), ("channels", int), ("blur", int), ("visible", float), ("noise", float),
                           ("gradient", float), ("texture", float)):  # NumPy's short numbers overflow, or are rounded
            object.__setattr__(self, name, kind(getattr(self, name)))
        for name, kind in (("figures", int), ("radius", float), ("opacity", float), ("twins", float)):
            object.__setattr__(self, name, getattr(self, name) and tuple(map(kind, getattr(self, name))))
        lowest, highest = self.levels
        if highest - lowest < 3 * self.contrast:
            raise ValueError(
                f"noise, gradient and texture: {self.noise}, {self.gradient} and {self.texture} leave "
                f"the grey levels {lowest} to {highest} for figures that must differ by "
                f"{self.contrast}; make them smaller")

    def _check(self, name, good, expected):
        expect(good, name, expected, getattr(self, name))

    @cached_property
    def contrast(self):
        """Least difference of the grey levels on an edge's two sides: 4 standard deviations."""
        shading = (self.gradient + self.texture * TEXTURE_CELLS) * 2 / self.size  # a pixel's step
        return max(1, math.ceil(4 * self.noise + shading))

    @cached_property
    def levels(self):
        """Lowest and highest level of flat colours: nothing added to them leaves [0, 255]."""
        margin = math.ceil(_noise_levels(self.noise).max() + self.gradient + self.texture)
        return margin, 255 - margin


def _range(pair, least, greatest, of=real):
    return (isinstance(pair, tuple) and len(pair) == 2 and all(map(of, pair))
            and bool(least <= pair[0] <= pair[1] <= greatest))


def _names(names, allowed):
    return (isinstance(names, tuple) and len(names) > 0 and all(one_of(name, allowed) for name in names)
            and len(set(names)) == len(names))


ARTICLE = SceneConfig()
CROWDED = replace(ARTICLE, figures=(2, 8), twins=(0.1, 0.6))  # objects of one class overlap

SCENE_CONFIGS = {
    "article": ARTICLE,
    "opaque": replace(ARTICLE, opacity=(1.0, 1.0), visible=0.6),  # hidden parts must be completed
    "textured": replace(ARTICLE, noise=8.0, gradient=20.0, texture=10.0, blur=1),
    "colour": replace(ARTICLE, channels=3),
    "single": replace(ARTICLE, classes=("quad",), kinds=("quad",), figures=(1, 1)),
    "dense": replace(ARTICLE, figures=(10, 24)),  # what training prefers
    "crowded": CROWDED,
    "novel": replace(ARTICLE, kinds=("circle", "triangle", "quad", "pentagon") + NOVEL_KINDS),
}


@dataclass(frozen=True)
class Scene:
    """One image and all that is in it.

    Attributes
    ----------
    image : (H, W, C) array of uint8
    masks : (H, W, K) array of bool
        Channel k is class k: the whole figures, also where another figure lies over them.
    figures : tuple of Figure
        In the order in which they were drawn, the lowest first.
    background : tuple of int
        One level in [0, 255] a channel.

    Raises
    ------
    ValueError
        If a value is not as above, or a figure is not wholly inside the image.
    """

    image: np.ndarray
    masks: np.ndarray
    figures: tuple
    background: tuple

    def __post_init__(self):
        for name, kind, channels in (("image", np.uint8, "C"), ("masks", bool, "K")):
            array = getattr(self, name)
            good = isinstance(array, np.ndarray) and array.dtype == kind and array.ndim == 3 and array.size
            expect(good and array.shape[:2] == self.image.shape[:2], name, f"(H, W, {channels}) {np.dtype(kind)}", array)
        figures = check_all(self.figures, Figure, "figures", "Figures")
        vertices = np.concatenate([figure.vertices for figure in figures] or [[(0, 0)]])
        inside = vertices.min() >= -0.5 and (vertices.max(axis=0) <= np.subtract(self.image.shape[:2], 0.5)).all()
        expect(inside, "figures", "Figures wholly inside the image", self.figures)


def draw_scene(config=ARTICLE, seed=0, index=0, split="train"):
    """Draw one scene: a pure function, the same pixels on every machine.

    Parameters
    ----------
    config : SceneConfig
    seed, index : int
        Any whole numbers from 0; each index is another scene of the seed.
    split : str
        "train", "validation" or "test". Part of the random key: no seed leaks one into another.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        If an argument is not as above, or the figures do not fit into the scene.
    """
    check_key(config, seed, split)
    expect(whole(index), "index", "a whole number from 0", index)
    key = hashlib.sha256(f"{split} {int(seed)} {int(index)}".encode()).digest()
    # RandomState, because NumPy promises that its stream never changes.
    rng = np.random.RandomState(np.frombuffer(key, "<u4"))
    background = rng.randint(config.levels[0], config.levels[1] + 1, config.channels)
    image = np.empty((config.size, config.size, config.channels), np.uint8)
    row = np.tile(background.astype(np.uint8), (config.size, 1))  # NumPy copies whole rows faster than single pixels
    for _ in range(100 if config.twins else 1):  # not every first figure leaves room for a twin that shows
        image[:] = row
        masks = np.zeros((config.size, config.size, len(config.classes)), bool)
        figures = _draw_figures(config, rng, image, masks)
        if len(figures) >= config.figures[0]:
            break
    else:
        raise ValueError(f"figures: found visible places for {len(figures)} of {config.figures[0]}; ask for "
                         f"fewer, with a smaller radius, less opacity or a smaller share visible: {config}")
    _shade(config, rng, image)
    for _ in range(config.blur):
        image[:] = _blur(image)
    # One table look-up turns uniform bytes into noise; the sum wraps around, so that -1 is 255.
    noise = rng.bytes(image.size).translate(_noise_levels(config.noise).astype(np.uint8).tobytes())
    image += np.frombuffer(noise, np.uint8).reshape(image.shape)
    return Scene(image, masks, figures, tuple(background.tolist()))


def topmost(scene, classes=CLASSES):
    """Masks without overlap: each figure takes its pixels from those below it.

    They are the truth of a network that gives each pixel one class.

    Parameters
    ----------
    scene : Scene
    classes : tuple of str
        Those of the scene's config.

    Returns
    -------
    (H, W, K) array of bool
        Within `scene.masks`; at most one class a pixel.

    Raises
    ------
    ValueError
        If `classes` are not as many as the scene's masks, or a figure's class is not among them.
    """
    expect(isinstance(scene, Scene), "scene", "a Scene from draw_scene", scene)
    names = listed(classes)
    expect(names and len(names) == scene.masks.shape[-1] and {figure.label for figure in scene.figures} <= {*map(str, names)},
           "classes", f"those of the scene's {scene.masks.shape[-1]} masks", classes)
    masks = np.zeros_like(scene.masks)
    for figure in scene.figures:
        box, inside = fill(figure.vertices)
        masks[box][inside] = [name == figure.label for name in names]
    expect(not (masks & ~scene.masks).any(), "classes", "them in the order of the scene's masks", classes)
    return masks


def check_key(config, seed, split):
    """Raise a ValueError unless these can be a part of a scene's random key, and the memory can hold the scene."""
    expect(isinstance(config, SceneConfig), "config", "a SceneConfig, for example shapeseg.ARTICLE", config)
    expect(whole(seed), "seed", "a whole number from 0", seed)
    expect(one_of(split, SPLITS), "split", f"one of {', '.join(SPLITS)}", split)
    expect(room(config) >= 1, "config", f"a scene of at most {ROOM >> 30} GB", config)


def room(config):
    """How many scenes of a config the memory may hold at once."""
    return ROOM // (config.size**2 * (config.channels + len(config.classes)))


def _draw_figures(config, rng, image, masks):
    wanted = rng.randint(config.figures[0], config.figures[1] + 1)
    figures, outlines, misses = [], _Outlines(config.size), 0
    for _ in range(20 * wanted):
        first = figures[-1] if config.twins and len(figures) % 2 else None
        if len(figures) == wanted or first and misses == 8:
            break
        figure = _draw_outline(config, rng, first)
        box, inside = fill(figure.vertices)
        looks = _choose_looks(config, rng, image, outlines, box, inside)
        misses = 0 if looks else misses + 1
        if looks:
            colour, opacity = looks
            under = image[box]
            np.copyto(under, blend(under, colour, opacity), where=inside[..., None])
            masks[box + (config.classes.index(figure.label),)] |= inside
            figures.append(Figure(**vars(figure), colour=colour, opacity=opacity))
    return tuple(figures)


def _draw_outline(config, rng, first=None):
    """A figure without its looks; after a `first` one, its twin."""
    for _ in range(2000):
        label = first.label if first else config.classes[rng.randint(len(config.classes))]
        kinds = [kind for kind in config.kinds if LABELS[kind] == label]
        kind = kinds[rng.randint(len(kinds))]
        shape = outline(kind, rng)
        radius = config.size * rng.uniform(*config.radius)
        angle = rng.uniform(0, 2 * np.pi)
        least, greatest = radius, config.size - 1 - radius  # wholly inside the image
        if first:
            middle, reach = np.array(first.centre), first.radius + radius
            least, greatest = np.maximum(least, middle - reach), np.minimum(greatest, middle + reach)
        centre = rng.uniform(least, greatest, 2)
        figure = SimpleNamespace(kind=kind, label=label, centre=tuple(centre.tolist()), radius=radius, angle=angle,
                                 vertices=place(shape, centre, radius, angle))
        if not first or config.twins[0] <= overlap(first, figure) <= config.twins[1]:
            return figure
    raise ValueError(f"twins: found no place where a figure overlaps another by a share in {config.twins}; give a "
                     "wider range")


def overlap(first, second):
    """Pixels that two figures share, as a share of the smaller one's, in [0, 1]."""
    areas, shared = [], 1
    (rows, columns), _ = fill(np.concatenate([first.vertices, second.vertices]))  # the box of both
    for figure in (first, second):
        whole_box = np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
        (r, c), inside = fill(figure.vertices)
        whole_box[r.start - rows.start:r.stop - rows.start, c.start - columns.start:c.stop - columns.start] = inside
        areas.append(inside.sum())
        shared = shared & whole_box
    return float(shared.sum() / max(min(areas), 1))


def blend(under, colour, opacity):
    """Levels after a figure of this colour and opacity was laid over them; uint8, rounded."""
    under = under.astype(np.float32)
    return np.rint(under + np.float32(opacity) * (np.float32(colour) - under)).astype(np.uint8)


class _Outlines:
    """The pixels just inside all outlines, and the levels on both sides of them, so that they stay visible."""

    def __init__(self, size):
        self.cover = np.zeros((size, size), bool)  # all False, except while it is asked what a new figure covers
        self.pixels = np.zeros(0, int)  # (E,) their places in the flat image
        self.group = np.zeros(0, int)  # (E,) levels are flat, so that few groups stand for all the pixels
        self.groups = [None]  # each group's figure and its levels with and without the figure; None: cannot be seen
        self.spare = []  # how many more pixels of each figure may be hidden


def _choose_looks(config, rng, image, outlines, box, inside):
    """A colour and an opacity with which the new figure and all before it are visible, or None."""
    row, column = _rim(inside)
    pixels = (row + box[0].start) * config.size + column + box[1].start
    # All channels of a pixel as one number: few different ones lie below.
    below = image.reshape(-1, config.channels).take(pixels, axis=0) @ 256 ** np.arange(config.channels)
    flat = sorted(set(below.tolist()))
    new = len(outlines.spare)
    groups = outlines.groups + [(new, *[code.to_bytes(config.channels, "little")] * 2) for code in flat]
    spare = outlines.spare + [int((1 - config.visible) * len(pixels))]
    group = np.concatenate([outlines.group, len(outlines.groups) + np.searchsorted(flat, below)])
    pixels = np.concatenate([outlines.pixels, pixels])
    outlines.cover[box] = inside
    covered = outlines.cover.take(pixels).nonzero()[0]
    outlines.cover[box] = False
    counts = np.bincount(group[covered])
    counts[0] = 0  # what is hidden stays hidden, because blending brings levels together
    touched = counts.nonzero()[0]
    alike = [(*groups[k], count) for k, count in zip(touched.tolist(), counts[touched].tolist())]
    lowest, highest = config.levels
    for _ in range(8):
        colour = tuple([rng.randint(lowest, highest + 1) for _ in range(config.channels)])
        # In steps of 1/256, so that blending is exact on every platform.
        opacity = math.ceil(256 * rng.uniform(*config.opacity)) / 256
        left, after, target = spare.copy(), groups.copy(), []
        for figure, inner, outer, count in alike:
            inner = _blend_few(inner, colour, opacity)
            if figure != new:
                outer = _blend_few(outer, colour, opacity)
            if max(map(abs, map(sub, inner, outer))) >= config.contrast:
                target.append(len(after))
                after.append((figure, inner, outer))
            else:
                target.append(0)
                left[figure] -= count
                if left[figure] < 0:
                    break
        else:
            moved = np.arange(len(groups))
            moved[touched] = target
            group[covered] = moved[group[covered]]
            outlines.pixels, outlines.group, outlines.groups, outlines.spare = pixels, group, after, left
            return colour, opacity
    return None


def _blend_few(levels, colour, opacity):
    """What `blend` does, faster for a few levels: Python rounds as NumPy does."""
    return [round(a + opacity * (c - a)) for a, c in zip(levels, colour)]


def _rim(inside):
    """Rows and columns of the pixels of a mask that have one of their four neighbours outside of it."""
    padded = np.zeros((inside.shape[0] + 2, inside.shape[1] + 1), bool)
    padded[1:-1, :-1] = inside
    flat, width = padded.ravel(), padded.shape[1]  # all rows as one, parted by empty pixels: NumPy is faster so
    core = flat[:-2 * width] & flat[2 * width:] & flat[width - 1:-width - 1] & flat[width + 1:1 - width]
    return np.divmod((flat[width:-width] > core).nonzero()[0], width)


def _shade(config, rng, image):
    """Add a gradient (one cell) and a texture (many), each a random grid made smooth."""
    size = config.size
    for amplitude, cells in ((config.gradient, 1), (config.texture, TEXTURE_CELLS)):
        if amplitude:
            grid = rng.randint(-int(amplitude), int(amplitude) + 1, (cells + 1, cells + 1))
            cell, rest = np.divmod(np.arange(size) * cells, size)
            weights = np.zeros((size, cells + 1))  # linear interpolation, times `size`
            weights[np.arange(size), cell] = size - rest
            weights[np.arange(size), cell + 1] = rest
            # Whole numbers below 2**53, so that the sums are exact in any order.
            field = np.floor(weights @ grid @ weights.T / size**2)
            image += field.astype(np.int64).astype(np.uint8)[..., None]


def _blur(image):
    """The binomial filter [1, 2, 1] / 4 along rows and columns, in whole numbers."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge").astype(np.uint16)
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return ((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) // 16).astype(np.uint8)

