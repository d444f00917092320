# Random narrow models behind the released small files of gpt-oss-20b and Mixtral-8x7B-Instruct (../shared/released), with
# vocabularies of the real sizes: chats are generated, batched and studied over three ranks. What such a model says means
# nothing; that it can be asked, with the released tokenizer, template and end tokens, is what is tested.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
released=../shared/released
[ -d "$released" ] || { echo "skip: $released, the small files of released models, is not there"; exit 77; }
export COXSWAIN=$coxswain
ran=0

# Lists of a study: questions, and ones about something else.
mkdir "$work/lists"
for split in train validation heldout; do
    printf '{"prompt": "How do I %s a lamp?", "kind": "how"}\n' mend clean > "$work/lists/a-$split.jsonl"
    printf '{"prompt": "What is a %s?", "kind": "what"}\n' lamp bell > "$work/lists/b-$split.jsonl"
done
cat > "$work/rules.json" << 'RULES'
{"version": 1, "matchers": {"vowels": {"patterns": ["(?i)^[^aeiou]*[aei]"]}}, "labels": [{"name": "refused", "any": ["vowels"]}], "first_tokens": ["I", "Sorry"]}
RULES
cat > "$work/grid.json" << 'GRID'
{"version": 1, "blocks": [
 {"name": "one", "site": "expert_out", "vectors": "experts.safetensors", "layers": [1], "strengths": [-4, 4], "weightings": ["routed"]},
 {"name": "random", "site": "expert_out", "vectors": "experts.safetensors", "layers": [1], "strengths": [4],
  "weightings": ["routed"], "control": "random_direction"}]}
GRID
cat > "$work/in.jsonl" << 'LINES'
{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "What is a lamp? 🙂"}]}}
{"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1."}, {"role": "user", "content": "{{ two }}"}], "max_tokens": 3}}
{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "Light?"}], "tools": [{"type": "function", "function": {"name": "lamp", "description": "Switches it.", "parameters": {"type": "object", "properties": {"room": {"type": "string"}}}}}]}}
LINES
# run NAME FOLDER KEY=JSON...: the released files of FOLDER under a narrow config.
run() {
    local name=$1 from=$released/$2 model=$work/$1 file
    shift 2
    mkdir "$model"
    for file in "$from"/*.json "$from"/chat_template.jinja; do
        [ -f "$file" ] && [[ $file != *.index.json ]] && ln -s "$(realpath "$file")" "$model"
    done
    rm "$model/config.json"
    "$BUILD/tests/cli/stand_in_driver" config "$from/config.json" "$model/config.json" "$@"
    check "$name: weights" "$BUILD/tests/cli/stand_in_driver" "$model" random 7 > /dev/null
    for ranks in 1 3; do
        check "$name: generates on $ranks ranks" "$coxswain" generate --model "$model" --ranks $ranks --prompt "What is a lamp?" \
            --max-tokens 6 --logits-digest --json > "$work/$name.$ranks"
    done
    check "$name: an answer" grep -q '"n_completion_tokens":\|"completion_tokens":' "$work/$name.3"
    check "$name: with the same logits" test -n "$(digest "$work/$name.3")" -a "$(digest "$work/$name.1")" = "$(digest "$work/$name.3")"
    check "$name: batches" "$coxswain" batch --model "$model" --ranks 3 --input "$work/in.jsonl" --output "$work/$name.jsonl" --max-tokens 6
    check "$name: all lines are answered" test "$(grep -c '"status_code":200' "$work/$name.jsonl")" = 3
    study "$name" "$model"
    ran=$((ran + 1))
}

# study NAME FOLDER: the commands of scripts/study, each once (its rounds of controls take a hundred launches).
study() {
    local name=$1 dir=$work/study-$1 common=(--model "$2" --ranks 3 --progress none)
    local validation=(--a "$work/lists/a-validation.jsonl" --b "$work/lists/b-validation.jsonl")
    mkdir "$dir"
    check "$name: directions" "$coxswain" direction "${common[@]}" --a "$work/lists/a-train.jsonl" --b "$work/lists/b-train.jsonl" \
        --site expert_out --position last --output "$dir/experts.safetensors" > /dev/null
    check "$name: routes" "$coxswain" routes "${common[@]}" --a "$work/lists/a-train.jsonl" --b "$work/lists/b-train.jsonl" --json > "$dir/routes.json"
    cp "$work/grid.json" "$dir"
    check "$name: a sweep" "$coxswain" sweep "${common[@]}" --grid "$dir/grid.json" "${validation[@]}" --rules "$work/rules.json" \
        --best 1 --max-tokens 3 --output "$dir/grid"
    check "$name: answers of its best" grep -q '^-1,' "$dir/grid/answers.csv"
    check "$name: a report" "$coxswain" report --sweep "$dir/grid" --routes "$dir/routes.json" --output "$dir/report.html" > /dev/null
    check "$name: is a page" grep -q '</html>' "$dir/report.html"
}
digest() { grep -oE '"logits_(digest|sha256)":"[0-9a-f]{64}"' "$1"; }

narrow=(hidden_size=64 num_hidden_layers=2 num_attention_heads=4 num_key_value_heads=2 intermediate_size=32 num_local_experts=4)
run gpt-oss gpt-oss-20b "${narrow[@]}" head_dim=16 num_experts_per_tok=2 experts_per_token=2 \
    'layer_types=["sliding_attention","full_attention"]'
run mixtral Mixtral-8x7B-Instruct-v0.1 "${narrow[@]}"
check "both models ran" test $ran = 2
finish
