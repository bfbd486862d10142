"""One scene: a config, a seed and an index become an image and its masks."""

import hashlib
import math
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from operator import sub
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np

from shapeseg.figures import CLASSES, KINDS, LABELS, NOVEL_KINDS, Figure, blend, fill, outline, overlap, place, rim
from shapeseg.utils import expect, is_int, is_number

SPLITS = ("train", "validation", "test")
TEXTURE_CELLS = 24  # per side


@cache
def _noise_levels(noise):
    """The 256 equally likely levels of the noise: quantiles of a normal distribution, rounded."""
    return np.array([round(noise * NormalDist().inv_cdf((k + 0.5) / 256)) for k in range(256)])


@dataclass(frozen=True)
class SceneConfig:
    """What a scene looks like. Validates itself.

    Parameters
    ----------
    size : int, height and width in pixels, from 16
    channels : 1 (grey) or 3 (colour)
    classes : tuple of str, the mask channels in order, some of ``CLASSES``
    kinds : tuple of str, the kinds that may be drawn; first the class is drawn, each equally often, then its kind
    figures : (int, int), fewest and most figures per scene
    radius : (float, float), smallest and largest, as a fraction of the size
    opacity : (float, float), lowest and highest, in (0, 1]
    visible : float in [0, 1], the share of each outline that can be seen in the image: the grey levels
        (in colour: of at least one channel) on its two sides differ by `contrast`
    noise : float, standard deviation in grey levels
    gradient, texture : float, amplitude in grey levels of a slow change of the light and of a mottled texture
    blur : int, passes of a [1, 2, 1] / 4 filter in each direction, before the noise
    twins : (float, float) or None; figures come in pairs of one class, the second overlaps the first by a
        share of the smaller one's area in this range

    Raises
    ------
    ValueError : a value is out of its range, or two of them contradict each other
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
        for field in fields(self):  # JSON has lists, and NumPy's short integers overflow
            value = getattr(self, field.name)
            value = tuple(value) if isinstance(value, (list, np.ndarray)) else value
            plain = [v.item() if isinstance(v, np.generic) else v for v in (value if isinstance(value, tuple) else [value])]
            object.__setattr__(self, field.name, tuple(plain) if isinstance(value, tuple) else plain[0])
        expect(_are_names(self.classes, CLASSES), "classes", f"some of {', '.join(CLASSES)}", self.classes)
        expect(is_int(self.size, 16), "size", "an integer from 16", self.size)
        for name, good, expected in (
                ("channels", is_int(self.channels) and self.channels in (1, 3), "1 or 3"),
                ("kinds", _are_names(self.kinds, LABELS) and {LABELS[kind] for kind in self.kinds} == {*self.classes},
                 f"some of {', '.join(LABELS)}: of each of the classes {self.classes} and of no other"),
                ("figures", _is_range(self.figures, 2 if self.twins else 1, 1000, is_int), "(fewest, most), 1 (twins: 2) to 1000"),
                ("radius", _is_range(self.radius, 4 / self.size, 0.45), f"(smallest, largest), {4 / self.size:.3g} (4 pixels) to 0.45"),
                ("opacity", _is_range(self.opacity, 0.05, 1), "(lowest, highest), from 0.05 to 1"),
                *((name, is_number(getattr(self, name), 0, highest), f"a number from 0 to {highest}")
                  for name, highest in (("visible", 1), ("noise", 40), ("gradient", 100), ("texture", 100))),
                ("blur", is_int(self.blur, 0, 10), "an integer from 0 to 10"),
                ("twins", self.twins is None or _is_range(self.twins, 0.05, 0.9), "None or (lowest, highest), from 0.05 to 0.9")):
            expect(good, name, expected, getattr(self, name))
        expect(self.levels[1] - self.levels[0] >= 3 * self.contrast, "noise, gradient and texture", "enough grey levels left for "
               f"figures that must differ by {self.contrast}", f"levels from {self.levels[0]} to {self.levels[1]}", "make them smaller")

    @cached_property
    def contrast(self):
        """Smallest difference of the grey levels on an edge's two sides: 4 standard deviations."""
        shading = (self.gradient + self.texture * TEXTURE_CELLS) * 2 / self.size  # from pixel to pixel
        return max(1, math.ceil(4 * self.noise + shading))

    @cached_property
    def levels(self):
        """Lowest and highest level of flat colours: nothing added to them leaves [0, 255]."""
        margin = math.ceil(_noise_levels(self.noise).max() + self.gradient + self.texture)
        return margin, 255 - margin


