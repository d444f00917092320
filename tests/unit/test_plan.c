/* Plans: what is read, defaults, what the vector's metadata fills in, positions, the index, packing,
 * equality. */
#include "steering/gguf.h"
#include "steering_model.h"

static void make(cox_plan **plan, const char *text)
{
    cox_model model = test_model();
    if (load_plan(plan, text, &model, false) != COX_OK) fail_msg("%s", cox_status_message());
}

static cox_plan *one(const char *fields)
{
    char text[1024];
    cox_plan *plan = NULL;
    snprintf(text, sizeof text, "{'name': 'p', 'interventions': [{%s}]}", fields);
    make(&plan, text);
    return plan;
}

static int set_up(void **state)
{
    if (make_folder(state) != 0) return -1;
    static float a[M_WIDTH], b[M_WIDTH], logits[M_EXPERTS];
    fill(a, M_WIDTH, 1);
    fill(b, M_WIDTH, 2);
    fill(logits, M_EXPERTS, 3);
    const cox_vector plain[] = {
        {.name = "a", .data = a, .width = M_WIDTH, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1},
        {.name = "b", .data = b, .width = M_WIDTH, .site = COX_SITE_UNSTATED, .layer = -1, .expert = -1},
        {.name = "z",
         .data = logits,
         .width = M_EXPERTS,
         .site = COX_SITE_UNSTATED,
         .layer = -1,
         .expert = -1}};
    const cox_vector stated = {.name = "only",
                               .data = a,
                               .width = M_WIDTH,
                               .site = COX_SITE_EXPERT_OUT,
                               .layer = 2,
                               .expert = 5,
                               .operation = "ablate",
                               .weighting = "routed",
                               .positions = "{\"last\": 3}",
                               .model_fingerprint = "aaaa",
                               .tokenizer_fingerprint = "tttt"};
    static const int32_t routes[5 * M_TOP_K] = {0, 1, 2, 3, 4, 5, 6, 7, 1, 0};
    const int32_t *layers[M_LAYERS] = {routes, NULL, NULL, routes};
    return cox_vector_file_write(path_of("v.safetensors"), plain, 3) == COX_OK &&
                   cox_vector_file_write(path_of("stated.safetensors"), &stated, 1) == COX_OK &&
                   cox_pinned_routes_write(path_of("routes.safetensors"), layers, M_LAYERS, 5, M_TOP_K,
                                           "aaaa") == COX_OK
               ? 0
               : -1;
}

static void test_defaults(void **state)
{
    (void)state;
    cox_plan *plan = one("'site': 'resid_post', 'layer': 1, 'op': 'add', 'vector': 'v.safetensors#a'");
    const cox_intervention *v = &plan->interventions[0];
    assert_string_equal(plan->name, "p");
    assert_int_equal(plan->n, 1);
    assert_int_equal(v->site, COX_SITE_RESID_POST);
    assert_int_equal(v->op, COX_OP_ADD);
    assert_true(v->strength == 1);
    assert_int_equal(v->positions.span, COX_SPAN_ALL);
    assert_false(v->preserve_norm);
    assert_null(v->when);
    assert_null(v->experts);
    const uint8_t layers[M_LAYERS] = {0, 1, 0, 0};
    assert_memory_equal(v->layers, layers, M_LAYERS);
    float a[M_WIDTH];
    fill(a, M_WIDTH, 1);
    assert_memory_equal(v->vector, a, sizeof a);
    cox_plan_free(plan);
}

/* A GGUF control vector of the test's width with these layers. */
static void write_gguf(const char *path, const int32_t *layers, size_t n)
{
    static float rows[3][M_WIDTH];
    static char names[3][16];
    cox_vector vectors[3];
    for (size_t i = 0; i < n; i++) {
        fill(rows[i], M_WIDTH, 20 + (uint32_t)layers[i]);
        snprintf(names[i], sizeof names[i], "direction.%d", (int)layers[i]);
        vectors[i] = (cox_vector){.name = names[i],
                                  .data = rows[i],
                                  .width = M_WIDTH,
                                  .site = COX_SITE_RESID_POST,
                                  .layer = layers[i],
                                  .expert = -1,
                                  .operation = "add"};
    }
    assert_int_equal(cox_gguf_write(path, vectors, n, "olmoe"), COX_OK);
}

