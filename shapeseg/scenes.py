"""One scene: a config, a seed and an index become an image and its masks."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from shapeseg.augmentation import blur, cut_texture, field, noise, noise_levels
from shapeseg.figures import CLASSES, KINDS, LABELS, NOVEL_KINDS, OPEN_KINDS, Figure, blend, fill, outline, overlap, place, rim
from shapeseg.utils import expect, is_int, is_number, random_key

SPLITS = ("train", "validation", "test")
TEXTURE_CELLS = 24  # per side
RANGES = ("noise", "gradient", "texture", "blur", "grain", "contrast", "opaque")  # what a scene may draw for itself
PAIRS = dict(figures=(1, 1000), radius=(0, 0.45), opacity=(0.05, 1), twins=(0.05, 0.9), zoom=(0.1, 10))  # and their limits
NUMBERS = dict(visible=(0, 1), soft=(0, 1), opaque=(0, 1), noise=(0, 40), gradient=(0, 100), texture=(0, 100), blur=(0, 10),
               contrast=(1, 80), grain=(0, 100))


@dataclass(frozen=True)
class SceneConfig:
    """What a scene looks like. Validates itself.

    size, channels : int, height and width in pixels, from 16 (from 80 with the default radii); 1 (grey) or 3 (colour)
    classes : tuple of str, the mask channels in order, some of ``CLASSES``
    kinds : tuple of str, the kinds that may be drawn (one that stands twice, twice as often), after the class, each equally often
    figures, radius, opacity : (lowest, highest), ints, how many (beside a `contrast` perhaps fewer); shares of the size; in (0, 1]
    visible : float in [0, 1], the share of each outline on whose two sides the levels of a channel differ by `contrast`
    noise, gradient, texture : float, in grey levels: standard deviation; amplitude of a slow change of the light, of a mottled texture
    blur : int, passes of a [1, 2, 1] / 4 filter in each direction, before the noise
    contrast : int, the difference of levels on an outline's two sides, at least; None: 4 standard deviations, and nothing is clipped
    grain : float, largest amplitude in grey levels of a texture of each figure's own
    soft, opaque : float in [0, 1], share of the figures whose edges are blurred; whose opacity is 1
    zoom : (lowest, highest), a scene's radii are so many times larger, up to 0.45, its figures fewer by the power 1.5 of that
    cut : bool, may the border cut figures, whose centres stay inside?
    twins : (float, float) or None; figures come in pairs of one class that overlap by this share of the smaller one's area

    noise, gradient, texture, blur, grain, contrast and opaque may be (lowest, highest): each scene draws its own, of the first five
    half of the scenes the lowest, and few much more. Ranges, grain and soft edges need a contrast.

    Raises a ValueError if a value is out of its range or two of them contradict each other.
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
    contrast: int = None
    grain: float = 0.0
    soft: float = 0.0
    opaque: float = 0.0
    zoom: tuple = (1.0, 1.0)
    cut: bool = False
    twins: tuple = None

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)  # JSON has lists alone
        expect({*self.kinds} <= {*LABELS}, "kinds", f"some of {', '.join(LABELS)}", self.kinds)
        expect({LABELS[kind] for kind in self.kinds} == {*self.classes}, "kinds", f"some of each of the classes {self.classes}", self.kinds)
        expect(self.channels in (1, 3), "channels", "1 or 3", self.channels)
        expect(is_int(self.size, 16), "size", "an integer from 16", self.size)
        for name, (min_, max_) in (PAIRS | NUMBERS).items():
            value, kind = getattr(self, name), is_int if name in ("figures", "blur", "contrast") else is_number
            pair = isinstance(value, tuple) and len(value) == 2 and all(kind(v, min_, max_) for v in value) and value[0] <= value[1]
            good = pair and name in (*PAIRS, *RANGES) or name in NUMBERS and kind(value, min_, max_)
            words = "(lowest, highest)" if name in PAIRS else "a number or (lowest, highest)" if name in RANGES else "a number"
            expect(good or value is None and name in ("twins", "contrast"), name, f"{words} from {min_} to {max_}", value)
        if self.contrast is None:
            rough = self.grain or self.soft or any(isinstance(getattr(self, name), tuple) for name in RANGES)
            expect(not rough, "contrast", "a number, say 16, beside ranges, grain or soft edges", None)
            expect(self.levels[1] - self.levels[0] >= 3 * self.edge, "noise, gradient and texture", "grey levels for figures that "
                   f"differ by {self.edge}", f"levels from {self.levels[0]} to {self.levels[1]}", "make them smaller")

    @cached_property
    def edge(self):
        """Smallest difference of the grey levels on an edge's two sides: 4 standard deviations."""
        if self.contrast is not None:
            return self.contrast
        shading = (self.gradient + self.texture * TEXTURE_CELLS) * 2 / self.size  # from pixel to pixel
        return max(1, math.ceil(4 * self.noise + shading))

    @cached_property
    def levels(self):
        """Lowest and highest level of flat colours: nothing added to them leaves [0, 255], unless the contrast is given."""
        if self.contrast is not None:
            return 8, 247
        margin = math.ceil(noise_levels(self.noise).max() + self.gradient + self.texture)
        return margin, 255 - margin


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
    "varied": replace(ARTICLE, kinds=2 * KINDS + OPEN_KINDS, figures=(2, 14), zoom=(0.4, 1.9), opacity=(0.4, 1.0), visible=0.9,
                      opaque=(0.0, 1.0), noise=(0.0, 20.0), gradient=(0.0, 50.0), texture=(0.0, 25.0), blur=(0, 2), contrast=(12, 40),
                      grain=(0.0, 40.0), soft=0.2, cut=True),  # what does not stop where the article's scenes do
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

    config : SceneConfig
    seed, index : int, from 0; each index is another scene of the seed
    split : "train", "validation" or "test"; part of the random key: no seed leaks one into another

    Returns a Scene; raises a ValueError if an argument is not as above or the figures do not fit into the scene.
    """
    check_key(config, seed, split)
    expect(is_int(index), "index", "an integer from 0", index)
    rng = random_key(split, seed, index)
    config = _settle(config, rng)
    background = rng.randint(config.levels[0], config.levels[1] + 1, config.channels)
    image = np.empty((config.size, config.size, config.channels), np.uint8)
    row = np.tile(background.astype(np.uint8), (config.size, 1))  # NumPy copies whole rows faster than single pixels
    for _ in range(100 if config.twins else 1):  # not every first figure leaves room for a twin that shows
        image[:] = row
        masks = np.zeros((config.size, config.size, len(config.classes)), bool)
        figures = _draw_figures(config, rng, image, masks)
        if len(figures) >= (config.figures[0] if config.contrast is None else 1):
            break
    else:
        raise ValueError(f"figures: found visible places for {len(figures)} of {config.figures[0]}; ask for fewer, smaller or less "
                         f"opaque ones, or a smaller share visible: {config}")
    if config.contrast is not None:
        _roughen(config, rng, image, figures)
    else:
        for amplitude, cells in (pair for pair in ((config.gradient, 1), (config.texture, TEXTURE_CELLS)) if pair[0]):
            image += field(rng, config.size, amplitude, cells).astype(np.uint8)[..., None]
    for _ in range(config.blur):
        blur(image)
    grain = noise(rng, image.shape, config.noise)
    if config.contrast is not None:
        image = np.clip(grain + image.astype(np.int16), 0, 255).astype(np.uint8)
    else:
        image += grain.view(np.uint8)  # the sum wraps around, so that -1 is 255
    return Scene(image, masks, figures, tuple(background.tolist()))


def _settle(config, rng):
    """A config without ranges: what this scene drew."""
    drawn = {name: value for name in RANGES if isinstance(value := getattr(config, name), tuple)}
    rough = max(0, 2 * rng.uniform() - 1) ** 1.5 if drawn else 0  # half of the scenes are clean, few are rough in much
    for name, (low, high) in drawn.items():
        value = low + (high - low) * rng.uniform() * (rng.uniform() if name in ("contrast", "opaque") else rough)
        drawn[name] = round(value) if name in ("blur", "contrast") else round(4 * value) / 4 if name == "noise" else value
    if config.zoom != (1, 1):
        zoom = math.exp(rng.uniform(*np.log(config.zoom)))
        drawn |= {"zoom": (1.0, 1.0), "radius": tuple(min(0.45, max(4 / config.size, zoom * r)) for r in config.radius),
                  "figures": tuple(min(1000, max(2 if config.twins else 1, round(n / zoom**1.5))) for n in config.figures)}
    return replace(config, **drawn) if drawn else config


def _roughen(config, rng, image, figures):
    """Light, textures, and soft edges of some figures, in place; what would leave [0, 255] is clipped."""
    canvas = image.astype(np.int16)
    ramp, (down, right) = np.arange(config.size) * 2 - config.size, rng.randint(-int(config.gradient), int(config.gradient) + 1, 2)
    canvas += ((down * ramp)[:, None] // config.size + right * ramp // config.size).astype(np.int16)[..., None]
    canvas += cut_texture(rng, config.texture, canvas.shape[:2])[..., None]
    boxes = []
    for figure in figures:
        box, inside = fill(figure.vertices, image.shape)
        canvas[box] += (cut_texture(rng, config.grain * rng.uniform(), inside.shape) * inside)[..., None]
        boxes += [tuple(slice(max(side.start - 3, 0), side.stop + 3) for side in box)] if rng.uniform() < config.soft else []
    np.clip(canvas, 0, 255, out=canvas)
    image[:] = canvas
    for box in boxes:
        blur(image[box])
        blur(image[box])


def check_key(config, seed, split):
    expect(isinstance(config, SceneConfig), "config", "a SceneConfig, for example shapeseg.ARTICLE", config)
    expect(is_int(seed), "seed", "an integer from 0", seed)
    expect(split in SPLITS, "split", f"one of {', '.join(SPLITS)}", split)


def _draw_figures(config, rng, image, masks):
    wanted = rng.randint(config.figures[0], config.figures[1] + 1)
    figures, misses = [], 0
    # The pixels just inside all outlines, which are to stay visible: a column for each, its place in the image, the number of its
    # figure, the levels there with and without this; and how many of each figure's may be hidden.
    rims, spare, cover = np.zeros((2 + 2 * config.channels, 0), int), np.zeros(0, int), np.zeros(image.shape[:2], bool)
    for _ in range(20 * wanted):
        first = figures[-1] if config.twins and len(figures) % 2 else None
        if len(figures) == wanted or first and misses == 8:
            break
        figure = _draw_outline(config, rng, first)
        box, inside = fill(figure.vertices, image.shape) if config.cut else fill(figure.vertices)
        if looks := inside.any():  # not cut off whole
            looks, rims, spare = _choose_looks(config, rng, image, rims, spare, box, inside, cover)
        misses = 0 if looks else misses + 1
        if looks:
            np.copyto(image[box], blend(image[box], *looks), where=inside[..., None])
            masks[box + (config.classes.index(figure.label),)] |= inside
            figures.append(replace(figure, colour=looks[0], opacity=looks[1]))
    return tuple(figures)


def _draw_outline(config, rng, first=None):
    """A figure without its looks; after a `first` one, its twin."""
    for _ in range(2000):
        label = first.label if first else config.classes[rng.randint(len(config.classes))]
        kinds = [kind for kind in config.kinds if LABELS[kind] == label]
        shape = outline(kind := kinds[rng.randint(len(kinds))], rng)
        radius = config.size * rng.uniform(*config.radius)
        angle = rng.uniform(0, 2 * np.pi)
        low, high = (0, config.size - 1) if config.cut else (radius, config.size - 1 - radius)  # wholly inside the image
        if first:
            reach = first.radius + radius
            low, high = np.maximum(low, np.subtract(first.centre, reach)), np.minimum(high, np.add(first.centre, reach))
        centre = rng.uniform(low, high, 2)
        figure = Figure(kind, label, tuple(centre.tolist()), radius, angle, None, None, place(shape, centre, radius, angle))
        if not first or config.twins[0] <= overlap(first, figure) <= config.twins[1]:
            return figure
    raise ValueError(f"twins: found no place where a figure overlaps another by {config.twins}; give a wider range")


def _choose_looks(config, rng, image, rims, spare, box, inside, cover):
    """A colour and an opacity with which the new figure and all before it are visible, or None; and the rims of all."""
    row, column = rim(inside)
    own = (row + box[0].start) * config.size + column + box[1].start
    below = image.reshape(-1, config.channels)[own].T
    new = np.concatenate([rims, np.stack([own, np.full(len(own), len(spare)), *below, *below])], axis=1)
    cover[box] = inside
    covered = cover.ravel().take(new[0]).nonzero()[0]  # the last of them are the new figure's own
    cover[box] = False
    figure, under = new[1, covered], new[2:, covered].reshape(2, config.channels, -1)
    may_hide = np.append(spare, int((1 - config.visible) * len(own)))
    for _ in range(8):
        colour = tuple([rng.randint(config.levels[0], config.levels[1] + 1) for _ in range(config.channels)])
        # In multiples of 1/256, so that blending is exact on every platform.
        opacity = math.ceil(256 * rng.uniform(*config.opacity)) / 256 if not config.opaque or rng.uniform() >= config.opaque else 1.0
        over = blend(under, np.array(colour)[:, None], opacity)
        over[1, :, -len(own):] = below
        hidden = (abs(np.subtract(*over, dtype=np.int16)) < config.edge).all(axis=0)
        left = may_hide - np.bincount(figure[hidden], minlength=len(may_hide))
        if left.min() >= 0:
            new[2:, covered] = over.reshape(2 * config.channels, -1)
            if hidden.any():  # for good: blending brings levels together
                new = np.delete(new, covered[hidden], axis=1)
            return (colour, opacity), new, left
    return None, rims, spare
