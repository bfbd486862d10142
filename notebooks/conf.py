"""The book, a site from the committed notebooks: make book. It is built offline, and its pages ask no other host for anything."""

project = "shapeseg"
author = "shapeseg contributors"
extensions = ["myst_nb"]
root_doc = "notebooks/index"
include_patterns = ["notebooks/**", "data/README.md", "data/models/*.md"]
exclude_patterns = [".*", "runs", "**/.ipynb_checkpoints", "notebooks/*.py", "notebooks/*.js", "notebooks/*.yaml"]
nb_execution_mode = "off"
suppress_warnings = ["toc.not_included"]  # a reader's own notebook beside the lessons
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_heading_anchors = 3
html_theme = "sphinx_book_theme"
html_title = "shapeseg: semantic segmentation from first principles"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}
html_copy_source = False
html_show_copyright = False
