# A report of a small sweep: its verdict, sections and maps, escaped text, nothing from outside, well-formed, the same bytes twice;
# the same numbers as CSV and JSON; and inputs that are missing, malformed, or of another run.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
a=$model/study/a-validation.jsonl b=$model/study/b-validation.jsonl
"$coxswain" direction --model "$model" --a "$a" --b "$b" --limit 16 --output "$work/residual.safetensors" > /dev/null 2>&1
check "residual directions" test $? = 0
"$coxswain" direction --model "$model" --a "$a" --b "$b" --limit 16 --site expert_out --layer 2,4 --output "$work/experts.safetensors" \
    > /dev/null 2>&1
check "directions of experts" test $? = 0
cat > "$work/grid.json" << 'GRID'
{"version": 1, "blocks": [
 {"name": "stream <b>&\"", "site": "resid_post", "op": "ablate", "vectors": "residual.safetensors", "layers": [3, 4],
  "apply": {"sites": ["resid_pre", "resid_mid", "resid_post"], "layers": "all"}},
 {"name": "experts", "site": "expert_out", "vectors": "experts.safetensors", "layers": [2, 4], "weightings": ["routed"],
  "positions": [{"last": 1}], "strengths": [-8, 8]},
 {"name": "random", "site": "resid_post", "op": "ablate", "vectors": "residual.safetensors", "layers": [3, 4],
  "apply": {"sites": ["resid_pre", "resid_mid", "resid_post"], "layers": "all"}, "control": "random_direction", "seeds": 2}]}
GRID
sweep=(sweep --model "$model" --a "$a" --b "$b" --rules "$model/rules.json" --limit 6 --max-tokens 24)
"$coxswain" "${sweep[@]}" --grid "$work/grid.json" --output "$work/sweep" 2> "$work/err.txt"
check "a sweep" test $? = 0
cat > "$work/controls.json" << 'GRID'
{"version": 1, "blocks": [{"name": "other", "site": "expert_out", "vectors": "experts.safetensors", "layers": [2, 4],
  "weightings": ["routed"], "positions": [{"last": 1}], "strengths": [-8, 8], "control": "random_expert"}]}
GRID
"$coxswain" "${sweep[@]}" --grid "$work/controls.json" --best 0 --output "$work/controls" 2> "$work/err.txt"
check "a sweep of controls" test $? = 0
"$coxswain" routes --model "$model" --a "$a" --b "$b" --limit 16 --csv "$work/routes.csv" --json > "$work/routes.json" 2> /dev/null
check "routes" test $? = 0
"$coxswain" decompose --model "$model" --vector "$work/residual.safetensors#resid_post.3" --a "$a" --b "$b" --limit 8 \
    --effects layers --rules "$model/rules.json" --csv "$work/parts.csv" --json > "$work/parts.json" 2> /dev/null
check "decompose" test $? = 0

# the fuzzer's table of held-out answers, about cells of this sweep; a place is calm, and one was passed over for it
heldout=$work/heldout.csv
sed '1s/^2//; s/^<one>,/experts,/; s/,3,1,soft,-1,/,4,1,routed,0,/; 1s/$/,calm,calm_mean,calm_low,calm_high,passed_over/; 2,$s/$/,,,,,/
    3s/,,,,,$/,True,-2,-5,1,"[[0, -31, -40, -22]]"/' tests/fuzz/corpus/report/heldout.csv > "$heldout"
sed -n 's/,random_direction,1,\(.*\),99,-1,-5.5,2.8,/,random_direction,2,\1,95,-5,-11.2,-0.6,/p' "$heldout" > "$work/draw.csv"
cat "$work/draw.csv" >> "$heldout"

all=(report --sweep "$work/sweep" --controls "$work/controls" --heldout $heldout --a "$a" --b "$b" --title '<i>A & B</i>')
"$coxswain" "${all[@]}" --routes "$work/routes.json" --decompose "$work/parts.json" --output "$work/r.html" --csv "$work/r.csv" \
    --json > "$work/r.json" 2> "$work/err.txt"
check "a report" test $? = 0
check "that says nothing else" test ! -s "$work/err.txt"

# --- The page
page=$work/r.html
count() { grep -Eo -- "$1" "$page" | wc -l; }
for section in findings heldout cells layers maps curves routing parts controls answers parameters; do
    check "a section about $section" test "$(count "<section id=\"$section\">")" = 1
    check "and a link to it" test "$(count "<a href=\"#$section\">")" = 1
done
check "nothing is left out" test "$(count '<p class="none">')" = 0
check "two maps, of 2 layers and 16 experts" test "$(count '<rect class="cell (up|down|none)"')" = 64
check "each cell has its numbers on hover" test "$(count '<title>layer [24], expert [0-9]+: [^<]*(strength|counts|limit)[^<]*</title></rect>')" = 64
check "the title is escaped" grep -q '<title>&lt;i&gt;A &amp; B&lt;/i&gt;</title>' "$page"
check "and so are names" grep -q 'stream &lt;b&gt;&amp;&quot;' "$page"
check "no such text stands there raw" test "$(count '<i>A|<b>&')" = 0
prompt=$(sed -nE '1s/^\{"prompt": "([^"]*)".*/\1/p' "$a")
check "prompts and answers stand side by side" grep -q "<td data-name=\"prompt\">$prompt</td><td data-name=\"not steered\">[^<]" "$page"
check "a verdict comes first" grep -Eq '^<p class="verdict">Of single experts, <b>layer 4, expert 1</b> \(add at expert_out, routed, strength [^,]+8\) weakens <b>refused</b> most: <b>100% [^ ]+ 0%</b> of 100 held-out prompts of A \([^ ]+100 points \[[^ ]+100, [^ ]+95\]\); <b>none of 2 random directions there does the same</b>, the farthest: [^ ]+5 points ' \
    <(grep -A1 '<h1>' "$page" | tail -n 1)
