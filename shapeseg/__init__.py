"""Learn semantic segmentation, and experiment with it. A name is imported when it is first used: TensorFlow, when a model is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["backend", "utils", "augmentation", "figures", "scenes", "files", "datasets", "metrics", "layers", "models", "inference",
                "doctor", "training", "checkpoints", "objects", "coco", "sweeps", "plots"],
    submod_attrs={
        "utils": ["check_parameters", "run_directory", "write_results"],
        "augmentation": ["augment"],
        "figures": ["CLASSES", "KINDS", "LABELS", "NOVEL_KINDS", "Figure", "fill", "outline"],
        "scenes": ["ARTICLE", "CROWDED", "SCENE_CONFIGS", "SPLITS", "Scene", "SceneConfig", "draw_scene"],
        "files": ["read_dataset", "read_images", "write_dataset", "write_labels"],
        "datasets": ["draw_scenes", "split_dataset", "stream"],
        "metrics": ["Counts", "confidence_interval", "iou"],
        "models": ["ARTICLE_MODEL", "FAST_MODEL", "build_model", "load_model", "macs", "new_head", "receptive_field", "save_model"],
        "inference": ["evaluate", "predict"],
        "doctor": ["check_dataset"],
        "training": ["ARTICLE_TRAINING", "FAST_TRAINING", "train"],
        "objects": ["Object", "find_objects", "match_objects"],
        "coco": ["average_precision", "evaluate_objects", "mask_to_polygon", "overlapping_pairs", "read_coco", "write_coco"],
        "sweeps": ["sweep"],
        "plots": ["PALETTE", "STYLE", "class_colours", "compose", "show", "show_curves", "show_images", "show_intervals",
                  "show_objects", "show_predictions", "show_scene"],
    },
)
