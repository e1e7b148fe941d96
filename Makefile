# The front door. `make demo` and `make test` set up all they need; see README.md.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
BIN := .venv/bin
# Snakemake dies of a home that can't be written (a container's unknown user, say): then its cache is here.
HOME_CACHE := $${XDG_CACHE_HOME:-$${HOME:-/}/.cache}
CACHE := $(if $(shell { mkdir -p "$(HOME_CACHE)" && test -w "$(HOME_CACHE)"; } 2>&1 || echo no),XDG_CACHE_HOME="$(CURDIR)/.snakemake/cache")
RUN := $(CACHE) PATH="$(CURDIR)/$(BIN):$$PATH"
CONFIG ?= config/config.yaml
CORES ?= all
WORKERS ?= 2
SHAPES ?= llama-13b llama-13b-7b llama-13b-4-adapters qwen-14b-0.5b llama-13b-4x7b
# The run's name, for a recipe.
NAME = $$($(BIN)/python -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["run"])' $(CONFIG))

.PHONY: help setup demo report test start-test conda-test slurm-test report-test fault-test fuzz-test envs-test paper-test bench-fusion bench-scoring bench-gpu bench-training bench-selection bench-gate bench-intervals bench-gld bench-fewshot bench-fewshot-sets bench-peers bench-results lint format reference docs results architectures lock envs dag clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

setup: .venv/ready ## the environment in .venv, exactly as in requirements.lock