check "the findings are of held-out prompts" test "$(count '<b>refused</b>, (100|150) held-out prompts of [AB]: ')" = 2
check "with numbers and intervals" grep -q '77 of 150 answers with it (95% interval 43 to 59%): +51.3 \[+43.0, +59.2\] points' "$page"
check "for single experts, which do as much as anything" test "$(count '<h3>(Weaken|Strengthen), one expert \(the best of any place\)</h3>')" = 2
check "and with what is answered" grep -q '<b>answered</b> 0% . 96%' "$page"
check "beside them none of validation prompts" test "$(count 'on which the cell was chosen')" = 0
check "with a place that is calm" grep -Eq '; <b>calm</b> \(random directions: [^ ]+2 points' "$page"
check "and one that was passed over for it" grep -Eq 'Passed over, since <b>not calm</b>: layer 3 at strength 1 \(cell 0, random directions: [^ ]+31 points' "$page"
check "maps frame the expert of the card" test "$(count '<rect class="frame"')" = 2
check "panels that repeat fold" test "$(count '<details class="panel" open="open">')" -ge 3 -a "$(count '<details class="panel"><summary>')" -ge 1
check "and a row for each plan and control" test "$(grep -Ec '<tr( class="head")?><th>(experts)?</th><td class="how">(control|layer 4, expert 1)' "$page")" = 3
check "draws of a control are one row" test "$(count 'control: random direction[^<]*</td>')" = 1
words='[^ 0-9]+3.00 points on average of 2 draws, from [^ 0-9]+5.00 to [^ 0-9]+1.00'
check "that says their mean and span" grep -Eq "97.0 of 100</td><td [^>]*>$words" "$page"
check "as the card does" grep -Eq "<p>Control, [^:]*: $words; the draw that reaches farthest: [^ 0-9]+5.00 " "$page"
check "with its place" grep -Eq 'layer 4, expert 1: add at expert_out, routed, strength [^,]+8, positions last 1 \(cell [0-9]+\); <b>calm</b>' "$page"
check "parameters are there" grep -q '<th>model_fingerprint</th><td>' "$page"
check "so are plans" grep -q '&quot;interventions&quot;:' "$page"
check "one script of its own" test "$(grep -Eic '<script>' "$page") $(grep -Eic '<script |javascript:| on[a-z]+=' "$page")" = "1 0"
sed -n '/^<script>$/,/^<\/script>$/p' "$page" | sed '1s/<script>//; $d' > "$work/script.js"
hash=$(sha256sum "$work/script.js" | grep -oE '^[0-9a-f]+' | sed 's/../\\x&/g')
# shellcheck disable=SC2059
check "that the policy knows by its hash, and no other" grep -q "default-src 'none'; .*script-src 'sha256-$(printf "$hash" | base64)'\"" "$page"
check "and that fetches nothing" test "$(grep -Eic 'fetch|xmlhttp|import|eval|innerHTML' "$work/script.js")" = 0
check "tables are there without it" test "$(count '<table class="controls stack"><thead>')" = 3
check "paths are relative to the page" test "$(grep -Ec "[^.]$PWD|[^.]$work" "$page")" = 0
check "and lead to their files" test -f "$work/$(grep -oE '<th>rules</th><td>[^<]*rules.json' "$page" | head -n 1 | sed 's/.*>//')"
check "nothing from outside" test "$(grep -Eic 'https?:|src=|url\(|@import|<iframe|<object|<embed' "$page")" = 0
check "links go to the page itself" test "$(grep -Eo 'href="[^"]*"' "$page" | grep -Evc '^href="(#[a-z]+|data:,)"$')" = 0
check "light and dark" grep -q 'prefers-color-scheme:dark' "$page"
check "where tables of plans and controls become rows of lines" test "$(count '<table class="(controls )?stack">')" = 4
check "that say what they are" test "$(count '<td class="[a-z]+" data-name="(refused|effect in points|answers, [AB])">')" -ge 10
check "and no wide table stands without its scroller" test "$(grep -c '<table' "$page")" = \
    "$(($(count '<div class="scroll"><table') + $(count '<table class="(params|answers)"')))"
check "narrow screens" grep -q '@media(max-width:640px)' "$page"
check "no number that is none" test "$(grep -Eic '[">( -](nan|inf)[",)< ]' "$page")" = 0
if command -v xmllint > /dev/null; then
    check "well-formed" xmllint --noout <(tail -n +2 "$page")
else
    echo "skip: well-formedness (no xmllint; scripts/install-packages test)"
fi
"$coxswain" "${all[@]}" --routes "$work/routes.json" --decompose "$work/parts.json" --output "$work/again.html" 2> "$work/err.txt"
check "again" cmp "$page" "$work/again.html"
"$coxswain" "${all[@]}" --routes "$work/routes.csv" --decompose "$work/parts.csv" --output "$work/csv.html" 2> "$work/err.txt"
check "from the CSV files the same pictures" cmp <(grep -E '^<(rect|circle|g )' "$page") <(grep -E '^<(rect|circle|g )' "$work/csv.html")
"$coxswain" report --sweep "$work/sweep" --output "$work/chosen.html" 2> "$work/err.txt"
check "without held-out answers findings are said to be of validation prompts" test \
    "$(grep -c ' validation prompts of [AB]: log-odds .*, on which the cell was chosen</p>' "$work/chosen.html")" -ge 3
check "by the verdict too" grep -q '^<p class="verdict">.* 6 validation prompts of A (log-odds ' "$work/chosen.html"
check "with what is answered and well formed" test "$(grep -Ec '^<p>.*<b>well_formed</b> [0-9].*<b>answered</b> [0-9]+% ' "$work/chosen.html")" -ge 2
"$coxswain" report --sweep "$work/controls" --output "$work/least.html" 2> "$work/err.txt"
check "a sweep without answers has a report too" grep -q 'generated no answers' "$work/least.html"
check "in black on white it tells A from B by shape" test "$(count '<circle ')" -gt 10 -a "$(count '<polyline class="b"')" -gt 3

# --- The numbers
n_cells=$(($(wc -l < "$work/sweep/cells.csv") - 1))
check "a row of CSV for each cell and set" test "$(grep -c '^cell,' "$work/r.csv")" = $((2 * n_cells))
check "one for each best" test "$(grep -c '^strengthen,' "$work/r.csv")" = 34
check "one for each control" test "$(grep -c '^control,' "$work/r.csv")" = 128
check "one for each rate" test "$(grep -c '^rate,' "$work/r.csv")" = "$(($(wc -l < "$work/sweep/answers.csv") - 1))"
check "one for each set of each held-out run" test "$(grep -c '^heldout,' "$work/r.csv")" = 8
check "one for each route" test "$(grep -c '^route,' "$work/r.csv")" = 96
check "one for each part" test "$(grep -Ec '^(embedding|attention|block|after|expert),' "$work/r.csv")" = $((1 + 6 * 3 + 96))
check "all with as many columns" test "$(grep -v '^cell,"stream\|last' "$work/r.csv" | awk -F, '{print NF}' | sort -u)" = 14
check "JSON has them too" test "$(grep -c '"cell":' "$work/r.json")" -gt $n_cells

# --- Refusals
base=(report --sweep "$work/sweep" --output "$work/new.html")
refuses 2 "--sweep DIR is missing" report --output "$work/new.html"
refuses 2 "--output .* exists" report --sweep "$work/sweep" --output "$work/r.html"
refuses 3 "nowhere/stage1.jsonl.journal is not there" report --sweep "$work/nowhere" --output "$work/new.html"
refuses 3 "no-routes.csv" "${base[@]}" --routes "$work/no-routes.csv"
refuses 2 "which this command reads" report --sweep "$work/sweep" --output "$work/sweep/cells.csv" --force
refuses 2 "which this command reads" "${base[@]}" --routes "$work/routes.csv" --csv "$work/routes.csv" --force
refuses 2 "--a .*not the prompts of the sweep" "${base[@]}" --a "$b"
refuses 4 "routes.csv: line 1: there is no column \"part\"" "${base[@]}" --decompose "$work/routes.csv"
refuses 4 "coxswain routes --json" "${base[@]}" --routes "$work/parts.json"
# of another model, or of other lists
other() { # OPTION FILE SED-SCRIPT PATTERN
    sed -E "$3" "$2" > "$work/other"
    check "$2 is changed" test "$(cmp -s "$2" "$work/other"; echo $?)" = 1
    refuses 2 "$1 $work/other: does not $4" "${base[@]}" "$1" "$work/other"
}
"$coxswain" report --sweep "$work/sweep" --routes "$work/routes.json" --decompose "$work/parts.json" --heldout "$heldout" \
    --output "$work/named.html" 2> "$work/err.txt"
check "a table that does not name its model is said to" test "$(grep -c 'does not name its model' "$work/named.html")" = 1
other --routes "$work/routes.json" 's/("model_fingerprint": ")./\1x/' 'belong to --sweep .*: it differs in the model \(its config.*run .coxswain routes --json'
other --routes "$work/routes.json" 's/("model_weights": ")./\1x/' "belong to --sweep .*: it differs in the model's weights"
other --routes "$work/routes.json" '/"model_tokenizer"/d' 'say what it is of \("model_tokenizer" is missing\)'
other --decompose "$work/parts.json" 's/("model_weights": ")./\1x/' "belong .* it differs in the model's weights .*run .coxswain decompose --json"
other --decompose "$work/parts.json" 's/("sha256": ")./\1x/' 'belong .* it differs in the prompts of A'
other --decompose "$work/parts.json" 's/("rules_sha256": ")./\1x/' 'belong .* it differs in the rules'
other --decompose "$work/parts.json" 's/^( "made".*)$/\1 "system": "Be brief.",/' 'belong .* it differs in the system prompt'
sed 's/,4,1,routed,/,4,99,routed,/' "$heldout" > "$work/other.csv"
refuses 2 'other.csv: line 3: the sweep has no cell of family "experts" at this place' "${base[@]}" --heldout "$work/other.csv"
for key in model_fingerprint model_weights chosen_on_a chosen_on_b; do
    digest=$(field "$work/sweep/stage1.jsonl.journal" "${key#chosen_on_}" | tr -d '"')
    sed "1s/$/,$key/; 2,\$s/$/,$digest/" "$heldout" > "$work/named.csv"
    "$coxswain" report --sweep "$work/sweep" --heldout "$work/named.csv" --output "$work/named.html" --force 2> "$work/err.txt"
    check "held-out answers that name the sweep's $key" test $? = 0
    other --heldout "$work/named.csv" "3s/$digest/x/" "belong to --sweep .* it differs in"
done
"$coxswain" "${sweep[@]}" --system "Be brief." --grid "$work/controls.json" --best 0 --output "$work/briefly" 2> "$work/err.txt"
check "controls with a system prompt" test $? = 0
refuses 2 '--controls .*: it differs in the system prompt' "${base[@]}" --controls "$work/briefly"
refuses 2 'of another run' "${sweep[@]}" --grid "$work/controls.json" --best 0 --output "$work/briefly"
sed '3s/,100,0,-100,/,100,101,-100,/' $heldout > "$work/bad-heldout.csv"
refuses 4 'bad-heldout.csv: line 3: 101 \("a_refused"\) of 100 answers' "${base[@]}" --heldout "$work/bad-heldout.csv"
sed '3s/,0,-100,/,none,-100,/' $heldout > "$work/bad-heldout.csv"
refuses 4 'bad-heldout.csv: line 3, column "a_refused": "none" is not a number' "${base[@]}" --heldout "$work/bad-heldout.csv"
sed '3s/^0,1,/0,one,/' "$work/routes.csv" > "$work/bad.csv"
refuses 4 'bad.csv: line 3, column "expert": "one" is not a whole number' "${base[@]}" --routes "$work/bad.csv"
# of a sweep's own files: another folder with one of them spoiled
spoiled() { # NAME SED-SCRIPT CODE PATTERN
    rm -rf "$work/spoiled"
    cp -r "$work/sweep" "$work/spoiled"
    sed -i "$2" "$work/spoiled/$1"
    refuses "$3" "$4" report --sweep "$work/spoiled" --output "$work/new.html"
}
spoiled cells.csv '5s/,add,/,add/' 4 'cells.csv: line 5 has 21 columns, the first line has 22'
spoiled cells.csv '1s/strength/strong/' 4 'cells.csv: line 1: there is no column "strength"'
spoiled stage1.jsonl.journal '1s/"command":"sweep"/"command":"batch"/' 4 'stage1.jsonl.journal: line 1: the journal of `batch`'
spoiled stage1.jsonl.journal '1s/coxswain_journal/journal/' 4 'key "coxswain_journal" is missing'
spoiled best.json 's/"clean"/"dirty"/' 4 'best.json: key "clean" is missing'
spoiled answers.csv '2s|,refused,|,refused,x|' 4 'answers.csv: line 2, column "yes": "x'
spoiled stage2.jsonl '2s/"text"/"test"/' 4 'stage2.jsonl: line 2: key "text" is missing'
rm "$work/spoiled/cells.csv"
refuses 3 "cells.csv is not there: the sweep has not finished" report --sweep "$work/spoiled" --output "$work/new.html"
sed -i '1s/"limit":6/"limit":7/' "$work/controls/stage1.jsonl.journal"
refuses 2 '--controls .*: does not belong to --sweep .*: it differs in how many prompts are taken of a list .*sweep the grid of the controls' "${base[@]}" --controls "$work/controls"
refuses 9 "--output .*cannot create" report --sweep "$work/sweep" --output "$work/nowhere/r.html"
check "and no page was written" test ! -e "$work/new.html"
finish
