# Chat templates on the command line: built-in ones and others against jinja2 over random conversations; what hangs, grows
# or dies in a template is one request's error; no process is left behind, whatever ends the run; the options of all commands.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
reference=tests/cli/chat_reference.py
python3 $reference make x 0 2> /dev/null || { echo "skip: no python3 with jinja2 (python3-jinja2)"; exit 77; }
export COX_CHAT_TEST=$work # by which our processes are known

# processes: of the program and of what it starts
processes() {
    local file name
    for file in $(grep -lzxs "COX_CHAT_TEST=$work" /proc/[0-9]*/environ); do
        name=$(cat "${file%environ}comm" 2> /dev/null) || continue
        case $name in coxswain | python*) echo "$file $name" ;; esac
    done
}
all_gone() {
    for _ in $(seq 150); do
        [ -z "$(processes)" ] && return 0
        sleep 0.2
    done
    processes >&2
    return 1
}
tokenize=("$coxswain" tokenize --model "$model" --chat --conversations)
tokens='{"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|padding|>"}'

# Templates that have a name: C writes plain conversations without Python; with it every conversation is jinja2's.
for name in olmoe mixtral gpt-oss gpt-oss-bare qwen3 chatml organism; do
    python3 $reference make "$name" 400 > "$work/in.jsonl"
    for python in "$work/none" python3; do
        "${tokenize[@]}" "$work/in.jsonl" --template "$name" --date 2026-02-03 --python "$python" > "$work/out.jsonl"
        check "$name by $python" test $? = 0
        check "$name by $python is jinja2's" python3 $reference compare "model/templates/$name.jinja" "$tokens" 2026-02-03 \
            "$work/in.jsonl" "$work/out.jsonl" 200
    done
done

# Others, as files.
for name in line-breaks tools-by-macros system-last mixtral-space; do
    python3 $reference make "$name" 300 > "$work/in.jsonl"
    file=tests/golden/chat/$name/chat_template.jinja
    "${tokenize[@]}" "$work/in.jsonl" --template $file --date 2026-02-03 > "$work/out.jsonl"
    check "$name is jinja2's" python3 $reference compare $file "$tokens" 2026-02-03 "$work/in.jsonl" "$work/out.jsonl" 30
done

# A template that hangs, outputs gigabytes, allocates gigabytes, computes without end in one operation, or says no.
cat > "$work/bad.jinja" << 'TEMPLATE'
{%- set word = messages[-1].content %}
{%- if word == 'loop' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}
{%- if word == 'power' %}{{ 7 ** (7 ** (word | length + 4)) }}{% endif %}
{%- if word == 'output' %}{% for a in range(99999) %}{% for b in range(999) %}{{ 'x' * 9999 }}{% endfor %}{% endfor %}{% endif %}
{%- if word == 'memory' %}{{ 'a' * 10 ** (word | length + 4) }}{% endif %}
{%- if word == 'long' %}{{ 'a' * (word | length + 1) * 10 ** 7 }}{% endif %}
{%- if word == 'deep' %}{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}{% endif %}
{%- if word == 'refuse' %}{{ raise_exception('I will not') }}{% endif -%}
{{ word }}
TEMPLATE
say() { printf '{"messages": [{"role": "user", "content": "%s"}]}\n' "$1"; }
for word in good loop good power output memory long deep refuse good; do say $word; done > "$work/bad.jsonl"
"${tokenize[@]}" - --template "$work/bad.jinja" < "$work/bad.jsonl" > "$work/out.jsonl"
check "bad renderings are answers" test $? = 0
check "one line each" test "$(wc -l < "$work/out.jsonl")" = 10
check "the others go on" test "$(grep -c '"text":"good"' "$work/out.jsonl")" = 3
line() { sed -n "$1p" "$work/out.jsonl"; }
limits='took more than [0-9]+ s|Memory|characters'
for number in 2 4 5 6 7; do check "line $number is ended" grep -Eq "cannot render this: .*($limits)" <(line $number); done
check "a loop takes too long" grep -q "took more than" <(line 2)
check "memory has a limit" grep -q MemoryError <(line 6)
check "length has a limit" grep -q "5000000[0-9] characters" <(line 7)
check "recursion has a limit" grep -q RecursionError <(line 8)
check "its own words end the message" grep -q 'refuses this: I will not"' <(line 9)
echo "{{ 7 ** (7 ** 9) }}" > "$work/constant.jinja" # computed when the template is compiled
say x | "${tokenize[@]}" - --template "$work/constant.jinja" > "$work/out.jsonl"
check "a template that cannot be compiled in time" grep -q "took more than" "$work/out.jsonl"
echo "{% if %}" > "$work/syntax.jinja"
say x | "${tokenize[@]}" - --template "$work/syntax.jinja" > "$work/out.jsonl"
check "a broken template" grep -q 'invalid_request.*TemplateSyntaxError' "$work/out.jsonl"
check "no process is left" all_gone