/* [layers, experts] are those of `plan`'s interventions, each with the vector that `fill` makes of its seed.
 */
static void check_spread(const cox_plan *plan, const int32_t (*wanted)[3], int32_t n)
{
    assert_int_equal(plan->n, n);
    for (int32_t i = 0; i < n; i++) {
        const cox_intervention *v = &plan->interventions[i];
        float row[M_WIDTH];
        fill(row, M_WIDTH, (uint32_t)wanted[i][2]);
        for (int32_t l = 0; l < M_LAYERS; l++) assert_int_equal(v->layers[l], l == wanted[i][0]);
        for (int32_t e = 0; v->experts && e < M_EXPERTS; e++)
            assert_int_equal(v->experts[e], e == wanted[i][1]);
        assert_int_equal(v->experts == NULL, wanted[i][1] < 0);
        assert_memory_equal(v->vector, row, sizeof row);
    }
}

/* A control vector of another program, whole or one of its layers, needs nothing but its name. */
static void test_a_gguf_file_in_a_plan(void **state)
{
    (void)state;
    const int32_t layers[] = {1, 3, 2}, beyond[] = {1, 4};
    const int32_t wanted[][3] = {{1, -1, 21}, {2, -1, 22}, {3, -1, 23}};
    write_gguf(path_of("x.gguf"), layers, 3);
    write_gguf(path_of("beyond.gguf"), beyond, 2);
    assert_int_equal(rename(path_of("x.gguf"), path_of("anything")), 0); /* the bytes tell, not the name */
    write_gguf(path_of("x.gguf"), layers, 3);
    static const char *const whole[] = {
        "'vector': 'x.gguf'", "'vector': 'anything', 'layer': 'from vector'",
        "'vector': 'x.gguf', 'op': 'add', 'site': 'resid_post', 'strength': 3"};
    for (size_t i = 0; i < 3; i++) {
        cox_plan *plan = one(whole[i]);
        check_spread(plan, wanted, 3);
        assert_true(plan->interventions[2].strength == (i == 2 ? 3 : 1));
        assert_int_equal(plan->interventions[0].site, COX_SITE_RESID_POST);
        cox_plan_free(plan);
    }
    cox_plan *plan = one("'vector': 'x.gguf#direction.3'");
    check_spread(plan, &wanted[2], 1);
    cox_plan_free(plan);
    plan = one("'vector': 'x.gguf#direction.3', 'layer': 'from vector'");
    check_spread(plan, &wanted[2], 1);
    cox_plan_free(plan);
}

/* Several layers, and experts, of a file of our own. */
static void test_layers_from_vectors(void **state)
{
    (void)state;
    static float rows[3][M_WIDTH];
    for (uint32_t i = 0; i < 3; i++) fill(rows[i], M_WIDTH, 30 + i);
    const cox_vector vectors[] = {{.name = "c",
                                   .data = rows[0],
                                   .width = M_WIDTH,
                                   .site = COX_SITE_EXPERT_OUT,
                                   .layer = 3,
                                   .expert = 1},
                                  {.name = "b",
                                   .data = rows[1],
                                   .width = M_WIDTH,
                                   .site = COX_SITE_EXPERT_OUT,
                                   .layer = 0,
                                   .expert = 7},
                                  {.name = "a",
                                   .data = rows[2],
                                   .width = M_WIDTH,
                                   .site = COX_SITE_EXPERT_OUT,
                                   .layer = 0,
                                   .expert = 2}};
    assert_int_equal(cox_vector_file_write(path_of("experts.safetensors"), vectors, 3), COX_OK);
    const int32_t wanted[][3] = {{0, 2, 32}, {0, 7, 31}, {3, 1, 30}};
    static const char *const ways[] = {"", ", 'expert': 'from vector'"};
    for (size_t i = 0; i < 2; i++) {
        char fields[256];
        snprintf(
            fields, sizeof fields,
            "'vector': 'experts.safetensors', 'layer': 'from vector', 'op': 'add', 'weighting': 'routed'%s",
            ways[i]);
        cox_plan *plan = one(fields);
        check_spread(plan, wanted, 3);
        cox_plan_free(plan);
    }
}

