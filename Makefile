# Entry point for all tasks. `make demo` and `make test` first install missing dependencies.

.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install missing dependencies of the other targets
	@scripts/setup.sh test

tools:
	@scripts/setup.sh

demo: tools install ## back up a busy cluster, verify and restore the backup
	@scripts/demo.sh

test: setup ## all tests, with the PostgreSQL of the machine's packages
	@scripts/test.sh

test-all: setup ## all tests with PostgreSQL 15 to 18; builds or fetches missing versions
	@scripts/test-all.sh

test-preview: setup ## tests with the release candidate of PostgreSQL 19, which is not supported yet
	@scripts/test-preview.sh

test-pages: tools ## build a server with 32 kB pages, run the page tests with it
	@scripts/test-pages.sh

install: ## build the release version and install it into PostgreSQL
	@scripts/install.sh

package: tools ## build Debian packages, and try each in a clean Debian
	@scripts/package.sh

bench: tools install ## compare with pg_basebackup
	@bench/run.sh

picture: tools install ## draw docs/progress.svg: a real backup on a terminal
	@scripts/progress_picture.sh

soak: tools install ## backups with injected faults, for MINUTES=30
	@scripts/soak.sh '$(MINUTES)' '$(SEED)'

fuzz: tools ## changed inputs for the readers of backups, 16 million in all
	@scripts/fuzz.sh

coverage: setup ## all tests, and which lines none of them runs
	@scripts/coverage.sh

valgrind: tools install ## memcheck on the format tests and on a server during a backup
	@scripts/valgrind.sh

lint: ## formatting, clippy, shellcheck, versions, licences and advisories of crates
	@scripts/setup.sh lint
	@scripts/lint.sh

clean: ## remove build output
	cargo clean
	rm -rf bench/results

.PHONY: help setup tools demo test test-all test-preview test-pages soak fuzz coverage valgrind install package bench picture lint clean
# The recipes share one target folder and one installation.
.NOTPARALLEL:
