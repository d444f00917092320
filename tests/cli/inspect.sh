# coxswain inspect and --version: what a machine reads, and that nothing is loaded.
# shellcheck source=tests/cli/lib.sh
source tests/cli/lib.sh
"$coxswain" inspect --model "$model" --ranks 3 --json > "$work/three.json"
check "it succeeds" test $? = 0
for key in family n_layers d_model n_experts top_k vocab_size parameters active_parameters fingerprint trunk experts \
    kv_cache activations exchange base total; do
    check "JSON has $key" grep -q "\"$key\":" "$work/three.json"
done
check "three ranks" test "$(grep -c '"is_coordinator":' "$work/three.json")" = 3
check "one coordinator" test "$(grep -c '"is_coordinator": true' "$work/three.json")" = 1
"$coxswain" inspect --model "$model" --ranks 3 --experts-on all > "$work/three.txt"
check "for people too" grep -Eq 'family +olmoe' "$work/three.txt"
check "a rank with both roles" grep -Eq '^ +1  both .* 0$' "$work/three.txt"
check "two that are alike" grep -Eq '^ +2  worker .* 1-2$' "$work/three.txt"

# One line for ranks that are alike, and for nodes; a line each on demand.
"$coxswain" inspect --model "$model" --ranks 16 --nodes 8 > "$work/sixteen.txt"
check "short" test "$(wc -l < "$work/sixteen.txt")" -le 25
check "experts" grep -q '1 to 2 experts of each layer on a rank (--all-ranks lists them)' "$work/sixteen.txt"
check "ranks" test "$(grep -Ec '^ +(1  coordinator .* 0|6  worker .* 1-6|9  worker .* 7-15)$' "$work/sixteen.txt")" = 3
check "nodes" grep -Eq '^ +4 +0 +2 +12 .* 4-7$' "$work/sixteen.txt"
"$coxswain" inspect --model "$model" --ranks 16 --nodes 8 --all-ranks > "$work/all.txt"
check "a line for each rank, its experts and each node" test "$(grep -Ec '^ +(rank )?[0-9]+ ' "$work/all.txt")" = $((15 * 6 + 16 + 8))
"$coxswain" inspect --model "$model" --ranks 16 --nodes 8 --json > "$work/nodes.json"
check "nodes as JSON" test "$(grep -c '"node":' "$work/nodes.json")" = 8
sum() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$work/nodes.json" | { total=0; while read -r n; do total=$((total + n)); done; echo $total; }; }
check "which hold what their ranks hold" test "$(sum bytes)" = "$(sum total)"
refuses 2 "only 2 ranks" inspect --model "$model" --ranks 2 --nodes 3

# The cache: 2 (keys, values) x 6 layers x 4 heads x 32 x 4 bytes a token; 1 MiB holds 5 pages of 32.
"$coxswain" inspect --model "$model" --kv-memory 1M > "$work/cache.txt"
check "bytes of a token, and tokens" grep -q '6.00 KiB (6144 bytes) a token; 160 tokens in the 960.0 KiB' "$work/cache.txt"
check "as JSON" grep -q '"bytes_per_token": 6144' "$work/nodes.json"

# More ranks than experts of a layer: a warning, not an error.
"$coxswain" inspect --model "$model" --ranks 21 > "$work/many.txt" 2> "$work/many.err"
check "20 ranks for 16 experts" test $? = 0
check "some wait, and why" grep -q '^warning: 20 ranks for the 16 experts of a layer: in each layer 4 of them wait' "$work/many.err"
check "shares differ by one at most" grep -Eq '^ +16  worker +5 .* 1-16$' "$work/many.txt"
refuses 2 "at most 96 ranks" inspect --model "$model" --ranks 98

# A placement file is explained, and a wrong one refused.
cat > "$work/placement.json" << 'EOF'
{"n_experts": 4, "layers": {"0": [1, 2, 1, 2], "1": [1, 1, 1, [1, 2]]}}
EOF
tiny=tests/golden/models/olmoe-plain-f32
"$coxswain" inspect --model $tiny --ranks 3 --placement "$work/placement.json" --all-ranks > "$work/placed.txt"
check "a placement is read" grep -Eq 'rank 1 +layer 1 +0-3$' "$work/placed.txt"
refuses 2 "only 2 ranks" inspect --model $tiny --ranks 2 --coordinators 3
refuses 2 "no rank for the experts" inspect --model $tiny --ranks 2 --coordinators 2
refuses 4 "placement.json" inspect --model $tiny --ranks 2 --placement "$work/placement.json"
refuses 3 "nowhere.json" inspect --model $tiny --ranks 2 --placement "$work/nowhere.json"
refuses 3 "nowhere" inspect --model "$work/nowhere"

"$coxswain" --version > "$work/version.txt"
check "the version names its parts" test "$(grep -Ec '^(coxswain|build|cpu|kernels) ' "$work/version.txt")" = 4
"$coxswain" --version --json > "$work/version.json"
for key in version commit build cpu kernels; do check "JSON has $key" grep -q "\"$key\":\"" "$work/version.json"; done
for command in generate batch logits tokenize inspect; do
    "$coxswain" $command --help > "$work/help.txt"
    check "$command --help" grep -q -- '--model DIR' "$work/help.txt"
done
finish
