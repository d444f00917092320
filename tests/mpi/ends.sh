#!/bin/bash
# How a job ends: exit codes through cox_launch, and who is named when a rank dies, hangs or is stopped. One case a run:
# ends.sh JOB CASE. Prints what went wrong and exits 1; every case ends within half a minute.
set -u
job=$1
case=$2
folder=$(mktemp -d)
out=$folder/out
pid=
clean() {
    [ -n "$pid" ] && kill -TERM "$pid" 2>/dev/null
    rm -rf "$folder"
}
trap clean EXIT

fail() {
    echo "$case: $1"
    sed 's/^/    /' "$out"
    exit 1
}

# start ARGUMENTS...: the job in the background, until it says that it runs (or has ended).
start() {
    "$job" "$@" >"$out" 2>&1 &
    pid=$!
    for _ in $(seq 200); do
        grep -q running "$out" && return
        kill -0 "$pid" 2>/dev/null || return
        sleep 0.05
    done
    fail "did not start within ten seconds"
}

# finish SECONDS: waits for the end, sets `code`; longer is a failure.
finish() {
    local n
    for n in $(seq $(($1 * 10))); do
        if ! kill -0 "$pid" 2>/dev/null; then
            wait "$pid"
            code=$?
            pid=
            return
        fi
        sleep 0.1
    done
    fail "still running after $1 s"
}

rank_pid() { sed -n "s/^rank $1 pid \([0-9]*\) .*/\1/p" "$out"; }
says() { grep -qE "$1" "$out" || fail "does not say '$1'"; }
exits() { [ "$code" -eq "$1" ] || fail "exit code $code, not $1"; }
no_zombies() { # the ranks are gone, stopped ones too
    local p
    for _ in $(seq 30); do
        local left=
        for p in $(sed -n 's/^rank [0-9]* pid \([0-9]*\) .*/\1/p' "$out"); do
            kill -0 "$p" 2>/dev/null && left="$left $p"
        done
        [ -z "$left" ] && return
        sleep 0.1
    done
    fail "ranks outlive the job:$left"
}

case $case in
ok)
    "$job" 3 ok >"$out" 2>&1
    code=$?
    exits 0
    for r in 0 1 2; do says "^rank $r pid [0-9]+ of 3"; done
    [ "$(wc -l <"$out")" -eq 3 ] || fail "noise"
    ;;
fail)
    "$job" 3 fail >"$out" 2>&1
    code=$?
    exits 5
    says '^coxswain: rank 1 on .*: rank 1 cannot$'
    [ "$(wc -l <"$out")" -eq 4 ] || fail "noise"
    ;;
abort)
    "$job" 3 abort >"$out" 2>&1
    code=$?
    exits 4
    says '^coxswain: rank 1 on .*: the shard is cut off$'
    [ "$(grep -vcE '^rank [0-9] pid' "$out")" -eq 1 ] || fail "noise"
    no_zombies
    ;;
killed-worker | killed-coordinator)
    rank=1
    [ "$case" = killed-coordinator ] && rank=0
    start 3 run sparse
    kill -9 "$(rank_pid $rank)"
    finish 15
    exits 137
    says "process rank $rank .*exited on signal 9"
    no_zombies
    ;;
stopped-worker | stopped-worker-alltoall)
    exchange=sparse
    [ "$case" = stopped-worker-alltoall ] && exchange=alltoall
    start 3 run $exchange
    kill -STOP "$(rank_pid 2)"
    finish 15
    exits 10
    says '^coxswain: rank 0 on .*: rank 2 on .* hangs: no sign of life for 8 s'
    no_zombies
    ;;
stopped-under-two) # both coordinators wait for it: the first one speaks
    start 4 run-two sparse 4
    kill -STOP "$(rank_pid 3)"
    finish 15
    exits 10
    says '^coxswain: rank 0 on .*: rank 3 on .* hangs'
    [ "$(grep -c hangs "$out")" -eq 1 ] || fail "said more than once"
    no_zombies
    ;;
stopped-coordinator)
    start 3 run sparse 4
    kill -STOP "$(rank_pid 0)"
    finish 15
    exits 10
    says '^coxswain: rank [12] on .*: rank 0 on .* hangs'
    [ "$(grep -c hangs "$out")" -eq 1 ] || fail "said more than once"
    no_zombies
    ;;
