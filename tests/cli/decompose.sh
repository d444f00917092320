# coxswain decompose: the same parts on any ranks and coordinators, the table, and what it refuses.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
a=$model/prompts/topic-how.jsonl b=$model/prompts/ordinary-how.jsonl v=$work/v.safetensors
"$coxswain" direction --model "$model" --a "$a" --b "$b" --limit 20 --output "$v" > /dev/null 2>&1
decompose() { "$coxswain" decompose --model "$model" --a "$a" --b "$b" --limit 20 "$@" 2> "$work/err.txt"; }
decompose --vector "$v#resid_post.3" --json > "$work/one.json"
check "one rank measures" test $? = 0
for layout in "--ranks 3" "--ranks 3 --coordinators 2" "--ranks 3 --coordinators 3 --experts-on all --prefill-chunk 5"; do
    # shellcheck disable=SC2086
    decompose --vector "$v#resid_post.3" --json $layout > "$work/more.json"
    check "$layout measures" test $? = 0
    check "$layout prints the same" cmp "$work/one.json" "$work/more.json"
done
decompose --vector "$v#resid_post.3" --top 4 --csv "$work/d.csv" > "$work/table.txt"
check "shares are of the vector's layer" grep -q 'what stands after layer 3$' "$work/table.txt"
check "where they are the whole" grep -Eq '^ +3 .* 100\.0%$' "$work/table.txt"
check "shares are summed up" grep -Eq '^up to layer 3: embedding 0.0%, attention [0-9.]+%, experts -?[0-9.]+%$' "$work/table.txt"
check "four experts" grep -q '^4 of 96 experts' "$work/table.txt"
check "the CSV has all parts" test "$(wc -l < "$work/d.csv")" = $((1 + 1 + 3 * 6 + 96))
decompose --vector "$v#resid_post.3" --rules "$model/rules.json" --effects experts --json > "$work/one.json"
decompose --vector "$v#resid_post.3" --rules "$model/rules.json" --effects experts --json --ranks 3 --coordinators 2 > "$work/more.json"
check "effects are measured" test -s "$work/one.json"
check "effects are the same on more ranks" cmp "$work/one.json" "$work/more.json"
check "there are 2 * 6 + 96 and everywhere" test "$(grep -Ec '"(effect|everywhere)": ' "$work/one.json")" = 109
decompose --vector "$v#resid_post.3" --rules "$model/rules.json" --effects layers > "$work/table.txt"
check "their table" grep -Eq '^  all .*\(after every layer\)$' "$work/table.txt"
decompose --vector "$v#resid_pre.2" > /dev/null
check "a name that is not there is told" grep -q "resid_pre.2" "$work/err.txt"

base=(decompose --model "$model" --a "$a" --b "$b" --limit 4)
refuses 2 "--vector FILE.*is missing" "${base[@]}"
refuses 3 "nowhere.safetensors" "${base[@]}" --vector "$work/nowhere.safetensors"
refuses 2 "holds" "${base[@]}" --vector "$v"
refuses 2 "--position .*: one token" "${base[@]}" --vector "$v#resid_post.3" --position -1,-2
refuses 2 "--layer .*: one layer" "${base[@]}" --vector "$v#resid_post.3" --layer 1,2
refuses 2 "layers 0 to 5" "${base[@]}" --vector "$v#resid_post.3" --layer 6
refuses 2 "line 1: the prompt has .* none is number 900" "${base[@]}" --vector "$v#resid_post.3" --position -900
refuses 2 "--effects needs --rules" "${base[@]}" --vector "$v#resid_post.3" --effects layers
refuses 2 "--csv .* exists" "${base[@]}" --vector "$v#resid_post.3" --csv "$work/d.csv"
refuses 2 "do not differ" decompose --model "$model" --a "$a" --b "$a" --limit 4 --vector "$v#resid_post.3"
finish
