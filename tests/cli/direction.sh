# coxswain direction: the same bytes on any ranks and coordinators, and what it refuses.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
a=$model/prompts/topic-how.jsonl b=$model/prompts/ordinary-how.jsonl
direction() { "$coxswain" direction --model "$model" --a "$a" --b "$b" --limit 80 "$@" 2> "$work/err.txt"; }
direction --output "$work/one.safetensors" > "$work/one.txt"
check "one rank writes" test $? = 0
check "a line for each layer" grep -q '^resid_post.5 .*norm .*mean on it: a .*, b ' "$work/one.txt"
for layout in "--ranks 3" "--ranks 3 --coordinators 2" "--ranks 3 --coordinators 3 --experts-on all --prefill-chunk 5"; do
    # shellcheck disable=SC2086
    direction --output "$work/more.safetensors" --force $layout > "$work/more.txt"
    check "$layout writes" test $? = 0
    check "$layout gives the same bytes" cmp "$work/one.safetensors" "$work/more.safetensors"
    check "$layout prints the same" cmp "$work/one.txt" "$work/more.txt"
done
experts=(--site expert_out --position -1,-2,-5 --filter-rules "$model/rules.json")
direction --output "$work/one.safetensors" --force "${experts[@]}" > "$work/one.txt"
check "all experts in one pass" test "$(grep -c '^expert_out' "$work/one.txt")" = 288
check "what it took" grep -q "passes: 160, one for each prompt; forcing the router would take 15360," "$work/one.txt"
check "the filter says what it kept" grep -Eq "topic-how.jsonl: (6|7)[0-9] of 80 prompts pass" "$work/one.txt"
for method in mean-difference pc1; do
    direction --output "$work/one.safetensors" --force "${experts[@]}" --method $method > "$work/one.txt"
    for layout in "--ranks 2 --exchange alltoall" "--ranks 4 --coordinators 3 --experts-on all --prefill-chunk 5"; do
        # shellcheck disable=SC2086
        direction --output "$work/more.safetensors" --force "${experts[@]}" --method $method $layout > "$work/more.txt"
        check "$method of experts, $layout: the same bytes" cmp "$work/one.safetensors" "$work/more.safetensors"
        check "$method of experts, $layout: prints the same" cmp "$work/one.txt" "$work/more.txt"
    done
done
direction --output "$work/one.safetensors" --force > "$work/one.txt"
check "vector show reads it" grep -q 'site resid_post, layer 3, model' <("$coxswain" vector show "$work/one.safetensors")
check "and where it came from" grep -q '"file":"'"$a"'".*"prompts":80' <("$coxswain" vector show "$work/one.safetensors")

base=(direction --model "$model" --a "$a" --b "$b" --output "$work/new.safetensors")
refuses 2 "exists" direction --model "$model" --a "$a" --b "$b" --output "$work/one.safetensors"
refuses 2 "unknown site" "${base[@]}" --site resid
refuses 2 "only --site expert_out has experts" "${base[@]}" --expert 3
refuses 2 "experts 0 to 15" "${base[@]}" --site expert_out --expert 1,16
refuses 2 "is not a number, nor a list" "${base[@]}" --layer 1,
refuses 2 "is not a number, nor a list" "${base[@]}" --layer ""
refuses 2 "is there twice" "${base[@]}" --position -1,-3,-1
refuses 2 "not a place from the end" "${base[@]}" --position -1,0
refuses 2 "mean-difference|pc1" "${base[@]}" --method pca
refuses 2 "outside the vocabulary" "${base[@]}" --filter-tokens 5,100000
refuses 2 "the set of first tokens has 0" "${base[@]}" --filter-tokens ""
refuses 2 "has no token" "${base[@]}" --filter-phrase ""
refuses 3 "nowhere.json" "${base[@]}" --filter-rules "$work/nowhere.json"
refuses 2 "topic-how.jsonl: the filter leaves none of its 5 prompts" "${base[@]}" --limit 5 --filter-phrase To
refuses 2 "layers 0 to 5" "${base[@]}" --layer 6
refuses 2 "layers 0 to 5" "${base[@]}" --layer -1
refuses 2 "must be last, mean" "${base[@]}" --position first
refuses 2 "topic-how.jsonl: line 1: the prompt has .* tokens, so none is number 900" "${base[@]}" --position -900
refuses 2 "outside 1 to" "${base[@]}" --limit 0
refuses 2 "same mean" direction --model "$model" --a "$a" --b "$a" --output "$work/new.safetensors"
refuses 2 "same mean" "${base[@]}" --site resid_pre --layer 0
refuses 3 "nowhere.jsonl" direction --model "$model" --a "$work/nowhere.jsonl" --b "$b" --output "$work/new.safetensors"
refuses 2 "--b FILE is missing" direction --model "$model" --a "$a" --output "$work/new.safetensors"

# bad CODE PATTERN TEXT [OPTION...]: a file whose second line is TEXT is refused, naming it.
bad() {
    local code=$1 pattern=$2 text=$3
    shift 3
    printf '{"prompt": "How?"}\n%s\n' "$text" > "$work/bad.jsonl"
    refuses "$code" "bad.jsonl: line 2.*$pattern" direction --model "$model" --a "$work/bad.jsonl" --b "$b" \
        --output "$work/new.safetensors" "$@"
}
bad 4 "a line is" '{"text": "How?"}'
bad 4 "a line is" '["How?"]'
bad 4 "" '{"prompt": "How?"'
bad 4 "prompt" '{"prompt": 5}'
bad 4 "message 0" '{"messages": ["x"]}'
bad 5 "url" '{"custom_id": "1", "method": "POST", "url": "/v1/x", "body": {"prompt": "x"}}'
bad 2 "its own system message; --system" '{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]}' \
    --system "Be brief."
bad 2 "its own messages; --raw" '{"messages": [{"role": "user", "content": "x"}]}' --raw
bad 7 "context of" "{\"prompt\": \"$(printf 'hat %.0s' $(seq 5000))\"}"
: > "$work/empty.jsonl"
refuses 2 "no prompts" direction --model "$model" --a "$work/empty.jsonl" --b "$b" --output "$work/new.safetensors"
check "nothing is left behind" test "$(find "$work" -name 'new*' | wc -l)" = 0
finish
