PYTHON ?= python3
PORT ?= 8501
BIN := .venv/bin

.PHONY: run check test lint soak format docs bench screenshots accuracy drawings checkpoints clean

run: .venv/installed
	$(BIN)/streamlit run app.py --server.port $(PORT)

# Lint, types, and the tests that need neither a browser nor minutes: for while you work.
check: lint
	$(BIN)/python -m pytest -m "not browser and not slow"

# Lint, types and all tests, including those in a real browser.
test: lint
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Fifty kills, a full disk, thirty tabs, five hundred uploads at once: some twenty minutes.
soak: .venv/installed-dev
	$(BIN)/python -m pytest -o faulthandler_timeout=3600 soak

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Measures on this machine; writes benchmarks/report.json. Leave the machine alone meanwhile.
bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.drawings
	$(BIN)/python -m benchmarks.report

# The generated parts of the documentation: command-line examples, tables of benchmarks/*.json and of the notation, lists of
# modules.
docs: .venv/installed
	$(BIN)/python -m docs.examples
	$(BIN)/python -m docs.benchmarks
	$(BIN)/python -m docs.modules
	$(BIN)/python -m docs.notation_tables

# docs/*.png, from the running app.
screenshots: .venv/installed-dev
	$(BIN)/python -m docs.screenshots

# Three or five seeds of each shipped recipe, some forty minutes; writes benchmarks/accuracy.json.
accuracy: .venv/installed
	$(BIN)/python -m benchmarks.accuracy

# What the shipped networks read of drawings and say of other marks; writes benchmarks/drawings.json.
drawings: .venv/installed
	$(BIN)/python -m benchmarks.drawings

# Like accuracy, and writes the checkpoints that are shipped.
checkpoints: .venv/installed
	$(BIN)/python -m benchmarks.accuracy --ship

clean:
	rm -rf .venv .cache static/plotly-* data/MNIST data/predictions

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Receptive needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
# Compiles the kernels of a training step, once: else the first training would wait for it.
	$(BIN)/python -c "from lib.training import time_estimate; time_estimate.measure()"
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m tools.chromium
	touch $@
