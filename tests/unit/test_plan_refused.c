/* Every plan that is refused, with the words that its message must have; and what `explain` says of those
 * that are not. */
#include "steering_model.h"

#include <math.h>
#include <sys/stat.h>

#include "steering/tensor_file.h"

static int write_one(const char *file, cox_vector vector)
{
    return cox_vector_file_write(path_of(file), &vector, 1) == COX_OK ? 0 : -1;
}

static int set_up(void **state)
{
    if (make_folder(state) != 0) return -1;
    static float a[M_WIDTH + 1], b[M_WIDTH], zero[M_WIDTH], twice[M_WIDTH], z[M_EXPERTS];
    fill(a, M_WIDTH + 1, 1);
    fill(b, M_WIDTH, 2);
    fill(z, M_EXPERTS, 3);
    for (int i = 0; i < M_WIDTH; i++) twice[i] = 2 * a[i];
    const cox_vector plain = {.width = M_WIDTH, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1};
    cox_vector several[6] = {plain, plain, plain, plain, plain, plain};
    several[0].name = "a", several[0].data = a;
    several[1].name = "b", several[1].data = b;
    several[2].name = "zero", several[2].data = zero;
    several[3].name = "wide", several[3].data = a, several[3].width = M_WIDTH + 1;
    several[4].name = "twice", several[4].data = twice;
    several[5].name = "z", several[5].data = z, several[5].width = M_EXPERTS;
    if (cox_vector_file_write(path_of("v.safetensors"), several, 6) != COX_OK) return -1;
    cox_vector one = several[0];
    one.site = COX_SITE_RESID_PRE;
    if (write_one("pre.safetensors", one)) return -1;
    one.model_fingerprint = "bbbb";
    if (write_one("other-model.safetensors", one)) return -1;
    one.model_fingerprint = "aaaa";
    one.tokenizer_fingerprint = "uuuu";
    if (write_one("other-tokenizer.safetensors", one)) return -1;
    one = several[0];
    one.operation = "melt";
    if (write_one("melt.safetensors", one)) return -1;
    static const int32_t routes[3 * M_TOP_K] = {0, 1, 2, 3, 4, 5}, wrong[M_TOP_K] = {1, 99},
                                    twin[M_TOP_K] = {3, 3};
    const int32_t *layers[M_LAYERS] = {routes}, *wrong_layers[M_LAYERS] = {wrong},
                  *twin_layers[M_LAYERS] = {twin};
    const cox_tensor_out odd[] = {{"layer.4294967296", "I32", {1, M_TOP_K}, routes}};
    if (cox_tensor_file_write(path_of("odd.safetensors"), odd, 1, NULL) != COX_OK) return -1;
    return cox_pinned_routes_write(path_of("routes.safetensors"), layers, M_LAYERS, 3, M_TOP_K, NULL) ||
           cox_pinned_routes_write(path_of("narrow.safetensors"), layers, M_LAYERS, 3, 1, NULL) ||
           cox_pinned_routes_write(path_of("wrong.safetensors"), wrong_layers, M_LAYERS, 1, M_TOP_K, NULL) ||
           cox_pinned_routes_write(path_of("twin.safetensors"), twin_layers, M_LAYERS, 1, M_TOP_K, NULL);
}

typedef struct {
    const char *fields; /* of one intervention, or of several with "}, {" between */
    const char *words;  /* in the message, besides the intervention's number */
} refusal;

#define ADD    "'op': 'add', 'vector': 'v.safetensors#a'"
#define POST   "'site': 'resid_post', 'layer': 2"
#define EXPERT "'site': 'expert_out', 'layer': 2, 'expert': 3"
#define ROUTER "'site': 'router_logits', 'layer': 2"
#define OUT3   ROUTER ", 'op': 'force_out', 'expert': 3"

static const refusal refusals[] = {
    {"'site': 'resid_past', 'layer': 2, " ADD,
     "unknown site \"resid_past\"; the sites are resid_pre, attn_out, resid_mid"},
    {"'layer': 2, " ADD, "key \"site\" is missing"},
    {"'site': 7, 'layer': 2, " ADD, "key \"site\" must be a string"},
    {POST ", 'op': 'melt'", "unknown op \"melt\"; the operations are add, ablate"},
    {POST ", 'vector': 'melt.safetensors'", "unknown op \"melt\""},
    {POST ", 'vector': 'v.safetensors#a'", "key \"op\" is missing"},
    {POST, "key \"op\" is missing"},
    {POST ", 'op': 'add'", "op \"add\" needs key \"vector\""},
    {POST ", 'op': 'clamp', 'vector': 'v.safetensors#a'", "op \"clamp\" needs key \"value\""},
    {POST ", 'op': 'affine', 'vector': 'v.safetensors#a', 'alpha': 1",
     "op \"affine\" needs key \"reference\""},
    {POST ", 'op': 'scale'", "op \"scale\" needs key \"factor\""},
    {POST ", 'op': 'scale', 'factor': 2, 'vector': 'v.safetensors#a'",
     "key \"vector\" does not belong to op \"scale\""},
    {POST ", " ADD ", 'value': 3", "key \"value\" does not belong to op \"add\""},
    {POST ", " ADD ", 'stength': 3", "unknown key \"stength\"; the keys are site, op, layer"},
    {POST ", " ADD ", 'strength': '3'", "key \"strength\" must be a number"},
    {POST ", " ADD ", 'strength': 1e39", "key \"strength\" is 1e+39, which is not finite in f32"},
    {POST ", " ADD ", 'preserve_norm': 1", "key \"preserve_norm\" must be true or false"},
    /* what the site does not take */
    {POST ", 'op': 'bias', 'value': 1, 'expert': 3", "op \"bias\" is not possible at resid_post"},
    {POST ", 'op': 'force_in', 'expert': 3", "op \"force_in\" is not possible at resid_post"},
    {POST ", 'op': 'pin', 'routes': 'routes.safetensors'", "op \"pin\" is not possible at resid_post"},
    {ROUTER ", " ADD ", 'expert': 3",
     "op \"add\" is not possible at router_logits, which takes bias, force_out, force_in, pin"},
    {ROUTER ", 'op': 'scale', 'factor': 2", "op \"scale\" is not possible at router_logits"},
    {POST ", " ADD ", 'weighting': 'routed'", "key \"weighting\" belongs to expert_out only"},
    {POST ", " ADD ", 'expert': 3", "key \"expert\" belongs to expert_out and router_logits only"},
    {EXPERT ", " ADD, "expert_out needs key \"weighting\""},
    {EXPERT ", " ADD ", 'weighting': 'hard'", "unknown weighting \"hard\""},
    {EXPERT ", 'op': 'ablate', 'vector': 'v.safetensors#a', 'weighting': 'soft'",
     "weighting \"soft\" takes op \"add\" only"},
    {EXPERT ", 'op': 'scale', 'factor': 0, 'weighting': 'post_gate'",
     "weighting \"post_gate\" takes op \"add\" only"},
    {EXPERT ", " ADD ", 'weighting': 'unweighted', 'preserve_norm': true", "takes no \"preserve_norm\""},
    {EXPERT ", " ADD ", 'weighting': 'soft', 'when': {'vector': 'v.safetensors#b', 'cosine_above': 0}",
     "and no \"when\""},
    {ROUTER ", 'op': 'bias', 'value': 1, 'expert': 3, 'weighting': 'routed'",
     "\"weighting\" does not belong to op \"bias\""},
    {ROUTER ", 'op': 'force_in', 'expert': 3, 'strength': 2", "op \"force_in\" has strength 1 or 0, not 2"},
    {ROUTER ", 'op': 'pin', 'routes': 'routes.safetensors', 'expert': 1",
     "key \"expert\" does not belong to op \"pin\""},
    /* layers and experts */
    {"'site': 'resid_post', " ADD, "key \"layer\" is missing"},
    {"'site': 'resid_post', 'layer': 4, " ADD, "layer 4 is out of range: the model has 4 layers, 0 to 3"},
    {"'site': 'resid_post', 'layer': -1, " ADD, "layer -1 is out of range"},
    {"'site': 'resid_post', 'layer': [], " ADD, "key \"layer\" is an empty list"},
    {"'site': 'resid_post', 'layer': [1, 1], " ADD, "layer 1 is listed twice"},
    {"'site': 'resid_post', 'layer': 'every', " ADD,
     "key \"layer\" must be an index, a list of them, \"all\" or \"from vector\""},
    {"'site': 'resid_post', 'layer': 1.5, " ADD, "key \"layer\" must be an index"},
    {"'site': 'expert_out', 'layer': 1, 'expert': 3, 'weighting': 'routed', " ADD, "layer 1 has no experts"},
    {"'site': 'expert_out', 'layer': [0, 1], 'expert': 3, 'weighting': 'soft', " ADD,
     "layer 1 has no experts"},
    {"'site': 'router_logits', 'layer': 1, 'expert': 3, 'op': 'bias', 'value': 1", "layer 1 has no experts"},
    {"'site': 'expert_out', 'layer': 2, 'weighting': 'routed', " ADD, "key \"expert\" is missing"},
    {"'site': 'expert_out', 'layer': 2, 'expert': 8, 'weighting': 'routed', " ADD,
     "expert 8 is out of range: the model has 8"},
    {"'site': 'expert_out', 'layer': 2, 'expert': [3, 3], 'weighting': 'routed', " ADD,
     "expert 3 is listed twice"},
    {"'site': 'expert_out', 'layer': 2, 'expert': 'shared', 'weighting': 'routed', " ADD,
     "family olmoe has no shared expert"},
    {"'site': 'expert_out', 'layer': 2, 'expert': 'any', 'weighting': 'routed', " ADD,
     "key \"expert\" must be an index"},
    /* positions */
    {POST ", " ADD ", 'positions': 'late'", "key \"positions\" must be \"all\", \"prompt\""},
    {POST ", " ADD ", 'positions': 3", "key \"positions\" must be"},
    {POST ", " ADD ", 'positions': {'last': 0}", "the last 0 tokens are none"},
    {POST ", " ADD ", 'positions': {'from': 3, 'to': 3}", "from 3 to 3 is empty"},
    {POST ", " ADD ", 'positions': {'from': 5, 'to': 3}", "from 5 to 3 is empty"},
    {POST ", " ADD ", 'positions': {'from': -1, 'to': 3}", "\"from\" is -1, outside 0"},
    {POST ", " ADD ", 'positions': {'from': 64, 'to': 70}", "beyond the model's 64 positions"},
    {POST ", " ADD ", 'positions': {'from': 3}", "key \"positions\" must be"},
    {POST ", " ADD ", 'positions': {'last': 3, 'to': 4}", "key \"positions\" must be"},
    /* vectors */
    {POST ", 'op': 'add', 'vector': 'none.safetensors'", "key \"vector\": "},
    {POST ", 'op': 'add', 'vector': 'v.safetensors'", "holds 6 vectors; say which after a \"#\""},
    {POST ", 'op': 'add', 'vector': 'v.safetensors#c'", "holds no vector \"c\""},
    {POST ", 'op': 'add', 'vector': 'v.safetensors#wide'",
     "the vector has width 20, but resid_post of this model has 19"},
    {POST ", 'op': 'ablate', 'vector': 'v.safetensors#zero'", "the vector is zero, it has no direction"},
    {POST ", 'op': 'rotate', 'vector': 'v.safetensors#a', 'vector2': 'v.safetensors#twice', 'degrees': 9",
     "parallel"},
    {POST ", 'op': 'rotate', 'vector': 'v.safetensors#a', 'vector2': 'v.safetensors#b', 'degrees': 400",
     "outside -360 to 360"},
    {POST ", 'op': 'add', 'vector': 'pre.safetensors'",
     "the vector was made at resid_pre, not resid_post; to use it at resid_post"},
    {POST ", 'op': 'add', 'vector': 'pre.safetensors', 'vector_site': 'attn_out'",
     "made at resid_pre, not attn_out"},
    {POST ", 'op': 'add', 'vector': 'pre.safetensors', 'vector_site': 'nowhere'",
     "key \"vector_site\": unknown site \"nowhere\""},
    {"'layer': 1, 'op': 'add', 'vector': 'other-model.safetensors'",
     "made for another model (fingerprint bbbb"},
    {"'layer': 1, 'op': 'add', 'vector': 'other-tokenizer.safetensors'",
     "made for another tokenizer (fingerprint uuuu"},
    /* conditions */
    {POST ", " ADD ", 'when': {'vector': 'v.safetensors#b'}",
     "when: must be {\"vector\": path, \"cosine_above\": number}"},
    {POST ", " ADD ", 'when': {'vector': 'v.safetensors#b', 'cosine_above': 1}", "is 1; a cosine above it"},
    {POST ", " ADD ", 'when': {'vector': 'v.safetensors#wide', 'cosine_above': 0}",
     "the vector has width 20"},
    {POST ", " ADD ", 'when': {'vector': 'v.safetensors#zero', 'cosine_above': 0}", "the vector is zero"},
    {ROUTER ", 'op': 'force_in', 'expert': 1, 'when': {'vector': 'v.safetensors#a', 'cosine_above': 0}",
     "width 19, but router_logits of this model has 8"},
    /* the router */
    {ROUTER ", 'op': 'force_in', 'expert': [1, 2, 3]",
     "intervention 0: 3 experts are forced in at layer 2, but a row has only 2"},
    {ROUTER ", 'op': 'force_in', 'expert': [1, 2]}, {" ROUTER ", 'op': 'force_in', 'expert': 3}, {" ROUTER
            ", 'op': 'force_in', 'expert': 1",
     "intervention 1: 3 experts are forced in at layer 2, but a row has only 2"},
    {ROUTER ", 'op': 'force_out', 'expert': [0, 1, 2, 3, 4, 5, 6]",
     "intervention 0: 7 of 8 experts are forced out at layer 2, and a row needs 2"},
    {ROUTER ", 'op': 'force_out', 'expert': 'all'", "intervention 0: 8 of 8 experts are forced out"},
    {ROUTER ", 'op': 'force_out', 'expert': [0, 1, 2]}, {" ROUTER
            ", 'op': 'force_out', 'expert': [3, 4, 5, 6]}, {" ROUTER ", 'op': 'force_in', 'expert': 7",
     "intervention 1: 7 of 8 experts are forced out at layer 2, and a row needs 2"},
    {ROUTER ", 'op': 'force_out', 'expert': 3}, {" ROUTER ", 'op': 'force_in', 'expert': 3",
     "intervention 1: with intervention 0, expert 3 of layer 2 is both forced in and forced out"},
    {"'site': 'router_logits', 'layer': 0, 'op': 'pin', 'routes': 'routes.safetensors'}, {'site': "
     "'router_logits', 'layer': 0,"
     "'op': 'force_in', 'expert': 3",
     "pins the routes of layer 0, and intervention 1 changes them"},
    {EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER ", 'op': 'force_out', 'expert': 3",
     "intervention 0: no row can reach it: force_out of intervention 1 keeps every row from its experts"},
    {ROUTER ", 'op': 'force_out', 'expert': [1, 3], 'positions': 'prompt'}, {" EXPERT
            ", 'weighting': 'post_gate', 'positions': {'last': 3}, " ADD,
     "intervention 1: no row can reach it: force_out of intervention 0"},
    {EXPERT ", 'weighting': 'routed', " ADD "}, {" OUT3 ", 'positions': 'prompt'}, {" OUT3
            ", 'positions': 'generated'",
     "intervention 0: no row can reach it: force_out and force_in of interventions 1 to 2 together keep"},
    {OUT3 ", 'positions': {'from': 0, 'to': 9}}, {" EXPERT ", 'weighting': 'routed', " ADD "}, {" OUT3
          ", 'positions': {'from': 9, 'to': 64}",
     "intervention 1: no row can reach it: force_out and force_in of interventions 0 to 2 together keep"},
    {EXPERT ", 'weighting': 'routed', " ADD "}, {" OUT3 ", 'positions': {'from': 0, 'to': 64}",
     "intervention 0: no row can reach it: force_out of intervention 1 keeps every row"},
    {EXPERT ", 'weighting': 'post_gate', 'positions': 'generated', " ADD "}, {" OUT3
            ", 'positions': {'from': 0, 'to': 100}",
     "intervention 0: no row can reach it: force_out of intervention 1 keeps every row"},
    {EXPERT ", 'weighting': 'routed', 'positions': {'last': 4}, " ADD "}, {" OUT3
            ", 'positions': {'from': 0, 'to': 64}",
     "intervention 0: no row can reach it: force_out of intervention 1 keeps every row"},
    {EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER ", 'op': 'force_in', 'expert': [1, 2]",
     "intervention 0: no row can reach it: force_in of intervention 1 keeps every row"},
    {EXPERT ", 'weighting': 'routed', 'positions': 'prompt', " ADD "}, {" ROUTER
            ", 'op': 'force_in', 'expert': 1}, {" ROUTER
            ", 'op': 'force_in', 'expert': 6, 'positions': 'prompt'",
     "intervention 0: no row can reach it: force_out and force_in of interventions 1 to 2 together keep"},
    {EXPERT ", 'weighting': 'routed', " ADD "}, {" OUT3 ", 'positions': 'prompt'}, {" ROUTER
            ", 'op': 'force_in', 'expert': [1, 6], 'positions': 'generated'",
     "intervention 0: no row can reach it: force_out and force_in of interventions 1 to 2 together keep"},
    {ROUTER ", 'op': 'pin', 'routes': 'routes.safetensors'", "has no routes of layer 2"},
    {ROUTER ", 'op': 'pin', 'routes': 'v.safetensors'", "is not \"layer.<l>\""},
    {"'site': 'router_logits', 'layer': 0, 'op': 'pin', 'routes': 'odd.safetensors'",
     "\"layer.4294967296\": is not \"layer.<l>\""},
    {"'site': 'router_logits', 'layer': 0, 'op': 'pin', 'routes': 'narrow.safetensors'",
     "must be I32 [n_tokens, 2]"},
    {"'site': 'router_logits', 'layer': 0, 'op': 'pin', 'routes': 'wrong.safetensors'",
     "has expert 99; the model has 0 to 7"},
    {"'site': 'router_logits', 'layer': 0, 'op': 'pin', 'routes': 'twin.safetensors'", "has expert 3 twice"},
    {"'site': 'router_logits', 'layer': 0, 'op': 'pin', 'routes': 'routes.safetensors', 'positions': "
     "{'from': 3, 'to': 9}",
     "has routes of 3 tokens"},
};

