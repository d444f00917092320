# A rank that dies or hangs in the middle of a batch: it is named, the job ends within fifteen seconds with a non-zero
# exit code, and every line that was written is whole.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
for i in $(seq 4000); do # of several lengths, so that answers come steadily and the first one soon
    echo '{"custom_id":"'"$i"'","url":"/v1/completions","body":{"prompt":"kite '"$i"'","max_tokens":'"$((10 + i % 90))"',"ignore_eos":true}}'
done > "$work/in.jsonl"

# hurt SIGNAL RANK PATTERN OPTIONS...
hurt() {
    local signal=$1 rank=$2 pattern=$3 pid began got=0
    shift 3
    rm -f "$work/out.jsonl"
    "$coxswain" batch --model "$model" --input "$work/in.jsonl" --output "$work/out.jsonl" "$@" 2> "$work/err.txt" &
    job=$!
    for _ in $(seq 300); do
        [ -s "$work/out.jsonl" ] && break
        sleep 0.1
    done
    check "$* has begun" test -s "$work/out.jsonl"
    pid=$(rank_pid "$rank")
    check "rank $rank is found" test -n "$pid"
    kill -"$signal" "$pid"
    began=$SECONDS
    for _ in $(seq 200); do
        kill -0 $job 2> /dev/null || break
        sleep 0.1
    done
    check "$signal to rank $rank of $*: ended within 15 s" test $((SECONDS - began)) -le 15
    kill -0 $job 2> /dev/null && { kill -CONT "$pid"; kill "$job"; }
    wait $job || got=$?
    check "$signal to rank $rank: a failure" test $got != 0
    check "$signal to rank $rank is named (/$pattern/)" grep -Eq "$pattern" "$work/err.txt"
    check "the last line written is whole" test "$(tail -c 1 "$work/out.jsonl" | od -An -c | tr -d ' ')" = '\n'
    check "every line written is whole" test "$(grep -Ecv '^\{"id".*\}$' "$work/out.jsonl")" = 0
    check "no rank is left" test -z "$(pgrep -f "$work/in.jsonl")"
}

# early DELAY RANK: the rank is stopped so many seconds after its process exists, that is, in or before MPI's start.
early() {
    local delay=$1 rank=$2 pid="" began got=0
    "$coxswain" generate --model "$model" --prompt "$work" --raw --max-tokens 4 --ranks 3 > "$work/out.txt" 2> "$work/err.txt" &
    job=$!
    for _ in $(seq 500); do
        pid=$(rank_pid "$rank" 2> "$work/race.txt")
        [ -n "$pid" ] && break
        sleep 0.01
    done
    check "rank $rank is found as it starts" test -n "$pid"
    sleep "$delay"
    kill -STOP "$pid"
    began=$SECONDS
    for _ in $(seq 200); do
        kill -0 $job 2> /dev/null || break
        sleep 0.1
    done
    check "rank $rank stopped after $delay s: ended within 15 s" test $((SECONDS - began)) -le 15
    kill -0 $job 2> /dev/null && { kill -CONT "$pid"; kill "$job"; }
    wait $job || got=$?
    check "rank $rank stopped after $delay s: a failure" test $got != 0
    check "rank $rank stopped after $delay s is named once" test \
        "$(grep -Ec "rank $rank (\\(process $pid on .*\\) is stopped; the job cannot start|on .* hangs)" "$work/err.txt")" = 1
    check "rank $rank stopped after $delay s: nothing else is said" test "$(wc -l < "$work/err.txt")" = 1
    [ "$(wc -l < "$work/err.txt")" = 1 ] || sed 's/^/    /' "$work/err.txt" >&2
    sleep 2 # mpirun lets go of a stopped process first, then ends it
    check "no rank is left of a start" test -z "$(pgrep -f "$work")"
}

early 0 2
early 0.1 0
hurt KILL 1 "rank 1|process rank 1" --ranks 3
hurt KILL 0 "rank 0|process rank 0" --ranks 3
hurt STOP 2 "rank 2 on .*hangs" --ranks 3
hurt STOP 1 "rank 1 .*hangs" --ranks 3 --coordinators 2
hurt STOP 0 "rank 0 .*hangs" --ranks 3 --coordinators 2
finish
