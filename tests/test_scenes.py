import json
import zlib
from dataclasses import asdict, replace

import numpy as np
import pytest

import shapeseg as ss
from shapeseg.figures import OPEN_KINDS, outline_mask
from shapeseg.scenes import blend

# CRC-32 of image and masks of scene 7, seed 3, and of 25 scenes at 128×128: the same on every machine, for ever.
CHECKSUMS = {
    "article": (2277619970, 2863882877, 2092239424, 4226845976), "opaque": (2542372744, 2863882877, 1794579560, 700059543),
    "textured": (4121637016, 3709683433, 1919283093, 3730579050), "colour": (984976352, 2458092384, 3044103090, 3748888638),
    "single": (3646202877, 2768156129, 1442977182, 729233467), "dense": (3918120631, 2334901919, 3215317947, 755221309),
    "crowded": (4049689813, 4051800171, 1845188992, 1067928895), "novel": (679604219, 604627521, 1536683250, 2782578097),
    "varied": (1963503085, 1757105440, 3105687840, 569461442), "opaque, many figures": (813091012, 675773793, 2782596812, 1732182955)}


@pytest.mark.parametrize("name", {**ss.SCENE_CONFIGS, **CHECKSUMS})
def test_the_same_pixels_everywhere(name):
    config = ss.SCENE_CONFIGS.get(name, replace(ss.SCENE_CONFIGS["opaque"], figures=(8, 12)))
    scene = ss.draw_scene(config, seed=3, index=7)
    many = ss.draw_scenes(replace(config, size=128), 4, range(25), "validation")
    assert tuple(map(zlib.crc32, (scene.image, scene.masks, *many))) == CHECKSUMS[name]


@pytest.mark.parametrize("name", ss.SCENE_CONFIGS)
def test_masks_are_the_whole_figures(name):
    config = ss.SCENE_CONFIGS[name]
    for index in range(3):
        scene = ss.draw_scene(config, seed=1, index=index)
        assert scene.image.shape == (512, 512, config.channels) and scene.image.dtype == np.uint8
        assert scene.masks.shape == (512, 512, len(config.classes)) and scene.masks.dtype == bool
        assert name == "varied" or config.figures[0] <= len(scene.figures) <= config.figures[1]
        masks = np.zeros_like(scene.masks)
        for figure in scene.figures:
            assert figure.label == ss.LABELS[figure.kind]
            inside = (figure.vertices >= -0.5) & (figure.vertices <= 511.5)
            assert inside.all() or config.cut and 0 <= min(figure.centre) <= max(figure.centre) <= 511
            assert np.hypot(*(figure.vertices - figure.centre).T).max() == pytest.approx(figure.radius, abs=0.02)
            masks[..., config.classes.index(figure.label)] |= outline_mask(figure.vertices, masks.shape[:2])
        assert (masks == scene.masks).all()


@pytest.mark.parametrize("name", ["article", "colour", "dense", "novel", "single"])
def test_every_edge_can_be_seen(name):
    """Painted again without noise, the two sides of each edge differ by 4 standard deviations."""
    config = ss.SCENE_CONFIGS[name]
    for index in range(3):
        scene = ss.draw_scene(config, seed=5, index=index)
        clean = np.empty_like(scene.image)
        clean[:] = scene.background
        inside = np.stack([outline_mask(figure.vertices, (512, 512)) for figure in scene.figures])
        for figure, mask in zip(scene.figures, inside):
            clean[mask] = blend(clean[mask], np.array(figure.colour), figure.opacity)
        noise = scene.image.astype(int) - clean
        assert abs(noise.std() - config.noise) < 0.2 and abs(noise.mean()) < 0.1
        for axis in (1, 2):
            edges = np.diff(inside, axis=axis).sum(axis=0)
            contrast = np.abs(np.diff(clean.astype(int), axis=axis - 1)).max(axis=-1)
            assert contrast[edges == 1].min() >= 4 * config.noise  # where exactly one outline passes
            assert contrast[edges == 0].max(initial=0) == 0


def test_classes_overlap_and_both_channels_are_set():
    novel = [ss.draw_scene(ss.SCENE_CONFIGS["novel"], 0, index) for index in range(30)]
    assert {figure.kind for scene in novel for figure in scene.figures if figure.label == "unknown"} == set(ss.NOVEL_KINDS)
    scenes = [ss.draw_scene(ss.ARTICLE, seed=2, index=index) for index in range(200)]
    assert np.mean([(scene.masks.sum(axis=-1) > 1).any() for scene in scenes]) >= 0.25
    counts = np.bincount([len(scene.figures) for scene in scenes], minlength=9)
    assert counts[0] == 0 and (counts[1:] >= 10).all()  # 1 to 8 figures, each number about as often
    assert {figure.kind for scene in scenes for figure in scene.figures} == set(ss.KINDS)
    assert 0.975 < 1 - np.mean([scene.masks.mean() for scene in scenes]) < 0.988  # what all zeros score


