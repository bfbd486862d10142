import zlib
from dataclasses import replace

import numpy as np
import pytest

import shapeseg as ss
from shapeseg.figures import LABELS
from shapeseg.scenes import blend, check_key, overlap, room

# CRC-32 of image and masks of scene 7, seed 3: the same on every machine, for ever.
CHECKSUMS = {
    "article": (2277619970, 2863882877),
    "opaque": (2542372744, 2863882877),
    "textured": (4121637016, 3709683433),
    "colour": (984976352, 2458092384),
    "single": (3646202877, 2768156129),
    "dense": (3918120631, 2334901919),
    "crowded": (4049689813, 4051800171),
    "novel": (679604219, 604627521),
}


@pytest.mark.parametrize("name", ss.SCENE_CONFIGS)
def test_the_same_pixels_everywhere(name):
    scene = ss.draw_scene(ss.SCENE_CONFIGS[name], seed=3, index=7)
    assert (zlib.crc32(scene.image), zlib.crc32(scene.masks)) == CHECKSUMS[name]


# The same of 25 scenes each at 128×128.
MANY_CHECKSUMS = {
    "article": (2092239424, 4226845976),
    "opaque": (1794579560, 700059543),
    "textured": (1919283093, 3730579050),
    "colour": (3044103090, 3748888638),
    "single": (1442977182, 729233467),
    "dense": (3215317947, 755221309),
    "crowded": (1845188992, 1067928895),
    "novel": (1536683250, 2782578097),
    "opaque, many figures": (2782596812, 1732182955),
}


@pytest.mark.parametrize("name", MANY_CHECKSUMS)
def test_many_scenes_are_the_same_everywhere(name):
    config = replace(ss.SCENE_CONFIGS[name.split(",")[0]], size=128)
    if "many" in name:
        config = replace(config, figures=(8, 12))
    scenes = [ss.draw_scene(config, 4, index, "validation") for index in range(25)]
    images, masks = (np.stack([getattr(scene, part) for scene in scenes]) for part in ("image", "masks"))
    assert (zlib.crc32(images), zlib.crc32(masks)) == MANY_CHECKSUMS[name]


@pytest.mark.parametrize("name", ss.SCENE_CONFIGS)
def test_types_and_shapes(name):
    config = ss.SCENE_CONFIGS[name]
    scene = ss.draw_scene(config, seed=1, index=2)
    assert scene.image.shape == (512, 512, config.channels) and scene.image.dtype == np.uint8
    assert scene.masks.shape == (512, 512, len(config.classes)) and scene.masks.dtype == bool
    assert config.figures[0] <= len(scene.figures) <= config.figures[1]


@pytest.mark.parametrize("name", ss.SCENE_CONFIGS)
def test_masks_are_the_whole_figures(name):
    config = ss.SCENE_CONFIGS[name]
    for index in range(5):
        scene = ss.draw_scene(config, seed=1, index=index)
        masks = np.zeros_like(scene.masks)
        for figure in scene.figures:
            assert figure.label == LABELS[figure.kind]
            assert (figure.vertices >= -0.5).all() and (figure.vertices <= 511.5).all()
            assert np.hypot(*(figure.vertices - figure.centre).T).max() == pytest.approx(figure.radius, abs=0.02)
            box, inside = ss.fill(figure.vertices)
            masks[box + (config.classes.index(figure.label),)] |= inside
        assert (masks == scene.masks).all()


@pytest.mark.parametrize("name", ["article", "colour", "dense", "novel", "single"])
def test_every_edge_can_be_seen(name):
    """Painted again without noise, the two sides of each edge differ by 4 standard deviations."""
    config = ss.SCENE_CONFIGS[name]
    for index in range(6):
        scene = ss.draw_scene(config, seed=5, index=index)
        clean = np.empty_like(scene.image)
        clean[:] = scene.background
        inside = np.zeros((len(scene.figures), 512, 512), bool)
        for n, figure in enumerate(scene.figures):
            box, inside[n][box] = ss.fill(figure.vertices)[0], ss.fill(figure.vertices)[1]
            clean[inside[n]] = blend(clean[inside[n]], np.array(figure.colour), figure.opacity)
        noise = scene.image.astype(int) - clean
        assert abs(noise.std() - config.noise) < 0.2 and abs(noise.mean()) < 0.1
        for axis in (1, 2):
            changes = np.diff(inside, axis=axis).sum(axis=0)
            step = np.abs(np.diff(clean.astype(int), axis=axis - 1)).max(axis=-1)
            assert step[changes == 1].min() >= 4 * config.noise  # where exactly one outline passes
            assert step[changes == 0].max(initial=0) == 0


