# scripts/study on a bundled model with tiny limits: tables, files and report; stopped and killed, the same command goes
# on to the same numbers; what is wrong is said before anything runs, or with the log's name. (The one test that calls
# Python: the script is written in it.)
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
command -v python3 > /dev/null || { echo "skip: python3 is not there"; exit 77; }
export COXSWAIN=$coxswain
study=(scripts/study "$model" --lists study --limit 6 --layers 3 --strengths=-25,8 --seeds 1 --best 1 --max-tokens 48)
whole=$work/whole/olmoe-velk/study cut=$work/cut/olmoe-velk/study

sed 's/^/kept: /' > "$work/page.md" << 'PAGE'
before
PAGE
printf '%s\n' '<!-- tables of scripts/study: begin -->' old '<!-- tables of scripts/study: end -->' after >> "$work/page.md"
"${study[@]}" --output "$work/whole" --docs "$work/page.md" > "$work/out.md" 2> "$work/err.txt"
check "a study" test $? = 0
check "its tables are printed and kept" cmp "$work/out.md" <(cat "$work/whole/tables.md"; echo)
check "a line a study in the summary" test "$(grep -c '^| olmoe-velk, study | ' "$work/out.md")" = 1
for words in "residual direction ablated everywhere" "residual direction added at its layer" "one expert, free choice" \
    "one expert, of the largest routing differences" "all experts of a layer"; do
    check "a row: $words" grep -q "^| $words | layer 3" "$work/out.md"
done
check "without a plan A is refused" grep -q 'no plan: A refused 6 of 6, B refused 0 of 6' "$work/out.md"
check "numbers by kind" grep -Eq '^\| clean \| 6 of 6 / 0% \|' "$work/out.md"
check "the page is filled in" grep -q '^### olmoe-velk' "$work/page.md"
check "and else kept" test "$(head -n 1 "$work/page.md") $(tail -n 1 "$work/page.md") $(grep -c '^old$' "$work/page.md")" = "kept: before after 0"
check "controls of the held-out answers" grep -q '^expert_free-weaken-random_expert-1,' "$whole/heldout.csv"
"$coxswain" report --sweep "$whole/grid" --routes "$whole/routes.json" --output "$work/r.html" --json > "$work/r.json" 2> "$work/err.txt"
correlation() { tr -d ' \n' < "$1" | grep -oE "$2\"rank_correlation\":-?[0-9]\.[0-9]{6}" | grep -oE '[-0-9.]+$'; }
check "with its interval in the tables" grep -Eq 'reaches: [+-]0\.[0-9]+ \[[+-][01]\.[0-9]+, [+-][01]\.[0-9]+\], 16 experts\.$' "$work/out.md"
check "the report has the study's rank correlation" test "$(correlation "$work/r.json" '"family":"expert_free","weaken":.')" = \
    "$(correlation "$whole/study.json" '"routing_against_effect":.')"
check "the report begins with its verdict" grep -Eq '^<p class="verdict">.*layer 3.* of 6 held-out prompts of A .*random direction there.*; the place is <b>(not )?calm</b>' "$whole/report.html"
check "chosen places say what random directions changed" test "$(grep -c '"calm_change": \[' "$whole/chosen.json")" = "$(grep -c '"calm": ' "$whole/chosen.json")"
for name in report.html routes.svg study.json grid/cells.csv controls/cells.csv plans/clean.json; do
    check "$name" test -s "$whole/$name"
done

# --- Stopped by a signal, then with a command killed, then on to the end.
wait_for_cells() { # the sweep of the job has begun
    for _ in $(seq 2000); do
        [ "$(wc -l 2> /dev/null < "$cut/grid/stage1.jsonl" || echo 0)" -gt "$1" ] && break
        kill -0 "$job" 2> /dev/null || break
        sleep 0.01
    done
}
"${study[@]}" --output "$work/cut" > /dev/null 2> "$work/err.txt" &
job=$! code=0
wait_for_cells 10
kill -USR1 $job
wait $job || code=$?
check "asked to stop: exit code 75" test $code = 75
check "and says how to go on" grep -q 'the same command goes on' "$work/err.txt"
"${study[@]}" --output "$work/cut" > /dev/null 2> "$work/err.txt" &
job=$! code=0
wait_for_cells "$(($(wc -l < "$cut/grid/stage1.jsonl") + 5))"
child=$(pgrep -P $job -x coxswain)
check "the sweep is running" test -n "$child"
kill -KILL "$child"
wait $job || code=$?
check "a command was killed: exit code 1" test $code = 1
check "and its log is named" grep -q "messages are in $cut/log.txt" "$work/err.txt"
"${study[@]}" --output "$work/cut" > /dev/null 2> "$work/err.txt" &
job=$!
wait_for_cells "$(($(wc -l < "$cut/grid/stage1.jsonl") + 5))"
kill -KILL $job
wait $job
for _ in $(seq 50); do pgrep -f -- "--output $cut/grid" > /dev/null || break; sleep 0.1; done
check "what a killed study ran ends with it" test -z "$(pgrep -f -- "--output $cut/grid")"
"${study[@]}" --output "$work/cut" > "$work/cut.md" 2> "$work/err.txt"
check "the same command goes on" test $? = 0
check "to the same tables" cmp <(tail -n +2 "$work/out.md") <(tail -n +2 "$work/cut.md")
for name in grid/cells.csv grid/answers.csv controls/cells.csv heldout.csv; do
    check "to the same $name" cmp "$whole/$name" "$cut/$name"
