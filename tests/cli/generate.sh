# coxswain generate: text on standard output alone, the same on any number of ranks; seeds; stop strings; JSON.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
ask=(--model "$model" --progress none --prompt "How do I make a blue kite?" --prompt "What is a kite?" --max-tokens 40)

"$coxswain" generate "${ask[@]}" --logits-digest > "$work/one.txt" 2> "$work/one.err"
check "one rank answers" test $? = 0
check "there is text" test -s "$work/one.txt"
check "one line for each prompt" test "$(wc -l < "$work/one.txt")" -ge 2
digests=$(grep -o 'digest of prompt.*' "$work/one.err")
check "two digests" test "$(echo "$digests" | wc -l)" = 2
for layout in "--ranks 2" "--ranks 3" "--ranks 3 --coordinators 2" "--ranks 3 --coordinators 3 --experts-on all" \
    "--ranks 2 --experts-on all --prefill-chunk 3 --micro-batches 4"; do
    # shellcheck disable=SC2086
    "$coxswain" generate "${ask[@]}" --logits-digest $layout > "$work/more.txt" 2> "$work/more.err"
    check "$layout answers" test $? = 0
    check "$layout gives the same text" cmp "$work/one.txt" "$work/more.txt"
    check "$layout gives the same digests" test "$(grep -o 'digest of prompt.*' "$work/more.err")" = "$digests"
done

# A seed belongs to the text, not to the ranks.
sample=(--model "$model" --progress none --prompt "What is a kite?" --max-tokens 30 --temperature 1.5 --ignore-eos)
"$coxswain" generate "${sample[@]}" --seed 7 > "$work/seed7.txt"
"$coxswain" generate "${sample[@]}" --seed 7 --ranks 3 > "$work/seed7on3.txt" 2> "$work/err.txt"
"$coxswain" generate "${sample[@]}" --seed 8 > "$work/seed8.txt"
check "seed 7 is the same on 3 ranks" cmp "$work/seed7.txt" "$work/seed7on3.txt"
check "seed 8 differs" test "$(cat "$work/seed7.txt")" != "$(cat "$work/seed8.txt")"
"$coxswain" generate "${sample[@]}" --seed 7 --top-k 1 > "$work/top1.txt"
"$coxswain" generate "${sample[@]}" --temperature=0 > "$work/twice.txt" 2> "$work/err.txt"
check "an option given twice is refused" test $? = 2
"$coxswain" generate --model "$model" --prompt "What is a kite?" --max-tokens 30 --ignore-eos > "$work/greedy.txt"
check "top-k 1 is greedy" cmp "$work/top1.txt" "$work/greedy.txt"

# Bias and penalties, greedy too.
first=$(head -c 200 "$work/greedy.txt" | "$coxswain" tokenize --model "$model" | tr -d '[]' | cut -d , -f 1)
"$coxswain" generate "${sample[@]:0:6}" --logit-bias "{\"$first\": -100}" > "$work/biased.txt"
check "a token with bias -100 is not the first" test "$(head -c 3 "$work/biased.txt")" != "$(head -c 3 "$work/greedy.txt")"
"$coxswain" generate "${sample[@]:0:6}" --presence-penalty 2 --frequency-penalty 2 --ignore-eos --max-tokens 40 > "$work/penalised.txt"
"$coxswain" generate "${sample[@]:0:6}" --ignore-eos --max-tokens 40 > "$work/plain.txt"
check "penalties change a text that repeats itself" test "$(cmp -s "$work/penalised.txt" "$work/plain.txt"; echo $?)" = 1
refuses 2 '"x" is not a token id' generate "${sample[@]:0:6}" --logit-bias '{"x": 1}'
refuses 2 "logit-bias: not valid JSON" generate "${sample[@]:0:6}" --logit-bias '{'
refuses 2 "presence-penalty.*-2 to 2" generate "${sample[@]:0:6}" --presence-penalty 3

# Stop strings: cut the greedy text at a place within a word, so that the stop string spans tokens.
one=(--model "$model" --progress none --prompt "How do I make a blue kite?" --max-tokens 40)
"$coxswain" generate "${one[@]}" > "$work/whole.txt"
whole=$(cat "$work/whole.txt")
stop=${whole:9:7}
for ranks in 1 2; do
    text=$("$coxswain" generate "${one[@]}" --ranks "$ranks" --stop "no such text" --stop "$stop" 2> "$work/err.txt")
    check "the text ends before \"$stop\"" test "$text" = "${whole%%"$stop"*}"
done

