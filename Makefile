# `make test` is the test command: it installs what is missing, and fails at the first thing that is wrong.

.PHONY: test setup lint

test: setup lint
	cargo test --all-features

setup:
	tests/setup

lint:
	cargo fmt --check
	cargo clippy --all-targets --all-features -- -D warnings
