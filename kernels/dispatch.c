/*
 * Owns the choice of a set by name and CPU feature, and the thin public functions of one row that go
 * through the chosen set's table.
 */
#include <cpuid.h>
#include <string.h>

#include "base/nearest.h"
#include "kernels/kernel_set.h"

/* Bit 29 of ecx, leaf 1. clang 14's __builtin_cpu_supports does not know f16c. */
static bool has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) && __builtin_cpu_supports("avx");
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* Bit 5 of eax, leaf 7, subleaf 1. */
static bool has_avx512_bf16(void)
{
    unsigned eax, ebx, ecx, edx;
    return has_avx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 5));
}

static bool always(void)
{
    return true;
}

/* Best exact sets first: the first that this CPU has is "auto". */
static const struct {
    const cox_kernels *set;
    bool (*is_supported)(void);
    bool is_automatic;
    const char *needs;
} sets[] = {
    {&cox__kernels_avx512, has_avx512, true, "AVX-512 F, BW, VL and DQ"},
    {&cox__kernels_avx2, has_avx2, true, "AVX2, FMA and F16C"},
    {&cox__kernels_ref, always, true, ""},
#ifdef COX_SIMDE
    {&cox__kernels_avx512_simde, has_avx2, false, "AVX2, FMA and F16C"},
#endif
};
enum { N_SETS = sizeof sets / sizeof sets[0] };

/* The sets that are not exact: the best exact one with another product. Filled in when first selected. */
static cox_kernels bf16_act, blas;
#ifdef COX_SIMDE
static cox_kernels bf16_act_simde;
#endif

static const struct {
    cox_kernels *set;
    const char *name;
    int32_t tile_outs;
    size_t (*extra_floats)(int32_t max_cols);
    void (*matmul_tile)(const cox_matmul_job *job, const cox__tile *tile, cox__scratch *scratch);
} named_sets[] = {
    {&bf16_act, "bf16-act", COX__TILE_OUTS, cox__extra_floats_bf16_act, cox__matmul_tile_bf16_act},
    {&blas, "blas", COX__BLAS_TILE_OUTS, cox__extra_floats_blas, cox__matmul_tile_blas},
#ifdef COX_SIMDE
    {&bf16_act_simde, "bf16-act-simde", COX__TILE_OUTS, cox__extra_floats_bf16_act,
     cox__matmul_tile_bf16_act},
#endif
};
enum { N_NAMED_SETS = sizeof named_sets / sizeof named_sets[0] };

static cox_status unknown_set(const char *name)
{
    char known[256] = "auto";
    for (int i = 0; i < N_SETS; i++) strcat(strcat(known, ", "), sets[i].set->name);
    for (int i = 0; i < N_NAMED_SETS; i++) strcat(strcat(known, ", "), named_sets[i].name);
    cox_nearest nearest = cox_nearest_to(name, strlen(name));
    cox_nearest_offer_words(&nearest, known, ", ");
    return cox_fail(COX_INVALID, "unknown kernel set '%s': choose one of %s%s", name, known, nearest.hint);
}

static cox_status select_exact(const cox_kernels **kernels, const char *name, bool *is_found)
{
    bool is_auto = strcmp(name, "auto") == 0;
    *is_found = true;
    for (int i = 0; i < N_SETS; i++) {
        if (is_auto ? !sets[i].is_automatic : strcmp(name, sets[i].set->name) != 0) continue;
        if (sets[i].is_supported()) {
            *kernels = sets[i].set;
            return COX_OK;
        }
        if (!is_auto) {
            return cox_fail(COX_UNSUPPORTED, "kernel set '%s' needs %s, and this CPU has only: %s; use auto",
                            name, sets[i].needs, cox_cpu_features());
        }
    }
    *is_found = false;
    return COX_OK;
}

/* The bf16 product of a set, NULL for rounding only. */
static cox__bf16_product *bf16_product_of(const cox_kernels *set)
{
#ifdef COX_SIMDE
    if (set == &bf16_act_simde) return cox__bf16_product_simde;
#endif
    return set == &bf16_act && has_avx512_bf16() ? cox__bf16_product_avx512bf16 : NULL;
}