.venv/ready: requirements.lock pyproject.toml
	@python=; for name in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
		if command -v $$name > /dev/null && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer was not found: install it, or name it with make PYTHON=/path/to/python." >&2; exit 1; fi; \
	if [ ! -x $(BIN)/python ] && ! $$python -m venv .venv; then rm -rf .venv; echo "$$python could not make a virtual environment: install its venv module (on Debian python3-venv)." >&2; exit 1; fi
	@if ! $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); then \
		echo "uv could not be installed: check the network and pip's settings." >&2; exit 1; fi
	@echo "Installing requirements.lock into .venv (about 6 GB, once)"
	@if ! $(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock; then \
		echo "The packages of requirements.lock could not be installed: check the network and the disk's free space." >&2; exit 1; fi
	@$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	@touch $@

demo: setup ## the demo on this machine: results/demo and reports/report.html
	@$(RUN) snakemake --profile local --cores $(CORES) --configfile $(CONFIG)
	@$(MAKE) --no-print-directory report
	@echo "Open reports/$(NAME)/index.html, or reports/report.html, which has it as its first entry and shows the workflow"

report: setup ## reports/report.html from what has been made, if anything changed since
	@if [ ! -f reports/report.html ] || [ -n "$$(find results Snakefile workflow $(CONFIG) -newer reports/report.html \( -name '*.svg' -o -name '*.html' -o -name '*.csv' -o -name '*.rst' -o -name '*.smk' -o -name '*.yaml' -o -name Snakefile \) -print -quit)" ]; then \
		$(RUN) snakemake --profile local --configfile $(CONFIG) --report reports/report.html; fi
	@echo "reports/$(NAME)/index.html and reports/report.html"

.PHONY: study study-converged study-results
study: setup ## the study of config/study, two to three hours on two cores: docs/results/study.md
	@$(RUN) snakemake --profile local --cores $(CORES) --configfile config/study/base.yaml -- \
		$(addprefix results/study_base/,models/large models/small models/tiny experts/ceiling)
	@for seed in 0 1 2; do \
		$(RUN) snakemake --profile local --cores $(CORES) --configfile config/study/fusion.yaml --config run=study$$seed seed=$$seed; done
	@for track in distill fewshot; do \
		$(RUN) snakemake --profile local --cores $(CORES) --configfile config/study/$$track.yaml; done
	@$(MAKE) --no-print-directory study-results

study-converged: setup ## the study's distillation with twelve times the steps: minutes on a GPU, hours on two cores; needs models of `make study`
	@$(RUN) snakemake --profile local --cores $(CORES) --configfile config/study/converged.yaml
	@$(MAKE) --no-print-directory study-results

study-results: setup ## the runs of the study that are there, compared, into docs/results
	@compare() { if [ -d "results/$$2" ]; then $(RUN) logitfusion compare "$${@:2}" --csv docs/results/study_$$1.csv > /dev/null; fi; }; \
	compare fusion study0 study1 study2; \
	compare goals study0 study1 study2 --method gate multi_gate --baseline fixed large --task "seen tasks" "unseen tasks"; \
	compare distill study_distill --baseline sft kl uld uld_two; \
	compare converged study_converged --baseline sft kl uld uld_two; \
	compare clip study_fewshot
	@$(RUN) python docs/generate/study.py results

test: setup ## all tests but the long ones, which have targets of their own (WORKERS=2 at a time)
	@$(RUN) OMP_NUM_THREADS=1 python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

start-test: setup ## what `logitfusion init` writes, run to its end for each track: minutes
	@$(RUN) python -m pytest tests/test_init.py -m start -rs

conda-test: setup ## a run with every stage in conda's environments, its weights against this environment's (skipped without conda)
	@$(RUN) python -m pytest tests/test_conda.py -m conda -rs

slurm-test: setup ## the profile slurm on a one-node cluster made for it (root on Debian installs SLURM)
	@$(RUN) python -m pytest tests/slurm -m slurm -rs

report-test: setup ## the report of a small run in a headless Chromium; pictures of it in results/browser
	@$(RUN) python -m pytest tests/browser -m browser -rs

envs-test: setup ## the conda environments' packages, each alone (without conda), and a run with every stage in its own
	@$(RUN) python -m pytest tests/test_envs.py -m "" -rs

fault-test: setup ## what a killed, broken, cut-off or crowded run does: minutes (full and read-only disks as root only)
	@$(RUN) python -m pytest tests/faults -m fault -rs

fuzz-test: setup ## many odd inputs of every kind, and what became of them: sentence, right, traceback, hang, silent
	@$(RUN) OMP_NUM_THREADS=1 python -m pytest tests/fuzz -m "fuzz or not fuzz" -rs --numprocesses $(WORKERS) --dist worksteal

paper-test: setup ## every config of config/paper, small, to its report, on a stand-in of the hub: minutes
	@$(RUN) OMP_NUM_THREADS=1 python -m pytest tests/papers tests/test_benchmarks.py -m paper -rs --numprocesses $(WORKERS)

bench-fusion: setup ## fused decoding against the large model alone and a naive loop: results/bench/fusion.md
	@$(RUN) snakemake --profile local --cores $(CORES) --quiet -- results/demo/models/large results/demo/models/small results/demo/experts/common_knowledge results/demo/tasks/common_knowledge/validation.jsonl
	@$(RUN) python benchmarks/fusion.py

bench-gpu: setup ## fused decoding and a teacher's reading at the papers' sizes, random weights: results/bench/fusion-gpu.md
	@$(RUN) python benchmarks/fusion.py --device cuda --shapes $(SHAPES) --teachers phi-4 --output results/bench/fusion-gpu.json

bench-training: setup ## training adapters of 7 B on a GPU, with and without checkpointing: results/bench/training.md
	@$(RUN) python benchmarks/training.py

bench-scoring: setup ## few-shot multiple choice beside lm-evaluation-harness's own model: results/bench/scoring.md
	@$(RUN) snakemake --profile local --cores $(CORES) --quiet -- results/demo/models/large results/demo/models/small results/demo/experts/common_knowledge
	@$(RUN) python benchmarks/scoring.py

bench-selection: setup ## the selections on problems with a known right expert: results/bench/selection.md
	@$(RUN) python benchmarks/selection.py

bench-intervals: setup ## intervals of differences over few training seeds, how often they miss: results/bench/intervals.md
	@$(RUN) python benchmarks/intervals.py

bench-gate: setup ## forms of the rule gate on the demo's validation answers, held out: results/bench/gate.md
	@$(RUN) snakemake --profile local --cores $(CORES) --quiet -- results/demo/models/large results/demo/models/small results/demo/experts/{sst2,sums,common_knowledge} results/demo/tasks/{sst2,sums,common_knowledge,sciq}/validation.jsonl
	@$(RUN) python benchmarks/gate.py

bench-gld: setup ## the distillation losses and a teacher's cache, also beside checkouts (TRL=, DISTILLKIT=) and of models (TEACHERS=): results/bench/gld.md
	@$(RUN) python benchmarks/gld.py $(if $(TEACHERS),--teachers $(TEACHERS)) $(if $(TRL),--trl "$(TRL)") $(if $(DISTILLKIT),--distillkit "$(DISTILLKIT)")

bench-peers: setup ## beside other people's code (PROXY_TUNING=, CLIP_BENCHMARK=, TRL=, DISTILLKIT=: their folders): results/bench/peers.md
	@$(RUN) snakemake --profile local --cores $(CORES) --quiet -- results/demo/models/large results/demo/models/small results/demo/experts/common_knowledge results/demo/tasks/common_knowledge/validation.jsonl
	@$(RUN) OMP_NUM_THREADS=1 python benchmarks/peers.py $(if $(PROXY_TUNING),--proxy-tuning "$(PROXY_TUNING)") $(if $(CLIP_BENCHMARK),--clip-benchmark "$(CLIP_BENCHMARK)") $(if $(TRL),--trl "$(TRL)") $(if $(DISTILLKIT),--distillkit "$(DISTILLKIT)")

bench-fewshot-sets: setup ## the few-shot default against its parts on picture sets, half an hour: results/bench/fewshot-sets.md
	@$(RUN) snakemake --profile local --cores $(CORES) --quiet -- results/demo/clip/encoder
	@$(RUN) python benchmarks/fewshot_sets.py

bench-fewshot: setup ## few-shot heads: fits, cached features against re-encoding, 1,000 classes, AdamW: results/bench/fewshot.md
	@$(RUN) python benchmarks/fewshot.py

lint: setup ## ruff, snakefmt and snakemake --lint, changing nothing
	@$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) snakefmt --check Snakefile workflow/Snakefile workflow/rules
	@$(RUN) snakemake --lint --configfile config/smoke.yaml

