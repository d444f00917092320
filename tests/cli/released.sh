# The small files of released models, where they lie beside the project (../shared/released): what inspect foretells over
# weights of the released shapes, what is refused by name, chats as transformers' apply_chat_template has them, and random
# narrow models with the released tokenizers at work on three ranks. tests/golden/released has the reference
# (scripts/references/released.py). Files that the reference did not read are left out, and counted.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
released=../shared/released golden=tests/golden/released
[ -d "$released" ] || { echo "skip: $released, the small files of released models, is not there"; exit 77; }
drivers=$BUILD/tests/cli
skipped=0

# --- Configs: foretold from headers alone, or refused by name.
mkdir "$work/configs"
foretold=0 refused=0 names=
while read -r kind number name words; do
    folder=$work/configs/$kind$number
    case $kind in
        skip) echo "skip: $number $name $words"; skipped=$((skipped + 1)) ;;
        count)
            "$drivers/stand_in_driver" "$folder" sparse > "$work/bytes" || { echo "skip: $name: no file of that length here"; skipped=$((skipped + 1)); continue; }
            before=$failures
            check "$name is foretold from headers" timeout 20 "$coxswain" inspect --model "$folder" --ranks 8 --json > "$work/foretold.json"
            check "$name as transformers counts it" "$drivers/released_driver" foretold $golden/configs.json "$number" "$work/foretold.json"
            [ "$failures" = "$before" ] && { foretold=$((foretold + 1)); names+="$name "; }
            ;;
        refuse)
            before=$failures
            refuses 5 "$words" inspect --model "$folder" --ranks 8
            [ "$failures" = "$before" ] && refused=$((refused + 1))
            ;;
    esac
    rm -rf "$folder"
done < <("$drivers/released_driver" configs $golden/configs.json "$released" "$work/configs")
echo "configs: $foretold foretold, $refused refused by name"

# --- Chats and templates.
chats=0 templates=0 models= texts=0 ids=0 errors=0
if python3 -c 'import jinja2' 2> /dev/null; then
    mkdir "$work/chats"
    while read -r kind number name; do
        if [ "$kind" = skip ]; then echo "skip: $number $name"; skipped=$((skipped + 1)); continue; fi
        folder=$work/chats/$number template=()
        [ -f "$folder.jinja" ] && template=(--template "$folder.jinja")
        checks=$((checks + 1))
        if ! "$coxswain" tokenize --model "$folder" --chat "${template[@]}" --date 2026-01-02 \
            --conversations $golden/conversations.jsonl > "$work/answers" 2> "$work/err"; then
            echo "FAILED: $name: $(cat "$work/err")" >&2
            failures=$((failures + 1))
        elif ! "$drivers/released_driver" answers $golden/chats.json "$number" "$work/answers" > "$work/counts"; then
            failures=$((failures + 1))
        else
            read -r more_texts more_ids more_errors < "$work/counts"
            texts=$((texts + more_texts)) ids=$((ids + more_ids)) errors=$((errors + more_errors))
            if [ ${#template[@]} = 0 ]; then
                check "$name: a dozen conversations' ids at least" test "$more_ids" -ge 12
                chats=$((chats + 1)) models+="$name "
            else
                templates=$((templates + 1))
            fi
        fi
    done < <("$drivers/released_driver" chats $golden/chats.json "$released" "$work/chats")
    echo "chats: $chats models and $templates templates; $texts texts, $ids of them with ids, and $errors errors"
    for name in gpt-oss-20b Mixtral-8x7B-Instruct Qwen3-30B-A3B Qwen3-Coder; do
        check "chats of $name" grep -qF "$name " <<< "$models"
    done
    check "35 templates at least" test $templates -ge 35
else
    echo "skip: chats and templates, for want of python3 with jinja2 (Debian: python3-jinja2)"
    skipped=$((skipped + 1))
fi
check "ten configs foretold at least" test $foretold -ge 10
for name in gpt-oss-20b gpt-oss-120b Mixtral-8x7B-Instruct-v0.1 OLMoE-1B-7B-0924 OLMoE-1B-7B-0125-Instruct Qwen3-30B-A3B \
    Qwen3-235B-A22B Qwen3-Coder-480B-A35B-Instruct; do
    check "$name is foretold" grep -qF "$name/config.json " <<< "$names"
done
check "46 of other kinds refused at least" test $refused -ge 46
echo "compared $((foretold + refused + texts + errors)), skipped $skipped"
[ $failures -gt 0 ] || [ $((chats + templates)) -gt 0 ] || exit 77 # half of the test did not run
finish