# JSON
"$coxswain" generate "${one[@]}" --json --logprobs 2 --logits-digest --max-tokens=5 > "$work/twice.json" 2> "$work/err.txt"
check "max-tokens twice is refused" test $? = 2
"$coxswain" generate --model "$model" --prompt "How do I make a blue kite?" --max-tokens 5 --json --logprobs 2 \
    --logits-digest > "$work/one.json"
check "one line of JSON" test "$(wc -l < "$work/one.json")" = 1
check "it has the finish reason" test "$(field "$work/one.json" finish_reason)" = '"length"'
check "it counts tokens" test "$(field "$work/one.json" completion_tokens)" = 5
check "it has the digest" grep -Eq '"logits_digest":"[0-9a-f]{64}"' "$work/one.json"
check "five tokens with log probabilities" test "$(grep -o '"top_logprobs"' "$work/one.json" | wc -l)" = 5

# Prompts from files and from standard input; raw text; no output but the text.
printf 'How do I make a blue kite?' > "$work/prompt.txt"
"$coxswain" generate --model "$model" --prompt-file "$work/prompt.txt" --max-tokens 40 > "$work/file.txt"
check "a prompt from a file" cmp "$work/whole.txt" "$work/file.txt"
"$coxswain" generate --model "$model" --prompt-file - --max-tokens 40 --ranks 2 < "$work/prompt.txt" > "$work/stdin.txt" \
    2> "$work/err.txt"
check "a prompt from standard input" cmp "$work/whole.txt" "$work/stdin.txt"
"$coxswain" generate --model "$model" --raw --prompt "To make a" --max-tokens 4 --json > "$work/raw.json"
"$coxswain" tokenize --model "$model" --json < <(printf 'To make a') > "$work/ids.json"
check "raw adds no template" test "$(field "$work/raw.json" prompt_tokens)" = "$(field "$work/ids.json" n_tokens)"
"$coxswain" generate --model "$model" --prompt "What is a kite?" --max-tokens 0 > "$work/none.txt"
check "no tokens, no text" test "$(wc -c < "$work/none.txt")" = 1

# The table of ranks
"$coxswain" generate "${one[@]}" --ranks 3 --stats > "$work/out.txt" 2> "$work/table.txt"
check "a row for each rank" test "$(grep -Ec '^ +[0-2]  .*MiB' "$work/table.txt")" = 3
check "its stages" test "$(grep -Ec '^ +[0-2]( +[0-9]+[.][0-9]{3}){11}$' "$work/table.txt")" = 3
check "the table is not text" cmp "$work/whole.txt" "$work/out.txt"

# What has no effect, or not the one that was meant, gets a line, once.
warned() { # COUNT PATTERN ARGUMENTS...
    local count=$1 pattern=$2
    shift 2
    "$coxswain" generate --model "$model" --max-tokens 2 --progress none "$@" > "$work/out.txt" 2> "$work/err.txt"
    check "$* is answered" test $? = 0
    check "$* warns $count times" test "$(grep -Ec "^warning: $pattern" "$work/err.txt")" = "$count"
    check "$* says nothing else" test "$(wc -l < "$work/err.txt")" = "$count"
}
warned 0 "" --prompt "What is a kite?"
warned 0 "" --prompt "What is a kite?" --top-k 3 --temperature 1 --threads 1
warned 0 "" --prompt "What is a kite?" --ranks 3
warned 1 "--top-k changes nothing at temperature 0" --prompt "What is a kite?" --top-k 3
warned 1 "--top-p changes nothing" --prompt "What is a kite?" --top-p 0.5 --ranks 2
warned 1 "--min-p changes nothing" --prompt "What is a kite?" --min-p 0.5
warned 1 "--prompt 2 is empty" --prompt "What is a kite?" --prompt "" --ranks 2
warned 1 "/dev/fd/[0-9]*: the prompt is empty" --prompt-file <(echo)
warned 1 "[0-9]+ threads of each of 1 rank for the [0-9]+ cores? of" --prompt "What is a kite?" --threads $(($(nproc) + 1))
warned 1 "$(nproc) threads? of each of 2 ranks for the" --prompt "What is a kite?" --threads "$(nproc)" --ranks 2

# Threads that wait give up their core soon: GNU OpenMP says at the program's start how often they look before they sleep.
spins() { # ARGUMENTS...: of the last start of the program
    env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT OMP_DISPLAY_ENV=verbose "$@" "$coxswain" generate --model "$model" \
        --prompt "What is a kite?" --max-tokens 1 --threads 2 2>&1 | sed -n "s/.*GOMP_SPINCOUNT = '\(.*\)'/\1/p" | tail -n 1
}
if [ -n "$(spins env)" ]; then
    check "waiting threads soon sleep" test "$(spins env)" -le 1000
    check "how soon can be said" test "$(spins env GOMP_SPINCOUNT=7777)" = 7777
fi
finish
