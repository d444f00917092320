# coxswain bench: --steer-mix: what it reports, on one rank and on several; --sweep: cells as a sweep runs them have the
# bits of cells that share nothing, over sites, operations, weightings, scopes and families, with a cache that forgets,
# and on several ranks. Nothing about speed itself.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
small="--requests 6 --prompt-tokens 9 --new-tokens 4 --rounds 2"
export TMPDIR=$work/tmp
mkdir "$TMPDIR"

# shellcheck disable=SC2086
"$coxswain" bench --model "$model" --steer-mix $small > "$work/table.txt" 2> "$work/err.txt"
check "one rank" test $? = 0
for word in "requests +6" "prompt_tokens +9" "new_tokens +4" "rounds +2" "ranks +1" "prefix_cache +false" "exchange +self" \
    "^unsteered " "^residual " "^routed "; do
    check "the table says $word" grep -Eq -- "$word" "$work/table.txt"
done
for layout in "--ranks 1" "--ranks 3" "--ranks 2 --experts-on all --coordinators 2"; do
    # shellcheck disable=SC2086
    "$coxswain" bench --model "$model" --steer-mix $small $layout --json > "$work/out.json" 2> "$work/err.txt"
    check "$layout" test $? = 0
    check "$layout computes every row once" grep -q '"rows_computed":72,' "$work/out.json" # 6 * (9 + 4 - 1)
    touched=$(grep -o '"rows_touched":[0-9]*' "$work/out.json" | cut -d: -f2 | tr '\n' ' ')
    check "$layout touches rows" grep -Eq '^0 72 [1-9][0-9]* $' <<< "$touched"
    echo "$touched" >> "$work/touched.txt"
done
check "the same rows on any ranks" test "$(sort -u "$work/touched.txt" | wc -l)" = 1
check "no vectors are left behind" test -z "$(ls "$TMPDIR")"

# --- --sweep
grid() { # MODEL: files of vectors and a grid with something of everything
    "$coxswain" direction --model "$1" --a "$1/study/a-train.jsonl" --b "$1/study/b-train.jsonl" --limit 8 --force \
        --output "$work/residual.safetensors" > /dev/null 2>&1
    "$coxswain" direction --model "$1" --a "$1/study/a-train.jsonl" --b "$1/study/b-train.jsonl" --limit 8 --force \
        --site expert_out --expert 0,3,5 --position=-1,-4 --output "$work/experts.safetensors" > /dev/null 2>&1
    cat > "$work/grid.json" << 'GRID'
{"version": 1, "blocks": [
 {"name": "residual", "site": "resid_post", "op": "ablate", "vectors": "residual.safetensors", "layers": [1, 2],
  "positions": ["all", {"last": 3}]},
 {"name": "everywhere", "site": "resid_post", "op": "ablate", "vectors": "residual.safetensors", "layers": [2],
  "apply": {"sites": ["resid_pre", "resid_mid", "resid_post"], "layers": "all"}},
 {"name": "experts", "site": "expert_out", "vectors": "experts.safetensors", "layers": "all", "experts": [0, 3, 5],
  "sources": [-1, -4], "weightings": ["routed", "post_gate", "soft", "unweighted"], "positions": ["all", {"last": 4},
  {"from": 2, "to": 9}], "strengths": [-20, 0, 3]},
 {"name": "ablated", "site": "expert_out", "op": "ablate", "vectors": "experts.safetensors", "layers": "all",
  "experts": [3, 5], "sources": [-1], "weightings": ["routed"], "strengths": [1]}]}
GRID
}
for name in olmoe-velk mixtral-sorn gpt-oss-quil; do
    m=models/$name
    grid "$m"
    sweep=(bench --sweep --model "$m" --grid "$work/grid.json" --a "$m/study/a-train.jsonl" --b "$m/study/b-train.jsonl"
        --neutral "$m/study/a-train.jsonl" --rules "$m/rules.json" --limit 5 --cells 4 --json)
    for layout in "" "--kv-memory 400K" "--ranks 3 --threads 1"; do
        # every layout and every family once; the product is for scripts/test --full
        case ${COX_TEST_FULL-no}.$name.$layout in
            no.mixtral-sorn."--kv-memory 400K" | no.gpt-oss-quil.--ranks* | no.olmoe-velk.*) ;;
            no.*) continue ;;
        esac
        # shellcheck disable=SC2086
        "$coxswain" "${sweep[@]}" $layout > "$work/out.json" 2> "$work/err.txt"
        check "$name $layout: a sweep beside cells alone" test $? = 0
        check "$name $layout: in every group" test "$(grep -o '"logits_compared":60,"logits_different":0' "$work/out.json" | wc -l)" = 5
    done
done
# each group's mean by its cells, which must make the line of all
sums() { # clock or cpu, the member
    python3 - "$work/out.json" "$1" "$2" << 'SUMS'
import json, sys

out = json.load(open(sys.argv[1]))
value = lambda part: part[sys.argv[2]][sys.argv[3]]
mean = sum(value(group) * group["cells"] for group in out["results"]) / out["all"]["cells"]
sys.exit(not abs(value(out["all"]) / mean - 1) < 1e-6)
SUMS
}
if command -v python3 > /dev/null; then
    check "all cells, alone" sums cpu alone_ms
    check "all cells, in the sweep" sums clock sweep_ms
fi
check "rows are shared" grep -Eq '"shared_beginnings":0\.[0-9]*[1-9]' "$work/out.json"
refuses 2 "grid" bench --model "$model" --sweep
refuses 5 "one coordinator" "${sweep[@]}" --ranks 2 --coordinators 2 --experts-on all
refuses 2 "steer-mix" bench --model "$model"
refuses 2 "requests" bench --model "$model" --steer-mix --requests 0
refuses 7 "context" bench --model "$model" --steer-mix --new-tokens 100000
refuses 3 "config.json" bench --model "$work/none" --steer-mix
export TMPDIR=$work/none
refuses 9 "$work/none" bench --model "$model" --steer-mix
finish
