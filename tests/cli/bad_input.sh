# What bad input gets: one message that names what is wrong, an exit code, within ten seconds, on one rank and on several.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
tiny=tests/golden/models/olmoe-plain-f32
ask=(--prompt "What is a kite?" --max-tokens 4)

refuses 2 "no command"
refuses 2 "\"chat\" is not a command" chat
refuses 2 "unknown option --modle; did you mean \"--model\"" generate --modle "$model"
refuses 2 "--max_tokens; did you mean \"--max-tokens\"" batch --max_tokens 3
refuses 2 "\"genrate\" is not a command.*did you mean \"generate\"" genrate
refuses 2 "did you mean \"show\"" vector shwo
refuses 2 "did you mean \"check\"" plan chek
refuses 2 "unknown option --modle.*did you mean \"--model\"" plan check --modle x y
refuses 2 "did you mean \"workers\"" inspect --model "$model" --experts-on worker
refuses 2 "unknown site \"resid_psot\".*did you mean \"resid_post\"" direction --model "$model" --a x --b y --output z \
    --site resid_psot
for slip in '"site":"resid_psot","op":"scale","factor":1' '"site":"resid_post","op":"scael","factor":1' \
    '"site":"resid_post","op":"scale","factro":1'; do
    echo '{"interventions":[{'"$slip"',"layer":0}]}' > "$work/slip.json"
    refuses "2|4" "did you mean \"(resid_post|scale|factor)\"" generate --model "$model" --prompt x --steer "$work/slip.json"
done
echo '{"custom_id":"1","url":"/v1/completions","body":{"prompt":"kite","max-token":1}}' > "$work/slip.jsonl"
refuses 2 "unknown key \"max-token\".*did you mean \"max_tokens\"" batch --model "$model" --input "$work/slip.jsonl" \
    --output "$work/slip.out"
refuses 2 "--model DIR is missing" generate "${ask[@]}"
refuses 2 "--prompt TEXT or --prompt-file FILE is missing" generate --model "$model"
refuses 2 "--max-tokens -1: outside" generate --model "$model" "${ask[@]:0:2}" --max-tokens -1
refuses 2 "--system.*--raw" generate --model "$model" "${ask[@]}" --raw --system "be kind"
refuses 2 "--logprobs needs --json" generate --model "$model" "${ask[@]}" --logprobs 1
refuses 2 "stop string is empty" generate --model "$model" "${ask[@]}" --stop ""
refuses 2 "--tokens: a token id is missing" logits --model "$model" --tokens "1,,2" --output "$work/l.safetensors"
refuses 2 "kernel" generate --model "$model" "${ask[@]}" --kernel nonesuch
refuses 3 "nowhere.txt" generate --model "$model" --prompt-file "$work/nowhere.txt"
refuses 2 "kv-memory|KV cache" generate --model "$model" "${ask[@]}" --kv-memory 100
refuses 6 "available" generate --model "$model" "${ask[@]}" --kv-memory 900T
"$coxswain" generate --model "$model" --prompt "What is a kite?" --max-tokens 100 --ignore-eos --kv-memory 400K --json \
    > "$work/full.json" 2> "$work/full.err"
check "an answer that outgrows the KV cache is an error" test $? = 11
check "which says so" grep -q "raise --kv-memory" "$work/full.err"
refuses 6 "available" generate --model "$model" "${ask[@]}" --kv-memory 900T --ranks 2
refuses 7 "context|positions|KV" generate --model "$model" --prompt "$(printf 'kite %.0s' $(seq 5000))"
refuses 7 "context|positions|KV" generate --model "$model" --prompt "$(printf 'kite %.0s' $(seq 5000))" --ranks 2
refuses 2 "prompt is not valid UTF-8: byte 4 is 0xff" generate --model "$model" --prompt $'bad \xff byte'
printf 'bad \xff byte' > "$work/byte.txt"
refuses 2 "byte.txt is not valid UTF-8: byte 4 is 0xff" generate --model "$model" --prompt-file "$work/byte.txt"
refuses 2 "byte.txt is not valid UTF-8: byte 4 is 0xff" generate --model "$model" --prompt-file "$work/byte.txt" --ranks 2

# Lines say what form they should have.
for bad in 'no json' '[1]' '{"text": "x"}'; do
    echo "$bad" > "$work/form.jsonl"
    refuses 4 'form.jsonl: line 1: .*; a line is \{"prompt": "..."\}' routes --model "$model" --a "$work/form.jsonl" \
        --b "$work/form.jsonl"
    [ "$bad" = '{"text": "x"}' ] || refuses 4 'form.jsonl: line 1: .*; a line is \{"prompt": "..."\}' evaluate \
        --model "$model" --rules "$model/rules.json" --prompts "$work/form.jsonl"
    refuses 4 'form.jsonl.*; rules are|unknown key "text"; the keys are version' evaluate --rules "$work/form.jsonl" --results x