static void test_refusals(void **state)
{
    (void)state;
    cox_model model = test_model();
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        char text[1024];
        snprintf(text, sizeof text, "{'interventions': [{%s}]}", refusals[i].fields);
        cox_plan *plan = NULL;
        cox_status status = load_plan(&plan, text, &model, false);
        const char *message = cox_status_message();
        if (status <= COX_OK) fail_msg("%s: status %s", refusals[i].fields, cox_status_name(status));
        if (!strstr(message, refusals[i].words) || strncmp(message, "plan: ", 6) != 0) {
            fail_msg("%s\n  says %s\n  not %s", refusals[i].fields, message, refusals[i].words);
        }
        assert_null(plan);
    }
}

static void check_whole(const char *text, const char *words)
{
    cox_model model = test_model();
    cox_plan *plan = NULL;
    assert_true(load_plan(&plan, text, &model, false) > COX_OK);
    if (!strstr(cox_status_message(), words)) fail_msg("%.60s... says %s", text, cox_status_message());
}

static void test_shapes_of_the_plan(void **state)
{
    (void)state;
    check_whole("[]", "a plan is a JSON object");
    check_whole("{}", "key \"interventions\" must be a list");
    check_whole("{'interventions': {}}", "key \"interventions\" must be a list");
    check_whole("{'interventions': [3]}", "intervention 0: must be an object");
    check_whole("{'interventions': [], 'version': 3}", "unknown key \"version\"");
    check_whole("{'interventions': [], 'name': 3}", "key \"name\" must be a string");
    check_whole("{'plan': 'none.json'}", "none.json: cannot open");
    check_whole("{'plan': 3}", "key \"plan\" must be the path");
    FILE *file = fopen(path_of("loop.json"), "w");
    fputs("{\"plan\": \"loop.json\"}", file);
    fclose(file);
    check_whole("{'plan': 'loop.json'}", "a plan's file holds \"interventions\"");
}

