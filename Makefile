# Everything here needs python3, git and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
INSTALLED := .venv/.installed
PIP_COMPILE := pip compile pyproject.toml --extra dev --universal --generate-hashes --overrides overrides.txt \
	--python-version 3.11 --no-emit-index-url --no-header --no-annotate

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# What a test may need is a mark of pyproject.toml; each tier is part of the next.
FAST := not (server or browser or training or slow or waiting or database or cluster or store or ops)
HERE := not (waiting or database or cluster or store or ops)

.PHONY: install demo test-fast test test-ops check format pin help-table licences tiny-model tiny-eval bench-curate bench-generate bench-train bench-trust gpu-check \
	lock clean

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(UV) || $(BIN)/python -m pip install --quiet uv
	$(UV) pip install --python $(BIN)/python --no-deps --compile-bytecode --require-hashes -r requirements.lock
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

demo: install
	$(BIN)/reelmill demo --out out/demo

# No Prefect server, no browser, no training: two minutes on two cores.
test-fast: install
	$(PYTEST) -m "$(FAST)"

# All that needs nothing beside this machine.
test: install
	$(PYTEST) -m "$(HERE)"

# Also what waits for minutes, or needs a database server, a cluster or a store.
test-ops: install
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { echo "PostgreSQL is missing: installing Debian's package"; \
		apt-get update && apt-get install --yes --no-install-recommends postgresql; }
	$(PYTEST)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# After a step's code changed: refuses while its VERSION is what it was. Where its results are too, say so:
# make pin SAME="tasks.curate.look tasks.curate.motion"
pin: install
	$(BIN)/python tests/step_digests.py --same-results $(SAME)

# After a setting, its default or its description changed: what --help shows.
help-table: install
	$(BIN)/python -m flows.command.write_help

# The licences of all dependencies, as the texts and binaries that they bundle say.
licences: install
	$(BIN)/python -m tests.licences

# Makes the embedded model again, from nothing, and measures it: hours. With STEPS=1500 it ends there, in out/, to be
# held beside the curve in models/tiny/reelmill.json.
tiny-model: install
ifdef STEPS
	$(BIN)/reelmill tiny --out out/tiny-model --train.steps $(STEPS)
else
	$(BIN)/reelmill tiny --out out/tiny-model --install models/tiny
	$(BIN)/reelmill evaluate tiny --out out/tiny-eval --figures models/tiny/eval.json
endif

tiny-eval: install
	$(BIN)/reelmill evaluate tiny --out out/tiny-eval

# Accuracy, speed and memory of curation beside others; writes the tables in benchmarks/.
bench-curate: install
	$(BIN)/python -m benchmarks.scan
	$(BIN)/python -m benchmarks.cuts
	$(BIN)/python -m benchmarks.choosing
	$(BIN)/python -m benchmarks.flow
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.camera

# The same of generation with the embedded model: quality, memory, exactness; about two hours on two cores.
bench-generate: install
	$(BIN)/python -m benchmarks.jobs
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.batches
	$(BIN)/python -m benchmarks.gate
	$(BIN)/python -m benchmarks.takes
	$(BIN)/python -m benchmarks.length
	$(BIN)/python -m benchmarks.colour
	$(BIN)/python -m benchmarks.nights
	$(BIN)/python -m benchmarks.decode --large

# Training: cached steps, resume, two processes, what is encoded again, memory; about an hour and a half on two cores.
bench-train: install
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.train_memory --large

# Hostile inputs, commands that are killed, and flipped bytes; about an hour on two cores.
bench-trust: install
	$(BIN)/python -m benchmarks.attack
	$(BIN)/python -m benchmarks.kills
	$(BIN)/python -m benchmarks.flips

# Full-size sampling, decoding and training on a CUDA GPU, beside diffusers; needs the GPU and downloads nothing.
gpu-check: install
	$(BIN)/python -m benchmarks.gpu

lock: install
	$(UV) $(PIP_COMPILE) -o requirements.lock

clean:
	rm -rf out .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find flows tasks models tests -name __pycache__ -type d -prune -exec rm -rf {} +