done

# --- Refusals: before anything runs, or by the command that found it.
wrong() { # CODE PATTERN ARGUMENTS...: of scripts/study
    local code=$1 pattern=$2 got=0
    shift 2
    checks=$((checks + 1))
    timeout 20 scripts/study "$@" > "$work/refused.out" 2> "$work/refused.err" < /dev/null || got=$?
    if [ "$got" != "$code" ] || [ -s "$work/refused.out" ] || ! grep -Eq -- "$pattern" "$work/refused.err" ||
        grep -q Traceback "$work/refused.err"; then
        echo "FAILED: scripts/study $*: exit code $got, expected $code and a message like /$pattern/; it said:" >&2
        cat "$work/refused.err" >&2
        failures=$((failures + 1))
    fi
}
wrong 1 'whole/olmoe-velk/study holds a study with other options \(limit\)' "$model" --lists study --limit 7 --layers 3 \
    --strengths=-25,8 --seeds 1 --best 1 --max-tokens 48 --output "$work/whole"
wrong 1 'whole/olmoe-velk/study holds a study with other options \(system, template_kwargs\)' "$model" --lists study --limit 6 --layers 3 \
    --strengths=-25,8 --seeds 1 --best 1 --max-tokens 48 --output "$work/whole" --system "Be brief." --template-kwargs '{"n": 1}'
wrong 1 'template nonesuch: neither a file nor' "$model" --lists study --template nonesuch --output "$work/new0"
wrong 1 "$work/nothing is no model folder" "$work/nothing" --output "$work/new"
wrong 1 'has no a-train.jsonl' "$model" --lists "$work" --output "$work/new"
wrong 1 'no/rules is not there' "$model" --rules no/rules --output "$work/new"
wrong 1 'has experts in layers' "$model" --lists study --layers 9 --limit 2 --output "$work/new"
wrong 1 'has no marker comments' "$model" --lists study --docs "$work/out.md" --output "$work/new2"
wrong 2 '"x" is not a list of numbers' "$model" --layers x
wrong 2 'unknown option --limt; did you mean --limit\?' "$model" --limt 3
wrong 2 'unknown option --max-tokesn=3; did you mean --max-tokens\?' "$model" --max-tokesn=3
wrong 2 'unknown option --nonesuch$' "$model" --nonesuch
wrong 2 '"0" is not a number from 1 on' "$model" --limit 0
cp -r "$model/study" "$work/lists"
echo '{"prompt": 5}' > "$work/lists/a-train.jsonl"
wrong 1 'a-train.jsonl: line 1: ' "$model" --lists "$work/lists" --limit 2 --output "$work/new3"
cp "$model/study/a-train.jsonl" "$work/lists"
: > "$work/lists/a-heldout.jsonl"
wrong 1 'a-heldout.jsonl has no prompts' "$model" --lists "$work/lists" --output "$work/new3"
cp "$model/study/a-heldout.jsonl" "$work/lists"
echo '{"question": "?"}' > "$work/lists/b-heldout.jsonl"
wrong 1 'b-heldout.jsonl: line 1: ' "$model" --lists "$work/lists" --limit 2 --layers 3 --strengths=1 --output "$work/new4"
sed 's/"refused"/"declined"/' "$model/rules.json" > "$work/rules.json"
wrong 1 'rules.json has no label "refused" without "where"; .*name it with "behaviour"' "$model" --lists study --rules "$work/rules.json" --output "$work/new4"
sed 's/"refused"/"fell_apart"/; s/^ "version"/ "behaviour": "fell_apart", "version"/' "$model/rules.json" > "$work/rules.json"
wrong 1 'a study.s label cannot be called "fell_apart"' "$model" --lists study --rules "$work/rules.json" --output "$work/new4"
echo '{"labels": 3}' > "$work/rules.json"
wrong 1 'rules.json: no rules of evaluation' "$model" --lists study --rules "$work/rules.json" --output "$work/new4"