# What renders is killed between two chats, and while it renders; then all of it.
mkfifo "$work/in"
"${tokenize[@]}" "$work/in" --template "$work/bad.jinja" > "$work/out.jsonl" 2> "$work/err.txt" &
job=$!
exec 7> "$work/in"
await() { for _ in $(seq 300); do [ "$(wc -l < "$work/out.jsonl")" -ge "$1" ] && return 0; sleep 0.1; done; return 1; }
renderer() { pgrep -P "$(pgrep -P $job)"; } # the supervisor's child
say good >&7
await 1
kill -KILL "$(renderer)"
say good >&7
check "a renderer that died idle is replaced" await 2
check "without an error" test "$(grep -c '"text":"good"' "$work/out.jsonl")" = 2
say loop >&7
sleep 0.3
kill -KILL "$(renderer)"
check "one that died at work" await 3
check "is an error" grep -q "signal 9" "$work/out.jsonl"
say good >&7
check "and is replaced" await 4
check "with a good one" test "$(grep -c '"text":"good"' "$work/out.jsonl")" = 3
supervisor=$(pgrep -P $job)
kill -INT "$supervisor" "$(renderer)" # what a terminal or Slurm sends to all is not for them
kill -TERM "$supervisor" "$(renderer)"
say good >&7
check "signals do not end it" await 5
renderer=$(renderer)
kill -KILL "$supervisor" "$renderer"
say good >&7
got=0
wait $job || got=$?
exec 7>&-
check "all of it killed ends the run" test $got = 9
check "with a reason" grep -q "process that renders chat templates" "$work/err.txt"
check "no process is left" all_gone

# kill -9 of the program, while a template hangs
{ say good; say loop; } > "$work/two.jsonl"
"${tokenize[@]}" "$work/two.jsonl" --template "$work/bad.jinja" > "$work/out.jsonl" &
job=$!
await 1
kill -KILL $job
wait $job 2> "$work/kill.txt"
check "no process is left after kill -9" all_gone

# A batch on three ranks, two of which render: bad requests are errors of their own, tools and kwargs reach the template
cat > "$work/batch.jinja" << 'TEMPLATE'
{%- if messages[-1].content == 'loop' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}
{%- if messages[-1].content == 'refuse' %}{{ raise_exception('I will not') }}{% endif %}
{{- 'x ' * (tools | length if tools else 1) * (n | default(1)) ~ messages[-1].content }}
TEMPLATE
request() { printf '{"custom_id":"%s","url":"/v1/chat/completions","body":{"max_tokens":2,%s"messages":[{"role":"user","content":"%s"}]}}\n' "$1" "$2" "$3"; }
{
    for i in $(seq 20); do request "$i" "" "good $i"; done
    request hangs "" loop
    request refuses "" refuse
    request tools '"tools":[{"type":"function"},{"type":"function"},{"type":"function"},{"type":"function"}],' x
    request kwargs '"chat_template_kwargs":{"n":9},' x
    request number '"chat_template_kwargs":{"tools":9},' x
    echo '{"custom_id":"plain","url":"/v1/completions","body":{"max_tokens":2,"prompt":"kite"}}'
} > "$work/batch.jsonl"
for layout in "--ranks 3 --coordinators 2 --experts-on all"; do
    # shellcheck disable=SC2086
    "$coxswain" batch --model "$model" --input "$work/batch.jsonl" --output "$work/answers.jsonl" --force --threads 1 \
        --template "$work/batch.jinja" --template-kwargs '{"n": 3}' $layout 2> "$work/err.txt"
    check "batch $layout" test $? = 0
    check "$layout: 23 answers" test "$(grep -c '"status_code":200' "$work/answers.jsonl")" = 23
    check "$layout: 3 errors" test "$(grep -c '"status_code":400' "$work/answers.jsonl")" = 3
    check "$layout: one took too long" grep -q '"custom_id":"hangs".*took more than' "$work/answers.jsonl"
    check "$layout: the template's words" grep -q '"custom_id":"refuses".*refuses this: I will not"' "$work/answers.jsonl"
    check "$layout: what is no variable" grep -q '"custom_id":"number".*is no variable' "$work/answers.jsonl"
    prompt_tokens() { grep "\"custom_id\":\"$1\"" "$work/answers.jsonl" > "$work/one.json"; field "$work/one.json" prompt_tokens; }
    check "$layout: tools reach it" test "$(prompt_tokens tools)" -gt "$(prompt_tokens 1)"
    check "$layout: kwargs go before the run's" test "$(prompt_tokens kwargs)" -gt "$(prompt_tokens 1)"
    check "$layout: no process is left" all_gone
done
# Another template, kwargs or date is another run.
run=(batch --model "$model" --input "$work/batch.jsonl" --output "$work/answers.jsonl")
refuses 2 "template_kwargs|other options|differ" "${run[@]}" --template "$work/batch.jinja" --template-kwargs '{"n": 4}'
cp "$work/batch.jinja" "$work/kept.jinja"
echo "{{ 1 }}" >> "$work/batch.jinja"
refuses 2 "template_file|differ" "${run[@]}" --template "$work/batch.jinja" --template-kwargs '{"n": 3}'
cp "$work/kept.jinja" "$work/batch.jinja"
"$coxswain" "${run[@]}" --template "$work/batch.jinja" --template-kwargs ' {"n":3}' 2> "$work/err.txt"
check "blanks in kwargs do not count" test $? = 0
refuses 2 "nothing is written over it" batch --model "$model" --input "$work/batch.jsonl" --output "$work/batch.jinja" \
    --template "$work/batch.jinja" --force