static void test_layers_from_vectors_refused(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *message;
        cox_status status;
    } cases[] = {
        {"'vector': 'v.safetensors', 'layer': 'from vector', 'op': 'add', 'site': 'resid_post'",
         "intervention 0: vector \"a\" does not say its layer", COX_INVALID},
        {"'vector': 'beyond.gguf'", "vector \"direction.4\" is for layer 4; the model has 4 layers, 0 to 3",
         COX_INVALID},
        {"'vector': 'experts.safetensors', 'layer': 'from vector', 'op': 'add', 'weighting': 'routed', "
         "'expert': 3",
         "vectors \"a\" and \"b\" are for one place", COX_INVALID},
        {"'vector': 'experts.safetensors', 'op': 'add', 'weighting': 'routed'",
         "holds 3 vectors; say which after a \"#\"", COX_INVALID},
        {"'vector': 'experts.safetensors', 'op': 'add', 'weighting': 'routed'", "\"layer\": \"from vector\"",
         COX_INVALID},
        {"'vector': 'x.gguf', 'site': 'moe_out'",
         "intervention 0, vector \"direction.1\": key \"vector\": the vector was made at resid_post",
         COX_INVALID},
        {"'vector': 'x.gguf', 'layer': 2", "say which after a \"#\"", COX_INVALID},
        {"'site': 'resid_post', 'op': 'scale', 'factor': 2, 'layer': 'from vector'",
         "\"from vector\" needs key \"vector\"", COX_INVALID},
        {"'vector': 'nowhere.gguf', 'layer': 'from vector'", "nowhere.gguf", COX_NOT_FOUND},
        {"'vector': 'x.gguf#direction.7'", "holds no vector \"direction.7\"", COX_NOT_FOUND},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        cox_plan *plan = NULL;
        cox_model model = test_model();
        snprintf(text, sizeof text, "{'interventions': [{%s}]}", cases[i].fields);
        cox_status status = load_plan(&plan, text, &model, false);
        if (status != cases[i].status || !strstr(cox_status_message(), cases[i].message))
            fail_msg("%s: %s: %s", cases[i].fields, cox_status_name(status), cox_status_message());
    }
}

static void test_scopes(void **state)
{
    (void)state;
    cox_plan *plan = one(
        "'site': 'expert_out', 'layer': 'all', 'expert': [1, 6], 'op': 'add', 'vector': 'v.safetensors#a',"
        "'weighting': 'soft', 'positions': {'from': 3, 'to': 5}, 'strength': -2");
    const cox_intervention *v = &plan->interventions[0];
    const uint8_t layers[M_LAYERS] = {1, 0, 1, 1}, experts[M_EXPERTS] = {0, 1, 0, 0, 0, 0, 1, 0};
    assert_memory_equal(v->layers, layers, M_LAYERS); /* layer 1 has no experts */
    assert_memory_equal(v->experts, experts, M_EXPERTS);
    assert_int_equal(v->weighting, COX_WEIGHTING_SOFT);
    assert_true(v->strength == -2);
    cox_plan_free(plan);

    plan = one("'site': 'resid_pre', 'layer': 'all', 'op': 'scale', 'factor': 2");
    const uint8_t all[M_LAYERS] = {1, 1, 1, 1};
    assert_memory_equal(plan->interventions[0].layers, all, M_LAYERS);
    assert_null(plan->interventions[0].vector);
    cox_plan_free(plan);
}

/* Which of positions 0 to 9 of a sequence of 6 prompt tokens. */
static void check_positions(const char *positions, const char *wanted)
{
    char fields[256];
    snprintf(fields, sizeof fields,
             "'site': 'resid_pre', 'layer': 0, 'op': 'scale', 'factor': 2, 'positions': %s", positions);
    cox_plan *plan = one(fields);
    for (int32_t p = 0; p < 10; p++) {
        assert_int_equal(cox_positions_contain(&plan->interventions[0].positions, p, 6), wanted[p] == 'x');
    }
    cox_plan_free(plan);
}

