.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
DOCS_STAMP := $(VENV)/installed-docs
BENCH_STAMP := $(VENV)/installed-bench
LABEL_STAMP := $(VENV)/installed-label
RUN := runs/touching_cells
BUNDLE := bundles/touching_cells
TWO := -n 2 --dist loadfile # a file's tests share servers and browsers
MONAI := $(BIN)/python -W ignore -m monai.bundle run

.PHONY: help setup train label install-label test test-all lint format reference docs pictures bench clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install everything (a second time: nothing)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/it")'
	@echo "installing into $(VENV): one to three minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $(STAMP)

train: setup ## train on generated cells, track the run, segment a large image (five minutes)
	$(MONAI) training --bundle_root $(BUNDLE) --config_file $(BUNDLE)/configs/train.json --output_dir $(RUN) \
		--max_epochs 5
	$(MONAI) inference --bundle_root $(RUN) --config_file $(RUN)/configs/inference.json \
		--dataset_dir $(RUN)-data-0/large --output_dir $(RUN)/segmented
	$(BIN)/overtile show $(RUN)

label: $(LABEL_STAMP) ## annotate in the browser: make label STUDIES=DIR (without: generated cells)
	@test -n "$(STUDIES)" || test -d runs/studies || \
		$(BIN)/overtile data synth runs/studies --train 12 --val 0 --test 0
	$(BIN)/overtile label --studies "$(or $(STUDIES),runs/studies/train/images)" --open

install-label: $(LABEL_STAMP) ## install MONAI Label, so that the tests of it run too

# without what it names: builds of PyTorch, NumPy and CUDA that nothing here needs
$(LABEL_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[label]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps monailabel pydicom-seg
	@touch $(LABEL_STAMP)

test: setup ## run the tests (ten minutes)
	$(BIN)/python -m pytest $(TWO) -m 'not slow'

test-all: setup ## run the slow tests too
	$(BIN)/python -m pytest $(TWO)

lint: setup ## ruff, format check, strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(STAMP) ## build the tables of docs/reference/configuration.md from the schema
	$(BIN)/python -m overtile.pipelines.bundle.reference docs/reference/configuration.md \
		bundles/touching_cells bundles/em_membranes bundles/organs

docs: $(DOCS_STAMP) ## build the documentation as a site into build/docs
	$(BIN)/python -m sphinx -W --keep-going -E -a -q docs build/docs
	@echo "open build/docs/index.html"

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $(DOCS_STAMP)

pictures: setup ## draw the pictures of the concept pages again
	$(BIN)/python -W ignore docs/draw.py docs/pictures

bench: $(BENCH_STAMP) ## measure against other libraries, and mark what misses its target
	$(BIN)/python -W ignore -m benchmarks

# the wheel of elasticdeform is built for NumPy 1 and does not import under NumPy 2
$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--no-binary elasticdeform -e '.[bench]'
	@touch $(BENCH_STAMP)

clean: ## remove what the commands made
	rm -rf $(VENV) runs build *.egg-info typings/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
