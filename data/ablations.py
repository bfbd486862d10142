"""The runs behind lessons 5 and 6: sweeps of notebooks/one_run.ipynb. Writes ablation_runs.csv and ablation_curves.csv.

    .venv/bin/python data/ablations.py [RUN_DIR]

What is done is not repeated. 84 runs; here (Linux) as many at a time as there are cores, each on one of its own: 75 minutes
on two.
"""

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

import shapeseg as ss

RUNS = Path(__file__).parent / "ablation_runs.csv"
CURVES = Path(__file__).parent / "ablation_curves.csv"
STEPS, SEEDS = 600, [0, 1, 2]

# As many steps as fit into the time of 600 without skips: a step with skips takes so many times as
# long (medians of 40 steps that took turns on one core, drawing included).
TIMES = {(2, "add"): 1.13, (2, "concat"): 1.174, (4, "add"): 1.091, (4, "concat"): 1.14}
EQUAL_TIME = {key: round(STEPS / times) for key, times in TIMES.items()}

# A network without normalization does not learn at the usual rate of 2e-2.
RATES = [{"learning_rate": rate} for rate in (6e-3, 2e-3, 6e-4)]

ALIKE = {"steps": [STEPS], "seed": SEEDS}
GRIDS = {
    "skips": [
        {"skip": ["none", "add", "concat"], "cut": [False], "blocks": [2, 4], **ALIKE},
        {"skip": ["add"], "cut": [True], "blocks": [2, 4], **ALIKE},
        *({"skip": [skip], "cut": [False], "blocks": [blocks], "steps": [steps], "seed": SEEDS}
          for (blocks, skip), steps in EQUAL_TIME.items())],
    "parts": [
        {"width": [32], "network": [{}, {"normalize": False}, {"residual": False}, {"dropout": 0.0},
                                    {"kernels": [3]}, {"kernels": [7]}, {"channels": 3}], "seed": SEEDS},
        {"width": [16], "network": [{}, {"channels": 3}], "seed": SEEDS},
        {"width": [32], "network": [{"normalize": False}], "training": RATES, "seed": SEEDS}],
    "output": [
        {"network": [{"output": "softmax"}], "truth": ["topmost", "whole"], "seed": SEEDS},
        {"network": [{"output": "sigmoid"}], "truth": ["topmost", "whole"], "seed": SEEDS}],
}


def sweep(study, run_dir, executor=None):
    """All runs of a study: their results, a row a run, and their training, a row each 25 steps."""
    tables = [ss.sweep("notebooks/one_run.ipynb", grid, Path(run_dir) / study, executor) for grid in GRIDS[study]]
    runs = pd.concat(tables, ignore_index=True)
    runs.insert(0, "study", study)
    for knobs in {"network", "training"} & set(runs):
        runs[knobs] = runs[knobs].map(json.dumps, na_action="ignore")
    curves = pd.concat([pd.read_csv(ss.run_directory(run_dir) / study / run / "history.csv").assign(study=study, run=run)
                        for run in runs[runs.error == ""].run])
    return runs, curves[["study", "run", "step", "loss", "iou"]]


def pin(cores):
    os.sched_setaffinity(0, {cores.get()})


def main(run_dir):
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in os.sched_getaffinity(0):
        cores.put(core)
    with ProcessPoolExecutor(cores.qsize(), context, pin, (cores,)) as pool:
        runs, curves = map(pd.concat, zip(*[sweep(study, run_dir, pool) for study in GRIDS]))
    assert not runs.error.any(), runs[runs.error != ""]
    runs.drop(columns="error").round(5).to_csv(RUNS, index=False)
    curves.round(4).to_csv(CURVES, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["runs/ablations"])
