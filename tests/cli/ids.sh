# Work on token ids needs no tokenizer.json, and an end token beyond the vocabulary matters to no one but who generates text.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
bare=$work/bare
mkdir "$bare"
cp "$model/config.json" "$model/model.safetensors" "$bare"
echo '{"eos_token_id": [2, 50279]}' > "$bare/generation_config.json"
echo '{"name": "half", "interventions": [{"op": "scale", "site": "moe_out", "layer": 1, "factor": 0.5}]}' > "$work/half.json"
ids="5,6,7,8,9"

# Without and with it: the same numbers, and nobody hears of the end token.
for folder in "$bare" "$model"; do
    name=$(basename "$folder")
    "$coxswain" logits --model "$folder" --tokens $ids --output "$work/$name.safetensors" 2> "$work/err"
    check "logits of $name" test $? = 0
    check "and not a word" test ! -s "$work/err"
    "$coxswain" logits --model "$folder" --tokens $ids --steer "$work/half.json" --output "$work/$name-steered.safetensors"
    check "steered logits of $name" test $? = 0
done
check "the same logits" cmp "$work/bare.safetensors" "$work/$(basename "$model").safetensors"
check "the same steered" cmp "$work/bare-steered.safetensors" "$work/$(basename "$model")-steered.safetensors"
check "plan check" "$coxswain" plan check --model "$bare" "$work/half.json" > /dev/null
check "inspect" "$coxswain" inspect --model "$bare" --ranks 3 > /dev/null

line() { # ID PROMPT MORE
    echo "{\"custom_id\":\"$1\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":$2,\"max_tokens\":6,\"logits_digest\":true${3:-}}}"
}
{
    line a "[5,6,7,8,9]" ',"ignore_eos":true'
    line b "[5,6,7]" ',"logprobs":1'
    line c '"a kite"'
    line d "[5,6,7]" ',"stop":"x"'
    echo '{"custom_id":"e","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"hi"}]}}'
} > "$work/in.jsonl"
for ranks in 1 3; do # on three ranks two take requests
    "$coxswain" batch --model "$bare" --input "$work/in.jsonl" --output "$work/out$ranks.jsonl" --ranks $ranks \
        --coordinators $(((ranks + 1) / 2)) 2> "$work/err"
    check "batch on $ranks" test $? = 0
    check "it tells of the end token that never comes" grep -q 'generation_config.json: key "eos_token_id" is \[2, 50279\], but vocab_size' "$work/err"
    for id in a b c d e; do grep "\"custom_id\":\"$id\"" "$work/out$ranks.jsonl" > "$work/$id.$ranks"; done
    check "no text" grep -q '"text":null' "$work/a.$ranks"
    check "six ids" grep -Eq '"token_ids":\[([0-9]+,){5}[0-9]+\]' "$work/a.$ranks"
    check "log probabilities by id" grep -q '"tokens":\["token_id:[0-9]' "$work/b.$ranks"
    check "a prompt that is text" grep -q '"status_code":400.*the prompt is text: .*tokenizer.json: is not there' "$work/c.$ranks"
    check "a stop string" grep -q '"status_code":400.*stop strings are text' "$work/d.$ranks"
    check "a chat" grep -q '"status_code":400.*tokenizer.json: is not there' "$work/e.$ranks"
done
check "the same ids on all ranks" test "$(grep -o '"token_ids":[^]]*' "$work/a.1")" = "$(grep -o '"token_ids":[^]]*' "$work/a.3")"
line a "[5,6,7,8,9]" ',"ignore_eos":true' > "$work/one.jsonl"
"$coxswain" batch --model "$model" --input "$work/one.jsonl" --output "$work/full.jsonl" 2> "$work/err"
check "the digest is that with a tokenizer" test "$(field "$work/full.jsonl" logits_digest)" = "$(field "$work/a.1" logits_digest)"
check "which has text and no ids" test "$(grep -c token_ids "$work/full.jsonl")" = 0
"$coxswain" batch --model "$bare" --input "$work/in.jsonl" --output "$work/out1.jsonl" 2> "$work/err"
check "a batch of ids goes on too" grep -q "has 5 answers of this run" "$work/err"

# Studies of prompts that are ids.
grep '"custom_id":"[ab]"' "$work/in.jsonl" > "$work/ids.jsonl"
check "capture" "$coxswain" capture --model "$bare" --input "$work/ids.jsonl" --output "$work/captured"
sed 's/5,6/8,9/' "$work/ids.jsonl" > "$work/others.jsonl"
check "direction" "$coxswain" direction --model "$bare" --a "$work/ids.jsonl" --b "$work/others.jsonl" --layer 1 \
    --output "$work/direction.safetensors" > /dev/null
check "the vector names no tokenizer" test "$(grep -ac tokenizer_fingerprint "$work/direction.safetensors")" = 0
echo '{"interventions": [{"op": "add", "site": "resid_post", "layer": 1, "vector": "direction.safetensors"}]}' > "$work/add.json"
check "and steers either folder" "$coxswain" plan check --model "$model" "$work/add.json" > /dev/null
refuses 3 "in.jsonl: line 3: the prompt is text: .*tokenizer.json: is not there" capture --model "$bare" --input "$work/in.jsonl" \
    --output "$work/captured2"

# Who has text is told what is there instead.
refuses 3 "tokenizer.json: is not there" generate --model "$bare" --prompt x
touch "$bare/tokenizer.model"
refuses 3 "only tokenizer.model, which is not read.*AutoTokenizer" generate --model "$bare" --prompt x --raw
finish
