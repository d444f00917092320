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
check "a rank with both roles" grep -Eq '^ +0  both ' "$work/three.txt"

# A placement file is explained, and a wrong one refused.
cat > "$work/placement.json" << 'EOF'
{"n_experts": 4, "layers": {"0": [1, 2, 1, 2], "1": [1, 1, 1, [1, 2]]}}
EOF
tiny=tests/golden/models/olmoe-plain-f32
"$coxswain" inspect --model $tiny --ranks 3 --placement "$work/placement.json" > "$work/placed.txt"
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
