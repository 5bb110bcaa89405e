# What a person does with sigstorm. `just` alone lists it.

cargo-fuzz := "0.13.2"
cargo-afl := "0.18.2"

# Where AFL's campaign lives: `just afl-out=DIR afl` starts another.
afl-out := "fuzz/afl/out"

[private]
default:
    @just --list --unsorted

# Install what cargo-fuzz and AFL need; builds from source, some minutes
setup:
    cargo install --list | grep -qx 'cargo-fuzz v{{cargo-fuzz}}:' || cargo install --locked cargo-fuzz@{{cargo-fuzz}}
    cargo install --list | grep -qx 'cargo-afl v{{cargo-afl}}:' || cargo install --locked cargo-afl@{{cargo-afl}}
    cargo afl config --build --force

# Explore until something is found or time is up: just hunt --seconds 60
hunt *ARGS:
    cargo run --release -- hunt {{ARGS}}

# Run schedules again: just replay reports/*/schedule.txt --trace
replay *ARGS:
    cargo run --release -- replay {{ARGS}}

# Print a schedule as text
show *ARGS:
    cargo run --release -- show {{ARGS}}

# Find the smallest schedule with the same verdict
shrink *ARGS:
    cargo run --release -- shrink {{ARGS}}

# Plant each defect in turn, and tabulate how soon it is found; --keep replaces reports/museum.md
museum *ARGS:
    cargo run --release -- museum {{ARGS}}

# Change the core in small ways, one at a time, and see whether each is noticed; --keep replaces reports/mutants.md
mutants *ARGS:
    cargo run --release -- mutants {{ARGS}}

# Disturb schedules at every instruction of the protocol: just sweep, just sweep FILE.. --pairs
sweep *ARGS='corpus/sweep/*':
    cargo run --release -- sweep {{ARGS}}

# Run the tests
test *ARGS:
    cargo test {{ARGS}}

# Format the code
fmt:
    cargo fmt --all
    cargo fmt --manifest-path fuzz/afl/Cargo.toml

# Check the format, and the code with clippy
lint:
    cargo fmt --all --check
    cargo fmt --manifest-path fuzz/afl/Cargo.toml --check
    cargo clippy --workspace --all-targets -- -D warnings

# Let everything happen at once, with real timers: just storm --seconds 60
storm *ARGS:
    cargo run --release -- storm {{ARGS}}

# Make reports of what engines found: just collect fuzz/artifacts
collect *ARGS:
    cargo run --release -- collect {{ARGS}}

# Fuzz a target with cargo-fuzz, without a sanitizer: just fuzz stops -runs=100000
fuzz TARGET='schedule' *ARGS:
    #!/usr/bin/env bash
    set -euo pipefail
    mkdir -p fuzz/corpus/{{TARGET}}
    seeds=corpus/{{TARGET}}
    # The reviewed schedules are texts, which this target does not take for schedules.
    [ {{TARGET}} != schedule ] || seeds=corpus/stops
    cargo fuzz run --sanitizer none {{TARGET}} fuzz/corpus/{{TARGET}} "$seeds" -- {{ARGS}}

# Keep of a target's corpus only what is needed for what it covers: just cmin stops
cmin TARGET='schedule':
    cargo fuzz cmin --sanitizer none {{TARGET}} fuzz/corpus/{{TARGET}}

# Which source lines a target's corpus covers; needs nightly with llvm-tools: just coverage text
coverage TARGET='schedule':
    cargo +nightly fuzz coverage --sanitizer none {{TARGET}} fuzz/corpus/{{TARGET}}

# Start an AFL campaign on so many cores: just afl 2 -V 60
afl CORES='1' *ARGS:
    fuzz/afl/campaign '{{afl-out}}' {{CORES}} {{ARGS}}

# How an AFL campaign stands
afl-status:
    cargo afl whatsup -s '{{afl-out}}'

# Plot an AFL campaign's main instance; needs gnuplot
afl-plot TO='reports/afl':
    #!/usr/bin/env bash
    set -euo pipefail
    command -v gnuplot >/dev/null || { echo 'afl-plot needs gnuplot: apt-get install gnuplot-nox' >&2; exit 2; }
    mkdir -p '{{TO}}'
    cargo afl plot '{{afl-out}}/main' '{{TO}}'

# Keep of an AFL campaign's queues only what is needed for what they cover
afl-min TO='fuzz/afl/min':
    fuzz/afl/minimise '{{afl-out}}' '{{TO}}'

# Build as ClusterFuzzLite and OSS-Fuzz do, and run what was built: just cfl-check none
cfl-check SANITIZER='address':
    .clusterfuzzlite/check {{SANITIZER}}

# Measure against others, side by side: just bench [lock traceback handler barriers copystack harness probe] [--quick]
bench *ARGS:
    #!/usr/bin/env bash
    set -euo pipefail
    set -- {{ARGS}}
    all='lock traceback handler barriers copystack harness probe'
    groups=()
    while [ $# -gt 0 ] && [[ $1 != -* ]]; do
        [[ " $all " == *" $1 "* ]] || {
            echo "there is no group '$1'; there are: $all" >&2
            exit 2
        }
        groups+=("$1")
        shift
    done
    [ ${#groups[@]} -gt 0 ] || groups=($all)
    # The core alone, so that it has neither points nor defects; then the harness, with both.
    for package in sigstorm-runtime sigstorm; do
        benches=()
        for group in "${groups[@]}"; do
            case $group in harness | probe) of=sigstorm ;; *) of=sigstorm-runtime ;; esac
            [ $of != $package ] || benches+=(--bench "$group")
        done
        [ ${#benches[@]} -eq 0 ] || cargo bench -p $package "${benches[@]}" -- --quiet "$@"
    done
    cargo run --quiet --release -p sigstorm-compare -- "${groups[@]}"

# Everything that has to pass, as on a clean machine
ci:
    .ci/run
