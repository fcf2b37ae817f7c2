# `make help` lists the targets.
SHELL := bash
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# jobs tagged `gpu` run one per GPU; without a GPU they share the cores
GPUS ?= $(shell n=$$(nvidia-smi -L 2>/dev/null | wc -l); [ $$n -gt 0 ] && echo $$n || echo $(CORES))
STUDY ?= config/demo.yaml
# A name as it is: make expands nothing in it, and recipes read it as a variable of the shell.
override STUDY := $(value STUDY)
export STUDY
# what of the study is made (figures, tables, ...), and further options of Snakemake
TARGET =
OPTIONS =
# profiles/slurm: on a cluster
PROFILE ?=
# every process would compile its imports again: half the time of a small study
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
HERE = --cores $(CORES) --resources gpu=$(GPUS)
# The folder of the study's results. It fails where Snakemake must not read the file, so it comes first.
FOLDER = $(BIN)/python scripts/study_folder.py "$$STUDY"
SNAKEMAKE = $(BIN)/snakemake $(TARGET) $(if $(PROFILE),--workflow-profile $(PROFILE),$(HERE)) --configfile "$$STUDY" $(OPTIONS)
REPORT = $(BIN)/snakemake --cores 1 --configfile "$$STUDY" --quiet all --report "$$out/report.zip"
TESTS ?= tests

.PHONY: help install dev demo ablation neighbours evidence plan study report cluster-check test test-faults test-slurm test-real test-all lint format lock docs rulegraph clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo "STUDY=config/my.yaml names the study, TARGET=figures a part of it, CORES and GPUS what it may use,"
	@echo "PROFILE=profiles/slurm a cluster, OPTIONS=... further options of Snakemake."

UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --no-deps --require-hashes

install: .venv/installed  ## what a study needs, from envs/lock.txt into .venv

.venv/installed: envs/lock.txt envs/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "myostage needs Python 3.11 or newer; name one with PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement envs/uv.txt
	$(UV_INSTALL) --requirement envs/lock.txt
	@touch $@

dev: .venv/installed-dev  ## on top of it what tests and linters need, from envs/dev.txt

.venv/installed-dev: .venv/installed envs/dev.txt
	$(UV_INSTALL) --requirement envs/dev.txt
	@touch $@

demo: override STUDY := config/demo.yaml
demo: study  ## the demo study: slides with known truth, some minutes on two cores

ablation: override STUDY := config/demo_ablation.yaml
ablation: study  ## every loss, baseline, sweep and design choice on the demo's slides, within an hour on two cores

neighbours: override STUDY := config/demo_neighbours.yaml
neighbours: study  ## smooth attention, spatial regularisation, ordinal regression: drawn slides, 20 minutes on two cores

evidence: override STUDY := config/evidence.yaml
evidence: study  ## when does the ordinal term help: worlds of known truth, an hour or more on two cores

plan: install  ## what STUDY would run and cost; nothing runs
	@$(FOLDER) > /dev/null && $(SNAKEMAKE) --dry-run

study: install  ## the study of STUDY, from slides to figures, report and headline
	@out=$$($(FOLDER)) && $(SNAKEMAKE) $(if $(TARGET),,&& { \
		{ [ -f "$$out/report.zip" ] && [ -z "$$(find "$$out" -maxdepth 1 -name '*metrics.parquet' -newer "$$out/report.zip")" ]; } \
		|| $(REPORT); } && $(BIN)/python scripts/headline.py "$$STUDY")

cluster-check: install  ## does SLURM work: partitions, a CPU and a GPU job, shared disk, accounting, in plain words
	@out=$$($(FOLDER)) && $(BIN)/snakemake -s rules/cluster_check.smk --workflow-profile $(or $(PROFILE),profiles/slurm) \
		--forceall --quiet rules progress host reason \
		--config results="$$(dirname "$$out")" gpu=$(if $(filter 0,$(GPUS)),false,true)

report: install  ## results/{study}/report.zip: figures and tables with captions
	@out=$$($(FOLDER)) && $(REPORT)

test: dev  ## the test suite, but for what needs a SLURM or the real slides
	$(BIN)/python -m pytest -q -n $(CORES) --dist loadfile --no-loadscope-reorder -m "not studies and not slurm and not faults" $(TESTS)

test-faults: dev  ## a study killed at every stage ends with the same numbers (a quarter of an hour)
	$(BIN)/python -m pytest -q tests/test_faults.py

test-slurm: dev  ## the SLURM profile on a real SLURM of one node (root; slurm-wlm, munge)
	$(BIN)/python -m pytest -q -rs tests/slurm
	$(BIN)/python tests/support/covered.py slurm --passed

test-real: dev  ## the studies on real slides and fibres (MYOSTAGE_REAL_DATA)
	$(BIN)/python -m pytest -q -rs -m "real or studies" tests
	$(BIN)/python tests/support/covered.py real --passed

test-all: test test-faults test-slurm test-real  ## all of them

lint: dev  ## formatter, linters, type checker, notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd scripts && ../$(BIN)/mypy myostage *.py
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint
	@! grep -lE '"execution_count": [0-9]|"output_type"' notebooks/*.ipynb || { echo "notebooks with outputs" >&2; exit 1; }

format: dev  ## let the formatters do their work
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--override envs/overrides.txt --custom-compile-command "make lock"

lock: install  ## resolve envs/requirements.in and envs/dev.in anew, and name the new lock where it is used
	$(LOCK) --output-file envs/lock.txt envs/requirements.in
	$(LOCK) --constraint envs/lock.txt $$(sed -nE 's/^([^ =#]+)==.*/--no-emit-package \1/p' envs/lock.txt) \
		--output-file envs/dev.txt envs/dev.in
	sha=$$(sha256sum envs/lock.txt | cut -d' ' -f1); \
		sed -i -E "s/^# lock sha256: .*/# lock sha256: $$sha/" envs/myostage.yaml envs/myostage.def

docs: install  ## config/README.md from the models of the study file, docs/architecture.svg from the floors
	cd scripts && ../$(BIN)/python -m myostage.study.reference > ../config/README.md
	$(BIN)/python docs/draw_architecture.py > docs/architecture.svg

rulegraph: install  ## docs/rulegraph.svg from the rules, by Snakemake and graphviz
	$(BIN)/snakemake tables stages --rulegraph dot --cores 1 --configfile config/demo.yaml | dot -Tsvg > docs/rulegraph.svg

clean:  ## delete the environment and every result
	rm -rf .venv .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find results -mindepth 1 ! -name .gitkeep -delete
