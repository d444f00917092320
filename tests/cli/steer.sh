# Steering as users meet it: plans in batch lines and on the command line, what is refused, hits, recorded routes.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
prompt="How do I make a blue kite?"
mkdir -p "$work/in/plans" "$work/other"

# Vectors of ones and minus ones; one more that was made for a model with another config.json.
width=$(sed -n 's/.*"hidden_size": *\([0-9]*\).*/\1/p' "$model/config.json")
for _ in $(seq $((width / 2))); do printf '\x00\x00\x80\x3f\x00\x00\x80\xbf'; done > "$work/raw"
cp "$model"/*.json "$model"/*.safetensors "$work/other/"
echo >> "$work/other/config.json"
import() { "$coxswain" vector import "$work/raw" --name t --operation add --output "$@" > "$work/import.txt"; }
check "a residual vector" import "$work/in/plans/v.safetensors" --site resid_post --layer 1 --model "$model"
check "an expert's vector" import "$work/in/plans/e.safetensors" --site expert_out --layer 2 --expert 5 --weighting routed
sed -i 's/vocab_size": /vocab_size":  /' "$work/other/config.json"
check "another model's vector" import "$work/in/plans/foreign.safetensors" --site resid_post --layer 1 --model "$work/other"

plan() { # NAME FIELDS: a plan of one intervention, beside its vectors
    printf '{"name":"%s","interventions":[{%s}]}' "$1" "$2" > "$work/in/plans/$1.json"
}
plan warm '"vector":"v.safetensors","strength":0.6'
plan expert '"vector":"e.safetensors","strength":2.0'
plan nothing '"vector":"v.safetensors","strength":0'
plan foreign '"vector":"foreign.safetensors","strength":0.6'
plan huge '"site":"resid_mid","layer":1,"op":"scale","factor":1e30'
plan late '"site":"moe_out","layer":1,"op":"scale","factor":2,"positions":{"from":400,"to":410}'
plan infinite '"site":"resid_mid","layer":1,"op":"scale","factor":3e38,"preserve_norm":true'
echo '{"interventions":[]}' > "$work/in/plans/empty.json"

# --- files of vectors: what they state is not lost, inputs are not written over, pipes are not waited for ---
vector() { "$coxswain" vector "$@" > "$work/vector.txt" 2> "$work/err.txt"; }
fingerprints() { "$coxswain" vector show "$1" --json | grep -Eo '(model|tokenizer)_fingerprint": "[0-9a-f]{64}"'; }
check "a vector that states nothing" import "$work/bare.st"
check "another layer's" import "$work/other-layer.st" --layer 3
known=$work/in/plans/v.safetensors foreign=$work/in/plans/foreign.safetensors
for pair in "$known $work/bare.st" "$work/bare.st $known" "$work/bare.st $work/bare.st --without $known"; do
    # shellcheck disable=SC2086
    check "combined: $pair" vector combine $pair --output "$work/sum.st"
    check "keeps model and tokenizer" test "$(fingerprints "$work/sum.st")" = "$(fingerprints "$known")"
done
check "combined with a bare one" vector combine "$known" "$work/bare.st" --output "$work/sum.st"
check "keeps site and layer" grep -q 'site resid_post, layer 1,' <("$coxswain" vector show "$work/sum.st")
check "combined of two layers" vector combine "$known" "$work/other-layer.st" "$known" --output "$work/sum.st"
check "states none" grep -Eq 'site resid_post, add, model' <("$coxswain" vector show "$work/sum.st")
check "combined of two sites" vector combine "$work/in/plans/e.safetensors" "$known" --output "$work/sum.st"
check "states neither, nor an expert" grep -Eq 'site unstated, add, model' <("$coxswain" vector show "$work/sum.st")
refuses 2 "v.safetensors and .*foreign.safetensors: .*different models" vector combine "$known" "$work/bare.st" "$foreign" --output "$work/new.st"
refuses 2 "v.safetensors and .*foreign.safetensors: .*different models" vector combine "$known" --without "$foreign" --output "$work/new.st"
sed 's/\(tokenizer_fingerprint\\":\\"\)[0-9a-f]/\1_/' "$known" > "$work/tokens.st"
refuses 2 "v.safetensors and .*tokens.st: .*different tokenizers" vector combine "$known" "$work/tokens.st" --output "$work/new.st"
check "nothing is written" test ! -e "$work/new.st"
check "a GGUF vector" vector export "$known" --output "$work/v.gguf"
"$coxswain" vector import "$work/v.gguf" --output "$work/in/plans/imported.safetensors"
refuses 2 'operation: "ad" is not known; did you mean "add"' vector import "$work/v.gguf" --output "$work/y" --operation ad
refuses 2 'weighting: "sotf" is not known; did you mean "soft"' vector import "$work/v.gguf" --output "$work/y" --weighting sotf
cp "$work/v.gguf" "$work/in/plans/v.gguf"
steered_digest() { # PLAN
    echo "$1" > "$work/in/plans/gguf.json"
    "$coxswain" generate --model "$model" --prompt "What is a hat?" --max-tokens 4 --json --logits-digest \
        --steer "$work/in/plans/gguf.json" > "$work/gguf.out" 2> "$work/err.txt" && field "$work/gguf.out" logits_digest
}
imported=$(steered_digest '{"interventions":[{"vector":"imported.safetensors","strength":2}]}')
check "an imported GGUF vector steers" test -n "$imported"
for how in '"v.gguf"' '"v.gguf#direction.1"' '"v.gguf","layer":"from vector"'; do
    check "$how in a plan is the same" test "$(steered_digest '{"interventions":[{"vector":'"$how"',"strength":2}]}')" = "$imported"
done
# A control vector made for another family is taken, and a line names both.
in_plan() { echo '{"interventions":[{"vector":"../'"$1"'","strength":2}]}' > "$work/in/plans/hint.json"; }
hinted() { # COUNT FILE ARGUMENTS...: how many warnings
    local count=$1 file=$2
    shift 2
    in_plan "$file"
    "$coxswain" "$@" > "$work/hint.out" 2> "$work/err.txt"
    check "$file in $1: $(cat "$work/err.txt")" test $? = 0
    check "$file in $1 warns $count times" test \
        "$(grep -c '^warning: .*'"$file"': its hint says that it was made for "llama", and this model is olmoe;' "$work/err.txt")" = "$count"
    check "$file in $1: of nothing else" test "$(grep -c '^warning: ' "$work/err.txt")" = "$count"
}
"$coxswain" vector export "$known" --output "$work/in/llama.gguf" --model-hint llama
"$coxswain" vector export "$known" --output "$work/in/olmoe.gguf" --model-hint OLMoE
"$coxswain" vector export "$known" --output "$work/in/unknown.gguf"
plan=$work/in/plans/hint.json
for id in 1 2; do
    echo '{"custom_id":"'$id'","url":"/v1/completions","body":{"prompt":"kite","max_tokens":2,"steering":{"interventions":[{"vector":"llama.gguf","strength":'$id'}]}}}'
done > "$work/in/hint.jsonl"
hinted 1 llama.gguf plan check --model "$model" "$plan"
hinted 1 llama.gguf logits --model "$model" --tokens 5,6 --output "$work/hint.st" --steer "$plan"
hinted 1 llama.gguf generate --model "$model" --prompt kite --prompt hat --max-tokens 2 --steer "$plan" --ranks 2
hinted 1 llama.gguf batch --model "$model" --input "$work/in/hint.jsonl" --output "$work/hint.jsonl" --progress none
hinted 1 llama.gguf vector import "$work/in/llama.gguf" --output "$work/hint.st" --model "$model"
hint_lists=(--a "$model/prompts/topic-how.jsonl" --b "$model/prompts/ordinary-how.jsonl" --limit 2)
echo '{"version":1,"blocks":[{"name":"x","site":"resid_post","vectors":"llama.gguf","layers":[1],"strengths":[1,2]}]}' > "$work/in/hint.grid"
hinted 1 llama.gguf sweep --model "$model" --grid "$work/in/hint.grid" "${hint_lists[@]}" --rules "$model/rules.json" \
    --output "$work/hint.cells" --best 0 --ranks 3 --coordinators 2 --progress none
hinted 1 llama.gguf decompose --model "$model" --vector "$work/in/llama.gguf" "${hint_lists[@]}" --progress none
hinted 1 llama.gguf evaluate --model "$model" --prompts "$model/prompts/topic-how.jsonl" --limit 2 --rules "$model/rules.json" \
    --steer "$plan" --progress none
hinted 0 olmoe.gguf plan check --model "$model" "$plan"
hinted 0 unknown.gguf plan check --model "$model" "$plan"
cp "$known" "$work/kept.st"
ln -s "$known" "$work/link.st"
ln "$known" "$work/hard.st"
for out in "$known" "$work/link.st" "$work/hard.st"; do
    refuses 2 "--output $out is .*v.safetensors, which this command reads" vector export "$known" --output "$out"
    refuses 2 "--output $out is .*v.safetensors, which this command reads" vector import "$known" --output "$out"
    refuses 2 "--output $out is .*v.safetensors, which this command reads" vector combine "$work/bare.st" "0.5*$known#t" --output "$out"
    refuses 2 "--output $out is .*v.safetensors, which this command reads" vector combine "$work/bare.st" --without "$known" --output "$out"
    refuses 2 "--output $out is .*v.safetensors, which this command reads" vector random --like "$known#t" --seed 1 --output "$out"
done
refuses 2 "--output $work/raw is .*which this command reads" vector import "$work/raw" --output "$work/raw"
refuses 2 "--output .*config.json is .*which this command reads" vector import "$work/raw" --model "$work/other" --output "$work/other/config.json"
check "an input stays what it was" cmp "$known" "$work/kept.st"
check "an output that is no input is replaced" vector random --like "$known" --seed 1 --output "$work/sum.st"
refuses 2 "expert 99; the model has 0 to 15" vector import "$work/raw" --model "$model" --layer 1 --expert 99 --output "$work/new.st"
check "the last expert is one" vector import "$work/raw" --model "$model" --layer 1 --expert 15 --output "$work/new.st"
mkfifo "$work/in/plans/pipe" "$work/pipe.gguf" "$work/pipe.safetensors"
for name in in/plans/pipe pipe.gguf pipe.safetensors; do refuses 4 "$name: is not a regular file" vector show "$work/$name"; done
refuses 4 "plans/pipe: is not a regular file" vector import "$work/in/plans/pipe" --output "$work/never.st"
refuses 4 "plans/pipe: is not a regular file" plan check --model "$model" "$work/in/plans/pipe"
refuses 4 "plans/pipe: is not a regular file" generate --model "$model" --prompt x --steer "$work/in/plans/pipe"

# --- generate ---
generate() { # OUTPUT ARGUMENTS...
    local out=$1
    shift
    "$coxswain" generate --model "$model" --prompt "$prompt" --max-tokens 24 --json --logits-digest "$@" > "$out" 2> "$work/err.txt"
}
plans=$work/in/plans
check "unsteered" generate "$work/plain.json"
for name in warm expert nothing empty late; do check "$name" generate "$work/$name.json" --steer "$plans/$name.json"; done
digest() { field "$1" logits_digest; }
check "a vector changes the logits" test "$(digest "$work/warm.json")" != "$(digest "$work/plain.json")"
check "an expert's vector does" test "$(digest "$work/expert.json")" != "$(digest "$work/plain.json")"
for name in nothing empty late; do
    check "$name is unsteered to the bit" test "$(digest "$work/$name.json")" = "$(digest "$work/plain.json")"
done
check "no plan, no steering in the answer" test "$(grep -c '"coxswain":{"logits_digest":"[0-9a-f]*"}' "$work/plain.json")" = 1
check "all rows of the plan's layer are hits" grep -Eq '"plan":"warm","forced":false,"hits":\[\{"intervention":0,"site":"resid_post","op":"add","layer":1,"expert":null,"prompt":[1-9][0-9]*,"generated":[1-9]' "$work/warm.json"
check "an expert's hits" grep -Eq '"site":"expert_out","op":"add","layer":2,"expert":5,"prompt":[1-9]' "$work/expert.json"
check "|v| times strength is what was added" grep -Eq '"norm_added":6\.78' "$work/warm.json" # 0.6 sqrt(128)
for name in nothing late; do
    check "$name touches nothing and says so" grep -q '"layer":null,"expert":null,"prompt":0,"generated":0,"norm_there":null' "$work/$name.json"
done
check "rows blown up" generate "$work/huge.json" --steer "$plans/huge.json" --prompt "$prompt $prompt"
check "have norms above 0" grep -Eq '"norm_there":[1-9.]+[0-9.e+]*,"norm_added":[1-9]' "$work/huge.json"
"$coxswain" generate --model "$model" --prompt "$prompt" --prompt "$prompt" --max-tokens 24 --json --logits-digest \
    --steer "$plans/infinite.json" --steer "$plans/empty.json" > "$work/infinite.json" 2> "$work/infinite.err"
check "logits that are not finite are an error" test $? = 11
check "which names the prompt and the plan" grep -q 'prompt 1: the logits are not finite: the steering plan' "$work/infinite.err"
sed -n 2p "$work/infinite.json" > "$work/line.json"
check "and its mate keeps its bits" test "$(digest "$work/line.json")" = "$(digest "$work/plain.json")"
check "an empty plan has no hits" grep -q '"steering":{"plan":"","forced":false,"hits":\[\]}' "$work/empty.json"
"$coxswain" generate --model "$model" --prompt "$prompt" --prompt "$prompt" --prompt "$prompt" --max-tokens 24 --json --logits-digest \
    --steer "$plans/warm.json" --steer "$plans/empty.json" --steer "$plans/expert.json" --ranks 3 > "$work/three.json" 2> "$work/err.txt"
line=0
for name in warm plain expert; do
    line=$((line + 1))
    sed -n "${line}p" "$work/three.json" > "$work/line.json"
    check "prompt $line has its own plan" test "$(digest "$work/line.json")" = "$(digest "$work/$name.json")"
done
"$coxswain" generate --model "$model" --prompt "$prompt" --max-tokens 4 --steer "$plans/warm.json" > "$work/text.txt" 2> "$work/err.txt"
check "hits on standard error" grep -Eq '0\. resid_post add: touched [1-9][0-9]* prompt and 3 generated rows' "$work/err.txt"
refuses 2 "2 times for 1 prompts" generate --model "$model" --prompt x --steer "$plans/warm.json" --steer "$plans/warm.json"
refuses 3 "nowhere.json" generate --model "$model" --prompt x --steer "$plans/nowhere.json"
refuses 2 "foreign.json: intervention 0.*another model.*--force-steering" generate --model "$model" --prompt x --steer "$plans/foreign.json"
check "forced" generate "$work/foreign.json" --steer "$plans/foreign.json" --force-steering
check "and said to be" grep -q '"plan":"foreign","forced":true' "$work/foreign.json"
check "the same vector, the same logits" test "$(digest "$work/foreign.json")" = "$(digest "$work/warm.json")"
refuses 2 "another model" plan check --model "$model" "$plans/foreign.json"
check "plan check can be forced" test "$("$coxswain" plan check --model "$model" "$plans/foreign.json" --force-steering | grep -c FORCED)" = 1

# --- batch: a mix of plans; each answer is what the request gives alone ---
chat() { # ID FIELDS
    printf '{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":{%s"max_tokens":24,"logits_digest":true,"messages":[{"role":"user","content":"%s"}]}}\n' \
        "$1" "${2-}" "$prompt"
}
inline() { # FIELDS: of the one intervention of a plan in the line itself; vectors are relative to the input
    printf '"steering":{"name":"inline","interventions":[{%s}]},' "$1"
}
{
    chat plain '"steering":{"interventions":[]},'
    chat default
    chat warm '"steering":{"plan":"plans/warm.json"},'
    chat inline "$(inline '"vector":"plans/v.safetensors","strength":0.6')"
    chat expert '"steering":{"plan":"plans/expert.json"},'
    chat nothing '"steering":{"plan":"plans/nothing.json"},'
    chat badsite "$(inline '"site":"everywhere","op":"scale","factor":2,"layer":1')"
    chat badlayer "$(inline '"site":"resid_post","op":"scale","factor":2,"layer":99')"
    chat badexpert "$(inline '"site":"expert_out","weighting":"routed","op":"scale","factor":2,"layer":1,"expert":99')"
    chat badfile '"steering":{"plan":"plans/nowhere.json"},'
    chat badvector "$(inline '"vector":"plans/gone.safetensors"')"
    chat badtype '"steering":"plans/warm.json",'
    chat foreign '"steering":{"plan":"plans/foreign.json"},'
    chat trace '"trace_routes":true,'
    chat pipeplan '"steering":{"plan":"plans/pipe"},'
    chat pipevector "$(inline '"vector":"plans/pipe"')"
    for i in $(seq 12); do chat "again$i" "$(inline '"vector":"plans/v.safetensors","strength":0.6')"; done
} > "$work/in/in.jsonl"
n_lines=$(wc -l < "$work/in/in.jsonl")
line() { grep -F "\"custom_id\":\"$2\"" "$1" > "$work/line.json"; }
# Hits and cached tokens depend on what was reused of other requests' prefixes, and nothing else does.
sorted() {
    sed -E 's/"created":[0-9]+/"created":0/; s/"cached_tokens":[0-9]+/"cached_tokens":0/; s/"hits":\[.*\]\}/"hits":0}/' "$1" | LC_ALL=C sort
}
for layout in "--ranks 1" "--ranks 3" "--ranks 3 --coordinators 2 --exchange alltoall" "--ranks 4 --coordinators 2 --experts-on all"; do
    out="$work/out${layout//[^0-9a-z]/}.jsonl"
    # shellcheck disable=SC2086
    "$coxswain" batch --model "$model" --input "$work/in/in.jsonl" --output "$out" --steer "$plans/warm.json" $layout 2> "$work/err.txt"
    check "$layout succeeds" test $? = 0
    check "$layout: every line has an answer" test "$(wc -l < "$out")" = "$n_lines"
    for pair in plain:plain default:warm warm:warm inline:warm expert:expert nothing:plain again7:warm; do
        line "$out" "${pair%:*}"
        check "$layout: ${pair%:*} gives what it gives alone" test "$(digest "$work/line.json")" = "$(digest "$work/${pair#*:}.json")"
    done
    check "$layout: the same answers" cmp <(sorted "$work/outranks1.jsonl") <(sorted "$out")
done
while IFS='|' read -r id words; do
    line "$out" "$id"
    check "$id is refused" test "$(field "$work/line.json" status_code)" = 400
    check "$id is told: $words" grep -Eq -- "$words" "$work/line.json"
done << 'WORDS'
badsite|line 7: steering: intervention 0.*everywhere
badlayer|line 8: steering: intervention 0.*99
badexpert|line 9: steering: intervention 0.*99
badfile|line 10: .*nowhere.json
badvector|line 11: steering: intervention 0.*gone.safetensors
badtype|line 12: key ."steering
foreign|line 13: .*foreign.json: intervention 0.*another model
pipeplan|line 15: .*plans/pipe: is not a regular file
pipevector|line 16: steering: intervention 0.*plans/pipe: is not a regular file
trace|line 14: ."trace_routes." needs a run with --trace-routes
WORDS
refuses 2 "foreign.json" batch --model "$model" --input "$work/in/in.jsonl" --output "$work/new.jsonl" --steer "$plans/foreign.json"
check "a bad default plan leaves no output" test ! -e "$work/new.jsonl"

# --- recorded routes, and their replay ---
routes=$work/routes
check "traced" generate "$work/traced.json" --steer "$plans/expert.json" --trace-routes "$routes" --ranks 3
check "tracing changes nothing" test "$(digest "$work/traced.json")" = "$(digest "$work/expert.json")"
check "the answer names the file" test "$(field "$work/traced.json" routes)" = "\"$routes/prompt-1.safetensors\""
for name in logits weights margins ranks; do
    check "the file has $name" grep -aq "\"layer.2.$name\":{\"dtype\"" "$routes/prompt-1.safetensors"
done
# Experts of even layers live on rank 1, of odd ones on rank 2.
n_experts=$(sed -n 's/.*"num_experts": *\([0-9]*\).*/\1/p' "$model/config.json")
n_layers=$(sed -n 's/.*"num_hidden_layers": *\([0-9]*\).*/\1/p' "$model/config.json")
for l in $(seq 0 $((n_layers - 1))); do
    # shellcheck disable=SC2046
    printf '"%d":[%s]\n' "$l" "$(printf '%d\n' $(for _ in $(seq "$n_experts"); do echo $((1 + l % 2)); done) | paste -sd,)"
