# coxswain batch: every line gets its answer or its own error line; ranks and coordinators change nothing.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh

chat() { # ID CONTENT FIELDS
    printf '{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":{%s"messages":[{"role":"user","content":"%s"}]}}\n' \
        "$1" "${3-}" "$2"
}
# The first token of the answer to "What is a kite?".
first_id=$("$coxswain" generate --model "$model" --prompt "What is a kite?" --max-tokens 1 | tr -d '\n' |
    "$coxswain" tokenize --model "$model" | tr -d '[]\n')
{
    chat kite "How do I make a blue kite?" '"logits_digest":true,"max_tokens":40,"user":"me","metadata":{"a":"b"},'
    chat kite "twice"
    echo 'not json'
    echo '{"body":{"prompt":"a \u0000 b [","seed":{"custom_id":"inner"}},"custom_id":"nul","url":"/v1/completions"}'
    echo '{"custom_id" : "caf\u00e9","url":"/v1/completions","body":{"prompt":"a","seed":123456789012345678901234567890}}'
    echo '{"custom_id":"half","url":"/v1/completions","body":{"prompt":"a \ud83d b"}}'
    printf '{"custom_id":"\xff"}\n'
    echo
    chat tools "x" '"tools":{"type":"function"},'
    chat none "x" '"n":0,'
    chat typo "x" '"temprature":0.5,'
    chat hot "x" '"temperature":-1,'
    chat long "$(printf 'kite %.0s' $(seq 5000))"
    echo '{"custom_id":"ids","url":"/v1/completions","body":{"prompt":[5,6,7],"max_tokens":3}}'
    echo '{"custom_id":"badid","url":"/v1/completions","body":{"prompt":[5,99999999],"max_tokens":3}}'
    echo '{"custom_id":"url","url":"/v1/embeddings","body":{}}'
    echo '{"custom_id":"bias","url":"/v1/completions","body":{"prompt":"a","logit_bias":{"99999999":1}}}'
    echo '{"custom_id":"penalty","url":"/v1/completions","body":{"prompt":"a","frequency_penalty":2.5}}'
    echo '{"custom_id":"echo","url":"/v1/completions","body":{"prompt":"What is a kite?","echo":true,"logprobs":1,"max_tokens":0}}'
    echo '{"custom_id":"echo ids","url":"/v1/completions","body":{"prompt":[[5,6,7]],"echo":true,"logprobs":1,"max_tokens":1}}'
    sampled='"temperature":1.6,"seed":4,"max_tokens":12,"logits_digest":true,'
    chat one "What is a kite?" "$sampled"
    chat three "What is a kite?" "$sampled"'"n":3,'
    chat banned "What is a kite?" '"max_tokens":12,"logit_bias":{"'"$first_id"'":-100},'
    chat penalised "What is a kite?" '"max_tokens":40,"ignore_eos":true,"frequency_penalty":2,"presence_penalty":2,'
    for i in $(seq 30); do chat "many$i" "What is a kite number $i?" '"max_tokens":12,"temperature":1.1,"seed":'"$i"','; done
    printf '%s' "$(chat last "What is a kite?" '"max_tokens":5,"logprobs":true,"top_logprobs":1,')"
} > "$work/in.jsonl"
n_lines=$(grep -c . "$work/in.jsonl")

"$coxswain" batch --model "$model" --input "$work/in.jsonl" --output "$work/out.jsonl" 2> "$work/err.txt"
check "the run succeeds" test $? = 0
check "every line has an answer" test "$(wc -l < "$work/out.jsonl")" = "$n_lines"
check "the sum is told" grep -q "batch: 39 answers, $((n_lines - 39)) failed" "$work/err.txt"

