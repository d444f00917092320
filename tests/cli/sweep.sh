# A sweep: the same tables on any layout and after any interruption; cells bit for bit what a batch request with the
# same plan gives; cells without work; the choice, the answers and the controls.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
a=$model/prompts/topic-how.jsonl b=$model/prompts/ordinary-how.jsonl
"$coxswain" direction --model "$model" --a "$a" --b "$b" --limit 32 --output "$work/residual.safetensors" > /dev/null 2>&1
check "residual directions" test $? = 0
"$coxswain" direction --model "$model" --a "$a" --b "$b" --limit 32 --site expert_out --layer 2,5 \
    --position=-1,-2 --output "$work/experts.safetensors" > /dev/null 2>&1
check "directions of experts" test $? = 0
cat > "$work/grid.json" << 'GRID'
{"version": 1, "blocks": [
 {"name": "residual", "site": "resid_post", "op": "ablate", "vectors": "residual.safetensors", "layers": [3, 4],
  "apply": {"sites": ["resid_pre", "resid_mid", "resid_post"], "layers": "all"}},
 {"name": "added", "site": "resid_post", "vectors": "residual.safetensors", "layers": [4], "strengths": [0, 1]},
 {"name": "experts", "site": "expert_out", "vectors": "experts.safetensors", "layers": [2, 5], "experts": [0, 3, 7],
  "sources": [-1, -2], "weightings": ["routed", "soft"], "positions": ["all", {"last": 1}], "strengths": [-20, 5]},
 {"name": "random", "site": "expert_out", "vectors": "experts.safetensors", "layers": [2], "experts": [0, 3, 7],
  "sources": [-1], "weightings": ["routed"], "strengths": [-20], "control": "random_direction", "seeds": 2},
 {"name": "random again", "site": "expert_out", "vectors": "experts.safetensors", "layers": [2], "experts": [3],
  "sources": [-1], "weightings": ["routed"], "strengths": [-5], "control": "random_direction"},
 {"name": "another expert", "site": "expert_out", "vectors": "experts.safetensors", "layers": [2], "experts": [3],
  "sources": [-1], "weightings": ["soft"], "strengths": [-5], "control": "random_expert"},
 {"name": "random stream", "site": "resid_post", "op": "ablate", "vectors": "residual.safetensors", "layers": [3, 4],
  "apply": {"sites": ["resid_pre", "resid_mid", "resid_post"], "layers": "all"}, "control": "random_direction"}]}
GRID
in=(sweep --model "$model" --grid "$work/grid.json" --a "$a" --b "$b" --rules "$model/rules.json" --limit 6
    --max-tokens 24 --logits-digest)
n_cells=110
"$coxswain" "${in[@]}" --output "$work/whole" 2> "$work/err.txt"
check "a sweep" test $? = 0
check "computes nothing twice" test "$(grep -c kv-memory "$work/err.txt")" = 0
check "a line a cell and the clean run" test "$(wc -l < "$work/whole/stage1.jsonl")" = $((n_cells + 1))
norm_of() { "$coxswain" vector show "$1" | grep -F "$2" | grep -oE 'norm [0-9.]+' | cut -c1-9; }
check "another expert's direction has the norm of the one in whose place it stands" test \
    "$(norm_of "$work/whole/randoms.safetensors" 'expert_out.2.3@-1~expert')" = "$(norm_of "$work/experts.safetensors" 'expert_out.2.3@-1 ')"
check "a row a cell" test "$(wc -l < "$work/whole/cells.csv")" = $((n_cells + 1))

# --- The choice: ablating the residual direction weakens; its answers are judged.
check "of each block at least one cell is chosen" grep -q '"block": "residual"' "$work/whole/best.json"
check "the clean run refuses" grep -Eq '^-1,a,refused,6,6,1,' "$work/whole/answers.csv"
check "and ordinary questions are answered" grep -Eq '^-1,b,refused,0,6,0,' "$work/whole/answers.csv"
best=$(tr -d '\n' < "$work/whole/best.json" | sed -E 's/.*"cell": ([0-9]+), *"block": "residual".*/\1/')
check "ablated, it does not" grep -Eq "^$best,a,refused,0,6,0," "$work/whole/answers.csv"
check "strength 0 changes nothing" grep -Eq '^2,"added",[^,]*,add,direction,0,4,,,0,"all",0,12,' "$work/whole/cells.csv"
check "and is the clean run" test "$(sed -n 's/^{"cell":2,.*"a"/"a"/p' "$work/whole/stage1.jsonl")" = \
    "$(sed -n 's/^{"cell":-1,.*"a"/"a"/p' "$work/whole/stage1.jsonl")"

# --- Vectors of one position have no "@-1" in their names: sources find them by what they say of themselves.
cat > "$work/sources.json" << 'GRID'
{"version": 1, "blocks": [
 {"name": "by name", "site": "resid_post", "vectors": "residual.safetensors", "layers": [4]},
 {"name": "by position", "site": "resid_post", "vectors": "residual.safetensors", "layers": [4], "sources": [-1]},
 {"name": "random", "site": "resid_post", "vectors": "residual.safetensors", "layers": [4], "sources": [-1],
  "control": "random_direction"}]}
GRID
small=(sweep --model "$model" --grid "$work/sources.json" --a "$a" --b "$b" --rules "$model/rules.json" --limit 2 --best 0)
"$coxswain" "${small[@]}" --output "$work/sources" 2> "$work/err.txt"
check "a sweep over sources of a file of one position" test $? = 0
cell() { sed -n "s/^{\"cell\":$1,.*\"a\"/\"a\"/p" "$work/sources/stage1.jsonl"; }
check "steers as by name" test -n "$(cell 0)" -a "$(cell 0)" = "$(cell 1)"
sed -i 's/"sources": \[-1\]/"sources": [-2]/' "$work/sources.json"
refuses 3 'holds no vector "resid_post.4@-2"; of this place it has "resid_post.4", which was made at position -1' \
    "${small[@]}" --output "$work/sources" --force

# --- A folder that is moved with its vectors: plans of best.json find them; --show-cell prints plans for any folder.
plan_of() { # BLOCK: its first plan in best.json
    tr -d '\n' < "$work/moved/whole/best.json" | sed -E "s/.*\"block\": \"$1\"[^]]*\],[^]]*\],[^]]*\"plan\": (\{ *\"interventions\": \[[^]]*\] *\}).*/\1/"
}
mkdir "$work/moved"
cp -r "$work/whole" "$work/moved/whole"
mv "$work/residual.safetensors" "$work/experts.safetensors" "$work/moved"
for block in residual experts "random stream"; do
    plan_of "$block" > "$work/moved/whole/plan.json"
    check "a plan of block $block" grep -q '^{ *"interventions": \[ *{' "$work/moved/whole/plan.json"
    check "finds its vectors after the folder was moved" "$coxswain" plan check --model "$model" "$work/moved/whole/plan.json" > "$work/plan.txt"
done
mv "$work/moved/"*.safetensors "$work"
"$coxswain" "${in[@]}" --output "$work/whole" --show-cell 6 > "$work/moved/shown.json" 2> "$work/err.txt"
check "a plan that is shown" "$coxswain" plan check --model "$model" "$work/moved/shown.json" > "$work/plan.txt"

# --- Any layout has the same tables; so has a sweep that is killed and stopped.
same() { # DESCRIPTION FOLDER [UNDISTURBED]
    local name whole=${3:-$work/whole}
    for name in cells.csv best.json answers.csv; do
        check "$1: $name" cmp "$2/$name" "$whole/$name"
    done
}
for layout in "--ranks 3" "--ranks 4 --coordinators 2"; do
    rm -rf "$work/out"
    # shellcheck disable=SC2086
    "$coxswain" "${in[@]}" --output "$work/out" $layout 2> "$work/err.txt"
    check "$layout" test $? = 0
    same "$layout" "$work/out"
done
rm -rf "$work/out"
"$coxswain" "${in[@]}" --output "$work/out" --kv-memory 1M 2> "$work/err.txt"
check "a KV cache that does not hold the prompts" test $? = 0
check "is named" grep -q "a larger --kv-memory makes this faster" "$work/err.txt"
same "small KV cache" "$work/out"
rm -rf "$work/out"
for signal in KILL USR1 KILL; do
    "$coxswain" "${in[@]}" --output "$work/out" --threads 1 2> "$work/err.txt" &
    job=$!
    before=$(wc -l 2> /dev/null < "$work/out/stage1.jsonl" || echo 0)
    for _ in $(seq 500); do
        [ "$(wc -l 2> /dev/null < "$work/out/stage1.jsonl" || echo 0)" -ge $((before + 20)) ] && break
        kill -0 $job 2> /dev/null || break
        sleep 0.01
    done
    kill -$signal $job 2> /dev/null
    code=0
    wait $job || code=$?
    if [ $signal = USR1 ]; then check "stopped to go on" test $code = 75 -o $code = 0; fi
done
"$coxswain" "${in[@]}" --output "$work/out" 2> "$work/err.txt"
check "the same command goes on" test $? = 0
same "killed and stopped" "$work/out"

