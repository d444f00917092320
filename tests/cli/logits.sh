# coxswain logits: a safetensors file with the same bytes on any ranks.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
ids="5, 6 7,8 9 10 11 12"
"$coxswain" logits --model "$model" --tokens "$ids" --output "$work/one.safetensors"
check "one rank writes" test $? = 0
for layout in "--ranks 3" "--ranks 2 --experts-on all --prefill-chunk 3" "--ranks 2 --kernel reference"; do
    # shellcheck disable=SC2086
    "$coxswain" logits --model "$model" --tokens "$ids" --output "$work/more.safetensors" --force $layout 2> "$work/err.txt"
    check "$layout writes" test $? = 0
    check "$layout gives the same bytes" cmp "$work/one.safetensors" "$work/more.safetensors"
done
vocabulary=$("$coxswain" inspect --model "$model" --json | sed -n 's/.*"vocab_size": \([0-9]*\).*/\1/p')
check "the header tells the shape" grep -aq "\"shape\":\[8,$vocabulary\]" "$work/one.safetensors"
header=$(od -An -t u8 -N 8 "$work/one.safetensors" | tr -d ' ')
check "the file has its size" test "$(stat -c %s "$work/one.safetensors")" = $((8 + header + 8 * vocabulary * 4 + 8 * 4))
# More ranks than experts of a layer: some wait in each layer, and that is said once.
tiny=tests/golden/models/olmoe-plain-f32
"$coxswain" logits --model $tiny --tokens "1,2,3,4,5,6,7" --output "$work/tiny1.safetensors"
"$coxswain" logits --model $tiny --tokens "1,2,3,4,5,6,7" --output "$work/tiny6.safetensors" --ranks 6 2> "$work/err.txt"
check "five ranks for four experts" test $? = 0
check "gives the same bytes" cmp "$work/tiny1.safetensors" "$work/tiny6.safetensors"
check "says who waits" test "$(grep -c '^warning: 5 ranks for the 4 experts of a layer' "$work/err.txt")" = 1
echo "$ids" > "$work/ids.txt"
"$coxswain" logits --model "$model" --tokens-file "$work/ids.txt" --output "$work/file.safetensors"
check "ids from a file" cmp "$work/one.safetensors" "$work/file.safetensors"

# Into the folder of the model: its own files are safe, also those that only an index names; others are replaced.
mkdir "$work/own"
cp "$model"/*.json "$work/own"
cp "$model/model.safetensors" "$work/own/part.safetensors"
{ # all tensors in one shard
    printf '{"weight_map":{'
    head -c $((8 + $(od -An -t u8 -N 8 "$model/model.safetensors"))) "$model/model.safetensors" | tail -c +9 | tr '{' '\n' |
        grep -ao '"[a-z][a-z_.0-9]*":$' | grep -v metadata | sed 's/$/"part.safetensors"/' | paste -sd,
    printf '}}'
} > "$work/own/model.safetensors.index.json"
for round in 1 2; do
    "$coxswain" logits --model "$work/own" --tokens "$ids" --output "$work/own/logits.safetensors" --force
    check "round $round" test $? = 0
    check "into the model's folder, round $round" cmp "$work/own/logits.safetensors" "$work/one.safetensors"
done
refuses 2 "which this command reads" logits --model "$work/own" --tokens 1 --output "$work/own/part.safetensors" --force
refuses 2 "which this command reads" logits --model "$work/own" --tokens 1 --output "$work/own/tokenizer.json" --force

refuses 2 "exists" logits --model "$model" --tokens "1" --output "$work/one.safetensors"
refuses 2 "\"x\" is not a token id" logits --model "$model" --tokens "1 x" --output "$work/new.safetensors"
refuses 2 "99999999" logits --model "$model" --tokens "1 99999999" --output "$work/new.safetensors"
refuses 2 "empty" logits --model "$model" --tokens " " --output "$work/new.safetensors"
refuses 2 "either" logits --model "$model" --output "$work/new.safetensors"
refuses 7 "context|positions" logits --model "$model" --tokens "$(printf '5 %.0s' $(seq 5000))" --output "$work/new.safetensors"
check "nothing is left behind" test "$(find "$work" -name 'new*' | wc -l)" = 0
finish
