# make demo   the whole job on an embedded tiny model      make test   all tests
# Everything lives in .venv; the first call creates it.

PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := .venv/.ready
DEMO := demo-out

# Of `make test-train`. On Linux PyPI's torch brings CUDA, 3 GB of it; the CPU is enough:
# make test-train TORCH_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.*
TORCH_FLAGS ?=

# Of `make test-wheel`: the folder of an sdist and a wheel that are built already.
DIST ?=

# Of `make fuzz`: seconds for all targets together, and the seed of all inputs.
FUZZ_S ?= 60
FUZZ_SEED ?= 1

# Of `make test-portable`: what opens, writes, locks, publishes and starts processes, but for what
# takes long and does no more of that.
PORTABLE := tests/test_portable.py tests/files tests/model tests/surgery tests/runtime \
	tests/pipeline/test_files.py tests/pipeline/test_job.py tests/pipeline/test_split.py \
	tests/quantize/test_quantizer.py tests/healing/test_kept.py tests/evaluation/test_baselogits.py \
	tests/cli/test_cli.py -k 'not (40_gb or auto or a_size or chosen or interrupted or wrong_inputs \
	or requantized or quantize_eval or imatrix_follows or experts)'

.PHONY: demo test test-portable test-scale test-archs test-train test-wheel fuzz faults hostile lint type format bench docs fixtures clean help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 18

$(READY): pyproject.toml
	@$(PYTHON) -m setup

demo: $(READY)  ## rank, prune, requantize, heal, evaluate and benchmark the embedded model
	@mkdir -p $(DEMO)
	@echo "ggprune rank: which layers matter least?"
	@$(BIN)/ggprune rank fixtures/tiny.gguf -f fixtures/calibration.txt --chunks 12 \
		-o $(DEMO)/scores.json --plot $(DEMO)/scores.png --force
	@echo
	@echo "ggprune auto: drop two of them, requantize, heal, and show what that gained and lost"
	@$(BIN)/ggprune auto fixtures/tiny.gguf $(DEMO)/tiny-pruned.gguf --drop 2 --heal --type Q4_K_M \
		-f fixtures/calibration.txt --eval-file fixtures/evaluation.txt --chunks 12 \
		--report $(DEMO)/report.html --force

test: $(READY)  ## run all tests
	@$(BIN)/python -m pytest --ignore tests/torch --ignore tests/wheel --ignore tests/scale

test-portable: $(READY)  ## tests that write files, without what Linux alone offers
	@PYTHONPATH=$(CURDIR)/tests/portable $(BIN)/python -m pytest $(PORTABLE)

test-scale: $(READY)  ## many processes measure as one: schedulers, workers, what befalls them
	@$(BIN)/python -m pytest tests/scale

test-train: $(READY)  ## tests of training; installs torch, transformers, peft, accelerate
	@echo "Installing torch and what trains with it into .venv: about 200 MB for the CPU."
	@$(BIN)/python -m pip install --quiet $(TORCH_FLAGS) '$(TORCH)' --editable '.[train]'
	@$(BIN)/python -m pytest tests/torch

test-wheel: $(READY)  ## build the wheel, install it into a new environment, try it elsewhere
	@$(BIN)/python -m pytest tests/wheel $(if $(DIST),--dist $(DIST))

test-archs: $(READY)  ## every architecture: exact, refused or wrong, as a table
	@$(BIN)/python -m tests.arch

hostile: $(READY)  ## models that llama.cpp may abort on, for every command (an hour)
	@$(BIN)/python -m tests.hostile

faults: $(READY)  ## every system call of publishing fails, or kills (Linux; half an hour)
	@$(BIN)/python -m tests.faults

fuzz: $(READY)  ## damaged files and texts for every reader, FUZZ_S=60 seconds, FUZZ_SEED=1
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S) --seed $(FUZZ_SEED)

lint: $(READY)  ## ruff: style and format; limits to the size of functions, files, imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python benchmarks/house.py --check .

type: $(READY)  ## mypy, strict
	@$(BIN)/mypy

format: $(READY)  ## let ruff rewrite the files
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)  ## side-by-side measurements
	@$(BIN)/python benchmarks/prune_copy.py
	@$(BIN)/python benchmarks/rank.py

docs: $(READY)  ## write the generated pages of docs/ again
	@$(BIN)/python -m docs.make

fixtures: $(READY)  ## make the models in fixtures and their texts again (half an hour; needs torch)
	@$(BIN)/python -m pip install --quiet --editable '.[fixtures]'
	@$(BIN)/python fixtures/corpus.py --seed 101 --kib 64 > fixtures/calibration.txt
	@$(BIN)/python fixtures/corpus.py --seed 102 --kib 64 > fixtures/evaluation.txt
	@$(BIN)/python fixtures/train_tiny.py --out fixtures/tiny.gguf --steps 2200 --seed 1
	@$(BIN)/python fixtures/train_tiny.py --shape tiny-moe --out tiny-moe.gguf --steps 1600 \
		--kib 16384 --rate 3e-3 --seed 1 --checkpoint tiny-moe.pt
	@$(BIN)/ggprune quantize --pure --force tiny-moe.gguf fixtures/tiny-moe.gguf Q5_1

clean:  ## remove everything that was made
	@rm -rf .venv $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
