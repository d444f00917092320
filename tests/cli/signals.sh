# Ctrl-C does what SIGTERM does: batch, generate and sweep end soon with exit code 75 and one sentence, whoever started
# the ranks and whatever they wait for; a second one ends them at once; what mpirun says of it is not shown.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
for i in $(seq 300); do
    echo '{"custom_id":"'"$i"'","url":"/v1/completions","body":{"prompt":"kite '"$i"'","max_tokens":480,"ignore_eos":true}}'
done > "$work/in.jsonl"
batch=(batch --model "$model" --input "$work/in.jsonl" --output "$work/out.jsonl" --force)
generate=(generate --model "$model" --raw --ignore-eos --max-tokens 490 --prompt "$work" --prompt kite --prompt hat)
mkfifo "$work/silent"
exec 7<> "$work/silent" # a writer that writes nothing

# begin FILE ARGUMENTS...: in the background as $job, in a process group of its own and, as a terminal's command, not deaf
# to SIGINT; until FILE is there ("": at once).
begin() {
    local file=$1
    shift
    [ -z "$file" ] || rm -f "$file"
    setsid env --default-signal=INT "$coxswain" "$@" > "$work/out.txt" 2> "$work/err.txt" < "$work/silent" &
    job=$!
    for _ in $(seq 500); do
        if [ -z "$file" ] || [ -s "$file" ] || { [ -e "$file" ] && [ "$file" != "$work/out.txt" ]; }; then break; fi
        sleep 0.02
    done
}

# ends DESCRIPTION PATTERN: $job ends with 75 and says this, once, and nothing else that is no line of progress.
ends() {
    local code=0
    for _ in $(seq 300); do
        kill -0 "$job" 2> /dev/null || break
        sleep 0.05
    done
    kill -0 "$job" 2> /dev/null && kill -KILL "$job"
    wait "$job" || code=$?
    check "$1: exit code $code is 75" test "$code" = 75
    grep -v '^batch: \|^sweep: ' "$work/err.txt" > "$work/said.txt"
    check "$1: one sentence: $(cat "$work/said.txt")" test "$(wc -l < "$work/said.txt")" = 1
    check "$1: it is /$2/" grep -Eq "^coxswain[a-z ]*: $2" "$work/said.txt"
    for _ in $(seq 60); do
        [ -z "$(pgrep -f "$work")" ] && break
        sleep 0.1
    done
    check "$1: no rank is left" test -z "$(pgrep -f "$work")"
}

for ranks in 1 3; do
    begin "$work/out.jsonl" "${batch[@]}" --ranks $ranks --drain-time 0
    kill -INT -- -$job # to mpirun too, as from a terminal
    ends "SIGINT to batch on $ranks" "stopped by a signal with .*the same command goes on"
    for signal in INT TERM; do
        begin "$work/out.txt" "${generate[@]}" --ranks $ranks
        kill -$signal $job
        ends "$signal to generate on $ranks" "stopped by a signal after [0-2] of 3 answers"
        check "generate's line is ended" test "$(tail -c 1 "$work/out.txt" | od -An -c | tr -d ' ')" = '\n'
    done
    begin "$work/out.jsonl" "${batch[@]}" --ranks $ranks --drain-time 600
    sleep 1 # requests are read
    kill -INT $job
    sleep 0.7
    kill -INT $job
    ends "two signals to batch on $ranks" "ended at once"
    begin "$work/out.jsonl" batch --model "$model" --input - --output "$work/out.jsonl" --force --ranks $ranks
    sleep 0.5
    kill -TERM $job
    ends "batch waiting for input on $ranks" "stopped by a signal"
done
# Two keys of a terminal are two wishes, however soon one follows the other. (script: a terminal of its own.)
if command -v script > /dev/null; then
    mkfifo "$work/keys"
    exec 8<> "$work/keys"
    for ranks in 1 3; do
        rm -f "$work/out.jsonl"
        printf -v command '%q ' "$coxswain" "${batch[@]}" --ranks $ranks --drain-time 600
        # exec: a shell that stayed between would die of the keys and hide the exit code.
        SHELL=$BASH env --default-signal=INT script -qec "exec $command 2> $work/err.txt" /dev/null < "$work/keys" > "$work/out.txt" 8>&- &
        job=$!
        for _ in $(seq 500); do [ -e "$work/out.jsonl" ] && break; sleep 0.02; done
        sleep 1
        for _ in 1 2; do
            printf '\003' >&8
            sleep 0.15
        done
        ends "two keys to batch on $ranks" "ended at once, by a second signal"
    done
    exec 8>&-
