# A newcomer needs two of these: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= benchmarks/results
WORK ?= build/pkd_study
MINUTES ?= 60
WORKERS ?= 1
SERVERS := litserve mlserver infinity
PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

.PHONY: demo test soak gpu servers study format clean

demo: .venv/train ## from shipped messages to a running classifier
	$(BIN)/understudy demo

test: .venv/dev .venv/optimum/ready ## lint, types and the whole test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

soak: .venv/dev ## the long forms of tests that `test` has in short: a hundred thousand odd requests, two dozen kills
	UNDERSTUDY_SOAK=1 $(BIN)/python -m pytest tests/serve/test_fuzz.py tests/serve/test_openapi.py \
		tests/serve/scoring/test_resume.py

gpu: ## what needs a GPU, in one command, with the python3 that is there and no virtual environment
	@$(PYTHON) -c 'import torch' 2>/dev/null \
		|| { echo "make gpu needs PyTorch and a CUDA GPU; name a Python that has it: make gpu PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m benchmarks.gpu.run --output $(OUT)

study: .venv/train ## adds cells to the study of docs/pkd_study.md for MINUTES, WORKERS at a time; DATA has its tables
	@test -n "$(DATA)" || { echo "make study needs the tables: make study DATA=..." >&2; exit 2; }
	$(BIN)/python -m benchmarks.studies.pkd --data $(DATA) --work $(WORK) --minutes $(MINUTES) \
		--workers $(WORKERS)
	$(BIN)/python -m benchmarks.studies.pkd.report --data $(DATA)

servers: $(SERVERS:%=.venv/servers/%/ready) ## other servers, each in an environment of its own, for benchmarks/servers

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv understudy-demo build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Understudy needs Python 3.11 or later; name one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv .venv

# Stamps of what is installed; a changed pyproject.toml installs anew.
.venv/train: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@

.venv/dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train,dev]'
	@touch $@ .venv/train

# Optimum asks for an older transformers than ours, so it has an environment of its own, which finds all that it can use
# of ours behind its own packages. Where the package index is out of reach, the tests that need it are skipped. So it is
# with each server that `python -m benchmarks.servers.run` compares ours with; what pip said stays in pip.log.
define ENVIRONMENT
	$(BIN)/python -m venv --clear --without-pip $(@D)
	$(BIN)/python $(PACKAGES) > "$$($(@D)/bin/python $(PACKAGES))/ours.pth"
	@$(@D)/bin/python -m pip install --quiet --no-warn-conflicts --retries 1 --requirement $< 2> $(@D)/pip.log && touch $@ \
		|| echo "$< cannot be installed; what needs it will be skipped." >&2
endef

.venv/optimum/ready: tests/interoperability/requirements.txt .venv/dev
	$(ENVIRONMENT)

.venv/servers/%/ready: benchmarks/servers/requirements/%.txt .venv/dev
	$(ENVIRONMENT)
