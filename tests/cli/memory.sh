# What inspect foretells is what each rank then holds (the kernel's VmRSS), within a tenth in both directions: random weights
# in the shape of OLMoE-1B-7B cut to 4 layers, 3.7 GB on disk, removed at the end; to 1 layer of 16 experts where disk or
# memory are short.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
if "$coxswain" --version | grep -q sanitizers; then
    echo "skip: the sanitizers' own memory is not foretold"
    exit 77
fi
maker=${BUILD:?the build folder}/tests/bench/make_checkpoint
free_mb=$(df -Pm "$work" | awk 'NR == 2 { print $4 }')
available_mb=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
has_mb() { [ "$free_mb" -ge "$1" ] && [ "$available_mb" -ge "$1" ]; }
cut=(--layers 4)
if ! has_mb 12000; then
    cut=(--layers 1 --experts 16)
    echo "skip: 4 layers need 12000 MB of disk and memory, there are $free_mb and $available_mb"
    has_mb 4000 || exit 77
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
    awk '/^ +[0-9]+  .*iB/ { factor = $6 == "GiB" ? 1073741824 : $6 == "MiB" ? 1048576 : 1024; printf "%.0f\n", $5 * factor }' \
        "$work/table" > "$work/held"
    check "$layout: a number for each rank" test "$(wc -l < "$work/held")" = "$(wc -l < "$work/foretold")" -a -s "$work/held"
    check "$layout: within a tenth" awk 'NR == FNR { foretold[FNR] = $1; next }
        { off = ($1 - foretold[FNR]) / foretold[FNR]; printf "  rank %d: foretold %.0f, held %.0f bytes (%+.1f%%)\n", FNR - 1,
          foretold[FNR], $1, 100 * off; if (off > 0.1 || off < -0.1) bad = 1 } END { exit bad }' \
        "$work/foretold" "$work/held"
}
compare "--ranks 4"
compare "--ranks 2 --experts-on all --kv-memory 64M"
finish