static void test_positions(void **state)
{
    (void)state;
    check_positions("'all'", "xxxxxxxxxx");
    check_positions("'prompt'", "xxxxxx....");
    check_positions("'generated'", "......xxxx");
    check_positions("{'last': 2}", "....xx....");
    check_positions("{'last': 100}", "xxxxxx....");
    check_positions("{'from': 5, 'to': 8}", ".....xxx..");
}

static void test_metadata_fills_in(void **state)
{
    (void)state;
    cox_plan *plan = one("'vector': 'stated.safetensors'");
    const cox_intervention *v = &plan->interventions[0];
    assert_int_equal(v->site, COX_SITE_EXPERT_OUT);
    assert_int_equal(v->op, COX_OP_ABLATE);
    assert_int_equal(v->weighting, COX_WEIGHTING_ROUTED);
    assert_int_equal(v->positions.span, COX_SPAN_LAST);
    assert_int_equal(v->positions.from, 3);
    const uint8_t layers[M_LAYERS] = {0, 0, 1, 0}, experts[M_EXPERTS] = {0, 0, 0, 0, 0, 1, 0, 0};
    assert_memory_equal(v->layers, layers, M_LAYERS);
    assert_memory_equal(v->experts, experts, M_EXPERTS);
    cox_plan_free(plan);

    plan =
        one("'vector': 'stated.safetensors', 'layer': 0, 'expert': 1, 'op': 'add', 'weighting': 'post_gate',"
            "'positions': 'all'"); /* the plan's fields win */
    v = &plan->interventions[0];
    assert_int_equal(v->op, COX_OP_ADD);
    assert_int_equal(v->weighting, COX_WEIGHTING_POST_GATE);
    assert_int_equal(v->positions.span, COX_SPAN_ALL);
    assert_true(v->layers[0] && !v->layers[2] && v->experts[1] && !v->experts[5]);
    cox_plan_free(plan);

    plan =
        one("'vector': 'stated.safetensors', 'site': 'moe_out', 'op': 'ablate', 'vector_site': 'expert_out'");
    assert_int_equal(plan->interventions[0].site, COX_SITE_MOE_OUT);
    cox_plan_free(plan);
}

static const char *const mixed =
    "{'name': 'mixed', 'interventions': ["
    "{'site': 'resid_post', 'layer': [0, 3], 'op': 'add', 'vector': 'v.safetensors#a', 'strength': 0.5},"
    "{'site': 'resid_post', 'layer': 3, 'op': 'ablate', 'vector': 'v.safetensors#a', 'strength': 0},"
    "{'site': 'expert_out', 'layer': [0, 2], 'expert': [1, 6], 'op': 'ablate', 'vector': 'v.safetensors#b', "
    "'weighting': 'routed'},"
    "{'site': 'expert_out', 'layer': 2, 'expert': 'all', 'op': 'add', 'vector': 'v.safetensors#a', "
    "'weighting': 'post_gate'},"
    "{'site': 'resid_post', 'layer': 3, 'op': 'rotate', 'vector': 'v.safetensors#a', 'vector2': "
    "'v.safetensors#b', 'degrees': 90,"
    " 'when': {'vector': 'v.safetensors#b', 'cosine_above': 0.5}},"
    "{'site': 'router_logits', 'layer': 2, 'expert': 3, 'op': 'bias', 'value': 1.5,"
    " 'when': {'vector': 'v.safetensors#z', 'cosine_above': -0.5}},"
    "{'site': 'router_logits', 'layer': 2, 'expert': 4, 'op': 'force_in'},"
    "{'site': 'router_logits', 'layer': [0, 3], 'op': 'pin', 'routes': 'routes.safetensors'},"
    "{'site': 'resid_mid', 'layer': 1, 'op': 'clamp', 'vector': 'v.safetensors#b', 'value': 2, "
    "'preserve_norm': true}]}";