def test_varied_scenes_vary_in_all_that_they_should():
    config = replace(ss.SCENE_CONFIGS["varied"], size=256)
    scenes = [ss.draw_scene(config, 1, index) for index in range(150)]
    figures = [figure for scene in scenes for figure in scene.figures]
    radii = np.array([figure.radius for figure in figures]) / 256
    assert 0.019 < radii.min() < 0.03 and 0.2 < radii.max() < 0.31
    assert {figure.kind for figure in figures} == {*ss.KINDS, *OPEN_KINDS} and not {*ss.NOVEL_KINDS} & {*OPEN_KINDS}
    cut = [((figure.vertices < -0.5) | (figure.vertices > 255.5)).any() for figure in figures]
    opaque = [figure.opacity == 1 for figure in figures]
    assert 0.05 < np.mean(cut) < 0.5 and 0.1 < np.mean(opaque) < 0.35
    rough = [np.abs(np.diff(scene.image[..., 0].astype(int))).mean() for scene in scenes]  # noise and texture
    light = [scene.image.mean() for scene in scenes]
    assert np.quantile(rough, 0.1) < 3 and np.quantile(rough, 0.9) > 5 and np.quantile(light, 0.1) < 80 and np.quantile(light, 0.9) > 175


def test_a_zoom_makes_figures_larger_and_keeps_twins_and_a_figure_outside_of_the_image_is_none():
    larger = [figure.radius / 128 for n in range(20) for figure in ss.draw_scene(replace(ss.ARTICLE, size=128, zoom=(2, 2)), 0, n).figures]
    assert 0.1 <= min(larger) < 0.15 and 0.25 < max(larger) <= 0.32
    assert all(len(ss.draw_scene(replace(ss.CROWDED, size=128, zoom=(0.4, 1.9)), 0, n).figures) > 1 for n in range(20))
    moons = ss.SceneConfig(size=128, classes=("unknown",), kinds=("moon",), cut=True, radius=(0.4, 0.45), figures=(1, 3))
    assert ss.draw_scene(moons, 0, 2350).figures  # one of its moons would lie outside


@pytest.mark.parametrize("twins", [(0.1, 0.6), (0.6, 0.8)])
def test_twins_overlap_by_as_much_as_asked_for(twins):
    config = replace(ss.CROWDED, size=256, twins=twins)
    for index in range(15):
        figures = ss.draw_scene(config, 0, index).figures
        for pair in zip(figures[::2], figures[1::2]):
            a, b = (outline_mask(figure.vertices, (256, 256)) for figure in pair)
            assert pair[0].label == pair[1].label and twins[0] <= (a & b).sum() / min(a.sum(), b.sum()) <= twins[1]
    with pytest.raises(ValueError, match="^twins: .* wider range"):
        ss.draw_scene(replace(config, twins=(0.123456789, 0.123456789)))


def test_splits_seeds_and_indices_are_different_scenes_and_one_parameter_changes_one_thing():
    plain, blurred = ss.draw_scene(ss.ARTICLE, 1, 4), ss.draw_scene(replace(ss.ARTICLE, blur=2), 1, 4)
    assert (plain.masks == blurred.masks).all() and (plain.image != blurred.image).any()
    keys = [("train", 0, 0), ("validation", 0, 0), ("test", 0, 0), ("train", 1, 0), ("train", 0, 1)]
    scenes = [ss.draw_scene(ss.ARTICLE, seed, index, split).image.tobytes() for split, seed, index in keys]
    assert len(set(scenes)) == len(keys) and scenes[0] == ss.draw_scene().image.tobytes()


@pytest.mark.parametrize("wrong", [dict([(name, value)]) for name, values in {
    "size": [8, 64.5, "512", True, None], "channels": [2, 0],
    "kinds": [("circle", "banana"), ("circle",), (), "circle"], "figures": [(5, 2), (0, 2), 3, (1, 2.5), (1, 1001), ("1", "3")],
    "radius": [(0.2, 0.1), (0.1, 0.6), (float("nan"), 0.1), 0.1], "opacity": [(0, 1), (0.5, 1.2)],
    "visible": [1.5, "0.5"], "noise": [40.5, -1, float("nan"), "4", 30], "gradient": [101, None], "texture": [100.5, "rough"],
    "blur": [11, 1.5, (0, 1.5)], "contrast": [0, 2.5, (12, 90)], "grain": [(3, 2)], "soft": [1.1], "opaque": [(0, 2), -0.1],
    "zoom": [1.0, (2, 1), (0, 1)]}.items() for value in values] + [
    dict(contrast=None, grain=5.0), dict(contrast=None, soft=0.5), *(dict(twins=twins) for twins in ((0.6, 0.1), (0.1, 0.95), 0.5)),
    dict(figures=(60, 70), size=64, radius=(0.3, 0.45), opacity=(0.9, 0.9))], ids=str)
def test_a_config_that_is_wrong_or_contradicts_itself_or_asks_for_too_much(wrong):
    with pytest.raises(ValueError, match=f"^{[*wrong][0]}\\b.*: "):
        ss.draw_scene(ss.SceneConfig(**wrong))


@pytest.mark.parametrize("name", ss.SCENE_CONFIGS)
def test_a_config_comes_back_from_json(name):
    assert ss.SceneConfig(**json.loads(json.dumps(asdict(ss.SCENE_CONFIGS[name])))) == ss.SCENE_CONFIGS[name]