def test_an_opaque_scene_shows_most_of_each_outline():
    config = ss.SCENE_CONFIGS["opaque"]
    for index in range(10):
        figures = ss.draw_scene(config, seed=5, index=index).figures
        for n, figure in enumerate(figures):
            box, inside = ss.fill(figure.vertices)
            covered = np.zeros((512, 512), bool)
            for later in figures[n + 1:]:
                later_box, later_inside = ss.fill(later.vertices)
                covered[later_box] |= later_inside
            rows, columns = np.rint(figure.vertices + 0.1 * (figure.centre - figure.vertices)).astype(int).T
            if figure.kind == "circle":  # its vertices are evenly spread over the outline
                assert covered[rows, columns].mean() <= 0.55


def test_classes_overlap_and_both_channels_are_set():
    scenes = [ss.draw_scene(ss.ARTICLE, seed=2, index=index) for index in range(200)]
    assert np.mean([(scene.masks.sum(axis=-1) > 1).any() for scene in scenes]) >= 0.25
    counts = np.bincount([len(scene.figures) for scene in scenes], minlength=9)
    assert counts[0] == 0 and (counts[1:] >= 10).all()  # 1 to 8 figures, each number about as often
    kinds = {figure.kind for scene in scenes for figure in scene.figures}
    assert kinds == set(ss.KINDS)
    assert 0.975 < 1 - np.mean([scene.masks.mean() for scene in scenes]) < 0.988  # what all zeros score


def test_novel_scenes_hold_novel_kinds_alone_as_unknown():
    scenes = [ss.draw_scene(ss.SCENE_CONFIGS["novel"], 0, index) for index in range(60)]
    unknown = {figure.kind for scene in scenes for figure in scene.figures if figure.label == "unknown"}
    assert unknown == set(ss.NOVEL_KINDS)


def test_splits_seeds_and_indices_are_different_scenes():
    keys = [("train", 0, 0), ("validation", 0, 0), ("test", 0, 0), ("train", 1, 0), ("train", 0, 1)]
    scenes = [ss.draw_scene(ss.ARTICLE, seed, index, split).image.tobytes() for split, seed, index in keys]
    assert len(set(scenes)) == len(keys)


def test_one_knob_changes_one_thing():
    plain = ss.draw_scene(ss.ARTICLE, 1, 4)
    textured = ss.draw_scene(replace(ss.ARTICLE, blur=2), 1, 4)
    assert (plain.masks == textured.masks).all() and (plain.image != textured.image).any()


