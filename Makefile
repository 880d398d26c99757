# Needs Python 3.11 or newer, make and git; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check lint types contracts docs site bench test-slow test-faults test-published test-examples mutants clean

demo: $(READY)  ## the whole way, from tiles with planted defects to generated ones; shown in demo.histoprep/demo.html
	$(BIN)/histoprep demo demo

test: $(READY)  ## run the tests but for those that take most of the time
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)  ## run the tests that take most of the time; the continuous integration runs both
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "slow and not faults"

check: lint types contracts test  ## lint, types, import contracts, tests and documentation checks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

docs: $(READY)  ## write the generated parts of the documentation again
	$(BIN)/python tests/documentation.py --write
	$(BIN)/python tests/notebook.py --write

site: $(READY)  ## build the documentation as a web site in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)  ## measure speed and memory; prints the table of README.md
	$(BIN)/python -m benchmarks

test-faults: $(READY)  ## the long run of fault injection; PART=2/5 is a part of it; goes on where it stopped
	$(BIN)/python -m pytest -n 2 -m faults --part $(or $(PART),1/1) --progress .faults-progress tests

mutants: $(READY)  ## change the code of labels, split, streams and lossy; list the changes no test notices
	$(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

test-published: $(READY)  ## a data set of published size; takes minutes
	$(BIN)/python -m pytest -m published

test-examples: $(READY)  ## look for examples that break a property; `make test` takes the same ones each time
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=search

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo demo.histoprep site