done
echo 'no json' > "$work/form.jsonl"
refuses 2 'line 1: .*; a line is \{"custom_id"' batch --model "$model" --input "$work/form.jsonl" --output "$work/form.out"
refuses 4 'form.jsonl: line 1: .*; a line is as `batch` writes it' evaluate --rules "$model/rules.json" \
    --results "$work/form.jsonl"

# What is read is never written over, --force or not.
echo '{"custom_id":"1","url":"/v1/completions","body":{"prompt":"kite","max_tokens":1}}' > "$work/requests.jsonl"
cp "$work/requests.jsonl" "$work/copy.jsonl"
ln -s requests.jsonl "$work/link.jsonl"
mkdir "$work/own"
cp "$model"/* "$work/own" 2> /dev/null
for name in requests link; do
    refuses 2 "which this command reads" batch --model "$model" --input "$work/requests.jsonl" --output "$work/$name.jsonl" --force
done
refuses 2 "which this command reads" logits --model "$work/own" --tokens 1 --output "$work/own/model.safetensors" --force
check "the requests are as they were" cmp "$work/requests.jsonl" "$work/copy.jsonl"
check "the weights too" cmp "$work/own/model.safetensors" "$model/model.safetensors"

# Model folders
for ranks in 1 3; do
    refuses 3 "nowhere" generate --model "$work/nowhere" "${ask[@]}" --ranks $ranks
    refuses 3 "tokenizer.json" generate --model $tiny "${ask[@]}" --ranks $ranks --raw
    broken=$work/broken$ranks
    mkdir "$broken"
    cp "$model"/*.json "$model"/*.jinja "$broken" 2> /dev/null
    head -c 100000 "$model/model.safetensors" > "$broken/model.safetensors"
    refuses 4 "model.safetensors" generate --model "$broken" "${ask[@]}" --ranks $ranks
    cp "$model/model.safetensors" "$broken"
    sed 's/"model_type": *"olmoe"/"model_type": "nonesuch"/' "$model/config.json" > "$broken/config.json"
    refuses 5 "nonesuch.*olmoe" generate --model "$broken" "${ask[@]}" --ranks $ranks
    sed 's/"hidden_size": *[0-9]*/"hidden_size": 48/' "$model/config.json" > "$broken/config.json"
    refuses 4 "$broken" generate --model "$broken" "${ask[@]}" --ranks $ranks
    n_layers=$(field "$model/config.json" num_hidden_layers)
    [ -n "$n_layers" ] || n_layers=$(sed -n 's/.*"num_hidden_layers": *\([0-9]*\).*/\1/p' "$model/config.json")
    sed 's/"num_hidden_layers": *[0-9]*/"num_hidden_layers": '$((n_layers - 1))'/' "$model/config.json" > "$broken/config.json"
    refuses 4 "num_hidden_layers.*model.layers.$((n_layers - 1))" generate --model "$broken" "${ask[@]}" --ranks $ranks
    rm "$broken/config.json"
    mkfifo "$broken/config.json"
    refuses 4 "config.json: is not a regular file" generate --model "$broken" "${ask[@]}" --ranks $ranks
    rm "$broken/config.json"
    echo '{"model_type": ' > "$broken/config.json"
    refuses 4 "config.json.*line" generate --model "$broken" "${ask[@]}" --ranks $ranks
    cp "$model/config.json" "$broken"
    rm "$broken/model.safetensors"
    refuses 3 "model.safetensors" generate --model "$broken" "${ask[@]}" --ranks $ranks
done