all-stopped) # a suspended job is not a hung one
    start 3 run sparse 2
    for r in 0 1 2; do kill -STOP "$(rank_pid $r)"; done
    sleep 6
    for r in 0 1 2; do kill -CONT "$(rank_pid $r)"; done
    sleep 4
    kill -0 "$pid" 2>/dev/null || fail "ended"
    kill -TERM "$pid"
    finish 10
    no_zombies
    ;;
early-stopped) # before MPI's start, where no rank can give a sign of life
    start 3 early-stopped
    finish 15
    exits 10
    says '^coxswain: rank 2 \(process [0-9]+ on .*\) is stopped; the job cannot start$'
    [ "$(grep -vcE '^rank [0-9] pid' "$out")" -eq 1 ] || fail "noise"
    no_zombies
    ;;
early-busy) # mpirun takes its time to pass on the verdict and to end the job: it is said once all the same
    start 3 early-stopped
    mpirun=$(pgrep -P "$pid")
    sleep 3 # two looks before the verdict
    kill -STOP "$mpirun"
    sleep 11
    kill -CONT "$mpirun"
    finish 15
    exits 10
    says '^coxswain: rank 2 \(process [0-9]+ on .*\) is stopped; the job cannot start$'
    [ "$(grep -vcE '^rank [0-9] pid' "$out")" -eq 1 ] || fail "noise"
    no_zombies
    ;;
early-hung) # start_s 4
    start 3 early-hung sparse 8 4
    finish 15
    exits 10
    says '^coxswain: the job has not started within 4 s. Of the ranks on .* these have come: 0 2; these have not: 1$'
    [ "$(grep -vcE '^rank [0-9] pid' "$out")" -eq 1 ] || fail "noise"
    no_zombies
    ;;
early-all-stopped) # a job that is suspended while it starts goes on; start_s 6
    start 3 early-slow sparse 8 6
    for _ in $(seq 50); do
        [ "$(grep -c running "$out")" -eq 3 ] && break
        sleep 0.05
    done
    for r in 0 1 2; do kill -STOP "$(rank_pid $r)"; done
    sleep 10
    for r in 0 1 2; do kill -CONT "$(rank_pid $r)"; done
    finish 10
    exits 0
    [ "$(wc -l <"$out")" -eq 6 ] || fail "noise"
    ;;
busy) # 8 s of loading with hang_s 2
    "$job" 2 busy sparse 2 >"$out" 2>&1
    code=$?
    exits 0
    ;;
stuck)
    start 2 stuck sparse 2
    finish 15
    exits 10
    says '^coxswain: rank 0 on .*: rank 1 on .* hangs: no sign of life for 2 s while its status is awaited'
    no_zombies
    ;;
usr1) # passed on by the launcher, by mpirun, to all ranks
    start 2 usr1
    kill -USR1 "$pid"
    finish 10
    exits 0
    says '^rank 0 drained'
    says '^rank 1 drained'
    ;;
term)
    start 3 run sparse
    kill -TERM "$pid"
    finish 10
    [ "$code" -ne 0 ] || fail "exit code 0"
    no_zombies
    ;;
killed-launcher) # nobody is left behind
    start 3 run sparse
    kill -KILL "$pid"
    finish 10
    no_zombies
    ;;
noise) # of all that an mpirun says, only what tells something passes
    mkdir "$folder/bin"
    cat >"$folder/bin/mpirun" <<'END'
#!/bin/bash
dashes=$(printf -- '-%.0s' {1..74})
exec >&2
echo "[host:1] [[1,0],0] ORTE_ERROR_LOG: Out of resource in file ../../../orte/util/show_help.c at line 501"
echo "[host:1] [[1,0],0] ORTE_ERROR_LOG: Data unpack had inadequate space in file ../../../orte/util/show_help.c at line 513"
printf '%s\nMPI_ABORT was invoked on rank 1 in communicator\n%s\n' "$dashes" "$dashes"
echo "[host:1] 1 more process has sent help message help-mpi-api.txt / mpi-abort"
echo "[host:1] Set MCA parameter \"orte_base_help_aggregate\" to 0 to see all help / error messages"
echo "[host:2] Read -1, expected 65616, errno = 1"
echo "[host:1] [[1,0],0] ORTE_ERROR_LOG: Not found in file ess_hnp_module.c at line 320"
printf '%s\nA system call failed during shared memory initialization\n\n  Error:       No such file or directory (errno 2)\n%s\n' \
    "$dashes" "$dashes"