def _is_range(pair, min, max, kind=is_number):
    return isinstance(pair, tuple) and len(pair) == 2 and all(map(kind, pair)) and min <= pair[0] <= pair[1] <= max


def _are_names(names, allowed):
    return isinstance(names, tuple) and len(names) == len(set(map(str, names))) > 0 and all(name in [*allowed] for name in names)


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
    """One image and all that is in it."""

    image: np.ndarray  # (H, W, C) uint8
    masks: np.ndarray  # (H, W, K) bool: the whole figures, also where another lies over them
    figures: tuple  # of Figure, in the order in which they were drawn, the lowest first
    background: tuple  # one level in [0, 255] per channel


def draw_scene(config=ARTICLE, seed=0, index=0, split="train"):
    """Draw one scene: a pure function, the same pixels on every machine.

    Parameters
    ----------
    config : SceneConfig
    seed, index : int, from 0; each index is another scene of the seed
    split : "train", "validation" or "test"; part of the random key: no seed leaks one into another

    Returns
    -------
    Scene : image (H, W, C) uint8, masks (H, W, K) bool, figures

    Raises
    ------
    ValueError : an argument is not as above, or the figures do not fit into the scene
    """
    check_key(config, seed, split)
    expect(is_int(index), "index", "an integer from 0", index)
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
        raise ValueError(f"figures: found visible places for {len(figures)} of {config.figures[0]}; ask for fewer, smaller or less "
                         f"opaque ones, or a smaller share visible: {config}")
    _shade(config, rng, image)
    for _ in range(config.blur):
        image[:] = _blur(image)
    # One table look-up turns uniform bytes into noise; the sum wraps around, so that -1 is 255.
    noise = rng.bytes(image.size).translate(_noise_levels(config.noise).astype(np.uint8).tobytes())
    image += np.frombuffer(noise, np.uint8).reshape(image.shape)
    return Scene(image, masks, figures, tuple(background.tolist()))


def check_key(config, seed, split):
    """Raise a ValueError unless these can be a part of a scene's random key."""
    expect(isinstance(config, SceneConfig), "config", "a SceneConfig, for example shapeseg.ARTICLE", config)
    expect(is_int(seed), "seed", "an integer from 0", seed)
    expect(split in SPLITS, "split", f"one of {', '.join(SPLITS)}", split)


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
            np.copyto(image[box], blend(image[box], *looks), where=inside[..., None])
            masks[box + (config.classes.index(figure.label),)] |= inside
            figures.append(Figure(**vars(figure), colour=looks[0], opacity=looks[1]))
    return tuple(figures)


def _draw_outline(config, rng, first=None):
    """A figure without its looks; after a `first` one, its twin."""
    for _ in range(2000):
        label = first.label if first else config.classes[rng.randint(len(config.classes))]
        kinds = [kind for kind in config.kinds if LABELS[kind] == label]
        shape = outline(kind := kinds[rng.randint(len(kinds))], rng)
        radius = config.size * rng.uniform(*config.radius)
        angle = rng.uniform(0, 2 * np.pi)
        low, high = radius, config.size - 1 - radius  # wholly inside the image
        if first:
            reach = first.radius + radius
            low, high = np.maximum(low, np.subtract(first.centre, reach)), np.minimum(high, np.add(first.centre, reach))
        centre = rng.uniform(low, high, 2)
        figure = SimpleNamespace(kind=kind, label=label, centre=tuple(centre.tolist()), radius=radius, angle=angle,
                                 vertices=place(shape, centre, radius, angle))
        if not first or config.twins[0] <= overlap(first, figure) <= config.twins[1]:
            return figure
    raise ValueError(f"twins: found no place where a figure overlaps another by {config.twins}; give a wider range")


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
    row, column = rim(inside)
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
        # In multiples of 1/256, so that blending is exact on every platform.
        opacity = math.ceil(256 * rng.uniform(*config.opacity)) / 256
        left, after, target = spare.copy(), groups.copy(), []
        for figure, inner, outer, count in alike:
            inner = [round(a + opacity * (c - a)) for a, c in zip(inner, colour)]  # as `blend`, faster for a few levels
            if figure != new:
                outer = [round(a + opacity * (c - a)) for a, c in zip(outer, colour)]
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

