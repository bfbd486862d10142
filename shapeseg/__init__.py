"""shapeseg: learn semantic segmentation, and experiment with it, on scenes that it draws itself.

Each name is imported when it is first used, so ``import shapeseg`` is quick and leaves TensorFlow
alone until a model is asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["checks", "files", "figures", "scenes", "datasets", "metrics", "models", "inference",
                "instances", "coco", "training", "plots", "sweeps"],
    submod_attrs={
        "checks": ["check_parameters"],
        "figures": ["CLASSES", "KINDS", "NOVEL_KINDS", "LABELS", "Figure", "fill", "outline"],
        "scenes": ["ARTICLE", "CROWDED", "SCENE_CONFIGS", "SPLITS", "Scene", "SceneConfig", "draw_scene", "topmost"],
        "datasets": ["draw_scenes", "read_dataset", "stream", "write_dataset"],
        "metrics": ["Counts", "boundary", "interval", "iou"],
        "models": ["ARTICLE_MODEL", "FAST_MODEL", "build_model", "cut_skips", "multiply_adds", "receptive_field"],
        "inference": ["evaluate", "load_model", "predict", "save_model"],
        "instances": ["Object", "find_objects", "match"],
        "coco": ["average_precision", "evaluate_objects", "read_coco", "trace", "twins", "write_coco"],
        "training": ["ARTICLE_TRAINING", "FAST_TRAINING", "train"],
        "sweeps": ["sweep"],
        "files": ["run_directory", "write_results"],
        "plots": ["PALETTE", "compose", "show", "show_bars", "show_class_curves", "show_curves", "show_depths",
                  "show_fill", "show_images", "show_intervals", "show_matrix", "show_network", "show_objects",
                  "show_predictions", "show_receptive_fields", "show_scene", "show_shares", "show_spread"],
    },
)
