# make help lists what there is. Everything lives in .venv and runs/; delete them to start over.

PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs/lessons
OPTIONS ?=
NOTEBOOKS ?=

BIN := $(VENV)/bin
LESSONS := 00_first_look 01_dataset 02_model 03_training 04_evaluation
PACKAGE := $(wildcard shapeseg/*.py)
# Pages that ask no other host for anything; a widget's place is taken by its text.
PAGES := --HTMLExporter.mathjax_url= --HTMLExporter.require_js_url= --HTMLExporter.jquery_url= \
	--NbConvertBase.display_data_priority="['text/html', 'text/markdown', 'image/png', 'text/plain']"
ROOT_OK := $(if $(filter 0,$(shell id -u)),--allow-root)  # in a container one often is
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: help setup lessons test test-full notebooks lint book lab
.NOTPARALLEL:
.SECONDARY:
.DELETE_ON_ERROR:

help:
	@echo "Times are those of two cores."
	@echo "make setup      a virtual environment in .venv with all that is needed: a few minutes"
	@echo "make lessons    run notebooks 00 to 04 into $(RUNS), print the results: 9 to 12 minutes"
	@echo "make test       the tests that each commit has to pass: about 7 minutes"
	@echo "make test-full  all tests, and every notebook again at its defaults: about 45 minutes"
	@echo "make notebooks  execute the committed notebooks whose code, or the package's, has changed: up to an hour"
	@echo "                (NOTEBOOKS=\"03 studies/race\": only those; NOTEBOOKS=--all: all of them)"
	@echo "make lint       ruff: seconds"
	@echo "make book       the lessons as a site, in runs/book: seconds"
	@echo "make lab        JupyterLab on localhost"

setup: $(VENV)/ready

# A set-up that was interrupted may have left half of a package: it starts over.
$(VENV)/ready: pyproject.toml constraints.txt
	@if [ -e $(VENV)/unfinished ]; then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(VENV)/unfinished
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[book,cluster,play,test]"
	mv $(VENV)/unfinished $@ && touch $@

lessons: $(LESSONS:%=$(RUNS)/%.html)
	@cat $(RUNS)/04_evaluation/results.txt

$(RUNS)/%.html: $(RUNS)/%.ipynb
	$(BIN)/jupyter nbconvert --log-level ERROR --to html $(PAGES) $<
	sed -i.bak -e 's|</head>|<style>pre, pre * { font-family: monospace !important }</style></head>|' -e 's|href="\([0-9][^"]*\).ipynb"|href="\1.html"|g' $@ && rm $@.bak

# A lesson that was interrupted resumes; one whose notebook or package changed starts over.
$(RUNS)/%.ipynb: notebooks/%.ipynb $(PACKAGE) | $(VENV)/ready
	@if [ -e $@ ] || [ -n "`find $< $(PACKAGE) -newer $(RUNS)/$*/begun 2>&1`" ]; then rm -rf $@ $(RUNS)/$*; fi
	@mkdir -p $(RUNS)/$*; if [ ! -e $(RUNS)/$*/begun ]; then touch $(RUNS)/$*/begun; fi
	$(BIN)/papermill --log-output $< $(RUNS)/$*.partial.ipynb -p run_dir $(RUNS)/$* $(OPTIONS) $(MODEL)
	mv $(RUNS)/$*.partial.ipynb $@

$(RUNS)/04_evaluation.ipynb: MODEL = -p model $(RUNS)/03_training/masks/model.keras
$(RUNS)/04_evaluation.ipynb: $(RUNS)/03_training.ipynb

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2

test-full: $(VENV)/ready
	$(BIN)/python -m pytest --full -n 2

notebooks: $(VENV)/ready
	$(BIN)/python notebooks/execute.py $(NOTEBOOKS)

lint: $(VENV)/ready
	$(BIN)/ruff check

book: $(VENV)/ready
	$(BIN)/python -m sphinx -q -W -j 2 -c notebooks . runs/book
	@echo "open runs/book/notebooks/index.html"

# JupyterLab would ask other hosts for news and updates.
NO_NEWS := {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}

lab: $(VENV)/ready
	@mkdir -p $(VENV)/share/jupyter/lab/settings && echo '$(NO_NEWS)' > $(VENV)/share/jupyter/lab/settings/overrides.json
	$(BIN)/jupyter lab --ip localhost --notebook-dir notebooks $(ROOT_OK)