printf '%s\nmpirun noticed that process rank 0 exited on signal 9\n%s\n' "$dashes" "$dashes"
exit 7
END
    chmod +x "$folder/bin/mpirun"
    PATH=$folder/bin:$PATH "$job" 2 ok >"$out" 2>&1
    code=$?
    exits 7
    [ "$(wc -l <"$out")" -eq 4 ] || fail "noise"
    says 'Not found in file ess_hnp_module.c'
    says '^mpirun noticed that process rank 0 exited on signal 9$'
    ;;
verdict) # what follows a rank's verdict is a consequence: only our lines and a killed rank's box pass
    mkdir "$folder/bin"
    cat >"$folder/bin/mpirun" <<'END'
#!/bin/bash
dashes=$(printf -- '-%.0s' {1..74})
exec >&2
init() {
    printf '%s\nIt looks like MPI_INIT failed for some reason; your parallel process is\nlikely to abort.\n%s\n' "$dashes" "$dashes"
    echo "[host:$1] *** An error occurred in MPI_Init_thread"
    printf '*** on a NULL communicator\n*** MPI_ERRORS_ARE_FATAL (processes in this communicator will now abort,\n'
}
init 1
echo "coxswain: rank 2 (process 9 on host) is stopped; the job cannot start"
printf '\r[##  ]'
echo "coxswain: a rank has said why the job ends"
echo "[warn] Epoll MOD(1) on fd 25 failed. Old events were 6; read change was 2 (del): Bad file descriptor"
init 2
printf '[warn] Epo'
sleep 0.1
echo 'll'
echo "coxswain generate: rank 1 says so too"
printf '%s\nA box that\n' "$dashes"
printf 'coxswain: in the '
sleep 0.1
printf 'middle\ngoes on\n%s\n' "$dashes"
printf '%s\nmpirun noticed that process rank 0 exited on signal 9\n%s\n' "$dashes" "$dashes"
printf 'no line end'
exit 7
END
    chmod +x "$folder/bin/mpirun"
    PATH=$folder/bin:$PATH "$job" 2 ok >"$out" 2>&1
    code=$?
    exits 7
    [ "$(grep -c 'MPI_INIT failed' "$out")" -eq 1 ] || fail "shown not once, as it came before the verdict"
    says '^\[host:1\] \*\*\* An error occurred in MPI_Init_thread$'
    says '^coxswain: rank 2 .* is stopped; the job cannot start$'
    says 'coxswain generate: rank 1 says so too$'
    says 'coxswain: in the middle$'
    says '^mpirun noticed that process rank 0 exited on signal 9$'
    [ "$(wc -l <"$out")" -eq 13 ] || fail "noise"
    ;;
stuck-mpirun) # that does not end although the job does is killed
    mkdir "$folder/bin"
    printf '#!/bin/bash\necho "coxswain: a rank has said why the job ends" >&2\ntrap "" TERM USR1\nexec sleep 30\n' >"$folder/bin/mpirun"
    chmod +x "$folder/bin/mpirun"
    PATH=$folder/bin:$PATH "$job" 2 ok >"$out" 2>&1 &
    pid=$!
    finish 12
    exits 10
    [ ! -s "$out" ] || fail "noise"
    PATH=$folder/bin:$PATH "$job" 2 ok >"$out" 2>&1 & # and one that was asked to end early goes on later
    pid=$!
    sleep 1
    kill -USR1 "$pid"
    finish 12
    exits 75
    ;;
no-mpirun)
    mkdir "$folder/empty"
    PATH=$folder/empty "$job" 2 ok >"$out" 2>&1
    code=$?
    exits 3
    says 'apt-get install openmpi-bin'
    ;;
*)
    echo "unknown case $case"
    exit 1
    ;;
esac
