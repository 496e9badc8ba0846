DEVICE = cpu
ROOM =
PYTEST = .venv/bin/python -m pytest -n 2 --dist loadgroup

.PHONY: help install demo test test-all lint prove clean

help:
	@echo "make install  make .venv with everything pinned, and patch the SGLang in it"
	@echo "make demo     fine-tune SmolLM2 on film reviews, a few minutes (DEVICE=cuda: on a GPU, and better)"
	@echo "make test     run the tests, a quarter of an hour on two cores (ROOM=noise: those of tests/noise alone)"
	@echo "make test-all run these, and then those that are marked as long"
	@echo "make lint     check style"
	@echo "make prove    show that each patch applies alone, and that its tests fail without it (half an hour)"
	@echo "make clean    remove .venv and what was built"

install: .venv/.installed

# The folder itself counts too: a patch that was removed leaves no newer file.
.venv/.installed: scripts/install.sh requirements.lock setup.py pyproject.toml patches $(wildcard patches/*.patch)
	@sh scripts/install.sh

demo: install
	.venv/bin/python demo.py --device $(DEVICE)

test: install
	$(PYTEST) -m "not long" tests/$(ROOM)

# In one call of make with `test`, nothing runs twice.
test-all: test
	$(PYTEST) -m long tests/$(ROOM)

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

prove: install
	.venv/bin/python tests/upstream/alone.py
	.venv/bin/python tests/upstream/prove.py

clean:
	rm -rf .venv .cache/bytecode build dist *.egg-info .pytest_cache .ruff_cache
