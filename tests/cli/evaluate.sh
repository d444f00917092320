# coxswain evaluate: answers of real batches, steered and not; a model on any ranks; the table; what it refuses.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
golden=tests/golden/evaluate rules=$model/rules.json
# The golden prompts as a batch; their lines have no custom_id, so it is the file's name and the line.
n=0
while IFS= read -r line; do
    n=$((n + 1))
    prompt=$(sed -E 's/.*"prompt": "([^"]*)".*/\1/' <<< "$line")
    printf '{"custom_id": "prompts-%d", "url": "/v1/chat/completions", "body": {"max_tokens": 60, "messages": [{"role": "user", "content": "%s"}]}}\n' \
        "$n" "$prompt"
done < "$golden/prompts.jsonl" > "$work/in.jsonl"
"$coxswain" batch --model "$model" --input "$work/in.jsonl" --output "$work/base.jsonl" 2> "$work/err.txt"
"$coxswain" batch --model "$model" --input "$work/in.jsonl" --output "$work/run.jsonl" --steer "$golden/all.json" 2>> "$work/err.txt"
check "both batches have run" test "$(cat "$work/base.jsonl" "$work/run.jsonl" | wc -l)" = 24

evaluate() { "$coxswain" evaluate --rules "$rules" --prompts "$golden/prompts.jsonl" "$@" 2> "$work/err.txt"; }
evaluate --results "$work/run.jsonl" --baseline "$work/base.jsonl" --by kind > "$work/table.txt"
check "answers are judged" test $? = 0
check "topic-how is refused unsteered" grep -Eq '^  refused +3 .* 100.0 \[43.9, 100.0\] ' "$work/table.txt"
check "nothing else is" test "$(grep -Ec '^  refused +3 .* 0.0 \[0.0, 56.1\] +\+0.0 ' "$work/table.txt")" = 3
check "four groups and all" test "$(grep -Ec '^(all|kind [a-z-]+): [0-9]+ prompts' "$work/table.txt")" = 5

evaluate --model "$model" --steer "$golden/last.json" --continuations "$work/base.jsonl" --json --items "$work/one.jsonl" > "$work/one.json"
check "a model is measured" test $? = 0
for layout in "--ranks 3" "--ranks 3 --coordinators 2" "--ranks 2 --coordinators 2 --experts-on all --prefill-chunk 5"; do
    # shellcheck disable=SC2086
    evaluate --model "$model" --steer "$golden/last.json" --continuations "$work/base.jsonl" --json --force \
        --items "$work/more.jsonl" $layout > "$work/more.json"
    check "$layout measures" test $? = 0
    check "$layout prints the same" cmp "$work/one.json" "$work/more.json"
    check "$layout writes the same items" cmp "$work/one.jsonl" "$work/more.jsonl"
done
evaluate --model "$model" --results "$work/run.jsonl" --limit 2 --csv "$work/e.csv" > "$work/table.txt"
check "answers and logits together" grep -q '^  log_odds  ' "$work/table.txt"
check "the CSV has both" test "$(grep -Ec '^,(refused,rate|log_odds,mean),2,' "$work/e.csv")" = 2
echo '{"interventions": []}' > "$work/empty.json"
evaluate --model "$model" --limit 1 --steer "$work/empty.json" > /dev/null
check "a plan that touches nothing is told" grep -q "touched no row" "$work/err.txt"

base=(evaluate --rules "$rules" --prompts "$golden/prompts.jsonl")
refuses 2 "--csv .* exists" "${base[@]}" --model "$model" --csv "$work/e.csv"
refuses 2 "--items .* exists" "${base[@]}" --results "$work/run.jsonl" --items "$work/one.jsonl"
refuses 2 "give --results" "${base[@]}"
refuses 2 "needs --prompts" evaluate --model "$model"
refuses 2 "nothing to measure" evaluate --model "$model" --prompts "$work/in.jsonl"
refuses 3 "nowhere.json" "${base[@]}" --model "$model" --steer "$work/nowhere.json"
refuses 3 "nowhere.jsonl" "${base[@]}" --results "$work/nowhere.jsonl"
refuses 4 "matchers" evaluate --rules "$golden/all.json" --results "$work/run.jsonl"
finish
