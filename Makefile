# The door to everything. `make demo` and `make test` install what the machine lacks first.

.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install what the machine lacks for the other targets
	@scripts/setup.sh

demo: setup install ## a parallel backup of a busy cluster, verified and restored
	@scripts/demo.sh

test: setup ## all tests, with the PostgreSQL of the machine's packages
	@scripts/test.sh

test-all: setup ## all tests with PostgreSQL 15, 17 and 18, which it builds where they are missing
	@scripts/test-all.sh

test-pages: setup ## the tests of pages with a server that it builds, with pages of 32 kB
	@scripts/test-pages.sh

install: ## build the release version and install it into PostgreSQL
	@scripts/install.sh

package: setup ## build Debian packages, and try each in a clean Debian
	@scripts/package.sh

bench: setup install ## measure against pg_basebackup
	@bench/run.sh

picture: setup install ## draw docs/progress.svg: a real backup on a terminal
	@scripts/progress_picture.sh

soak: setup install ## backups that something goes wrong with, for MINUTES=30
	@scripts/soak.sh '$(MINUTES)' '$(SEED)'

valgrind: setup install ## memcheck on the formats' tests and on a server that is backed up
	@scripts/valgrind.sh

lint: ## formatting, clippy, shellcheck, versions, licences and advisories of crates
	@scripts/setup.sh lint
	@scripts/lint.sh

clean: ## remove what was built
	cargo clean
	rm -rf bench/results

.PHONY: help setup demo test test-all test-pages soak valgrind install package bench picture lint clean
# The recipes share one target folder and one installation.
.NOTPARALLEL:
