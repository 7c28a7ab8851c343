# Two commands to know:
#   make demo   set up, then train, slim, quantise, write and run a network for handwritten digits
#   make test   set up, then lint and test everything

PYTHON ?= python3
VENV := .venv

CROSS := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
# The compiler of this computer builds the counter for QEMU, and the C code under test.
HOST := gcc g++ libc6-dev make

.PHONY: help demo test lint clean

help:
	@sed -n '1,/^$$/s/^# //p' Makefile

demo: $(VENV)/demo.installed
	tools/debian-packages $(HOST) $(CROSS)
	$(VENV)/bin/kprune demo -o kprune-demo

test: lint
	tools/debian-packages $(HOST) $(CROSS) clang cmake openocd
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/demo.installed: setup.cfg | $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable ".[demo,tflm]"
	touch $@

$(VENV)/dev.installed: setup.cfg | $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable ".[dev,demo,tflm,tfmot]"
	touch $@

$(VENV):
	$(PYTHON) -c "import ensurepip, venv" || tools/debian-packages python3-venv
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'kprune needs Python 3.11 or later')"
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) kprune-demo build *.egg-info