line() { grep -F "\"custom_id\":\"$1\"" "$work/out.jsonl" | head -n "${2-1}" > "$work/line.json"; }
error_of() { # ID CODE WORD
    line "$1"
    check "$1 gets status $2" test "$(field "$work/line.json" status_code)" = "$2"
    check "$1 is told of $3" grep -Fq -- "$3" "$work/line.json"
}
error_of tools 400 tools
error_of none 400 'key \"n\"'
error_of bias 400 'logit_bias names token 99999999'
error_of penalty 400 'frequency_penalty is 2.5, outside -2 to 2'
error_of typo 400 temprature
error_of hot 400 temperature
error_of badid 400 99999999
error_of url 400 /v1/embeddings
error_of long 400 context_length_exceeded
check "the second kite is a duplicate" grep -q '"custom_id":"kite".*used before' "$work/out.jsonl"
check "two lines have no custom_id" test "$(grep -c '"custom_id":null' "$work/out.jsonl")" = 2
error_of nul 400 'NUL'
error_of café 400 'number is too large'
error_of half 400 'half of a surrogate pair'
check "no words for programmers" test "$(grep -c JSON_ALLOW "$work/out.jsonl")" = 0
check "lines are named by number" grep -q 'line 3: not valid JSON' "$work/out.jsonl"

grep '"custom_id":"kite"' "$work/out.jsonl" | grep '"status_code":200' > "$work/line.json"
"$coxswain" generate --model "$model" --prompt "How do I make a blue kite?" --max-tokens 40 --json --logits-digest \
    > "$work/generate.json"
check "batch and generate agree on the digest" \
    test "$(field "$work/line.json" logits_digest)" = "$(field "$work/generate.json" logits_digest)"
check "and on the text" test "$(field "$work/line.json" content)" = "$(field "$work/generate.json" text)"
line ids
check "a completion's object" test "$(field "$work/line.json" object)" = '"text_completion"'
check "it counts the prompt" test "$(field "$work/line.json" prompt_tokens)" = 3
line last
check "a last line without a newline counts" test "$(field "$work/line.json" status_code)" = 200
check "five log probabilities" test "$(grep -o '"top_logprobs"' "$work/line.json" | wc -l)" = 5

# Several answers, the first of which is that of one; echo; bias and penalties.
choices() { sed -E 's/.*"choices":\[//; s/\],"usage".*//; s/\},\{"index"/}\n{"index"/g' "$work/line.json"; }
line one
one=$(field "$work/line.json" content)
digest=$(field "$work/line.json" logits_digest)
line three
check "three choices" test "$(choices | grep -c '"index":[012],')" = 3
check "each with a digest of its own" test "$(choices | grep -o '"logits_digest":"[0-9a-f]*"' | sort -u | wc -l)" = 3
check "the first is that of n 1" test "$(choices | head -n 1 | field /dev/stdin content)" = "$one"
check "in every bit" grep -Fq "$digest" <(choices | head -n 1)
check "usage counts the prompt once, the answers all" test "$(field "$work/line.json" total_tokens)" = \
    $(($(field "$work/line.json" prompt_tokens) + $(field "$work/line.json" completion_tokens)))
line echo
check "an echo has the prompt" test "$(field "$work/line.json" text)" = '"What is a kite?"'
check "no token of it was generated" test "$(field "$work/line.json" completion_tokens)" = 0
check "nothing foretold the first token" grep -Fq '"token_logprobs":[null,-' "$work/line.json"
line "echo ids"
check "an echo of ids, and a token" grep -Eq '"tokens":\["!","\\"","#","[^"]*"\]' "$work/line.json"
line banned
check "a token with bias -100 does not come" test "$(field "$work/line.json" content | cut -c 2-3)" != \
    "$("$coxswain" generate --model "$model" --prompt "What is a kite?" --max-tokens 12 | cut -c 1-2)"
line penalised
check "penalties leave no word three times" test "$(field "$work/line.json" content | tr -cs 'a-z' '\n' |
    sed '/^$/d' | sort | uniq -c | sort -nr | head -n 1 | awk '{print $1}')" -lt 3

