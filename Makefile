# Each target sets itself up: `make demo` and `make test` work on a fresh machine with Python 3.11+.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait give up their core, as the command line has it: see yield_cores in bitgolf/__init__.py.
export GOMP_SPINCOUNT ?= 1000
BY_THE_CLOCK := studies/pr543_width.py

.PHONY: setup demo test slow bench gpu studies audit-corpus pages docs lint clean
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/bitgolf demo

test: setup
	$(BIN)/python -m pytest -n 2

slow: setup
	$(BIN)/python -m pytest -m slow

bench: setup
	$(BIN)/python -m bench.table --out runs/bench.json

# PUBLIC=a public train_gpt.py, whose speed then stands beside ours
gpu: setup
	$(BIN)/python -m bench.gpu $(if $(PUBLIC),--public $(PUBLIC)) --out runs/gpu.json --page docs/gpu.md

audit-corpus: setup
	@test -n "$(CHECKOUT)" || { echo "make audit-corpus CHECKOUT=a clone of the public challenge"; exit 2; }
	$(BIN)/python -m bench.audit_corpus $(CHECKOUT)

studies: setup
	for study in $(filter-out $(BY_THE_CLOCK), $(wildcard studies/*.py)) studies/pr1718.py:context; do \
		$(BIN)/bitgolf study $$study --processes 2 || exit 1; done
	$(BIN)/bitgolf study $(BY_THE_CLOCK)

# what is written from the code: after any change in bitgolf, and with it
pages: setup
	$(BIN)/python -m bitgolf.catalog.architecture
	$(BIN)/python -m bitgolf.catalog.techniques

docs: setup
	$(BIN)/mkdocs build --strict

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -k up_to_date tests/test_shape.py tests/catalog/test_techniques.py

clean:
	rm -rf .venv runs .mypy_cache .ruff_cache .pytest_cache