cox_status cox_kernels_select(const cox_kernels **kernels, const char *name)
{
    const char *wanted = name ? name : "auto";
    bool is_found = false;
    cox_status status = select_exact(kernels, wanted, &is_found);
    if (is_found) return status;
    for (int i = 0; i < N_NAMED_SETS; i++) {
        if (strcmp(wanted, named_sets[i].name) != 0) continue;
        const cox_kernels *base = NULL;
        select_exact(&base, "auto", &is_found);
        cox_kernels *set = named_sets[i].set;
        *set = *base;
        set->name = named_sets[i].name;
        set->base = base;
        set->tile_outs = named_sets[i].tile_outs;
        set->extra_floats = named_sets[i].extra_floats;
        set->matmul_tile = named_sets[i].matmul_tile;
        set->bf16_product = bf16_product_of(set);
        if (set == &blas) cox__blas_start();
        *kernels = set;
        return COX_OK;
    }
    return unknown_set(wanted);
}

const cox_kernels *cox_kernels_exact(const cox_kernels *kernels)
{
    return kernels->base ? kernels->base : kernels;
}

const char *cox_kernels_name(const cox_kernels *kernels)
{
    return kernels->name;
}

const char *cox_cpu_features(void)
{
    static char text[128];
    if (text[0]) return text;
    char found[sizeof text] = "sse2";
#define ADD(feature) \
    if (__builtin_cpu_supports(feature)) strcat(found, " " feature)
    ADD("avx2");
    ADD("fma");
    if (has_f16c()) strcat(found, " f16c");
    ADD("avx512f");
    ADD("avx512bw");
    ADD("avx512vl");
    ADD("avx512dq");
    ADD("avx512vnni");
    if (has_avx512_bf16()) strcat(found, " avx512bf16");
#undef ADD
    memcpy(text, found, sizeof text);
    return text;
}

void cox_rms_norm(const cox_kernels *kernels, float *y, const float *x, const float *weight, int32_t n,
                  float eps)
{
    kernels->rms_norm(y, x, weight, n, eps);
}

float cox_dot(const cox_kernels *kernels, const float *a, const float *b, int32_t n)
{
    return kernels->dot(a, b, n);
}

void cox_add(const cox_kernels *kernels, float *y, const float *x, int32_t n)
{
    kernels->add(y, x, n);
}

void cox_axpy(const cox_kernels *kernels, float *y, float a, const float *x, int32_t n)
{
    kernels->axpy(y, a, x, n);
}

void cox_softmax(const cox_kernels *kernels, float *x, int32_t n)
{
    kernels->softmax(x, n);
}

void cox_silu_mul(const cox_kernels *kernels, float *y, const float *gate, const float *up, int32_t n)
{
    kernels->silu_mul(y, gate, up, n);
}

void cox_swiglu_clamped(const cox_kernels *kernels, float *y, const float *gate, const float *up, int32_t n,
                        float alpha, float limit)
{
    kernels->swiglu_clamped(y, gate, up, n, alpha, limit);
}

/* For functions of f64 that no model's run chooses a set for. */
static const cox_kernels *best_set(void)
{
    static const cox_kernels *_Atomic best; /* asking the CPU takes longer than a row */
    const cox_kernels *set = best;
    bool is_found;
    if (!set) {
        select_exact(&set, "auto", &is_found);
        best = set;
    }
    return set;
}

void cox_log_sum_exps(const float *x, const uint8_t *in_set, int32_t n, double result[2])
{
    double shifts[2], sums[2];
    best_set()->exp_sums(x, in_set, n, shifts, sums);
    for (int part = 0; part < 2; part++) result[part] = shifts[part] + cox_log_f64(sums[part]);
}

double cox_kl_sum(const double *p, const double *log_p, const float *x, double whole, int32_t n)
{
    return best_set()->kl_sum(p, log_p, x, whole, n);
}

void cox_rope(const cox_kernels *kernels, float *x, const float *cosine, const float *sine, int32_t n_rot)
{
    kernels->rope(x, cosine, sine, n_rot);
}
