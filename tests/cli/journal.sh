# A batch that is killed and started again, any number of times and whichever rank it hits, ends with every answer once
# and the bytes of an undisturbed run; signals that ask it to stop end it soon with exit code 75.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
for i in $(seq 600); do # of several lengths, so that answers come steadily and the first one soon
    case $((i % 10)) in
        3) more='"n":3,"temperature":1,"presence_penalty":0.5,' ;;
        6) more='"echo":true,"logprobs":1,' ;;
        *) more= ;;
    esac
    echo '{"custom_id":"'"$i"'","url":"/v1/completions","body":{"prompt":"kite '"$i"'",'"$more"'"max_tokens":'"$((5 + i % 60))"',"ignore_eos":true,"logits_digest":true}}'
done > "$work/in.jsonl"
{ # lines that get an error belong to the answers too
    echo 'no request'
    echo '{"custom_id":"7","url":"/v1/completions","body":{"prompt":"again"}}'
    echo '{"custom_id":"long","url":"/v1/completions","body":{"prompt":"kite","max_tokens":-1}}'
} >> "$work/in.jsonl"
n_lines=603
in=(batch --model "$model" --input "$work/in.jsonl")

# What an answer says, but for when it was made and what was found in the cache.
sorted() { sed -E 's/"created":[0-9]+/"created":0/; s/"cached_tokens":[0-9]+/"cached_tokens":0/' "$1" | LC_ALL=C sort; }
"$coxswain" "${in[@]}" --output "$work/whole.jsonl" 2> "$work/err.txt"
check "the undisturbed run" test $? = 0
sorted "$work/whole.jsonl" > "$work/whole.sorted"
same() { # DESCRIPTION
    check "$1: each answer once" test "$(wc -l < "$work/out.jsonl")" = $n_lines
    check "$1: as undisturbed" cmp <(sorted "$work/out.jsonl") "$work/whole.sorted"
}

lines() { wc -l 2> /dev/null < "$work/out.jsonl" || echo 0; }

# begin N OPTIONS...: the run in the background as $job, until it has written N more lines or has ended.
begin() {
    local n=$(($(lines) + $1))
    shift
    "$coxswain" "${in[@]}" --output "$work/out.jsonl" "$@" 2> "$work/err.txt" &
    job=$!
    for _ in $(seq 1000); do
        [ "$(lines)" -ge $n ] && break
        kill -0 $job 2> /dev/null || break
        sleep 0.02
    done
}

# ends SECONDS: waits for the end of $job, sets `code`.
ends() {
    local n=0
    code=0
    while kill -0 $job 2> /dev/null && [ $((n += 1)) -le $(($1 * 20)) ]; do sleep 0.05; done
    kill -0 $job 2> /dev/null && { code=still-running; kill -KILL $job; wait $job 2> /dev/null; return; }
    wait $job || code=$?
}

# --- Every rank is killed at several moments; the last run is left alone.
n_kills=0
kill_ranks() { # RANKS ROUNDS OPTIONS...
    local ranks=$1 rounds=$2 rank round pid before
    shift 2
    rm -f "$work/out.jsonl"*
    for round in $(seq "$rounds"); do
        for rank in $(seq 0 $((ranks - 1))); do
            before=$(lines)
            begin $((RANDOM % 60)) --ranks "$ranks" "$@"
            sleep "0.0$((RANDOM % 10))"
            pid=$job
            [ "$ranks" = 1 ] || pid=$(rank_pid "$rank")
            [ -n "$pid" ] && kill -KILL "$pid" 2> /dev/null && n_kills=$((n_kills + 1))
            ends 15
            check "rank $rank of $ranks $*, round $round: ended" test "$code" != still-running
            # A line that was being written may go, others never do.
            check "rank $rank of $ranks $*, round $round: nothing was lost" test "$(lines)" -ge $((before - 1))
        done
    done
    "$coxswain" "${in[@]}" --output "$work/out.jsonl" --ranks "$ranks" "$@" 2> "$work/err.txt"
    check "$ranks $*: the last run" test $? = 0
    same "$ranks ranks $*"
}
kill_ranks 1 4
kill_ranks 3 1 --coordinators 2
check "runs were killed ($n_kills)" test "$n_kills" -ge 4