# kill -9 of a rank while another renders; mpirun ends the others
{ request good "" good; for i in $(seq 50); do request "h$i" "" loop; done; } > "$work/hanging.jsonl"
"$coxswain" batch --model "$model" --input "$work/hanging.jsonl" --output "$work/answers2.jsonl" --template "$work/batch.jinja" \
    --ranks 3 --threads 1 2> "$work/err.txt" &
job=$!
for _ in $(seq 300); do [ -s "$work/answers2.jsonl" ] && break; sleep 0.1; done
check "a batch of hanging templates answers" test -s "$work/answers2.jsonl"
kill -KILL "$(rank_pid 0)"
wait $job
check "no process is left after kill -9 of a rank" all_gone

# The options of all commands that render chats
quiet() { "$@" > "$work/out.txt" 2> "$work/err.txt"; }
own=(--template "$work/batch.jinja" --template-kwargs '{"n": 2}' --date 2026-01-01 --system "Be brief.")
head -n 4 "$model/study/a-train.jsonl" > "$work/a.jsonl"
head -n 4 "$model/study/b-train.jsonl" > "$work/b.jsonl"
sed -E 's/.*("prompt": *"([^"\\]|\\.)*").*/{"custom_id":"c","url":"\/v1\/chat\/completions","body":{"messages":[{"role":"user","content":"x"}]}}/' \
    "$work/a.jsonl" > "$work/chats.jsonl"
classes=(--model "$model" --a "$work/a.jsonl" --b "$work/b.jsonl" --threads 1)
check "generate" quiet "$coxswain" generate --model "$model" --prompt x --max-tokens 2 "${own[@]}"
check "capture" quiet "$coxswain" capture --model "$model" --input "$work/chats.jsonl" --output "$work/captured" "${own[@]}"
check "capture says with what" grep -q '"template_kwargs": *"{\\"n\\":2}"' "$work/captured/index.json"
check "direction" quiet "$coxswain" direction "${classes[@]}" --layer 1 --output "$work/v.safetensors" "${own[@]}"
check "routes" quiet "$coxswain" routes "${classes[@]}" --resamples 100 "${own[@]}"
check "decompose" quiet "$coxswain" decompose "${classes[@]}" --vector "$work/v.safetensors" --rules "$model/rules.json" --resamples 100 \
    "${own[@]}"
check "evaluate" quiet "$coxswain" evaluate --model "$model" --prompts "$work/a.jsonl" --rules "$model/rules.json" --resamples 100 \
    "${own[@]}"
echo '{"version": 1, "blocks": [{"name": "r", "site": "resid_post", "op": "ablate", "vectors": "v.safetensors", "layers": [1]}]}' > "$work/grid.json"
check "sweep" quiet "$coxswain" sweep "${classes[@]}" --grid "$work/grid.json" --rules "$model/rules.json" --best 0 --output "$work/swept" \
    "${own[@]}"
check "tokenize" quiet "$coxswain" tokenize --model "$model" --chat "${own[@]}" < "$work/grid.json"
"$coxswain" bench --chat --model "$model" --requests 20 --rounds 2 --template "$work/batch.jinja" --json > "$work/out.json"
check "bench --chat" grep -q '"rendered_by":"Python","chats":20,.*"chats_per_s":[0-9.]*,"ms":{"median":' "$work/out.json"
for command in generate batch tokenize capture direction routes sweep evaluate decompose; do
    "$coxswain" $command --help > "$work/out.txt"
    for option in --template --template-kwargs --raw --system --date --python; do
        check "$command $option" grep -q -- "^  $option" "$work/out.txt"
    done
done

# null is left out, whoever renders
echo '{"messages":[{"role":"user","content":"x"}],"add_generation_prompt":null,"tools":null}' > "$work/null.jsonl"
for kwargs in '{}' '{"n":1}'; do
    "$coxswain" tokenize --model "$model" --chat --template-kwargs "$kwargs" --conversations "$work/null.jsonl"
done > "$work/out.json"
check "null asks for nothing else" test "$(sort -u "$work/out.json" | grep -c '<|assistant|>')" = 1 -a "$(sort -u "$work/out.json" | wc -l)" = 1

# Refusals
refuses 2 "JSON object" generate --model "$model" --prompt x --template-kwargs '[1]'
refuses 2 "neither a file nor" generate --model "$model" --prompt x --template "$work/none.jinja"
refuses 5 "python3-jinja2" generate --model "$model" --prompt x --template "$work/batch.jinja" --python "$work/none"
refuses 2 "cannot be used with --raw" generate --model "$model" --prompt x --raw --template-kwargs '{}'
refuses 2 "needs --chat" tokenize --model "$model" --conversations "$work/two.jsonl"
check "no process is left at the end" all_gone
finish