done | paste -sd, | sed 's/.*/{"n_experts":'"$n_experts"',"layers":{&}}/' > "$work/placement.json"
check "traced on a placement" generate "$work/placed.json" --trace-routes "$work/placed" --ranks 3 --placement "$work/placement.json"
words() { # FILE TENSOR: its 4-byte words as whole numbers, each value once
    local size at
    size=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    at=$(grep -ao "\"$2\":{[^}]*}" "$1" | sed -E 's/.*\[([0-9]+), ?([0-9]+)\].*/\1 \2/')
    tail -c +$((9 + size + ${at% *})) "$1" | head -c $((${at#* } - ${at% *})) | od -An -v -td4 -w4 | sort -un | xargs
}
for l in 0 1 2 3; do
    check "ranks of layer $l" test "$(words "$work/placed/prompt-1.safetensors" "layer.$l.ranks")" = $((1 + l % 2))
done
refuses 2 "not empty.*--force" generate --model "$model" --prompt x --trace-routes "$routes"
pin='"site":"router_logits","layer":"all","op":"pin","routes":"'$routes/prompt-1.safetensors'"'
plan replay "$pin},{\"vector\":\"e.safetensors\",\"strength\":2.0"
plan direct "$pin"
check "replay" generate "$work/replay.json" --steer "$plans/replay.json" --trace-routes "$work/again"
check "a replay gives the same logits" test "$(digest "$work/replay.json")" = "$(digest "$work/expert.json")"
check "routes alone give others" generate "$work/direct.json" --steer "$plans/direct.json"
check "than vector and routes" test "$(digest "$work/direct.json")" != "$(digest "$work/expert.json")"
check "the record of unsteered routes" generate "$work/traced.json" --trace-routes "$work/free"
pin='"site":"router_logits","layer":"all","op":"pin","routes":"'$work/free/prompt-1.safetensors'"'
plan own "$pin"
check "pinned to its own routes" generate "$work/own.json" --steer "$plans/own.json"
check "a run stays what it was" test "$(digest "$work/own.json")" = "$(digest "$work/plain.json")"
{
    chat one '"steering":{"plan":"plans/expert.json"},'
    chat two '"trace_routes":false,'
    chat three
} > "$work/in/traced.jsonl"
"$coxswain" batch --model "$model" --input "$work/in/traced.jsonl" --output "$work/traced.jsonl" --trace-routes "$work/batch" \
    --ranks 3 --coordinators 2 2> "$work/err.txt"
check "batch traces" test $? = 0
check "lines that do not refuse it" test "$(cd "$work/batch" && echo *)" = "line-1.safetensors line-3.safetensors"
line "$work/traced.jsonl" two
check "and says so" test "$(grep -c '"routes"' "$work/line.json")" = 0
plan replay "\"site\":\"router_logits\",\"layer\":\"all\",\"op\":\"pin\",\"routes\":\"$work/batch/line-1.safetensors\"},{\"vector\":\"e.safetensors\",\"strength\":2.0"
check "replay of a batch" generate "$work/replay.json" --steer "$plans/replay.json"
check "gives the same logits" test "$(digest "$work/replay.json")" = "$(digest "$work/expert.json")"
refuses 9 "no/such" generate --model "$model" --prompt x --trace-routes "$work/no/such"

# --- logits ---
logits() { "$coxswain" logits --model "$model" --tokens "5 6 7 8 9 10" --output "$@" 2> "$work/err.txt"; }
data() { tail -c $((6 * 4 + 6 * 4 * $(sed -n 's/.*"vocab_size": *\([0-9]*\).*/\1/p' "$model/config.json"))) "$1"; }
check "logits" logits "$work/plain.st"
check "logits of an empty plan" logits "$work/empty.st" --steer "$plans/nothing.json" --ranks 2
check "are the same" cmp <(data "$work/plain.st") <(data "$work/empty.st")
check "steered logits" logits "$work/warm.st" --steer "$plans/warm.json"
check "are others" test "$(data "$work/plain.st" | sha256sum)" != "$(data "$work/warm.st" | sha256sum)"
check "and name the plan" grep -aq '"steering_plan":"warm","steering_forced":"false"' "$work/warm.st"
refuses 2 "another model" logits --model "$model" --tokens "1" --output "$work/new.st" --steer "$plans/foreign.json"
finish
