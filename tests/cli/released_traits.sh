# A model folder of our own with what released ones surprise readers with, all at once, opened by every command over three
# ranks: a model_max_length of 31 digits, special tokens as objects, added_tokens_decoder, templates in a list with one for
# tools, real line breaks in their strings, chat_template.jinja beside them, keys that are null (YaRN's truncate), all
# experts of a layer in one tensor, and a generation_config.json that samples and has an end token of its own.
# tests/golden/released_traits has the folder and what transformers makes of it (scripts/references/released_traits.py).
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
golden=tests/golden/released_traits drivers=$BUILD/tests/cli own=$work/own
mkdir "$own"
cp $golden/{config,generation_config,special_tokens_map,tokenizer_config}.json "$model/tokenizer.json" "$own"
check "weights, experts fused" "$drivers/stand_in_driver" "$own" fused 11 > /dev/null

check "inspect" "$coxswain" inspect --model "$own" --ranks 3 --json > "$work/inspect.json"
check "its parameters" grep -q "\"parameters\": $(grep -oE '"parameters": [0-9]+' $golden/greedy.json | grep -oE '[0-9]+')," "$work/inspect.json"

# --- Chats.
chats() { # CASE
    "$coxswain" tokenize --model "$own" --chat --date 2026-01-02 --conversations $golden/conversations.jsonl > "$work/answers" &&
        "$drivers/released_driver" answers $golden/chats.json "$1" "$work/answers" > "$work/counts"
}
if python3 -c 'import jinja2' 2> /dev/null; then
    check "templates of a list" chats 0
    check "two of the nine are errors" test "$(cat "$work/counts")" = "7 7 2"
    cp $golden/own_template.jinja "$own/chat_template.jinja"
    check "chat_template.jinja" chats 1
    check "no line is left out" test "$(cat "$work/counts")" = "8 8 1"
    rm "$own/chat_template.jinja"
    prompt=(--prompt "What is an empty hat?")
else
    echo "skip: chats, for want of python3 with jinja2 (Debian: python3-jinja2)"
    prompt=(--raw --prompt $'<|endoftext|><|user|>\nWhat is an empty hat?\n<|assistant|>\n')
fi

# --- Answers: as transformers', to its own end token, and with the same logits on one rank and three.
ask() { # FOLDER RANKS NAME OPTIONS...
    local folder=$1 ranks=$2 name=$3
    shift 3
    "$coxswain" generate --model "$folder" --ranks "$ranks" "${prompt[@]}" --max-tokens 12 --logits-digest --json "$@" \
        > "$work/$name" 2> "$work/$name.err"
}
check "generate on three ranks" ask "$own" 3 three
check "generate on one" ask "$own" 1 one
check "transformers' text" test -n "$(field "$work/three" text)" -a "$(field "$work/three" text)" = "$(field <(sed 's/": /":/' $golden/greedy.json) text)"
check "which an end token of generation_config.json ends" test "$(field "$work/three" finish_reason)" = '"stop"'
check "the same on one rank" cmp "$work/one" "$work/three"
check "sampling is told of" grep -Eq 'generation_config.json.*--generation-config' "$work/three.err"
check "and is done when asked for" ask "$own" 3 sampled --generation-config --seed 5
check "on any number of ranks" ask "$own" 1 sampled.one --generation-config --seed 5
check "to the same text" cmp "$work/sampled" "$work/sampled.one"
check "which is not the greedy one" test "$(field "$work/sampled" text)" != "$(field "$work/three" text)"

# --- The same model in other words gives the same logits, and what changes a result changes it.
other() { # NAME FORM KEY=JSON...: the folder under another config.json
    local name=$1 form=$2
    shift 2
    mkdir "$work/$name"
    cp "$own"/*.json "$work/$name"
    "$drivers/stand_in_driver" config "$own/config.json" "$work/$name/config.json" "$@" &&
        "$drivers/stand_in_driver" "$work/$name" "$form" 11 > /dev/null && ask "$work/$name" 3 "$name.out"
}
yarn='{"beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0, "original_max_position_embeddings": 64, "rope_type": "yarn", "truncate":'
digest() { field "$1" logits_digest; }
check "experts by themselves" other each random
check "are the same model" test -n "$(digest "$work/three")" -a "$(digest "$work/each.out")" = "$(digest "$work/three")"
check "truncate false" other false fused "rope_scaling=$yarn false}"
check "is what null means" test "$(digest "$work/false.out")" = "$(digest "$work/three")"
check "truncate true" other true fused "rope_scaling=$yarn true}"
check "is not" test "$(digest "$work/true.out")" != "$(digest "$work/three")"

# --- Batches, and what a study is made of.
cat > "$work/in.jsonl" << 'LINES'
{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "What is an empty hat?"}], "temperature": 0}}
{"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "A lamp?"}], "tools": [{"type": "function", "function": {"name": "lamp", "parameters": {"type": "object", "properties": {}}}}]}}
{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "judge", "content": "Order!"}]}}
LINES
if [ "${prompt[0]}" != --raw ]; then
    "$coxswain" batch --model "$own" --ranks 3 --input "$work/in.jsonl" --output "$work/out.jsonl" --max-tokens 12 2> "$work/err"
    check "a batch" test $? = 0
    for id in a b c; do grep "\"custom_id\":\"$id\"" "$work/out.jsonl" > "$work/line.$id"; done
    check "answers as generate does" grep -qF "$(field "$work/three" text)" "$work/line.a"
    check "with tools too" grep -q '"status_code":200' "$work/line.b"
    check "an error is the template's own" grep -qF 'No part for \"judge\" here,\nonly for system, user, assistant' "$work/line.c"
    printf '{"prompt": "%s a lamp?"}\n' "How do I mend" "How do I clean" > "$work/a.jsonl"
    printf '{"prompt": "What is a %s?"}\n' lamp bell > "$work/b.jsonl"
    check "directions of every expert" "$coxswain" direction --model "$own" --ranks 3 --a "$work/a.jsonl" --b "$work/b.jsonl" \
        --site expert_out --output "$work/experts.safetensors" --progress none > "$work/direction.txt" 2> "$work/err"
    check "routes" "$coxswain" routes --model "$own" --ranks 3 --a "$work/a.jsonl" --b "$work/b.jsonl" --json \
        --progress none > "$work/routes.json" 2> "$work/err"
fi
finish
