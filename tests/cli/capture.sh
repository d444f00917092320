# coxswain capture: the same files on any ranks and coordinators, and what it refuses.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
a=$model/prompts/topic-how.jsonl b=$model/prompts/ordinary-how.jsonl
capture() { "$coxswain" capture --model "$model" --input "$a" --input "$b" --limit 40 "$@" 2> "$work/err.txt"; }
# same NAME OPTION...: one rank and others write the same folder.
same() {
    local name=$1 layout
    shift
    capture --output "$work/$name" "$@" > "$work/out.txt"
    check "$name: one rank writes" test $? = 0
    for layout in "--ranks 3 --exchange alltoall" "--ranks 4 --coordinators 3 --experts-on all --prefill-chunk 7"; do
        rm -rf "$work/other"
        # shellcheck disable=SC2086
        capture --output "$work/other" "$@" $layout > /dev/null
        check "$name: $layout writes the same files" diff -r "$work/$name" "$work/other"
    done
}
same rows --sites all --routes --positions all
check "shards of 32 prompts" test "$(find "$work/rows" -name 'rows-*.safetensors' | wc -l)" = 3
check "says what there is" grep -q ' rows of 80 prompts, .* shards$' "$work/out.txt"
check "the index has an end" grep -q '"first_prompt": 64' "$work/rows/index.json"
same experts --sites expert_out --counterfactual --layers 1,3 --positions -1,-4
same statistics --sites expert_out,resid_post --statistics --positions all
same counterfactual --sites expert_out --counterfactual --statistics --positions -1,-2
same routes --routes
check "routes alone" test "$(tail -c 1000000 "$work/routes/rows-00000.safetensors" | grep -c resid)" = 0

base=(capture --model "$model" --input "$a" --output "$work/new")
refuses 2 "is not empty" capture --model "$model" --input "$a" --output "$work/rows"
capture --output "$work/rows" --statistics --force > /dev/null
check "--force takes the old shards away" test "$(find "$work/rows" -type f | wc -l)" = 2
refuses 2 "unknown site" "${base[@]}" --sites resid
refuses 2 "only the site expert_out has experts" "${base[@]}" --experts 3
refuses 2 "not among --sites" "${base[@]}" --counterfactual
refuses 2 "coxswain routes" "${base[@]}" --routes --statistics
refuses 2 "layers 0 to 5" "${base[@]}" --layers 2,6
refuses 2 "must be last, all" "${base[@]}" --positions first
refuses 2 "none is number 900 from its end" "${base[@]}" --positions -900
refuses 2 "--input FILE is missing" capture --model "$model" --output "$work/new"
refuses 3 "nowhere.jsonl" "${base[@]}" --input "$work/nowhere.jsonl"
refuses 9 "cannot make the folder" capture --model "$model" --input "$a" --output "$work/no/such/folder"
finish
