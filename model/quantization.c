/* Names of quantisations, as config.json and tensors give them away. */
#include "model/quantization.h"

#include <stdio.h>
#include <string.h>

/* What people call a quant_method, and the key beside it that says which kind. Others go by their own name.
 */
static const struct {
    const char *method, *title, *detail;
} methods[] = {
    {"fp8", "FP8", NULL},
    {"fbgemm_fp8", "FP8", NULL},
    {"mxfp4", "MXFP4", NULL},
    {"mxfp8", "MXFP8", NULL},
    {"nvfp4", "NVFP4", NULL},
    {"compressed-tensors", "compressed-tensors", "format"},
    {"modelopt", "ModelOpt", "quant_algo"},
    {"awq", "AWQ", NULL},
    {"gptq", "GPTQ", NULL},
    {"bitsandbytes", "bitsandbytes", NULL},
};

static const char *text_of(const cox__config *config, const char *key)
{
    return json_string_value(json_object_get(config->object, key));
}

/* The method that a quantization_config names, or implies as older ones do. */
static const char *method_of(const cox__config *quantization)
{
    const char *method = text_of(quantization, "quant_method");
    if (method) return method;
    bool is_bits = json_is_true(json_object_get(quantization->object, "load_in_4bit")) ||
                   json_is_true(json_object_get(quantization->object, "load_in_8bit"));
    return is_bits ? "bitsandbytes" : text_of(quantization, "quant_algo") ? "modelopt" : "(none)";
}

static cox_status refuse(const cox__config *quantization, const cox_family *family, const char *method)
{
    char title[256] = "";
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(methods[i].method, method) != 0) continue;
        const char *detail = methods[i].detail ? text_of(quantization, methods[i].detail) : NULL;
        snprintf(title, sizeof title, " (%s%s%.100s)", methods[i].title, detail ? ", " : "",
                 detail ? detail : "");
    }
    return cox_fail(
        COX_UNSUPPORTED,
        "%s: the weights are quantised by quant_method \"%.100s\"%s, which is not built for model_type %s; "
        "use the checkpoint in bf16, f16 or f32%s that it was made from (often the same name without the "
        "ending -FP8, -AWQ or the like)",
        quantization->where, method, title, family->model_type, family->reads_mxfp4 ? ", or in MXFP4," : "");
}

cox_status cox__quantization_read(const cox__config *config, const cox_family *family, cox_arena *arena,
                                  bool *is_mxfp4)
{
    cox__config quantization;
    cox_status status = cox__config_object(config, "quantization_config", arena, &quantization);
    if (status == COX_OK && !quantization.object)
        status = cox__config_object(config, "compression_config", arena, &quantization);
    if (status != COX_OK || !quantization.object) return status;
    const char *method = NULL;
    status = cox__config_string(&quantization, "quant_method", &method);
    if (status != COX_OK) return status;
    method = method_of(&quantization);
    *is_mxfp4 = strcmp(method, "mxfp4") == 0 && family->reads_mxfp4;
    return *is_mxfp4 ? COX_OK : refuse(&quantization, family, method);
}

/* What tensors' names and dtypes give away, the more particular before the more general. */
static const char *title_of(const cox_tensor *tensor)
{
    static const struct {
        const char *part, *title;
    } parts[] = {
        {".quant_state.bitsandbytes", "bitsandbytes"},
        {".weight.absmax", "bitsandbytes"},
        {".SCB", "bitsandbytes"},
        {".weight_packed", "compressed-tensors"},
        {".weight_scale_2", "ModelOpt, NVFP4"},
        {".weight_scale_inv", "FP8"},
        {".qweight", "GPTQ or AWQ"},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strstr(tensor->name, parts[i].part)) return parts[i].title;
    }
    return strncmp(tensor->dtype_name, "F8_", 3) == 0 ? "FP8" : NULL;
}

cox_status cox__quantization_explain(const cox_checkpoint *checkpoint, const char *folder, cox_status status)
{
    const cox_tensor *found = NULL;
    const char *title = NULL;
    for (size_t i = 0; i < cox_checkpoint_n_tensors(checkpoint); i++) {
        const cox_tensor *tensor = cox_checkpoint_tensor(checkpoint, i);
        const char *its = title_of(tensor);
        if (!its || (title && strcmp(title, "FP8") != 0)) continue;
        found = tensor;
        title = its;
    }
    if (!title) return status;
    return cox_fail(COX_UNSUPPORTED,
                    "%s: the weights are quantised (%s: see tensor \"%s\"), which is not built; use the "
                    "checkpoint in bf16, f16 "
                    "or f32 that it was made from",
                    folder, title, found->name);
}
