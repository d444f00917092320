/*
 * RoPE parameters and tables. transformers computes the tables with f32 tensors and Python (f64)
 * scalars; every step below is rounded where it rounds. Powers and logarithms are our own f64 functions,
 * rounded once, so the table is the same on every machine and within an ulp of transformers'.
 */
#include "model/rope.h"

#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"

static const double PI = 3.14159265358979323846;

static cox_status read_type(const cox__config *dict, cox__rope_type *type)
{
    const char *name = NULL;
    cox_status status = cox__config_string(dict, "rope_type", &name);
    if (status == COX_OK && !name) status = cox__config_string(dict, "type", &name);
    if (status != COX_OK || !name) return status;
    static const char *const names[] = {"default", "linear", "llama3", "yarn"}; /* in the order of the enum */
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *type = (cox__rope_type)i;
        return COX_OK;
    }
    return cox_fail(COX_UNSUPPORTED,
                    "%s: rope_type \"%s\" is not built; the known ones are default, linear, llama3, yarn",
                    dict->where, name);
}

/* Newer configs may give each layer type a dictionary of its own. */
static cox_status refuse_nested(const cox__config *dict)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)dict->object, key, value)
    {
        if (json_is_object(value)) {
            return cox_fail(COX_UNSUPPORTED,
                            "%s: key \"%.100s\" gives RoPE parameters by layer type, which is not built",
                            dict->where, key);
        }
    }
    return COX_OK;
}

static cox_status require(const cox__config *dict, const char *key)
{
    if (cox__config_has(dict, key)) return COX_OK;
    return cox_fail(COX_BAD_FILE, "%s: key \"%s\" is missing, but this rope_type needs it", dict->where, key);
}

static cox_status read_llama3(const cox__config *dict, cox__rope_params *p)
{
    static const char *const keys[] = {"factor", "low_freq_factor", "high_freq_factor"};
    for (int i = 0; i < 3; i++) {
        cox_status status = require(dict, keys[i]);
        if (status != COX_OK) return status;
    }
    cox_status status = cox__config_number(dict, "low_freq_factor", 1e-6, 1e6, &p->low_freq_factor);
    if (status == COX_OK)
        status = cox__config_number(dict, "high_freq_factor", 1e-6, 1e6, &p->high_freq_factor);
    return status;
}

static cox_status read_yarn(const cox__config *dict, int32_t max_positions, cox__rope_params *p)
{
    if (cox__config_is_null(dict, "factor")) {
        p->factor = (double)max_positions / p->original_positions;
    } else {
        cox_status status = require(dict, "factor");
        if (status != COX_OK) return status;
    }
    cox_status status = cox__config_number(dict, "beta_fast", 0, 1e6, &p->beta_fast);
    if (status == COX_OK) status = cox__config_number(dict, "beta_slow", 0, 1e6, &p->beta_slow);
    if (status == COX_OK) status = cox__config_number(dict, "mscale", 0, 1e6, &p->mscale);
    if (status == COX_OK) status = cox__config_number(dict, "mscale_all_dim", 0, 1e6, &p->mscale_all_dim);
    if (status == COX_OK) status = cox__config_number(dict, "attention_factor", 0, 1e6, &p->attention_factor);
    if (cox__config_is_given(dict, "truncate"))
        p->truncate = cox__config_is_truthy(dict, "truncate"); /* null means false, absent true */
    if (p->beta_fast == 0) p->beta_fast = 32;                  /* as transformers' `or` does */
    if (p->beta_slow == 0) p->beta_slow = 1;
    return status;
}

static cox_status read_dict(const cox__config *config, const cox__config *dict, int32_t max_positions,
                            cox__rope_params *p)
{
    cox_status status = refuse_nested(dict);
    if (status == COX_OK) status = read_type(dict, &p->type);
    if (status == COX_OK) status = cox__config_number(dict, "rope_theta", 1.001, 1e15, &p->theta);
    double rotated = 1;
    if (status == COX_OK) status = cox__config_number(dict, "partial_rotary_factor", 0, 1, &rotated);
    if (status == COX_OK && rotated != 1) {
        status = cox_fail(COX_UNSUPPORTED, "%s: partial_rotary_factor %g is not built for this family",
                          dict->where, rotated);
    }
    if (status != COX_OK || p->type == COX__ROPE_DEFAULT) return status;

    status = cox__config_number(dict, "factor", 1e-3, 1e6, &p->factor);
    if (status == COX_OK && p->type == COX__ROPE_LINEAR) return require(dict, "factor");
    const char *key = "original_max_position_embeddings";
    const cox__config *holder = cox__config_has(config, key) ? config : dict; /* the top level wins */
    if (status == COX_OK) status = cox__config_number(holder, key, 1, 1 << 24, &p->original_positions);
    if (status != COX_OK) return status;
    return p->type == COX__ROPE_LLAMA3 ? read_llama3(dict, p) : read_yarn(dict, max_positions, p);
}

cox_status cox__rope_read(const cox__config *config, const cox__rope_params *missing, int32_t max_positions,
                          cox_arena *arena, cox__rope_params *params)
{
    cox__config scaling = {0}, parameters = {0};
    cox_status status = COX_OK;
    if (cox__config_is_truthy(config, "rope_scaling"))
        status = cox__config_object(config, "rope_scaling", arena, &scaling);
    if (status == COX_OK) status = cox__config_object(config, "rope_parameters", arena, &parameters);
    if (status != COX_OK) return status;
    /* An empty rope_scaling counts as absent, an empty rope_parameters does not. */
    const cox__config *dict = json_object_size(scaling.object) > 0 ? &scaling : &parameters;
    cox__rope_params p = *missing;
    if (dict->object) {
        p = (cox__rope_params){.original_positions = max_positions,
                               .factor = 1,
                               .beta_fast = 32,
                               .beta_slow = 1,
                               .attention_factor = -1,
                               .truncate = true};
    }
    p.theta = missing->theta;
    if (!dict->object || !cox__config_has(dict, "rope_theta")) /* what the dictionary says wins */
        status = cox__config_number(config, "rope_theta", 1.001, 1e15, &p.theta);
    if (status != COX_OK) return status;
    if (dict->object)
        status = read_dict(config, dict, max_positions, &p);
    else if (p.type != COX__ROPE_DEFAULT)
        status =
            cox__config_number(config, "original_max_position_embeddings", 1, 1 << 24, &p.original_positions);
    if (status == COX_OK) *params = p;
    return status;
}

/* base^(2j/d) in f32. */
static float power(double base, int32_t j, int32_t head_dim)
{
    float exponent = (float)(2 * j) / (float)head_dim;
    return (float)cox_pow_f64((double)(float)base, (double)exponent);
}

static float llama3_frequency(const cox__rope_params *p, float frequency)
{
    const float factor = (float)p->factor;
    const float low = (float)p->low_freq_factor;
    const float long_wave = (float)(p->original_positions / p->low_freq_factor);
    const float short_wave = (float)(p->original_positions / p->high_freq_factor);
    const float span = (float)(p->high_freq_factor - p->low_freq_factor);
    float wave = (float)(2 * PI) / frequency;
    if (wave > long_wave) return frequency / factor;
    if (wave < short_wave || span <= 0) return frequency;
    float smooth = ((float)p->original_positions / wave - low) / span;
    return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

static double floor_f64(double x)
{
    double whole = (double)(int64_t)x; /* |x| is far below 2^63 here */
    return whole > x ? whole - 1 : whole;
}

/* The pair index at which `rotations` full turns fit into the original context. */
static double correction_dim(const cox__rope_params *p, double rotations, int32_t head_dim)
{
    return head_dim * cox_log_f64(p->original_positions / (rotations * 2 * PI)) / (2 * cox_log_f64(p->theta));
}

static void yarn_frequencies(const cox__rope_params *p, int32_t head_dim, float *inv_freq)
{
    double low = correction_dim(p, p->beta_fast, head_dim), high = correction_dim(p, p->beta_slow, head_dim);
    if (p->truncate) {
        low = floor_f64(low);
        high = -floor_f64(-high);
    }
    if (low < 0) low = 0;
    if (high > head_dim - 1) high = head_dim - 1;
    if (low == high) high += 0.001;
    for (int32_t j = 0; j < head_dim / 2; j++) {
        float ramp = ((float)j - (float)low) / (float)(high - low);
        ramp = ramp < 0 ? 0.0f : ramp > 1 ? 1.0f : ramp;
        float keep = 1.0f - ramp, pos_freq = power(p->theta, j, head_dim);
        float interpolated = 1.0f / ((float)p->factor * pos_freq), extrapolated = 1.0f / pos_freq;
        inv_freq[j] = interpolated * (1.0f - keep) + extrapolated * keep;
    }
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1.0 : 0.1 * mscale * cox_log_f64(factor) + 1.0;
}

static double yarn_attention_factor(const cox__rope_params *p)
{
    if (p->attention_factor >= 0) return p->attention_factor;
    if (p->mscale != 0 && p->mscale_all_dim != 0) {
        return yarn_mscale(p->factor, p->mscale) / yarn_mscale(p->factor, p->mscale_all_dim);
    }
    return yarn_mscale(p->factor, 1);
}

void cox__rope_table(const cox__rope_params *params, int32_t head_dim, float *inv_freq,
                     float *attention_factor)
{
    *attention_factor = 1.0f;
    if (params->type == COX__ROPE_YARN) {
        yarn_frequencies(params, head_dim, inv_freq);
        *attention_factor = (float)yarn_attention_factor(params);
        return;
    }
    for (int32_t j = 0; j < head_dim / 2; j++) {
        float frequency = 1.0f / power(params->theta, j, head_dim);
        if (params->type == COX__ROPE_LINEAR) frequency /= (float)params->factor;
        if (params->type == COX__ROPE_LLAMA3) frequency = llama3_frequency(params, frequency);
        inv_freq[j] = frequency;
    }
}