# --- Nothing to study: it stops before its sweep, with examples.
mkdir "$work/random"
cp "$model"/*.json "$model"/*.jinja "$work/random"
python3 - "$model/model.safetensors" "$work/random/model.safetensors" << 'PYTHON'
# the same weights in random order: a model of random weights, with a tokenizer
import array, random, struct, sys
b = open(sys.argv[1], "rb").read()
n = 8 + struct.unpack("<Q", b[:8])[0]
weights = array.array("H", b[n:])
random.Random(0).shuffle(weights)
open(sys.argv[2], "wb").write(b[:n] + weights.tobytes())
PYTHON
tiny=(--limit 4 --layers 3 --best 1 --seeds 1 --max-tokens 48)
wrong 1 'answers fall apart without a plan: 4 of 4 to a-validation.jsonl \(4 not ended' "$work/random" --lists "$model/study" \
    --rules "$model/rules.json" "${tiny[@]}" --output "$work/random-study"
check "with prompts and answers" test "$(grep -c '^         "[^"]*" -> "' "$work/refused.err")" = 6
check "and says what to do" grep -q -- '--anyway goes on all the same' "$work/refused.err"
check "no sweep was begun" test ! -e "$work/random-study/random/study/grid"
swapped=$work/swapped
mkdir "$swapped"
for split in train validation heldout; do
    cp "$model/study/a-$split.jsonl" "$swapped/b-$split.jsonl"
    cp "$model/study/b-$split.jsonl" "$swapped/a-$split.jsonl"
done
wrong 1 'the behaviour is not there: without a plan "refused" holds of [01] of 4 answers to a-validation.jsonl, fewer than half' "$model" \
    --lists "$swapped" "${tiny[@]}" --output "$work/absent"
check "with answers that do not show it" test "$(grep -c '^         "[^"]*" -> "' "$work/refused.err")" = 3
check "also without a sweep" test ! -e "$work/absent/olmoe-velk/swapped/grid"

# --- Another label, of one's own lists and rules; no file of the checkpoint is touched. The same command goes on anyway.
mkdir "$work/describing"
for split in train validation heldout; do
    grep '"[a-z]*-what"' "$model/study/b-$split.jsonl" > "$work/describing/a-$split.jsonl"
    grep '"ordinary-how"' "$model/study/b-$split.jsonl" > "$work/describing/b-$split.jsonl"
done
cat > "$work/own.json" << 'RULES'
{"version": 1, "matchers": {"how": {"patterns": ["^(To|First|Here|You)\\b"]}, "no": {"patterns": ["^(An?|The|It|Think)\\b"]}},
 "labels": [{"name": "other", "any": ["how"]}, {"name": "just_describes", "any": ["no"]}], "behaviour": "just_describes",
 "first_tokens": ["A", "An", "The", "It", "Think"], "fell_apart": {"min_words": 100}}
RULES
own=("$model" --lists "$work/describing" --rules "$work/own.json" "${tiny[@]}" --strengths=1 --output "$work/own")
sums=$(cat "$model"/*.* | cksum)
wrong 1 'answers fall apart .*\(.*4 too short\)' "${own[@]}"
scripts/study "${own[@]}" --anyway > "$work/own.md" 2> "$work/err.txt"
check "a study of another label, anyway" test $? = 0
check "that said why not" grep -q 'answers fall apart without a plan: 4 of 4' "$work/err.txt"
check "its tables use the label" test "$(grep -c '^\*\*Weaken `just_describes`: A, \|^\*\*By kind: just_describes / ' "$work/own.md")" = 2
check "as it is written" grep -q '| A just_describes | .* | B just_describes, well formed | ' "$work/own.md"
check "in a name that is ours, too" grep -q '| B well formed just_describes | ' "$work/own.md"
check "nowhere with a blank" test "$(grep -c 'just describes' "$work/own.md")" = 0
check "without a plan A shows it" grep -Eq 'no plan: A just_describes [34] of 4, B just_describes [01] of 4' "$work/own.md"
own_dir=$work/own/olmoe-velk/describing
check "so does the table of held-out answers" grep -q '^run,.*,a_just_describes,.*,b_just_describes,' "$own_dir/heldout.csv"
check "and the report, whose verdict is about it" grep -Eq '^<p class="verdict">.*<b>just_describes</b>' "$own_dir/report.html"
check "which does not speak of another" test "$(grep -c 'refus' "$own_dir/report.html")" = 0
check "the checkpoint is as it was" test "$(cat "$model"/*.* | cksum)" = "$sums"
check "nothing ran of these" test ! -e "$work/new3" -a ! -e "$work/new4"
finish
