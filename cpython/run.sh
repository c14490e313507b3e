#!/bin/sh
# Runs CPython 3.11's own socket tests on saltecho::socket, and on CPython itself to know which of
# them pass there: OUTDIR/salt.json, OUTDIR/real.json, what differs, and the line "N of M".
#
#   PYTHON=python3.11 cpython/run.sh OUTDIR [TEST...]
#
# The tests are those of $PYTHON's package `test` (Debian: libpython3.11-testsuite). A TEST is a
# module, class or method; test.test_socket unless given.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3.11}
[ $# -ge 1 ] || { echo "usage: PYTHON=python3.11 $0 OUTDIR [TEST...]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
[ $# -ge 1 ] || set -- test.test_socket
"$python" -c 'import sys, test.test_socket; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "$python is not Python 3.11 with its tests: set PYTHON, or install" \
        "libpython3.11-testsuite" >&2
    exit 2
}
target=$here/../target/cpython
PYO3_PYTHON=$(command -v "$python") CARGO_TARGET_DIR=$target \
    cargo build --quiet --locked --manifest-path "$here/Cargo.toml"
mkdir -p "$target/modules"
# A new file, since another run may have the old one mapped.
rm -f "$target/modules/_saltsock.so"
cp "$target/debug/lib_saltsock.so" "$target/modules/_saltsock.so"
export PYTHONPATH="$target/modules"
# Alone in a network namespace where that is allowed: several tests bind a port that they have found
# free a moment before, which another program may take meanwhile.
alone() { unshare --net sh -c 'ip link set lo up && exec "$@"' sh "$@"; }
alone true 2>/dev/null || alone() { "$@"; }
alone "$python" "$here/run.py" real "$out/real.json" "$@"
alone "$python" "$here/run.py" salt "$out/salt.json" "$@"
"$python" "$here/compare.py" "$out/real.json" "$out/salt.json"