static void test_index(void **state)
{
    (void)state;
    cox_plan *plan = NULL;
    make(&plan, mixed);
    int32_t n = 0;
    const int32_t *list = cox_plan_at(plan, 3, COX_SITE_RESID_POST, &n);
    assert_int_equal(n, 2); /* 1 has strength 0 */
    assert_int_equal(list[0], 0);
    assert_int_equal(list[1], 4);
    list = cox_plan_at(plan, 2, COX_SITE_EXPERT_OUT, &n);
    assert_int_equal(n, 2);
    assert_int_equal(list[0], 2);
    assert_int_equal(list[1], 3);
    cox_plan_at(plan, 1, COX_SITE_EXPERT_OUT, &n);
    assert_int_equal(n, 0);
    list = cox_plan_at(plan, 3, COX_SITE_ROUTER_LOGITS, &n);
    assert_int_equal(n, 1);
    assert_int_equal(list[0], 7);
    const cox_pinned_routes *pinned = plan->interventions[7].pinned;
    const int32_t *row = cox_pinned_routes_find(pinned, 3, 4);
    assert_non_null(row);
    assert_int_equal(row[0], 1);
    assert_int_equal(row[1], 0);
    assert_null(cox_pinned_routes_find(pinned, 2, 0));
    assert_null(cox_pinned_routes_find(pinned, 3, 5));
    cox_plan_free(plan);
}

static void same_row(const float *a, const float *b, int32_t width)
{
    assert_int_equal(a == NULL, b == NULL);
    if (a) assert_memory_equal(a, b, (size_t)width * sizeof *a);
}

static void same_intervention(const cox_intervention *a, const cox_intervention *b)
{
    assert_int_equal(a->hash, b->hash);
    assert_int_equal(a->site, b->site);
    assert_int_equal(a->op, b->op);
    assert_int_equal(a->weighting, b->weighting);
    assert_int_equal(a->width, b->width);
    assert_memory_equal(&a->strength, &b->strength, sizeof(float));
    assert_memory_equal(&a->positions, &b->positions, sizeof a->positions);
    assert_true(a->reference_dot == b->reference_dot && a->value == b->value && a->alpha == b->alpha &&
                a->factor == b->factor);
    assert_true(a->cosine == b->cosine && a->sine == b->sine && a->cosine_above == b->cosine_above);
    assert_true(a->vector_norm == b->vector_norm);
    assert_int_equal(a->preserve_norm, b->preserve_norm);
    same_row(a->vector, b->vector, a->width);
    same_row(a->unit, b->unit, a->width);
    same_row(a->unit2, b->unit2, a->width);
    same_row(a->when, b->when, a->width);
}

static void test_packing_whole(void **state)
{
    (void)state;
    cox_plan *plan = NULL, *copy = NULL;
    make(&plan, mixed);
    void *data = NULL;
    size_t n_bytes = 0;
    int32_t n_kept = 0;
    const int32_t *indices = NULL;
    assert_int_equal(cox_plan_pack(plan, NULL, NULL, &data, &n_bytes, &n_kept), COX_OK);
    assert_int_equal(n_kept, plan->n);
    assert_int_equal(cox_plan_unpack(&copy, &indices, data, n_bytes), COX_OK);
    assert_int_equal(copy->n, plan->n);
    assert_int_equal(copy->hash, plan->hash);
    assert_true(cox_plan_equal(plan, copy));
    for (int32_t i = 0; i < plan->n; i++) {
        assert_int_equal(indices[i], i);
        same_intervention(&plan->interventions[i], &copy->interventions[i]);
        assert_memory_equal(plan->interventions[i].layers, copy->interventions[i].layers, M_LAYERS);
    }
    assert_memory_equal(cox_pinned_routes_find(copy->interventions[7].pinned, 0, 2),
                        cox_pinned_routes_find(plan->interventions[7].pinned, 0, 2),
                        M_TOP_K * sizeof(int32_t));
    for (size_t n = 0; n < n_bytes;
         n++) { /* a cut one is refused or is another plan, and never read beyond its end */
        cox_plan *cut = NULL;
        char *exact = malloc(n ? n : 1);
        memcpy(exact, data, n);
        if (cox_plan_unpack(&cut, &indices, exact, n) == COX_OK) cox_plan_free(cut);
        free(exact);
    }
    free(data);
    cox_plan_free(copy);
    cox_plan_free(plan);
}