fi
begin "" generate --model "$model" --prompt-file - --prompt-file "$work/in.jsonl"
sleep 2
kill -INT $job
ends "generate waiting for its prompt" "stopped by a signal while reading -"

# A sweep of 600 cells.
a=$model/prompts/topic-how.jsonl b=$model/prompts/ordinary-how.jsonl
"$coxswain" direction --model "$model" --a "$a" --b "$b" --limit 8 --output "$work/v.safetensors" > /dev/null 2>&1
cat > "$work/grid.json" << GRID
{"version": 1, "blocks": [{"name": "x", "site": "resid_post", "vectors": "v.safetensors", "layers": [0, 1, 2, 3, 4, 5],
  "strengths": [$(seq -s, 100)]}]}
GRID
for ranks in 1 3; do
    begin "$work/cells/stage1.jsonl" sweep --model "$model" --grid "$work/grid.json" --a "$a" --b "$b" \
        --rules "$model/rules.json" --output "$work/cells" --ranks $ranks
    kill -INT -- -$job
    ends "SIGINT to a sweep on $ranks" "stopped by a signal; the same command goes on"
done

# Whenever it comes, from the first moments on; what is said is true of what came out. Work of many seconds on any machine.
many=()
for i in $(seq 60); do many+=(--prompt "kite $i"); done
for moment in 0.1 0.15 0.2 0.3 0.5 0.8 1.2; do
    begin "" "${generate[@]}" "${many[@]}" --ranks 3
    sleep $moment
    kill -INT $job
    ends "SIGINT after $moment s" "(rank . on [^ ]*: )?stopped by a signal"
    check "nothing is there before all had started" test ! -s "$work/out.txt" -o -z "$(grep before "$work/err.txt")"
done

# An mpirun that crashes when it is asked to end, as Open MPI's may; what ranks say stays.
mkdir "$work/bin"
cat > "$work/bin/mpirun" << EOF
#!/bin/bash
trap 'echo "mpirun: Forwarding signal 10 to job" >&2' USR1
trap 'for i in 1 2; do echo "[host:\$\$] *** Process received signal ***"; done >&2; exit 139' TERM
printf '%s\n' "[host:1] rank 0 speaks" "coxswain: all ranks have started" >&2
touch "$work/started"
while :; do sleep 0.1; done
EOF
chmod +x "$work/bin/mpirun"
PATH=$work/bin:$PATH begin "$work/started" "${generate[@]}" --ranks 2
kill -TERM $job
sleep 0.7
kill -TERM $job
sleep 0.3
check "what a rank says is shown" grep -q "rank 0 speaks" "$work/err.txt"
sed -i '/rank 0 speaks/d' "$work/err.txt"
ends "two signals to an mpirun that crashes" "ended at once"

# One whose ranks have started after all, when it is ended for that they had not.
cat > "$work/bin/mpirun" << EOF
#!/bin/bash
trap 'echo "coxswain: all ranks have started" >&2; echo an answer; exit 143' TERM
touch "$work/started"
while :; do sleep 0.1; done
EOF
rm -f "$work/started"
PATH=$work/bin:$PATH begin "" "${generate[@]}" --ranks 2
for _ in $(seq 500); do [ -e "$work/started" ] && break; sleep 0.02; done
kill -TERM $job
sleep 0.7
kill -TERM $job
ends "two signals as the ranks start" "ended by a signal while the ranks started"

# Every line failed.
printf 'no request\n{"custom_id":"a","url":"/v1/completions","body":{"prompt":"kite","tools":[1]}}\n' > "$work/bad.jsonl"
for ranks in 1 2 2; do # the third one has nothing to do
    "$coxswain" batch --model "$model" --input "$work/bad.jsonl" --output "$work/bad.out" --ranks $ranks 2> "$work/err.txt"
    check "all lines failed on $ranks: exit code" test $? = 2
    check "and the first reason" grep -q "every request failed.*reason: line 1: not valid JSON" "$work/err.txt"
done
finish
