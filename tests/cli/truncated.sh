# A shard that is truncated while ranks compute with it: the file and a rank are named, the job ends within fifteen
# seconds with the exit code of a failed input, and every line that was written is whole.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
for i in $(seq 4000); do
    echo '{"custom_id":"'"$i"'","url":"/v1/completions","body":{"prompt":"kite '"$i"'","max_tokens":'"$((10 + i % 90))"',"ignore_eos":true}}'
done > "$work/in.jsonl"

# truncated RANKS: to a megabyte, when the first answers are there.
truncated() {
    local own=$work/model$1 out=$work/out$1.jsonl began got=0
    mkdir "$own"
    cp "$model"/*.json* "$model"/*.jinja "$model/model.safetensors" "$own" 2> "$work/err.txt"
    "$coxswain" batch --model "$own" --input "$work/in.jsonl" --output "$out" --ranks "$1" 2> "$work/err.txt" &
    job=$!
    for _ in $(seq 300); do
        [ -s "$out" ] && break
        sleep 0.1
    done
    check "$1 ranks: has begun" test -s "$out"
    truncate -s 1000000 "$own/model.safetensors"
    began=$SECONDS
    for _ in $(seq 200); do
        kill -0 $job 2> /dev/null || break
        sleep 0.1
    done
    check "$1 ranks: ended within 15 s" test $((SECONDS - began)) -le 15
    kill -0 $job 2> /dev/null && kill "$job"
    wait $job || got=$?
    check "$1 ranks: exit code $got" test $got = 9
    check "$1 ranks: file and rank are named" grep -Eq \
        "^coxswain: rank [0-9] on .*: $own/model.safetensors: the file was truncated or cannot be read while it was in use; " "$work/err.txt"
    check "$1 ranks: no trace of calls" test "$(grep -Ec "Signal|mpirun|\[[0-9a-f]+\]" "$work/err.txt")" = 0
    check "$1 ranks: every line written is whole" test "$(grep -Ecv '^\{"id".*\}$' "$out")" = 0
    check "$1 ranks: no rank is left" test -z "$(pgrep -f "$own")"
}

truncated 1
truncated 3
finish
