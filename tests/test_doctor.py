from dataclasses import replace

import numpy as np
import pytest

import shapeseg as ss

PLAIN, ROUGH = (ss.draw_scenes(ss.SCENE_CONFIGS[name], 0, range(12)) for name in ("article", "textured"))


def problems(images, masks, **more):
    return " ".join(ss.check_dataset(images, masks, **more).attrs["problems"])


def test_the_table_counts_what_is_there(capsys):
    images = np.zeros((2, 64, 64, 1), np.uint8)
    masks = np.zeros((2, 64, 64, 2), bool)
    masks[0, 4:14, 4:24, 0] = masks[0, 30:40, 30:38, 0] = masks[1, 20:30, :, 0] = True  # the last goes through the image: who knows its size
    table = ss.check_dataset(images, masks, ["leaf", "stem"])
    assert table.loc["leaf"].tolist() == [2, pytest.approx(920 / 8192), 3, 10, 15, 20] and table.loc["stem"].tolist() == [0] * 6
    assert "stem: 0 of 2 images hold it" in capsys.readouterr().out


@pytest.mark.parametrize("images, masks", [PLAIN, ROUGH, ss.draw_scenes(ss.SCENE_CONFIGS["varied"], 0, range(12))])
def test_of_a_healthy_dataset_it_says_nothing(images, masks, capsys):
    assert not problems(images, masks, trained_on=(images, masks))
    assert "Nothing found" in capsys.readouterr().out


@pytest.mark.parametrize("images, masks", [PLAIN, ROUGH])
@pytest.mark.parametrize("change, words", [
    (lambda x, y: (x, ~y), "the masks are inverted"), (lambda x, y: (x, np.roll(y, (5, -4), (1, 2))), "by -5 rows and 4 columns"),
    (lambda x, y: (x, y[::-1]), "is each mask that of its image?"), (lambda x, y: (x[:1], y[:1]), "one image only"),
    (lambda x, y: (x, y & [True, True, False, True, True]), "quad: 0 of 12 images hold it")])
def test_each_illness_is_named(images, masks, change, words):
    assert words in problems(*change(images, masks))


def test_masks_of_one_class_that_are_those_of_other_images():
    config = ss.SceneConfig(size=128, classes=("circle", "quad"), kinds=("circle", "quad"), figures=(1, 4), radius=(0.12, 0.25))
    images, masks = ss.draw_scenes(config, 0, range(40))  # many images, and figures near the middle, where images have their edges
    quads = masks[..., 1:]
    assert "of its image" in problems(images, np.roll(quads, 1, axis=0)) and "of its image" not in problems(images, quads)


def test_a_validation_that_leaks_or_lacks_a_class():
    images, masks = PLAIN
    assert "2 validation images are training images" in problems(*PLAIN, validation=(images[3:5], masks[3:5]))
    others, truth = ss.draw_scenes(ss.ARTICLE, 0, range(6), "validation")
    assert "quad: no validation image holds it" in problems(*PLAIN, validation=(others, truth & [True, True, False, True, True]))
    assert "no validation image" not in problems(*PLAIN, validation=(others, truth))


def test_objects_of_another_size():
    large = ss.draw_scenes(replace(ss.ARTICLE, radius=(0.2, 0.3)), 0, range(6))
    small = ss.draw_scenes(replace(ss.ARTICLE, radius=(4 / 512, 0.008)), 0, range(6))
    near_sighted = ss.build_model(widths=(4, 8), patch=1, contrast=None)
    assert "the network sees" in problems(*large, model=near_sighted) and "the network sees" not in problems(*PLAIN, model=ss.load_model("clean"))
    assert "scale the images by 0.4" in problems(*large, trained_on=ss.ARTICLE) and "scale" not in problems(*PLAIN, trained_on=ss.ARTICLE)
    assert "less than 8 pixels across" in problems(*small)
    both = problems(*([*a[:, ::8, ::8], *b] for a, b in zip(PLAIN, large)), trained_on=ss.ARTICLE)
    assert "Bring all to one scale" in both and "scale the images by" not in both
