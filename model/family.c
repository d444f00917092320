/* The list of families; everything particular is in family_<name>.c. */
#include "model/family.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

static const cox_family *const families[] = {&cox__family_olmoe, &cox__family_mixtral, &cox__family_gpt_oss,
                                             &cox__family_qwen3_moe};
enum { N_FAMILIES = sizeof families / sizeof *families };

cox_status cox__family_find(const cox__config *config, const cox_family **family)
{
    const char *type = NULL;
    cox_status status = cox_json_string(config->object, config->where, "model_type", true, &type);
    if (status != COX_OK) return status;
    char known[512] = "";
    size_t n = 0;
    for (int i = 0; i < N_FAMILIES; i++) {
        if (strcmp(families[i]->model_type, type) == 0) {
            *family = families[i];
            return COX_OK;
        }
        int written = snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", families[i]->model_type);
        if (written > 0) n += (size_t)written;
        if (n >= sizeof known) break;
    }
    return cox_fail(COX_UNSUPPORTED, "%s: model_type \"%.100s\" is not supported; the known ones are %s",
                    config->where, type, known);
}

cox_status cox__family_softmax_router(const cox__config *config, bool default_normalize, cox_model *model)
{
    model->router.rule = COX_ROUTER_SOFTMAX_TOPK;
    model->router.normalize = default_normalize;
    return cox__config_bool(config, "norm_topk_prob", &model->router.normalize);
}

static bool is_same_name(const char *a, const char *b)
{
    while (true) {
        while (*a && !isalnum((unsigned char)*a)) a++;
        while (*b && !isalnum((unsigned char)*b)) b++;
        if (tolower((unsigned char)*a) != tolower((unsigned char)*b)) return false;
        if (!*a) return true;
        a++;
        b++;
    }
}

bool cox_model_is_called(const cox_model *model, const char *name)
{
    const cox_family *family = model->family;
    return is_same_name(name, model->family_name) ||
           (family && family->gguf_name && is_same_name(name, family->gguf_name));
}
