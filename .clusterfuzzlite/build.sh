#!/usr/bin/env bash
# Builds every target for ClusterFuzzLite and OSS-Fuzz: into $OUT go TARGET,
# TARGET_seed_corpus.zip, TARGET.options and, where there are words to know, TARGET.dict.
#
# They set SRC, OUT and SANITIZER; `just cfl-check` does, too.
set -euo pipefail
cd "$SRC/sigstorm"

sanitizer=${SANITIZER:-address}
case $sanitizer in
address | none) ;;
*)
    echo "the targets are built with the sanitizer 'address' or 'none', not '$sanitizer'" >&2
    exit 2
    ;;
esac

# Flags for C are for libFuzzer, which comes with a crate and must not be instrumented.
unset CFLAGS CXXFLAGS
cargo fuzz build -O --sanitizer "$sanitizer"
built=${CARGO_TARGET_DIR:-$PWD/target}/x86_64-unknown-linux-gnu/release

# archive FILE FOLDER..: the files in the folders, flat.
archive() {
    local file=$1
    shift
    rm -f "$file"
    if command -v zip >/dev/null; then
        find "$@" -type f -print | LC_ALL=C sort | zip -q -j "$file" -@
    else
        find "$@" -type f -print | LC_ALL=C sort | python3 -c '
import os, sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as archive:
    for line in sys.stdin:
        path = line.rstrip("\n")
        archive.write(path, os.path.basename(path))' "$file"
    fi
}

# Names that are written out in the code: points, functions, defects are words of a text.
words() {
    grep -ohE '"[a-z][a-z0-9_.-]+"' runtime/src/instrument/point.rs runtime/src/unwind/func_id.rs fuzz/src/schedule/ops.rs | LC_ALL=C sort -u
}

for target in $(cargo fuzz list); do
    cp "$built/$target" "$OUT/"
    case $target in
    text)
        archive "$OUT/${target}_seed_corpus.zip" corpus/text corpus/schedule
        words >"$OUT/$target.dict"
        printf '[libfuzzer]\nmax_len = 8192\n' >"$OUT/$target.options"
        ;;
    *)
        # Byte forms, which are schedules for both.
        archive "$OUT/${target}_seed_corpus.zip" corpus/stops
        printf '[libfuzzer]\nmax_len = 2048\nlen_control = 0\ntimeout = 60\n' >"$OUT/$target.options"
        ;;
    esac
done
