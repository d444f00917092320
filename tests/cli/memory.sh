# What inspect foretells is what each rank then holds, within a tenth: random weights in the shape of OLMoE-1B-7B, cut to 4
# layers with --full (3.7 GB on disk), to 1 layer of 16 experts otherwise.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
if "$coxswain" --version | grep -q sanitizers; then
    echo "skip: the sanitizers' own memory is not foretold"
    exit 77
fi
maker=${BUILD:?the build folder}/tests/bench/make_checkpoint
if [ "${COX_TEST_FULL-no}" = yes ]; then cut=(--layers 4) needs_mb=12000; else cut=(--layers 1 --experts 16) needs_mb=4000; fi
free_mb=$(df -Pm "$work" | awk 'NR == 2 { print $4 }')
available_mb=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
if [ "$free_mb" -lt "$needs_mb" ] || [ "$available_mb" -lt "$needs_mb" ]; then
    echo "skip: needs $needs_mb MB of disk and memory, there are $free_mb and $available_mb"
    exit 77
fi
"$maker" "$work/model" "${cut[@]}" > /dev/null
check "the checkpoint is made" test -f "$work/model/config.json"

# compare LAYOUT: the table's resident memory against inspect's total, rank by rank.
compare() {
    local layout=$1
    # shellcheck disable=SC2086
    "$coxswain" inspect --model "$work/model" $layout --json | sed -n 's/.*"total": \([0-9]*\).*/\1/p' > "$work/foretold"
    # shellcheck disable=SC2086
    "$coxswain" logits --model "$work/model" --tokens "1 2 3 4 5 6 7 8" --output "$work/logits.safetensors" --force \
        $layout --stats --progress none 2> "$work/table"
    check "$layout runs" test $? = 0
    awk '/^ +[0-9]+  / { factor = $6 == "GiB" ? 1073741824 : $6 == "MiB" ? 1048576 : 1024; print $5 * factor }' \
        "$work/table" > "$work/held"
    check "$layout: a number for each rank" test "$(wc -l < "$work/held")" = "$(wc -l < "$work/foretold")" -a -s "$work/held"
    check "$layout: within a tenth" awk 'NR == FNR { foretold[FNR] = $1; next }
        { off = ($1 - foretold[FNR]) / foretold[FNR]; printf "  rank %d: foretold %d, held %d bytes (%+.1f%%)\n", FNR - 1,
          foretold[FNR], $1, 100 * off; if (off > 0.1 || off < -0.1) bad = 1 } END { exit bad }' \
        "$work/foretold" "$work/held"
}
compare "--ranks 4"
compare "--ranks 2 --experts-on all --kv-memory 64M"
finish
