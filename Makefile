# The two commands of a new user: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: install demo test slurm lint types clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "rbsim needs Python 3.11 to 3.13, found %d.%d; run e.g. make PYTHON=python3.12 $(MAKECMDGOALS)" % v)'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

demo: install
	$(RUN)/rbsim emulate --night demo --out demo/night --overwrite
	$(RUN)/rbsim inject demo/night/science --reference demo/night/reference.fits --truth demo/night/truth.ecsv \
	    --realisations 1 --out demo/night.zarr --workers 2 --overwrite
	$(RUN)/rbsim benchmark demo/night.zarr --out demo/report --overwrite
	@echo "open demo/report/index.html"

test: install
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist loadfile

slurm: install
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m slurm tests/slurm

lint: install
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: install
	$(RUN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info demo .pytest_cache .ruff_cache .mypy_cache .hypothesis
