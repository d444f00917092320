# generation_config.json: said in one line when it is not greedy, used with --generation-config, less than options and bodies.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
advised=$work/advised
cp -r "$model" "$advised"
eos=$(sed -n 's/.*"eos_token_id": *\([0-9]*\).*/\1/p' "$model/generation_config.json" | head -n 1)
advise() { # JSON: beside the model's end token
    echo "{\"eos_token_id\": ${eos:-0}, $1}" > "$advised/generation_config.json"
}
ask=(generate --model "$advised" --progress none --prompt "What is a kite?" --max-tokens 20 --ignore-eos --seed 7)
options=(--temperature 1.5 --top-k 30 --top-p 0.9 --repetition-penalty 1.1)

advise '"do_sample": true, "temperature": 1.5, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.1'
"$coxswain" "${ask[@]}" > "$work/greedy.txt" 2> "$work/greedy.err"
check "one line says what it asks for" test "$(grep -c . "$work/greedy.err")" = 1
check "and what would take it" grep -q 'generation_config.json asks for temperature 1.5, top_k 30, top_p 0.9, repetition_penalty 1.1; not used without --generation-config' "$work/greedy.err"
"$coxswain" generate --model "$model" "${ask[@]:3}" > "$work/plain.txt" 2> "$work/plain.err"
check "greedy stays the default" cmp "$work/greedy.txt" "$work/plain.txt"
check "of which a greedy file says nothing" test ! -s "$work/plain.err"
"$coxswain" "${ask[@]}" "${options[@]}" > "$work/options.txt" 2> /dev/null
for ranks in 1 3; do
    "$coxswain" "${ask[@]}" --generation-config --ranks $ranks > "$work/advised.txt" 2> "$work/advised.err"
    check "with it, the same as by options on $ranks" cmp "$work/advised.txt" "$work/options.txt"
    check "one line says so" test "$(grep -c 'sampling by .*generation_config.json: temperature 1.5, top_k 30, top_p 0.9, repetition_penalty 1.1$' "$work/advised.err")" = 1
done
check "which is not greedy" test "$(cat "$work/advised.txt")" != "$(cat "$work/greedy.txt")"
"$coxswain" "${ask[@]}" --generation-config --temperature 0 --repetition-penalty 1 > "$work/won.txt" 2> "$work/won.err"
check "options win" cmp "$work/won.txt" "$work/greedy.txt"

# transformers' defaults for what it leaves out.
advise '"do_sample": true'
"$coxswain" "${ask[@]}" --generation-config > "$work/default.txt" 2> "$work/default.err"
"$coxswain" "${ask[@]}" --temperature 1 --top-k 50 > "$work/fifty.txt" 2> /dev/null
check "do_sample alone is temperature 1, top_k 50" cmp "$work/default.txt" "$work/fifty.txt"
check "which is said" grep -q 'temperature 1, top_k 50$' "$work/default.err"

# What is not built is refused by key when it is asked for, and else only told.
advise '"num_beams": 4, "no_repeat_ngram_size": 3'
refuses 5 "not built: num_beams 4, no_repeat_ngram_size 3" "${ask[@]}" --generation-config
refuses 5 "not built: num_beams 4, no_repeat_ngram_size 3" "${ask[@]}" --generation-config --ranks 2
"$coxswain" "${ask[@]}" > "$work/beams.txt" 2> "$work/beams.err"
check "without it greedy goes on" cmp "$work/beams.txt" "$work/greedy.txt"
check "and tells" grep -q 'asks for num_beams 4, no_repeat_ngram_size 3 (not built); not used' "$work/beams.err"
advise '"do_sample": false, "do_sample": true, "temperature": 1.5, "top_k": 50, "max_length": 1000000000000000019884624838656'
"$coxswain" "${ask[@]}" --generation-config > /dev/null 2> "$work/large.err"
check "read as Python reads JSON" grep -q 'temperature 1.5, top_k 50' "$work/large.err"
rm "$advised/generation_config.json"
refuses 3 "generation-config: .*generation_config.json" "${ask[@]}" --generation-config

# Batches: a body wins over it; the journal knows what it came to.
advise '"do_sample": true, "temperature": 1.5, "max_new_tokens": 9'
body() { echo "{\"custom_id\":\"$1\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"a kite\",\"ignore_eos\":true,\"seed\":3${2:-}}}"; }
{ body a; body b ',"temperature":0'; body c ',"max_tokens":4'; } > "$work/in.jsonl"
"$coxswain" batch --model "$advised" --input "$work/in.jsonl" --output "$work/out.jsonl" --generation-config 2> "$work/batch.err"
check "a batch too" grep -q 'batch: sampling by .*: temperature 1.5, top_k 50$' "$work/batch.err"
grep '"custom_id":"a"' "$work/out.jsonl" > "$work/a.jsonl"
grep '"custom_id":"b"' "$work/out.jsonl" > "$work/b.jsonl"
grep '"custom_id":"c"' "$work/out.jsonl" > "$work/c.jsonl"
check "nine tokens, as advised" test "$(field "$work/a.jsonl" completion_tokens)" = 9
check "four, as its body says" test "$(field "$work/c.jsonl" completion_tokens)" = 4
"$coxswain" batch --model "$advised" --input "$work/in.jsonl" --output "$work/same.jsonl" --temperature 1.5 --top-k 50 --max-tokens 9 2> /dev/null
check "as by options" test "$(field "$work/a.jsonl" text)" = "$(grep '"custom_id":"a"' "$work/same.jsonl" > "$work/x"; field "$work/x" text)"
check "greedy, as its body says" test "$(field "$work/b.jsonl" text)" != "$(field "$work/a.jsonl" text)"
refuses 2 "temperature" batch --model "$advised" --input "$work/in.jsonl" --output "$work/out.jsonl"
"$coxswain" batch --model "$advised" --input "$work/in.jsonl" --output "$work/out.jsonl" --generation-config 2> "$work/batch.err"
check "the same command goes on" grep -q "has 3 answers of this run" "$work/batch.err"
# One that cannot be read is an error for who generates text, and for nobody else.
for broken in '{"eos_token_id": "the end"}' '{"eos_token_id": 1' '[1]'; do
    echo "$broken" > "$advised/generation_config.json"
    for ranks in 1 2; do
        refuses 4 "generation_config.json" "${ask[@]}" --ranks $ranks
        "$coxswain" logits --model "$advised" --tokens 1,2 --output "$work/logits-$ranks.safetensors" --force --ranks $ranks > /dev/null 2> "$work/err.txt"
        check "logits do without it ($broken on $ranks): $(cat "$work/err.txt")" test $? = 0 -a -s "$work/logits-$ranks.safetensors"
    done
done
finish
