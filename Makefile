# The door to everything. `make demo` and `make test` install what the machine lacks first.

.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install what the machine lacks for the other targets
	@scripts/setup.sh

demo: setup install ## a parallel backup of a busy cluster, verified and restored
	@scripts/demo.sh

test: setup ## all tests
	@scripts/test.sh

install: ## build the release version and install it into PostgreSQL
	@scripts/install.sh

bench: setup install ## measure against pg_basebackup
	@bench/run.sh

valgrind: setup install ## memcheck on the formats' tests and on a server that is backed up
	@scripts/valgrind.sh

lint: ## formatting, clippy, shellcheck
	@scripts/lint.sh

clean: ## remove what was built
	cargo clean
	rm -rf bench/results

.PHONY: help setup demo test install bench valgrind lint clean
# The recipes share one target folder and one installation.
.NOTPARALLEL:
