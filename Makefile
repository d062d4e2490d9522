# Everything a newcomer needs: `make demo` and `make test`; both set up what is missing first.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
OUT ?= out/demo
PORTRAIT ?=
DRIVING ?=
# Test files side by side: much of a test is compilation, which uses one core.
WORKERS ?= -n 2 --dist loadfile
export JAX_PLATFORMS ?= cpu

.PHONY: setup setup-dev demo test test-long test-slow test-all oracles mutations bench docs lint format lock clean walk

# The head and the landmark estimator: `exp-jax setup` leaves alone what is ready.
setup: $(VENV)/.runtime
	$(PY) -m exp_jax setup --no-programs

setup-dev: setup

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	# so that scripts in benchmarks/ find the package
	$(PY) -c 'import site, pathlib; pathlib.Path(site.getsitepackages()[0], "exp_jax.pth").write_text("$(CURDIR)\n")'
	touch $@

$(VENV)/.docs: requirements-docs.txt $(VENV)/.runtime
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

demo: setup
	$(PY) -m exp_jax demo -o $(OUT) $(if $(PORTRAIT),--portrait "$(PORTRAIT)") $(if $(DRIVING),--driving "$(DRIVING)")

# What every change runs, in minutes.
test: setup-dev
	$(PY) -m pytest -q $(WORKERS) -m "not slow and not long" tests

# What compiles or trains for longer than three seconds; continuous integration runs it after `make test`.
test-long: setup-dev
	$(PY) -m pytest -q $(WORKERS) -m "long and not slow" tests

# What takes minutes each; TESTS names folders or files, so that a part ends within an hour.
test-slow: setup-dev
	$(PY) -m pytest -q $(WORKERS) -m slow $(or $(TESTS),tests)

# Everything, with the parity tests against torch.
test-all: setup-dev
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-oracles.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps $(LPIPS)
	$(PY) -m pytest -q tests

# What programs of others answer, live, in sizes that the stored answers do not have; an environment of its own. torch is the CPU build
# where $(TORCH) can be reached, else what pip finds. lpips without its dependencies: its torchvision is not needed.
ORACLES := .venv-oracles
LPIPS := lpips==0.1.4
TORCH ?= https://download.pytorch.org/whl/cpu
$(ORACLES)/.ready: requirements-oracles.txt requirements-dev.txt requirements.txt
	$(PYTHON) -m venv $(ORACLES)
	torch=$$(grep '^torch==' requirements-oracles.txt); pip="$(ORACLES)/bin/python -m pip --quiet --disable-pip-version-check install"; \
	  { $$pip --retries 0 --timeout 20 --extra-index-url $(TORCH) $$torch || $$pip $$torch; } && \
	  $$pip -r requirements-oracles.txt && $$pip --no-deps $(LPIPS)
	touch $@

oracles: $(ORACLES)/.ready
	EXP_JAX_ORACLES=1 PYTHONPATH=$(CURDIR) $(ORACLES)/bin/python -m pytest -q -n 0 -rs tests/oracles
	PYTHONPATH=$(CURDIR) $(ORACLES)/bin/python -m pytest -q -n 0 -rs tests/convert tests/systems/liveportrait/test_networks.py \
	  -k "torch or peft or diffusers or package or oracle"

# Breaks lines one by one, of mathematics and of guards against faults; a quick test must notice each. NAMES='depth* fade' takes some; goes on where it stopped.
mutations: setup-dev
	$(PY) tests/mutations/run.py -j 2 $(NAMES)

# The whole road of a lab at tiny size, from mp4 files to scores, every command killed once; WALK is its folder.
walk: setup-dev
	$(PY) -m tests.walk -o $(or $(WALK),out/walk)

bench: setup
	for script in benchmarks/*.py; do $(PY) $$script || exit 1; done

# The pages of docs/ into docs/_build/html; a warning is an error.
docs: $(VENV)/.docs
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html

# After a change of requirements*.txt; needs uv.
lock:
	echo '# Every package of requirements-dev.txt and what they need, with hashes; set-up installs exactly these. Made by `make lock`.' > requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q requirements-dev.txt >> requirements.lock
	uv pip compile --no-deps --python-version 3.11 --generate-hashes --no-header --no-annotate -q requirements-mediapipe.txt > .mediapipe.lock
	{ grep '^#' requirements-mediapipe.txt; cat .mediapipe.lock; } > .mediapipe.txt
	mv .mediapipe.txt requirements-mediapipe.txt; rm .mediapipe.lock

lint: setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: setup-dev
	$(VENV)/bin/ruff check --fix --quiet .
	$(VENV)/bin/ruff format .

clean:
	rm -rf out .pytest_cache .ruff_cache docs/_build docs/_generated