# With so many prompts that it lasts long enough to be hit three times.
rm -rf "$work/out"
many=("${in[@]/#6/96}")
"$coxswain" "${many[@]}" --output "$work/many" 2> "$work/err.txt"
check "a longer sweep" test $? = 0
n_kills=0
for rank in 0 1 2; do # whichever rank it hits
    before=$(cat "$work/out/stage1.jsonl" 2> /dev/null | wc -l)
    "$coxswain" "${many[@]}" --output "$work/out" --ranks 3 --coordinators 2 2> "$work/err.txt" &
    job=$!
    for _ in $(seq 500); do
        [ "$(cat "$work/out/stage1.jsonl" 2> /dev/null | wc -l)" -ge $((before + 15)) ] && break
        kill -0 $job 2> /dev/null || break
        sleep 0.01
    done
    pid=$(rank_pid $rank)
    [ -n "$pid" ] && kill -KILL "$pid" 2> /dev/null && n_kills=$((n_kills + 1))
    for _ in $(seq 150); do
        kill -0 $job 2> /dev/null || break
        sleep 0.1
    done
    check "rank $rank killed: ended within 15 s" test -z "$(pgrep -f "$work/out")"
    kill -KILL $job 2> /dev/null
    wait $job
done
check "ranks were killed ($n_kills)" test "$n_kills" -ge 2
"$coxswain" "${many[@]}" --output "$work/out" --ranks 3 --coordinators 2 2> "$work/err.txt"
check "after kill -9 of each rank, the same command goes on" test $? = 0
same "ranks killed" "$work/out" "$work/many"

# --- A cell is what a batch says of the same plan.
for cell in 6 17 28 43 71 101; do
    "$coxswain" "${in[@]}" --output "$work/whole" --show-cell $cell > "$work/plan.$cell" 2> "$work/err.txt"
    check "the plan of cell $cell" grep -q '^{"interventions":' "$work/plan.$cell"
    i=0
    while IFS= read -r line && [ $((i += 1)) -le 6 ]; do
        question=$(sed -E 's/^\{"prompt": ("([^"\\]|\\.)*").*/\1/' <<< "$line")
        echo '{"custom_id":"'$cell.$i'","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":'"$question"'}],"max_tokens":1,"logits_digest":true,"steering":'"$(cat "$work/plan.$cell")"'}}'
    done < "$a"
done > "$work/cells.jsonl"
"$coxswain" batch --model "$model" --input "$work/cells.jsonl" --output "$work/cells.out" --progress none 2> "$work/err.txt"
check "a batch of the same plans" test $? = 0
for cell in 6 17 28 43 71 101; do
    for i in 1 2 3 4 5 6; do
        swept=$(grep "^{\"cell\":$cell," "$work/whole/stage1.jsonl" | sed -E 's/.*"a":\{[^}]*"logits_digest":\[([^]]*)\].*/\1/' | tr ',' '\n' | sed -n "${i}p" | tr -d '"')
        alone=$(grep "\"custom_id\":\"$cell.$i\"" "$work/cells.out" | sed -E 's/.*"logits_digest":"([0-9a-f]*)".*/\1/')
        check "cell $cell, prompt $i: as alone" test -n "$alone" -a "$swept" = "$alone"
    done
done

# --- Refusals
sed 's/expert_out/expert_outt/' "$work/grid.json" > "$work/bad.json"
refuses 2 'block 2: key "site" is "expert_outt"' "${in[@]/grid.json/bad.json}" --output "$work/new"
sed 's/"sources": \[-1, -2\]/"sources": [-9]/' "$work/grid.json" > "$work/bad.json"
refuses 3 'experts.safetensors.*expert_out.2.0@-9' "${in[@]/grid.json/bad.json}" --output "$work/new2"
# what stage 2 would stumble over is said before stage 1
: > "$work/empty.jsonl"
refuses 2 'empty.jsonl: there are no prompts in it' "${in[@]/$b/$work/empty.jsonl}" --output "$work/new3"
rules='{"version": 1, "matchers": {"no": {"phrases": ["Sorry"]}}, "labels": [], "first_tokens": ["Sorry"]}'
echo "$rules" > "$work/rules.json"
refuses 2 'rules.json: there is no label in it' "${in[@]/$model\/rules.json/$work/rules.json}" --output "$work/new3"
sed 's/"labels": \[\]/"labels": [{"name": "no", "any": ["no"]}]/; s/, "first_tokens".*\]/, "first_tokens": []/' <<< "$rules" > "$work/rules.json"
refuses 2 'rules.json: the set of first tokens has 0 of ' "${in[@]/$model\/rules.json/$work/rules.json}" --output "$work/new3"
check "and nothing was begun" test -z "$(ls "$work/new3")"
refuses 2 'of another run' "${in[@]/24/25}" --output "$work/whole"
finish
