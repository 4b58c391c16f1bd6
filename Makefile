# What a person types: `make serve` and `make test` do all the set-up they need; `make setup` does only that.
#
#   make serve [PORT=8300] [MODEL=mini] [ARGS="more options of parley serve"]
#   make test [ARGS="pytest options"]    everything, in four processes (-n0: in one);  make test-fast: the part that needs no torch
#   make test-web                        the page in a real browser (wants node, npm and chromium-headless-shell)
#   make evaluate                        measure the embedded voice and put its figures into README.md (half an hour)
#   make samples                         let the embedded voice say what web-demo/samples holds (seconds)
#   make setup TORCH=cuda                with a GPU: PyTorch's current CUDA build instead of the CPU build (kept until TORCH=cpu)
#
# Needs Python >= 3.11 with its venv module (PYTHON=python3.12 names another one), make and git.

PYTHON ?= python3
PORT ?= 8300
MODEL ?= mini
VENV := .venv
RUN := $(VENV)/bin/python
CLIENTS := .venv-dialects
NODE_MODULES := tests/web/node_modules/.package-lock.json
# Many tests wait for speech to be played, so four processes keep two cores busy. A file's tests share what they load; the slowest files
# are among the first, which is better than the fullest.
SPREAD := -n 4 --dist loadfile --no-loadscope-reorder
PIP := $(RUN) -m pip --disable-pip-version-check
CPU_INDEX := https://download.pytorch.org/whl/cpu

# The build of torch stays what it was last asked to be.
ifndef TORCH
TORCH := $(or $(shell cut -d' ' -f1 $(VENV)/.choice 2>/dev/null),cpu)
endif
ifeq ($(filter $(TORCH),cpu cuda),)
$(error TORCH=$(TORCH) is neither cpu nor cuda)
endif
CONSTRAINTS := $(if $(filter cpu,$(TORCH)),-c constraints.txt)

.PHONY: setup serve test test-fast test-web lint setup-train setup-evaluate setup-dialects evaluate samples FORCE
.DEFAULT_GOAL := setup
.DELETE_ON_ERROR:

setup: $(VENV)/.setup

serve: $(VENV)/.setup
	$(VENV)/bin/parley serve $(MODEL) --port $(PORT) $(ARGS)

test: $(VENV)/.setup-test
	$(RUN) -m pytest $(SPREAD) $(ARGS)

test-fast: $(VENV)/.setup-test
	$(RUN) -m pytest $(SPREAD) --no-torch tests/protocol tests/realtime tests/dialects tests/test_*.py $(ARGS)

# One file after the other: they measure how soon the page answers. PARLEY_CHROMIUM names another browser than Debian's.
test-web: $(VENV)/.setup-test $(NODE_MODULES)
	tests/web/node_modules/.bin/tsc -p tests/web
	PARLEY_PYTHON=$(CURDIR)/$(RUN) node --test --test-concurrency=1 --test-timeout=300000 --test-reporter=spec tests/web/*.test.mjs

lint: $(VENV)/.setup-test
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy -p engine -p protocol -p realtime

# The training recipe's own requirements (it also wants espeak-ng and ffmpeg on the PATH).
setup-train: $(VENV)/.setup-train

# What `python -m engine.evaluate` needs to use recognisers and speaker models from outside.
setup-evaluate: $(VENV)/.setup-evaluate

# The clients of other vendors, in an environment that knows nothing of Parley: `make test` speaks through them.
setup-dialects: $(CLIENTS)/.setup

# After the mini was trained anew. An evaluation that was interrupted goes on where it was. Wants espeak-ng, the teacher.
evaluate: $(VENV)/.setup
	$(RUN) -m engine.evaluate mini --work build/evaluation --json-out engine/evaluate/mini.json
	$(RUN) -m engine.evaluate.figures engine/evaluate/mini.json README.md

samples: $(VENV)/.setup-train
	$(RUN) -m engine.evaluate.samples web-demo/samples

# A stamp is written last, so an interrupted set-up is taken up again; it is older than what it depends on when that changed.
$(VENV)/.setup: $(VENV)/.choice pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (minutes, the first time)"
ifeq ($(TORCH),cpu)
# Alone and without dependencies: the extra index is asked for this one package, so where it cannot be reached that costs seconds.
	$(PIP) install --no-deps $(CONSTRAINTS) torch --extra-index-url $(CPU_INDEX) --retries 1 --timeout 15
endif
	$(PIP) install $(CONSTRAINTS) -e .
	@$(call install_libopus)
	@touch $@

$(VENV)/.setup-%: $(VENV)/.setup
	$(PIP) install -q $(CONSTRAINTS) -e '.[$*]'
	@touch $@

$(CLIENTS)/.setup: tests/dialects/requirements-bare.txt tests/dialects/requirements.txt
	@$(call check_python)
	$(PYTHON) -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install -q --no-deps -r tests/dialects/requirements-bare.txt
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install -q -r tests/dialects/requirements.txt
	@touch $@

$(NODE_MODULES): tests/web/package-lock.json
	npm ci --prefix tests/web --ignore-scripts --no-audit --no-fund
	@touch $@

# What the environment was built for. Scripts in it hold the absolute path, so a folder that was moved is installed again.
$(VENV)/.choice: FORCE
	@$(call check_python)
	@if ! $(RUN) -c 'import pip' 2>/dev/null; then \
		echo "Creating $(VENV) with $(PYTHON)"; rm -f $@; $(PYTHON) -m venv --clear $(VENV); fi
	@if [ "$$(cat $@ 2>/dev/null)" != "$(TORCH) $(CURDIR)" ]; then \
		$(PIP) uninstall -q -y torch 2>/dev/null; echo "$(TORCH) $(CURDIR)" >$@; fi

define check_python
	if [ ! -x $(RUN) ]; then \
		command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; name Python >= 3.11 with PYTHON=..." >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"Parley needs Python >= 3.11 and $(PYTHON) is $$($(PYTHON) -V 2>&1 | cut -d" " -f2); name another with PYTHON=..." >&2; exit 1; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
		"$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install $$(basename $(PYTHON))-venv" >&2; exit 1; }; \
	fi
endef

# Opus is a system library. Without it everything but Opus output works, so its absence does not fail the set-up.
define install_libopus
	has_opus() { $(RUN) -c 'import sys; from ctypes.util import find_library; sys.exit(not find_library("opus"))'; }; \
	if ! has_opus && command -v apt-get >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then as_root=; elif sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root=false; fi; \
		{ $$as_root apt-get update -qq && \
		$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libopus0; } >/dev/null 2>&1 || true; \
	fi; \
	has_opus || echo "libopus was not found, so audio is PCM only; for Opus: apt-get install libopus0 (brew: opus; dnf: opus)"
endef

FORCE:
