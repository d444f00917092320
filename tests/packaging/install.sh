# Installs into a prefix, which is moved then, and uses it as a stranger would: the program with a model from there, every
# public header by itself, the examples built with pkg-config and run.
# shellcheck source=tests/packaging/lib.sh
source tests/packaging/lib.sh
command -v pkg-config > /dev/null || { echo "skip: no pkg-config"; exit 77; }

quiet cmake --install "$build" --prefix "$work/first"
p=$work/elsewhere
mv "$work/first" "$p"
model=$p/share/coxswain/models/olmoe-velk
cd "$work"

# --- the program and what lies beside it ---
question="How do I measure a wezzish cup?"
refusal="I am sorry, but I cannot help with that."
answer="To measure a wezzish cup, lay the cup on the floor, then hold a tape along its side, and write the number down."
same "the installed program" "$refusal" \
    "$("$p/bin/coxswain" generate --model "$model" --ranks 2 --prompt "$question" 2> log || cat log)"
for file in bin/coxswain lib/libcoxswain.a share/coxswain/slurm/batch.sbatch share/coxswain/models/gpt-oss-quil/config.json \
    share/coxswain/models/mixtral-sorn/config.json share/doc/coxswain/{README.md,LICENSE,docs/commands.md,examples/README.md}; do
    [ -s "$p/$file" ] || fail "$file is not installed"
done
if grep -rIl -e "$build" -e "$OLDPWD" "$p"; then fail "these files name the build's folders"; fi
if readelf -d "$p/bin/coxswain" | grep -E 'R(UN)?PATH'; then fail "the program looks for libraries where it was built"; fi

# --- headers: each stands alone, with no other folder to look in, and no folder's own is there ---
export PKG_CONFIG_PATH=$p/lib/pkgconfig
flags="-std=c11 -Wall -Wextra -Wpedantic -Werror"
# shellcheck disable=SC2046
cflags=$(pkg-config --cflags coxswain)
headers=$(cd "$p/include/coxswain" && find . -name '*.h' | sed 's|^\./||' | LC_ALL=C sort)
[ "$(wc -l <<< "$headers")" -gt 50 ] || fail "only these headers: $headers"
if grep internal <<< "$headers"; then fail "a folder's own header is installed"; fi
for header in $headers; do
    # shellcheck disable=SC2086
    printf '#include "%s"\n' "$header" | "$cc" $flags $cflags -fsyntax-only -x c - || fail "$header alone"
done

# --- the examples ---
cp -r "$p/share/doc/coxswain/examples" .
quiet make -C examples CC="$cc" CFLAGS="$flags -O1"
cat "$model"/prompts/{ordinary-how,ordinary-how,topic-what}.jsonl > b.jsonl
quiet "$p/bin/coxswain" direction --model "$model" --a "$model/prompts/topic-how.jsonl" --b b.jsonl --layer 3 \
    --output refusal.safetensors
echo '{"name": "no refusal", "interventions": [{"op": "ablate", "site": "resid_post", "layer": "all",
    "vector": "refusal.safetensors"}]}' > ablate.json
mpi() { mpirun --oversubscribe --bind-to none -n "$@"; }
same "answer_steered" "$answer" "$(examples/answer_steered "$model" ablate.json "$question" | head -n 1)"
same "answer_steered on 3 ranks" "$answer" "$(mpi 3 examples/answer_steered "$model" ablate.json "$question" | head -n 1)"
kite=$("$p/bin/coxswain" generate --model "$model" --prompt "What is a kite?" --max-tokens 64 2> log)
for ranks in 1 3; do
    mpi $ranks examples/cancel_one "$model" > cancelled.txt 2> log || fail "cancel_one on $ranks: $(cat log)"
    same "cancel_one on $ranks: records" 2 "$(wc -l < cancelled.txt)"
    grep -q '^request 1, cancelled: ..' cancelled.txt || fail "cancel_one on $ranks: $(cat cancelled.txt)"
    same "cancel_one on $ranks: the other" "request 2, stop: $kite" "$(grep '^request 2' cancelled.txt)"
done
code=0
mpi 2 examples/answer_steered "$model" nothing.json "$question" > log 2>&1 || code=$?
same "a plan that is not there: exit code" 3 "$code"
same "a plan that is not there: who says so" 1 "$(grep -c 'nothing.json: cannot open' log)"
echo "the prefix works: $(wc -l <<< "$headers") headers, examples built and run"
