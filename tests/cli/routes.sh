# coxswain routes: the same numbers on any ranks and coordinators, the table, and what it refuses.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
a=$model/prompts/topic-how.jsonl b=$model/prompts/ordinary-how.jsonl
routes() { "$coxswain" routes --model "$model" --a "$a" --b "$b" --limit 40 "$@" 2> "$work/err.txt"; }
routes --json > "$work/one.json"
check "one rank counts" test $? = 0
check "prompts are counted" grep -q '"prompts": 40' "$work/one.json"
for layout in "--ranks 3" "--ranks 3 --coordinators 2" "--ranks 3 --coordinators 3 --experts-on all --prefill-chunk 5"; do
    # shellcheck disable=SC2086
    routes --json $layout > "$work/more.json"
    check "$layout counts" test $? = 0
    check "$layout prints the same" cmp "$work/one.json" "$work/more.json"
done
routes --top 3 --measure risk --csv "$work/r.csv" --plot "$work/r.svg" > "$work/table.txt"
check "the table has three rows" test "$(grep -Ec '^ +[0-9]+ +[0-9]+ +[-+]' "$work/table.txt")" = 3
check "and says by what it is sorted" grep -q '^3 of 96 experts, by among the chosen, all tokens' "$work/table.txt"
check "the CSV has all experts" test "$(wc -l < "$work/r.csv")" = 97
check "the plot is there" grep -q '</svg>' "$work/r.svg"

base=(routes --model "$model" --a "$a" --b "$b")
refuses 2 "--csv .* exists" "${base[@]}" --csv "$work/r.csv"
refuses 2 "--plot .* exists" "${base[@]}" --plot "$work/r.svg"
refuses 2 "one of top1.topk.risk" "${base[@]}" --measure top2
refuses 2 "--last 0: outside" "${base[@]}" --last 0
refuses 2 "--resamples 5: outside" "${base[@]}" --resamples 5
refuses 2 "cannot be used with --raw" "${base[@]}" --raw --system "Be brief."
refuses 2 "--b FILE is missing" routes --model "$model" --a "$a"
refuses 3 "nowhere.jsonl" routes --model "$model" --a "$work/nowhere.jsonl" --b "$b"
refuses 9 "--plot .*cannot create" "${base[@]}" --limit 2 --plot "$work/nowhere/r.svg"
finish