def test_a_config_from_json_is_the_same_config():
    import json
    from dataclasses import asdict

    config = ss.SCENE_CONFIGS["textured"]
    assert ss.SceneConfig(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("wrong, words", [
    (dict(size=8), "size: expected a whole number of at least 16, got 8"),
    (dict(size=64.5), "size: "), (dict(size="512"), "size: "), (dict(size=True), "size: "),
    (dict(channels=2), "channels: expected 1 or 3, got 2"),
    (dict(classes=()), "classes: expected some of circle, .*, got ()"),
    (dict(classes=("circle", "circle")), "classes: "), (dict(classes="circle"), "classes: "),
    (dict(classes=("blob",)), "classes: "),
    (dict(kinds=("circle", "blob")), f"kinds: expected some of {', '.join(LABELS)}, got .*blob"),
    (dict(kinds=("circle",)), "kinds: expected kinds of each of the classes"),
    (dict(figures=(5, 2)), "figures: expected \\(fewest, most\\), from 1 to 1000, got \\(5, 2\\)"), (dict(figures=(0, 2)), "figures: "),
    (dict(figures=3), "figures: "), (dict(figures=(1, 2.5)), "figures: "), (dict(figures=(1, 1001)), "figures: "),
    (dict(radius=(0.2, 0.1)), "radius: "), (dict(radius=(0.001, 0.1)), "radius: expected \\(smallest, largest\\), from 0.00781 \\(4 pixels\\) to 0.45"),
    (dict(radius=(0.1, 0.6)), "radius: "), (dict(radius=(float("nan"), 0.1)), "radius: "),
    (dict(opacity=(0, 1)), "opacity: expected \\(least, greatest\\), from 0.05 to 1, got"), (dict(opacity=(0.5, 1.2)), "opacity: "),
    (dict(visible=1.5), "visible: expected a number from 0 to 1, got 1.5"), (dict(noise=40.5), "noise: "), (dict(texture=100.5), "texture: "),
    (dict(blur=11), "blur: expected a whole number from 0 to 10, got 11"), (dict(twins=(0.1, 0.95), figures=(2, 8)), "twins: "),
    (dict(noise=-1), "noise: "), (dict(noise=float("nan")), "noise: "),
    (dict(noise=30), "noise, gradient and texture: .* leave the grey levels"),
    (dict(gradient=101), "gradient: "), (dict(texture="rough"), "texture: "), (dict(blur=1.5), "blur: "),
    (dict(twins=(0.1, 0.6)), "figures: expected at least 2, because figures come in pairs"),
    (dict(twins=(0.6, 0.1), figures=(2, 8)), "twins: expected None or"), (dict(twins=0.5, figures=(2, 8)), "twins: "),
])
def test_a_config_that_is_wrong_or_contradicts_itself(wrong, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        ss.SceneConfig(**wrong)


@pytest.mark.parametrize("limits", [
    dict(size=16, radius=(0.25, 0.45)), dict(channels=3), dict(figures=(1, 1000)), dict(opacity=(0.05, 1)),
    dict(visible=0), dict(noise=0), dict(blur=10), dict(twins=(0.05, 0.9), figures=(2, 2)), dict(gradient=95, noise=0),
    dict(texture=95, noise=0)])
def test_a_config_at_its_limits(limits):
    assert ss.SceneConfig(**limits).levels[0] >= 0


def test_figures_have_three_times_the_contrast_to_choose_from():
    def levels(noise):
        config = ss.SceneConfig(noise=noise)
        return np.subtract(*config.levels[::-1]), 3 * config.contrast

    good = max(noise for noise in np.arange(10, 20, 0.01) if _is_config(noise))
    room, least = levels(good)
    assert least <= room < 1.05 * least


def _is_config(noise):
    try:
        return bool(ss.SceneConfig(noise=noise))
    except ValueError:
        return False


def test_more_figures_than_fit():
    config = ss.SceneConfig(size=64, figures=(60, 70), radius=(0.3, 0.45), opacity=(0.9, 0.9))
    with pytest.raises(ValueError, match="^figures: found visible places for .* of 60; ask for fewer"):
        ss.draw_scene(config, 0, 0)


@pytest.mark.parametrize("wrong, words", [
    (dict(seed=-1), "seed: expected a whole number from 0, got -1"),
    (dict(seed=1.5), "seed: expected a whole number from 0, got 1.5"),
    (dict(index=-1), "index: expected a whole number from 0, got -1"),
    (dict(split="dev"), "split: expected one of train, validation, test, got 'dev'"),
    (dict(config="article"), "config: expected a SceneConfig, for example shapeseg.ARTICLE, got 'article'"),
    (dict(config=ss.SceneConfig(size=40000)), "config: expected a scene of at most 8 GB, got SceneConfig(size=40000, "),
])
def test_a_wrong_key(wrong, words):
    with pytest.raises(ValueError) as error:
        ss.draw_scene(**wrong)
    assert str(error.value).startswith(words)


def test_a_scene_is_of_the_first_seed_the_first_index_and_the_training_split():
    small = ss.SceneConfig(size=32, radius=(0.2, 0.3), figures=(1, 2))
    assert (ss.draw_scene(small).image == ss.draw_scene(small, 0, 0, "train").image).all()


def test_the_memory_that_scenes_may_need():
    assert room(ss.ARTICLE) == 2**33 // (512 * 512 * 6)
    largest = ss.SceneConfig(size=37837)  # 6 bytes a pixel
    check_key(largest, 0, "test")
    with pytest.raises(ValueError, match="^config: "):
        check_key(replace(largest, size=37838), 0, "test")


SCENE = ss.draw_scene(ss.SceneConfig(size=32, figures=(2, 2), radius=(0.2, 0.3)))
OUTSIDE = replace(SCENE.figures[0], vertices=SCENE.figures[0].vertices + (0, 32))


@pytest.mark.parametrize("wrong, words", [
    (dict(image=None), "image: expected (H, W, C) uint8, got None"),
    (dict(image=SCENE.image[..., 0]), "image: expected (H, W, C) uint8, got (32, 32) uint8"),
    (dict(image=SCENE.masks), "image: expected (H, W, C) uint8, got (32, 32, 5) bool"),
    (dict(masks=SCENE.masks[1:]), "masks: expected (H, W, K) bool, got (31, 32, 5) bool"),
    (dict(masks=SCENE.masks[..., :0]), "masks: expected (H, W, K) bool, got (32, 32, 0) bool"),
    (dict(masks=SCENE.image), "masks: expected (H, W, K) bool, got (32, 32, 1) uint8"),
    (dict(figures=3), "figures: expected Figures, got 3"),
    (dict(figures=(3,)), "figures: expected Figures, got 3"),
    (dict(figures=(OUTSIDE,)), "figures: expected Figures wholly inside the image, got (Figure("),
    (dict(figures=(replace(OUTSIDE, vertices=OUTSIDE.vertices - (0, 64)),)), "figures: expected Figures wholly inside the"),
    (dict(figures=(replace(OUTSIDE, vertices=OUTSIDE.vertices + (32, -32)),)), "figures: expected Figures wholly inside the"),
])
def test_a_wrong_scene(wrong, words):
    with pytest.raises(ValueError) as error:
        replace(SCENE, **wrong)
    assert str(error.value).startswith(words)


def test_a_scene_may_be_empty_and_its_figures_may_touch_its_border():
    assert replace(SCENE, figures=()).figures == ()
    corner = np.array([(-0.5, -0.5), (-0.5, 31.5), (31.5, 31.5)])
    replace(SCENE, figures=(replace(SCENE.figures[0], vertices=corner),))


def test_the_topmost_figure_hides_those_below():
    for index in range(20):
        scene = ss.draw_scene(ss.SCENE_CONFIGS["dense"], 0, index)
        masks = ss.topmost(scene)
        assert (masks.sum(-1) <= 1).all() and (masks.any(-1) == scene.masks.any(-1)).all()
        assert not (masks & ~scene.masks).any()
        last = scene.figures[-1]  # nothing lies over it: it is whole
        box, inside = ss.fill(last.vertices)
        assert masks[box][inside][:, ss.CLASSES.index(last.label)].all()
    for call, words in [
        (lambda: ss.topmost(scene, ("circle",)), "classes: expected those of the scene's 5 masks, got ('circle',)"),
        (lambda: ss.topmost(scene, list("abcde")), "classes: expected those of the scene's 5 masks, got ['a', 'b', "),
        (lambda: ss.topmost(scene, ss.CLASSES[::-1]), "classes: expected them in the order of the scene's masks"),
        (lambda: ss.topmost(3), "scene: expected a Scene from draw_scene, got 3"),
    ]:
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith(words)


@pytest.mark.parametrize("twins", [(0.1, 0.6), (0.6, 0.8)])
def test_twins_overlap_by_as_much_as_asked_for(twins):
    config = replace(ss.SCENE_CONFIGS["crowded"], size=256, twins=twins)
    for index in range(30):
        scene = ss.draw_scene(config, 0, index)
        for first, second in zip(scene.figures[::2], scene.figures[1::2]):
            assert first.label == second.label
            alone = []
            for figure in (first, second):
                alone.append(np.zeros((256, 256), bool))
                box, inside = ss.fill(figure.vertices)
                alone[-1][box] = inside
            shared = (alone[0] & alone[1]).sum() / min(mask.sum() for mask in alone)
            assert twins[0] <= shared <= twins[1] and overlap(first, second) == pytest.approx(shared)


def test_twins_that_cannot_be():
    with pytest.raises(ValueError, match="twins: found no place .* give a wider range"):
        ss.draw_scene(replace(ss.SCENE_CONFIGS["crowded"], twins=(0.123456789, 0.123456789)), 0, 0)