static bool hosts(void *context, int32_t layer, int32_t expert)
{
    const int32_t *place = context;
    return layer == place[0] && expert == place[1];
}

/* -0 has the effect of 0, and protobuf sends neither: the copy on an expert's rank must be the same plan. */
static void test_negative_zeros(void **state)
{
    (void)state;
    const char *const pairs[][2] = {
        {"'site': 'moe_out', 'layer': 0, 'op': 'clamp', 'vector': 'v.safetensors#a', 'value': -0.0, 'when': "
         "{'vector': 'v.safetensors#b', 'cosine_above': -0e5}",
         "'site': 'moe_out', 'layer': 0, 'op': 'clamp', 'vector': 'v.safetensors#a', 'value': 0, 'when': "
         "{'vector': 'v.safetensors#b', 'cosine_above': 0}"},
        {"'site': 'moe_out', 'layer': 0, 'op': 'rotate', 'vector': 'v.safetensors#a', 'vector2': "
         "'v.safetensors#b', 'degrees': -0.0",
         "'site': 'moe_out', 'layer': 0, 'op': 'rotate', 'vector': 'v.safetensors#a', 'vector2': "
         "'v.safetensors#b', 'degrees': 0"},
        {"'site': 'moe_out', 'layer': 0, 'op': 'scale', 'factor': -1e-60",
         "'site': 'moe_out', 'layer': 0, 'op': 'scale', 'factor': 0, 'strength': 1"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        cox_plan *negative = one(pairs[i][0]), *positive = one(pairs[i][1]), *copy = NULL;
        void *data = NULL;
        size_t n_bytes = 0;
        int32_t n_kept = 0;
        const int32_t *indices = NULL;
        assert_true(cox_plan_equal(negative, positive));
        assert_int_equal(cox_plan_pack(negative, NULL, NULL, &data, &n_bytes, &n_kept), COX_OK);
        assert_int_equal(cox_plan_unpack(&copy, &indices, data, n_bytes), COX_OK);
        assert_true(cox_plan_equal(negative, copy));
        free(data);
        cox_plan_free(copy);
        cox_plan_free(positive);
        cox_plan_free(negative);
    }
}

static void test_packing_for_hosts(void **state)
{
    (void)state;
    cox_plan *plan = NULL, *copy = NULL;
    make(&plan, mixed);
    void *data = NULL, *whole = NULL;
    size_t n_bytes = 0, n_whole = 0;
    int32_t n_kept = 0, place[2] = {2, 6}, elsewhere[2] = {3, 6};
    const int32_t *indices = NULL;
    assert_int_equal(cox_plan_pack(plan, hosts, place, &data, &n_bytes, &n_kept), COX_OK);
    assert_int_equal(n_kept, 1);
    assert_int_equal(cox_plan_pack(plan, NULL, NULL, &whole, &n_whole, &n_kept), COX_OK);
    assert_true(n_bytes < n_whole - 2 * M_WIDTH * sizeof(float)); /* one row of the four */
    assert_int_equal(cox_plan_unpack(&copy, &indices, data, n_bytes), COX_OK);
    assert_int_equal(copy->n, 1);
    assert_int_equal(indices[0], 2);
    const uint8_t layers[M_LAYERS] = {0, 0, 1, 0}, experts[M_EXPERTS] = {0, 0, 0, 0, 0, 0, 1, 0};
    assert_memory_equal(copy->interventions[0].layers, layers, M_LAYERS);
    assert_memory_equal(copy->interventions[0].experts, experts, M_EXPERTS);
    same_row(copy->interventions[0].unit, plan->interventions[2].unit, M_WIDTH);
    int32_t n = 0;
    assert_int_equal(cox_plan_at(copy, 2, COX_SITE_EXPERT_OUT, &n)[0], 0);
    assert_int_equal(n, 1);
    free(data);
    assert_int_equal(cox_plan_pack(plan, hosts, elsewhere, &data, &n_bytes, &n_kept), COX_OK);
    assert_int_equal(n_kept, 0);
    free(data);
    free(whole);
    cox_plan_free(copy);
    cox_plan_free(plan);
}

static void test_equality(void **state)
{
    (void)state;
    const char *base =
        "'site': 'resid_post', 'layer': 1, 'op': 'add', 'vector': 'v.safetensors#a', 'strength': %s %s";
    char fields[3][256];
    snprintf(fields[0], sizeof fields[0], base, "2", "");
    snprintf(fields[1], sizeof fields[1], base, "2.0", ", 'positions': 'all'");
    snprintf(fields[2], sizeof fields[2], base, "2.5", "");
    cox_plan *plans[3];
    for (int i = 0; i < 3; i++) plans[i] = one(fields[i]);
    assert_true(cox_plan_equal(plans[0], plans[1]));
    assert_int_equal(plans[0]->hash, plans[1]->hash);
    assert_false(cox_plan_equal(plans[0], plans[2]));
    assert_int_not_equal(plans[0]->hash, plans[2]->hash);
    for (int i = 0; i < 3; i++) cox_plan_free(plans[i]);

    cox_plan *here = one("'site': 'resid_post', 'layer': 1, 'op': 'scale', 'factor': 2");
    cox_plan *there = one("'site': 'resid_post', 'layer': 2, 'op': 'scale', 'factor': 2");
    assert_false(cox_plan_equal(here, there));
    assert_int_equal(here->interventions[0].hash,
                     there->interventions[0].hash); /* that hash is without the layers */
    cox_plan_free(here);
    cox_plan_free(there);
}

static void test_files(void **state)
{
    (void)state;
    cox_model model = test_model();
    cox_plan *plan = NULL;
    const char *text = "{\"interventions\": [{\"site\": \"resid_post\", \"layer\": 1, \"op\": \"add\", "
                       "\"vector\": \"v.safetensors#a\"}]}";
    FILE *file = fopen(path_of("plan.json"), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(cox_plan_load(&plan, path_of("plan.json"), &model, "tttt", false), COX_OK);
    assert_int_equal(plan->n, 1);
    cox_plan_free(plan);
    assert_int_equal(load_plan(&plan, "{'plan': 'plan.json'}", &model, false), COX_OK);
    assert_int_equal(plan->n, 1);
    cox_plan_free(plan);
    assert_int_equal(load_plan(&plan, "{'interventions': []}", &model, false), COX_OK);
    assert_int_equal(plan->n, 0);
    cox_plan_free(plan);
}

static void test_force(void **state)
{
    (void)state;
    cox_model model = test_model();
    cox_plan *plan = NULL;
    const char *text = "{'interventions': [{'vector': 'stated.safetensors'}]}";
    assert_int_equal(load_plan(&plan, text, &model, true), COX_OK);
    assert_false(plan->was_forced); /* nothing to override */
    cox_plan_free(plan);
    strcpy(model.fingerprint, "bbbb");
    assert_int_equal(load_plan(&plan, text, &model, true), COX_OK);
    assert_true(plan->was_forced);
    cox_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults),
                                       cmocka_unit_test(test_a_gguf_file_in_a_plan),
                                       cmocka_unit_test(test_layers_from_vectors),
                                       cmocka_unit_test(test_layers_from_vectors_refused),
                                       cmocka_unit_test(test_scopes),
                                       cmocka_unit_test(test_positions),
                                       cmocka_unit_test(test_index),
                                       cmocka_unit_test(test_packing_whole),
                                       cmocka_unit_test(test_packing_for_hosts),
                                       cmocka_unit_test(test_equality),
                                       cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_negative_zeros),
                                       cmocka_unit_test(test_force),
                                       cmocka_unit_test(test_metadata_fills_in)};
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