# What is no such folder is named for what it is.
refuses 2 "is a file; give the folder that it is in: $model" inspect --model "$model/model.safetensors"
refuses 2 "is a file; give the folder that it is in: $model" generate --model "$model/config.json" "${ask[@]}" --ranks 2
printf 'GGUF\3\0\0\0' > "$work/model.gguf"
refuses 5 "is a GGUF file" generate --model "$work/model.gguf" "${ask[@]}"
mkdir -p "$work/models--allenai--OLMoE/snapshots/0123abc" "$work/models--allenai--OLMoE/refs"
printf 0123abc > "$work/models--allenai--OLMoE/refs/main"
refuses 2 "give the snapshot in it: .*OLMoE/snapshots/0123abc" inspect --model "$work/models--allenai--OLMoE"
mkdir "$work/pickled"
cp "$model"/*.json "$work/pickled"
touch "$work/pickled/pytorch_model.bin"
refuses 5 "pytorch_model.bin, and only safetensors are read; convert" generate --model "$work/pickled" "${ask[@]}" --ranks 2
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n' > "$work/pickled/model.safetensors"
refuses 4 "is a git-lfs pointer.*git lfs pull" generate --model "$work/pickled" "${ask[@]}"

# Chat templates
plain=$work/plain
mkdir "$plain"
cp "$model"/*.json "$model/model.safetensors" "$plain"
sed -i 's/"chat_template"/"no_template"/' "$plain/tokenizer_config.json"
refuses 3 "--template|--raw" generate --model "$plain" "${ask[@]}"
echo '{{ something nobody knows }}' > "$plain/chat_template.jinja"
refuses 5 "python3-jinja2.*--raw" generate --model "$plain" "${ask[@]}" --python "$work/no-python"
check "--raw needs no template" "$coxswain" generate --model "$plain" "${ask[@]}" --raw > /dev/null

# Ranks
refuses 2 "coordinators" generate --model "$model" "${ask[@]}" --ranks 2 --coordinators 3
refuses 2 "experts" generate --model "$model" "${ask[@]}" --ranks 2 --coordinators 2
refuses 2 "self" generate --model "$model" "${ask[@]}" --ranks 2 --exchange self
refuses 3 "nowhere.json" generate --model "$model" "${ask[@]}" --ranks 2 --placement "$work/nowhere.json"
echo '{"n_experts": 4' > "$work/placement.json"
refuses 4 "placement.json" generate --model "$model" "${ask[@]}" --ranks 2 --placement "$work/placement.json"

# One rank alone sees no model folder, or another model: it is named, and all end.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
mpi=(mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
together() { # CODE PATTERN MODEL_OF_RANK_1
    checks=$((checks + 1))
    local got=0
    timeout 10 "${mpi[@]}" -n 1 "$coxswain" generate --model "$model" "${ask[@]}" : -n 1 "$coxswain" generate \
        --model "$3" "${ask[@]}" > "$work/together.out" 2> "$work/together.err" || got=$?
    if [ $got != "$1" ] || ! grep -Eq -- "$2" "$work/together.err"; then
        echo "FAILED: rank 1 with $3: exit code $got; it said:" >&2
        cat "$work/together.err" >&2
        failures=$((failures + 1))
    fi
}
together 3 "rank 1 on .*nowhere" "$work/nowhere"
together 4 "rank 1 sees another config.json" $tiny
for changed in tokenizer.json generation_config.json model.safetensors; do
    rm -rf "$work/copy"
    cp -r "$model" "$work/copy"
    case $changed in
        model.safetensors) # the middle of every tensor is sampled: all bytes but the header's
            size=$(wc -c < "$work/copy/$changed") head=$((size / 4))
            { head -c $head "$model/$changed"; head -c $((size - head)) /dev/zero; } > "$work/copy/$changed" ;;
        *) sed -i '$s/$/ /' "$work/copy/$changed" ;;
    esac
    case $changed in model*) what=weights ;; *) what="tokenizer, chat template or generation_config.json" ;; esac
    together 4 "rank 1 sees .*$what" "$work/copy"
done
refuses 3 "^coxswain sweep: rank 0 on [^ :]*: nowhere.json" sweep --model "$model" --grid nowhere.json --a "$work/requests.jsonl" \
    --b "$work/requests.jsonl" --rules "$model/rules.json" --output "$work/sweep" --ranks 3
began=$SECONDS
refuses 2 "499 ranks for the 96 experts of all layers: give at most 96" generate --model "$model" "${ask[@]}" --ranks 500
check "too many ranks are refused before they start" test $((SECONDS - began)) -le 3
checks=$((checks + 1))
timeout 10 "${mpi[@]}" -n 2 "$coxswain" generate --model "$model" "${ask[@]}" --ranks 3 > "$work/out" 2> "$work/err"
[ $? = 2 ] && grep -q "launch has 2 ranks" "$work/err" || { echo "FAILED: --ranks 3 in a launch of 2" >&2; failures=$((failures + 1)); }
# The nearest known word, of a kernel set and of a template.
refuses 2 'did you mean "reference"' generate --model "$model" "${ask[@]}" --kernel refernce
refuses 2 'did you mean "olmoe"' generate --model "$model" --prompt x --template olmeo
# Machines that mpirun cannot reach, and slots that it does not have: in our words.
printf 'localhost slots=1\nno-such-host.invalid slots=2\n' > "$work/hosts"
if command -v ssh > /dev/null; then
    OMPI_MCA_orte_default_hostfile=$work/hosts refuses 10 \
        "^coxswain generate: mpirun could not start on every machine, not on no-such-host: check" \
        generate --model "$model" "${ask[@]}" --ranks 3
    check "nothing of a box is shown: $(cat "$work/refused.err")" test "$(grep -vc '^ssh: ' "$work/refused.err")" = 1
    printf '%s slots=1\n' localhost no-such-a no-such-b > "$work/hosts"
    OMPI_MCA_orte_default_hostfile=$work/hosts refuses 10 "machine, not on no-such-[ab]: " generate --model "$model" "${ask[@]}" --ranks 3
    check "nothing of two boxes: $(cat "$work/refused.err")" test "$(grep -vc '^ssh: ' "$work/refused.err")" = 1
fi
if [ "$(nproc)" -gt 1 ]; then # else it is told to oversubscribe
    echo 'localhost slots=1' > "$work/hosts"
    OMPI_MCA_orte_default_hostfile=$work/hosts refuses 10 "^coxswain generate: mpirun has fewer slots than --ranks: " \
        generate --model "$model" "${ask[@]}" --ranks 2
    check "and no box: $(cat "$work/refused.err")" test "$(wc -l < "$work/refused.err")" = 1
fi
finish
