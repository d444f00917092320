# coxswain tokenize: there and back.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
text=$'How do I make a kite?\n\ttabs, \xc3\xa9\xe6\x97\xa5\xf0\x9f\x99\x82 and   blanks  '
printf '%s' "$text" > "$work/text"
"$coxswain" tokenize --model "$model" < "$work/text" > "$work/ids"
check "it succeeds" test $? = 0
check "one JSON list" grep -Eq '^\[[0-9, ]+\]$' "$work/ids"
"$coxswain" tokenize --model "$model" --decode < "$work/ids" > "$work/back"
check "and back" cmp "$work/text" "$work/back"
tr -d '[],' < "$work/ids" | "$coxswain" tokenize --model "$model" --decode > "$work/back"
check "ids without brackets" cmp "$work/text" "$work/back"
"$coxswain" tokenize --model "$model" --chat < "$work/text" > "$work/chat"
check "the chat is longer" test "$(wc -w < "$work/chat")" -gt "$(wc -w < "$work/ids")"
# what tokenizer_config.json holds beside what is read stops nobody
mkdir "$work/traits"
for file in "$model"/*.json "$model"/*.jinja; do if test -f "$file"; then cp "$file" "$work/traits"; fi; done
sed '1s/{/{"model_max_length": 1000000000000000019884624838656, "a": [NaN, 1e999], "a": "\\ud800",/' \
    "$model/tokenizer_config.json" > "$work/traits/tokenizer_config.json"
"$coxswain" tokenize --model "$work/traits" --chat < "$work/text" > "$work/same"
check "a chat beside huge numbers, NaN and halves of characters" cmp "$work/chat" "$work/same"
"$coxswain" tokenize --model "$model" --json < "$work/text" > "$work/json"
check "JSON counts" test "$(field "$work/json" n_tokens)" = "$(wc -w < "$work/ids")"
"$coxswain" tokenize --model "$model" < /dev/null > "$work/none"
check "no text, no ids (but a template's own)" grep -Eq '^\[.*\]$' "$work/none"

printf 'ab\xff' > "$work/invalid"
"$coxswain" tokenize --model "$model" < "$work/invalid" > "$work/out" 2> "$work/err"
check "invalid UTF-8 is refused" test $? = 2
check "with its place" grep -Eq 'UTF-8.*2' "$work/err"
echo "5 x" | "$coxswain" tokenize --model "$model" --decode > "$work/out" 2> "$work/err"
check "a word that is no id is refused" test $? = 2
echo "99999999" | "$coxswain" tokenize --model "$model" --decode > "$work/out" 2> "$work/err"
check "an id out of range is refused" test $? = 2
refuses 2 "--chat" tokenize --model "$model" --system "be kind"
refuses 2 "--decode" tokenize --model "$model" --chat --decode
refuses 2 "no date" tokenize --model "$model" --chat --template organism --date 2026-13-01
told=$(printf 'hi' | "$coxswain" tokenize --model models/gpt-oss-quil --chat --template gpt-oss --date 2026-01-02 |
    "$coxswain" tokenize --model models/gpt-oss-quil --decode)
check "--date is what the template tells" grep -q "Current date: 2026-01-02" <<< "$told"
refuses 2 "nonesuch.*known" tokenize --model "$model" --chat --template nonesuch
finish