/* Pipes that nobody writes to: waiting for one would hang (and this test with it). */
static void test_pipes(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(path_of("pipe"), 0600), 0);
    check_whole("{'plan': 'pipe'}", "pipe: is not a regular file");
    check_whole("{'interventions': [{" POST ", 'op': 'add', 'vector': 'pipe#a'}]}",
                "pipe: is not a regular file");
    check_whole("{'interventions': [{" ROUTER ", 'op': 'pin', 'routes': 'pipe'}]}",
                "pipe: is not a regular file");
    check_whole("{'plan': '/dev/null'}", "/dev/null: is not a regular file");
}

/* n copies of an intervention. */
static char *copies(const char *fields, size_t n)
{
    char *text = malloc(64 + n * (strlen(fields) + 8));
    size_t at = (size_t)sprintf(text, "{'interventions': [");
    for (size_t i = 0; i < n; i++) at += (size_t)sprintf(text + at, "%s{%s}", i ? "," : "", fields);
    sprintf(text + at, "]}");
    return text;
}

static void test_limits(void **state)
{
    (void)state;
    cox_model model = test_model();
    cox_plan *plan = NULL;
    char *text = copies(POST ", 'op': 'scale', 'factor': 2", 4096);
    assert_int_equal(load_plan(&plan, text, &model, false), COX_OK);
    cox_plan_free(plan);
    free(text);
    text = copies(POST ", 'op': 'scale', 'factor': 2", 4097);
    check_whole(text, "4097 interventions are more than the 4096");
    free(text);
    text = copies(POST ", 'op': 'scale', 'factor': 2", 10000);
    check_whole(text, "10000 interventions are more than the 4096");
    free(text);
    text = copies(EXPERT ", 'weighting': 'routed', " ADD, 4);
    assert_int_equal(load_plan(&plan, text, &model, false), COX_OK);
    cox_plan_free(plan);
    free(text);
    text = copies(EXPERT ", 'weighting': 'routed', " ADD, 5);
    check_whole(text, "intervention 4: more than 4 routed interventions are stacked on expert 3 of layer 2");
    free(text);
    text = copies(EXPERT ", 'weighting': 'routed', 'strength': 0, " ADD, 5); /* skipped ones do not count */
    assert_int_equal(load_plan(&plan, text, &model, false), COX_OK);
    cox_plan_free(plan);
    free(text);
    text = copies(ROUTER ", 'expert': 3, 'op': 'force_in'", 257);
    check_whole(text, "plan: intervention 256: 257 force_in, force_out and pin at layer 2; at most 256");
    free(text);
}

