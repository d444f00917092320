# Shared by the tests of what is installed and packaged; run from the source folder. Temporary files live in $work.
# Environment: BUILD, the build folder; CC, the compiler that built it.
set -euo pipefail
build=${BUILD:?the build folder} cc=${CC:?the compiler}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive

fail() { echo "FAILED: $*" >&2; exit 1; }
# quiet COMMAND...: what it prints is shown only when it fails.
quiet() { "$@" > "$work/log" 2>&1 < /dev/null || { cat "$work/log" >&2; fail "$*"; }; }
# same WHAT EXPECTED GOT
same() { [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"; }
