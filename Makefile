# `make test` is the test command: it installs what is missing, and fails at the first thing that is wrong.

PREFIX = /usr/local
SYSCONFDIR = /etc
BINARY = $(or $(CARGO_TARGET_DIR),target)/release/fanfare
# The cargo features of what is installed, beyond a default build: FEATURES= for none.
FEATURES = $(shell cat packaging/features)

.PHONY: test test-package setup lint lint-deps audit install uninstall deb dist image npm

test: setup lint
	cargo test --all-features
	tests/with-loops
	tests/over-tls
	tests/with-network-namespaces
	tests/on-io-uring
	cargo bench --bench instructions
	cargo bench --bench million

# Root only: installs the package on a copy of this machine.
test-package: setup
	tests/package/run

setup:
	tests/setup

lint:
	cargo fmt --check
	cargo clippy --all-targets --all-features -- -D warnings
	cargo clippy -- -D warnings

# What the dependencies may be: deny.toml.
lint-deps:
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check licenses bans sources

# Needs the network: the database of advisories is fetched.
audit:
	cargo deny check advisories

# Installs; DESTDIR and PREFIX as usual. Nothing is enabled or started.
install: $(BINARY)
	BINARY=$(BINARY) DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) SYSCONFDIR=$(SYSCONFDIR) packaging/install

# Leaves the configuration.
uninstall: $(BINARY)
	BINARY=$(BINARY) DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) SYSCONFDIR=$(SYSCONFDIR) packaging/install --remove

# Writes target/debian/fanfare_VERSION_ARCHITECTURE.deb.
deb:
	packaging/build-setup
	cargo build --release --features "$(FEATURES)"
	BINARY=$(BINARY) packaging/deb

# Writes target/dist: a tarball with a static binary for x86_64, one for aarch64, an SBOM of each, and SHA256SUMS.
dist:
	packaging/dist

# Builds the container image fanfare from the tarball of make dist for this architecture.
image:
	packaging/image

# Writes target/npm/fanfare-sse-VERSION.tgz.
npm:
	packaging/npm/pack

$(BINARY):
	cargo build --release --features "$(FEATURES)"