format: setup ## ruff and snakefmt, in place
	@$(RUN) ruff check --fix . && $(RUN) ruff format . && $(RUN) snakefmt Snakefile workflow/Snakefile workflow/rules

reference: setup ## the config's JSON schema, the pages of its keys and of the commands, and the plans anew: workflow/schemas, docs
	@$(RUN) python -m logitfusion.config.schema workflow/schemas/config.schema.json docs/reference/config.md
	@$(RUN) python docs/generate/command_line.py
	@$(RUN) python docs/generate/plans.py

docs: setup ## the pages of docs/ as HTML in docs/_build/html; a warning is an error
	@$(RUN) sphinx-build -W --keep-going -q docs docs/_build/html && echo "Open docs/_build/html/index.html"

results: setup ## a finished run into docs/results, and README.md's numbers (STORED=results/demo)
	@$(RUN) python docs/generate/results.py $(or $(STORED),results/demo)

bench-results: setup ## tables of results/bench into docs/benchmarks.md
	@$(RUN) python docs/generate/benchmarks.py results/bench

architectures: setup ## docs/reference/architectures.md anew: every family of transformers against its plain forward, two minutes
	@$(RUN) python tests/architectures.py

lock: ## requirements.lock anew from pyproject.toml, but for what CUDA alone can use
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --extra workflow --extra docs --extra dev pyproject.toml -o requirements.lock

envs: setup ## envs/*.yaml anew from requirements.lock
	@$(RUN) python envs/export.py

dag: setup ## the graph of the stages, as Mermaid text
	@$(RUN) snakemake --configfile $(CONFIG) --rulegraph mermaid-js

clean: ## results and reports, not the environment
	rm -rf results/* reports/* .snakemake
