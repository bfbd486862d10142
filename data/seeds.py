"""Lesson 3's training with three seeds, without skips, and with one step a block, too, scored on 500 test scenes.

Writes seed_runs.csv.

    .venv/bin/python data/seeds.py

A run that is in the file is not repeated. Each takes 3 to 6 minutes on two cores.
"""

import tempfile
from pathlib import Path

import pandas as pd

import shapeseg as ss

FILE = Path(__file__).parent / "seed_runs.csv"
STEPS = 2400


def main():
    rows = pd.read_csv(FILE).to_dict("records") if FILE.exists() else []
    for skip, depths, seed in (("concat", (1, 2, 2), 0), ("concat", (1, 2, 2), 1), ("concat", (1, 2, 2), 2),
                               ("none", (1, 2, 2), 0), ("none", (1, 1, 1), 0)):
        if not any((row["skip"], row["depths"], row["seed"]) == (skip, str(depths), seed) for row in rows):
            rows.append(score(skip, depths, seed))
            pd.DataFrame(rows).to_csv(FILE, index=False)


def score(skip, depths, seed):
    model = ss.build_model(**ss.FAST_MODEL | dict(skip=skip, depths=depths), seed=seed)
    with tempfile.TemporaryDirectory() as run_dir:
        history = ss.train(model, ss.SCENE_CONFIGS["dense"], STEPS, run_dir, seed, **ss.FAST_TRAINING)
    mean = ss.evaluate(model, ss.stream(ss.ARTICLE, 0, 8, count=500, split="test")).loc["mean"]
    minutes = round(history.seconds.iloc[-1] / 60, 1)
    scores = {name: round(mean[name], 5 - 2 * (name == "iou") - (name == "accuracy"))
              for name in ("iou", "accuracy", "bce", "mse")}
    return dict(skip=skip, depths=str(depths), seed=seed, steps=STEPS, minutes=minutes) | scores


if __name__ == "__main__":
    main()
