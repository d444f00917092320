# Shared by the tests of the commands. Every test is a bash file that sources this one, runs `coxswain` (the built
# program) from the source folder, and calls `check`; `finish` at its end reports. No Python, no jq.
# Environment: COXSWAIN, the program. Temporary files live in $work.
set -uo pipefail
coxswain=${COXSWAIN:?the program under test}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0 checks=0

# The bundled organism whose text the tests read.
model=models/olmoe-velk
[ -f "$model/tokenizer.json" ] || { echo "skip: $model is not there"; exit 77; }

# check DESCRIPTION COMMAND...: the command succeeds.
check() {
    local description=$1
    shift
    checks=$((checks + 1))
    if ! "$@"; then
        echo "FAILED: $description: $*" >&2
        failures=$((failures + 1))
    fi
}

# refuses CODE PATTERN ARGUMENTS...: the program ends with this exit code (one of "2|4") within ten seconds, prints nothing on standard
# output, and a line of standard error matches the pattern (extended regular expression).
refuses() {
    local code=$1 pattern=$2 got=0
    shift 2
    checks=$((checks + 1))
    timeout 10 "$coxswain" "$@" > "$work/refused.out" 2> "$work/refused.err" < /dev/null || got=$?
    if [[ "|$code|" != *"|$got|"* ]] || [ -s "$work/refused.out" ] || ! grep -Eq -- "$pattern" "$work/refused.err"; then
        echo "FAILED: coxswain $*: exit code $got, expected $code and a message like /$pattern/; it said:" >&2
        cat "$work/refused.out" "$work/refused.err" >&2
        failures=$((failures + 1))
    fi
}

# rank_pid RANK: the process of a rank of the launch below $job; nothing when it is not there.
rank_pid() {
    local mpirun pid
    mpirun=$(pgrep -P "$job" | head -n 1)
    [ -n "$mpirun" ] || return 0
    for pid in $(pgrep -P "$mpirun"); do
        if tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$1"; then echo "$pid"; fi
    done
}

# field FILE KEY: the first value of a string or number key in compact JSON.
field() {
    sed -E -n "s/.*\"$2\":(\"([^\"\\\\]|\\\\.)*\"|[-0-9.e+]+|null|true|false).*/\1/p" "$1" | head -n 1
}

finish() {
    echo "$checks checks, $failures failed"
    [ "$checks" -gt 0 ] && [ "$failures" = 0 ]
}
