PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test clean

demo: .venv/.installed
	$(BIN)/masr demo --output demo-output
	@echo "Report: $(CURDIR)/demo-output/report.html"

test: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:
	rm -rf .venv demo-output build MASRRegistration/*.egg-info

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.installed: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fast]"
	touch $@

.venv/.installed-test: $(INPUTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fast,test]"
	touch $@ .venv/.installed