/* Nine vectors, of which every pair makes a second unit vector of its own: more rows of 4 MiB than are
 * allowed. */
static void test_size_limit(void **state)
{
    (void)state;
    enum { N = 9, WIDTH = 1 << 20 };
    cox_model model = test_model();
    model.d_model = WIDTH;
    float *data = calloc(WIDTH + N, sizeof *data);
    cox_vector vectors[N];
    static char names[N][2];
    data[0] = 1;
    for (int i = 0; i < N; i++) {
        names[i][0] = (char)('a' + i);
        data[N - 1 + i] = 1; /* no two are parallel */
        vectors[i] = (cox_vector){
            .name = names[i], .width = WIDTH, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1};
        vectors[i].data = data + i;
    }
    assert_int_equal(cox_vector_file_write(path_of("large.safetensors"), vectors, N), COX_OK);
    char *text = malloc(N * N * 200);
    size_t at = (size_t)sprintf(text, "{'interventions': [");
    for (int k = 0; k < N * N; k++) {
        if (k / N == k % N) continue;
        at += (size_t)sprintf(text + at,
                              "%s{" POST ", 'op': 'rotate', 'vector': 'large.safetensors#%s', 'vector2': "
                              "'large.safetensors#%s', 'degrees': 9}",
                              k > 1 ? "," : "", names[k / N], names[k % N]);
    }
    sprintf(text + at, "]}");
    cox_plan *plan = NULL;
    assert_int_equal(load_plan(&plan, text, &model, false), COX_INVALID);
    /* 50 pairs, the seven vectors that they begin with and their units are 64 rows of 4 MiB */
    assert_string_equal(cox_status_message(),
                        "plan: intervention 50: with it the plan's vectors take more than 268435456 bytes");
    free(text);
    free(data);
}

/* As long as some row may still choose one of its experts, an intervention stays. */
static void test_reach(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER
        ", 'op': 'force_out', 'expert': 3, 'positions': 'prompt'}",
        "{" EXPERT ", 'weighting': 'soft', " ADD "}, {" ROUTER ", 'op': 'force_out', 'expert': 3}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER
        ", 'op': 'force_out', 'expert': 3, 'strength': 0}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER
        ", 'op': 'force_out', 'expert': 3, 'when': {'vector': 'v.safetensors#z', 'cosine_above': 0}}",
        "{'site': 'expert_out', 'layer': 'all', 'expert': 3, 'weighting': 'routed', " ADD "}, {" ROUTER
        ", 'op': 'force_out', 'expert': 3}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" OUT3 ", 'positions': {'from': 0, 'to': 63}}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" OUT3 ", 'positions': {'last': 3}}, {" OUT3
        ", 'positions': 'generated'}",
        "{" EXPERT ", 'weighting': 'routed', 'positions': {'last': 4}, " ADD "}, {" OUT3
        ", 'positions': {'last': 3}}",
        "{" EXPERT ", 'weighting': 'routed', 'positions': {'from': 0, 'to': 2}, " ADD "}, {" OUT3
        ", 'positions': 'prompt'}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" OUT3 ", 'positions': 'prompt'}, {" OUT3
        ", 'positions': 'generated', 'when': {'vector': 'v.safetensors#z', 'cosine_above': 0}}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER ", 'op': 'force_in', 'expert': [1, 3]}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER ", 'op': 'force_in', 'expert': 1}, {" ROUTER
        ", 'op': 'force_in', 'expert': 1}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER
        ", 'op': 'force_in', 'expert': [1, 2], 'strength': 0}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER
        ", 'op': 'force_in', 'expert': [1, 2], 'positions': 'generated'}",
        "{" EXPERT ", 'weighting': 'routed', " ADD "}, {" ROUTER
        ", 'op': 'force_in', 'expert': 1, 'positions': 'prompt'}, {" ROUTER
        ", 'op': 'force_in', 'expert': 2, 'positions': 'generated'}",
        "{'site': 'expert_out', 'layer': 2, 'expert': [3, 4], 'weighting': 'routed', " ADD "}, {" ROUTER
        ", 'op': 'force_out', 'expert': 3}"};
    cox_model model = test_model();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char text[1024];
        cox_plan *plan = NULL;
        snprintf(text, sizeof text, "{'interventions': [%s]}", texts[i]);
        if (load_plan(&plan, text, &model, false) != COX_OK) fail_msg("%s: %s", text, cox_status_message());
        cox_plan_free(plan);
    }
}

