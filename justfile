# Short names for the commands of CONTRIBUTING.md. `just` lists them.

_list:
    @just --list

# everything that has to pass before a change lands
ci:
    .ci/run

# formatting and lints
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings

# all tests, or those with a part of their name
test *name:
    cargo test --workspace {{ name }}

# the documentation, as docs.rs shows it
doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps

# the library, the preload library and the tool, as for users
build:
    cargo build --release -p pwal-sqlite-ext -p pwal-preload -p pwal-tool

# the figures of docs/measurements.md
bench *arguments:
    cargo bench -p pwal-bench --bench compare -- {{ arguments }}

# each rule dropped in turn
mutants *arguments:
    .ci/mutants {{ arguments }}

# licences and advisories (needs cargo-deny)
deny:
    cargo deny check bans licenses sources advisories