# --- The same command once more has nothing to do, on any number of ranks; other commands are refused.
before=$(stat -c %Y.%s "$work/out.jsonl")
"$coxswain" "${in[@]}" --output "$work/out.jsonl" --ranks 2 2> "$work/err.txt"
check "nothing is left to do" test $? = 0
check "and that is told" grep -q "has $n_lines answers of this run" "$work/err.txt"
check "and nothing was written" test "$before" = "$(stat -c %Y.%s "$work/out.jsonl")"
refuses 2 "another run.*seed was 0 and is 4" "${in[@]}" --output "$work/out.jsonl" --seed 4
refuses 2 "another run.*max_tokens was 256 and is 5" "${in[@]}" --output "$work/out.jsonl" --max-tokens 5
head -n 20 "$work/in.jsonl" > "$work/other.jsonl"
refuses 2 "another run.*input was" batch --model "$model" --input "$work/other.jsonl" --output "$work/out.jsonl"
cp -r "$model" "$work/model"
refuses 2 "another run.*model was" batch --model "$work/model" --input "$work/in.jsonl" --output "$work/out.jsonl"
"$coxswain" batch --model "$work/model" --input "$work/other.jsonl" --output "$work/few.jsonl" --max-tokens 2 2> "$work/err.txt"
dd if=/dev/zero of="$work/model/model.safetensors" bs=1M seek=2 count=3 conv=notrunc 2> /dev/null
refuses 2 "another run.*model_weights was" \
    batch --model "$work/model" --input "$work/other.jsonl" --output "$work/few.jsonl" --max-tokens 2
rm "$work/few.jsonl.journal"
refuses 2 "no journal" batch --model "$model" --input "$work/other.jsonl" --output "$work/few.jsonl"
check "all of them left the answers alone" test "$before" = "$(stat -c %Y.%s "$work/out.jsonl")"

# --- A line torn off, and one that somebody changed.
head -n 400 "$work/out.jsonl.journal" | grep -v '^synced' > "$work/torn" # the header and at most 399 results
truncate -s -9 "$work/torn"
cp "$work/torn" "$work/out.jsonl.journal"
truncate -s -100 "$work/out.jsonl"
"$coxswain" "${in[@]}" --output "$work/out.jsonl" 2> "$work/err.txt"
check "torn files go on" test $? = 0
check "what is cut is told" grep -Eq 'has 3[0-9]{2} answers.*unfinished bytes cut' "$work/err.txt"
same "torn"
cp "$work/out.jsonl" "$work/changed.jsonl"
cp "$work/out.jsonl.journal" "$work/changed.jsonl.journal"
sed -i '3s/status_code/status_kode/' "$work/changed.jsonl"
refuses 4 "changed.jsonl: line 3 .*is not what" "${in[@]}" --output "$work/changed.jsonl"
"$coxswain" batch --model "$model" --input "$work/other.jsonl" --output "$work/changed.jsonl" --force 2> "$work/err.txt"
check "--force begins anew" test "$?,$(wc -l < "$work/changed.jsonl")" = 0,20

# --- A full disk. (On one rank: mpirun has large files of its own.)
rm -f "$work/out.jsonl"*
(trap '' XFSZ; ulimit -f 100; exec "$coxswain" "${in[@]}" --output "$work/out.jsonl" 2> "$work/err.txt")
check "a full disk ends with 9" test $? = 9
check "and is named" grep -q 'out.jsonl.*cannot write' "$work/err.txt"
check "whole lines only" test "$(tail -c 1 "$work/out.jsonl" | od -An -c | tr -d ' ')" = '\n'
"$coxswain" "${in[@]}" --output "$work/out.jsonl" 2> "$work/err.txt"
check "with room it goes on" test $? = 0
same "full disk"

# --- A second run of the same command while the first is writing.
rm -f "$work/out.jsonl"*
begin 1
kill -STOP $job
code=0
"$coxswain" "${in[@]}" --output "$work/out.jsonl" 2> "$work/err.txt" || code=$?
check "two at once: exit code 8" test $code = 8
check "and why" grep -q 'another run is writing' "$work/err.txt"
kill -KILL $job
wait $job 2> /dev/null

# --- Asked to stop.
stopped() { # DESCRIPTION: the end of $job after a signal, and the run after that
    ends 15
    check "$1: exit code 75" test "$code" = 75
    check "$1: says that it goes on" grep -q 'the same command goes on' "$work/err.txt"
    check "$1: not at the end" test "$(lines)" -lt $n_lines
    check "$1: no rank is left" test -z "$(pgrep -f "$work/in.jsonl")"
    "$coxswain" "${in[@]}" --output "$work/out.jsonl" 2> "$work/err.txt"
    check "$1: the next run" test $? = 0
    same "$1"
    rm -f "$work/out.jsonl"*
}
rm -f "$work/out.jsonl"*
begin 1 --drain-time 0
kill -TERM $job
stopped "SIGTERM, alone"
begin 1 --ranks 3 --coordinators 2 --drain-time 0
kill -TERM $job
stopped "SIGTERM, 3 ranks, 2 coordinators"
begin 1 --ranks 2 --drain-time 5 # long enough for what runs and waits
kill -USR1 $job
stopped "SIGUSR1, with time"

# An mpirun of one's own passes SIGUSR1 to its ranks.
OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none -n 3 \
    "$coxswain" "${in[@]}" --output "$work/out.jsonl" --drain-time 0 2> "$work/err.txt" &
job=$!
for _ in $(seq 500); do
    [ -s "$work/out.jsonl" ] && break
    sleep 0.02
done
kill -USR1 $job
stopped "SIGUSR1 to mpirun"
finish