# The same answers in any order on several ranks and coordinators, but for the time.
sorted() { sed -E 's/"created":[0-9]+/"created":0/; s/"cached_tokens":[0-9]+/"cached_tokens":0/' "$1" | LC_ALL=C sort; }
for layout in "--ranks 3" "--ranks 3 --coordinators 2" "--ranks 4 --coordinators 3 --experts-on all"; do
    # shellcheck disable=SC2086
    "$coxswain" batch --model "$model" --input "$work/in.jsonl" --output "$work/more.jsonl" --force $layout 2> "$work/err.txt"
    check "$layout succeeds" test $? = 0
    check "$layout gives the same answers" cmp <(sorted "$work/out.jsonl") <(sorted "$work/more.jsonl")
done

# Standard input and output; defaults from options; an output that exists stays.
head -n 1 "$work/in.jsonl" | "$coxswain" batch --model "$model" --input - --output - > "$work/stdout.jsonl" 2> "$work/err.txt"
check "standard input and output" test "$(field "$work/stdout.jsonl" status_code)" = 200
chat short "What is a kite?" | "$coxswain" batch --model "$model" --input - --output - --max-tokens 2 \
    > "$work/short.jsonl" 2> "$work/err.txt"
check "--max-tokens is the default" test "$(field "$work/short.jsonl" completion_tokens)" = 2
refuses 2 "exists.*--force" batch --model "$model" --input "$work/in.jsonl" --output "$work/out.jsonl" --seed 1
check "the old output is whole" test "$(wc -l < "$work/out.jsonl")" = "$n_lines"
refuses 3 "nowhere.jsonl" batch --model "$model" --input "$work/nowhere.jsonl" --output "$work/new.jsonl"
check "no output for a missing input" test ! -e "$work/new.jsonl"
refuses 9 "no/such/folder" batch --model "$model" --input "$work/in.jsonl" --output "$work/no/such/folder.jsonl"
: > "$work/empty.jsonl"
"$coxswain" batch --model "$model" --input "$work/empty.jsonl" --output "$work/empty.out" --ranks 2 2> "$work/err.txt"
check "an empty input is no error" test $? = 0
check "and gives an empty output" test -e "$work/empty.out" -a ! -s "$work/empty.out"

# What has no effect, or not the one that was meant: a line each, of the first that has it.
{
    chat good "What is a hat?" '"max_tokens":2,"temperature":1,"top_k":3,'
    chat idle "What is a hat?" '"max_tokens":2,"top_p":0.5,'
    chat idle2 "What is a hat?" '"max_tokens":2,"top_p":0.5,'
    chat blank "" '"max_tokens":2,'
    echo '{"custom_id":"blank2","url":"/v1/completions","body":{"prompt":" ","max_tokens":2}}'
    echo '{"custom_id":"blank3","url":"/v1/completions","body":{"prompt":"","max_tokens":0}}'
} > "$work/warned.jsonl"
warned() { # COUNT PATTERN ARGUMENTS...: of the input's first COUNT lines
    local n=$1 pattern=$2
    shift 2
    head -n "$n" "$work/warned.jsonl" > "$work/some.jsonl"
    "$coxswain" batch --model "$model" --input "$work/some.jsonl" --output "$work/warned.out" --force "$@" 2> "$work/err.txt"
    grep '^warning: ' "$work/err.txt" | sed "s|$work/||" > "$work/said.txt"
    check "$n lines, $*: $(cat "$work/said.txt")" test "$(grep -Ec "^warning: ($pattern)" "$work/said.txt")" = "$(wc -l < "$work/said.txt")"
    check "$n lines, $*: one each" test "$(wc -l < "$work/said.txt")" = "$(awk -F'|' '{ print $0 == "" ? 0 : NF }' <<< "$pattern")"
}
warned 1 ""
warned 1 "" --top-k 3 --temperature 1
warned 6 "some.jsonl: line 2: top-p changes nothing at temperature 0|some.jsonl: line 4: the prompt is empty"
warned 2 "some.jsonl: line 2: top-k changes nothing at temperature 0" --top-k 3 --ranks 2
warned 1 "$(($(nproc) + 1)) threads of each of 1 rank for the" --threads $(($(nproc) + 1))

