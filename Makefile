PYTHON ?= python3
PORT ?= 8501
BIN := .venv/bin

.PHONY: run test format bench screenshots checkpoint clean

run: .venv/installed
	$(BIN)/streamlit run app.py --server.port $(PORT)

# Lint, types and every test, those in a real browser included.
test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Measures on this machine; writes benchmarks/report.json. Leave the machine alone meanwhile.
bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.report

# docs/*.png, from the running app.
screenshots: .venv/installed-dev
	$(BIN)/python -m docs.screenshots

# Trains the shipped checkpoint anew: 19 epochs.
checkpoint: .venv/installed
	$(BIN)/python -m benchmarks.ship

clean:
	rm -rf .venv .cache static/plotly-* data/MNIST

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Receptive needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m tests.chromium
	touch $@
