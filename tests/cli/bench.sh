# coxswain bench --steer-mix: what it reports, on one rank and on several; nothing about speed itself.
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

refuses 2 "steer-mix" bench --model "$model"
refuses 2 "requests" bench --model "$model" --steer-mix --requests 0
refuses 7 "context" bench --model "$model" --steer-mix --new-tokens 100000
refuses 3 "config.json" bench --model "$work/none" --steer-mix
export TMPDIR=$work/none
refuses 9 "$work/none" bench --model "$model" --steer-mix
finish