/* Edits that can never meet on one row are no contradiction. */
static void test_phases_keep_edits_apart(void **state)
{
    (void)state;
    cox_model model = test_model();
    cox_plan *plan = NULL;
    const char *text =
        "{'interventions': [{" ROUTER ", 'op': 'force_out', 'expert': 3, 'positions': 'prompt'}, {" ROUTER
        ", 'op': 'force_in', 'expert': 3, 'positions': 'generated'}]}";
    assert_int_equal(load_plan(&plan, text, &model, false), COX_OK);
    cox_plan_free(plan);
}

static int32_t ranks_of(void *context, int32_t layer, int32_t expert, const int32_t **ranks)
{
    (void)context;
    static int32_t found[2];
    found[0] = 1 + (layer + expert) % 3;
    found[1] = 7;
    *ranks = found;
    return layer == 2 ? 2 : 1;
}

static void test_explanation(void **state)
{
    (void)state;
    cox_model model = test_model();
    cox_plan *plan = NULL;
    const char *text =
        "{'name': 'warm', 'interventions': [{" EXPERT ", 'weighting': 'routed', 'strength': 4, " ADD
        ", 'positions': {'last': 2}}, {'site': 'resid_pre', 'layer': [0, 1, 2], 'op': 'ablate',"
        "'vector': 'pre.safetensors', 'strength': 0}]}";
    assert_int_equal(load_plan(&plan, text, &model, false), COX_OK);
    char *words = NULL;
    assert_int_equal(cox_plan_explain(plan, &model, ranks_of, NULL, &words), COX_OK);
    const char *const wanted[] = {"plan \"warm\" for olmoe, 4 layers: 2 interventions\n",
                                  "0. expert_out (the output of single experts): add 4 v",
                                  "layer 2; expert 3; the last 2 tokens of the prompt",
                                  "routed: rows that chose the expert, before the gate weight",
                                  "on rank 3, 7\n",
                                  "1. resid_pre (the residual stream before the block): skipped, strength 0",
                                  "layers 0 to 2; all positions",
                                  "on the coordinators"};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (!strstr(words, wanted[i])) fail_msg("%s\nlacks %s", words, wanted[i]);
    }
    free(words);
    cox_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_shapes_of_the_plan),
        cmocka_unit_test(test_pipes),       cmocka_unit_test(test_limits),
        cmocka_unit_test(test_size_limit),  cmocka_unit_test(test_reach),
        cmocka_unit_test(test_explanation), cmocka_unit_test(test_phases_keep_edits_apart)};
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