# Steering: strength 0 and the empty plan are unsteered, mates of steered requests keep their bits, and a bad plan is an
# error of its own line.
steered() { # ID FIELDS: a line with a plan of one intervention, on the first mate's question
    chat "$1" "What is a small hat?" '"steering":{"interventions":[{'"$2"'}]},"logits_digest":true,"max_tokens":16,'
}
mate() { chat "mate$1" "What is a small hat?" '"logits_digest":true,"max_tokens":16,"temperature":'"$(($1 / 6)),\"seed\":$1,"; }
scale='"site":"resid_mid","layer":2,"op":"scale","factor":1.7'
for i in $(seq 12); do mate "$i"; done > "$work/mates.jsonl"
{
    chat empty "What is a small hat?" '"steering":{"interventions":[]},"logits_digest":true,"max_tokens":16,'
    steered zero "$scale"',"strength":0'
    for i in $(seq 12); do
        mate "$i"
        steered "strong$i" "$scale"',"strength":'"$i"
        steered "expert$i" '"site":"expert_out","weighting":"routed","layer":'$((i % 6))',"expert":"all","op":"scale","factor":3'
        steered "forced$i" '"site":"router_logits","layer":'$((i % 6))',"expert":'"$i"',"op":"force_in"'
    done
    steered badlayer '"site":"resid_mid","layer":64,"op":"scale","factor":1.7'
    steered badop '"site":"resid_mid","layer":2,"op":"sing","factor":1.7'
    steered badvalue "$scale"',"strength":1e39'
    steered badvector '"site":"resid_mid","layer":2,"op":"ablate","vector":"nowhere.safetensors"'
    chat badkind "What is a small hat?" '"steering":7,'
} > "$work/mixed.jsonl"
for layout in "--ranks 1" "--ranks 3" "--ranks 4 --coordinators 2 --experts-on all"; do
    for name in mates mixed; do
        # shellcheck disable=SC2086
        "$coxswain" batch --model "$model" --input "$work/$name.jsonl" --output "$work/$name.out" --force $layout 2> "$work/err.txt"
        check "$layout: $name succeed" test $? = 0
    done
    check "$layout: every line is answered" test "$(wc -l < "$work/mixed.out")" = "$(wc -l < "$work/mixed.jsonl")"
    grep '"custom_id":"mate' "$work/mixed.out" > "$work/kept.out"
    without_ids() { sorted "$1" | sed -E 's/"(batch_req|req|chatcmpl|cmpl)[_-][0-9]+"/"id"/g' | LC_ALL=C sort; }
    check "$layout: mates of steered requests keep every bit" cmp <(without_ids "$work/mates.out") <(without_ids "$work/kept.out")
    digest() { field <(grep -F "\"custom_id\":\"$1\"" "$work/mixed.out") logits_digest; }
    for name in empty zero; do
        check "$layout: $name is unsteered" test "$(digest $name)" = "$(digest mate1)"
    done
    for name in strong1 strong12 expert3 forced5; do
        check "$layout: $name is not" test "$(digest $name)" != "$(digest mate1)"
    done
    check "$layout: a result tells its hits" grep -Eq '"custom_id":"strong1".*"op":"scale","layer":2,"expert":null,"prompt":[1-9]' "$work/mixed.out"
    check "$layout: bad plans are all that failed" test "$(grep -c '"status_code":400' "$work/mixed.out")" = 5
done
mv "$work/mixed.out" "$work/out.jsonl"
error_of badlayer 400 "intervention 0: layer 64 is out of range"
error_of badop 400 'sing'
error_of badvalue 400 'strength'
error_of badvector 400 'nowhere.safetensors'
error_of badkind 400 'steering'
finish
