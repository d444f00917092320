/* A generation_config.json of any bytes: an error, or settings that the sampler takes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/generation.h"
#include "coordinator/sampler.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = NULL;
    cox_generation g;
    if (cox_json_load_python_text(&json, (const char *)data, size, "fuzz") != COX_OK) return 0;
    cox_status status = cox_generation_read(&g, json, "fuzz");
    json_decref(json);
    if (status != COX_OK) return 0;
    if (!memchr(g.unbuilt, '\0', sizeof g.unbuilt)) abort();
    if (!g.is_sampled) return 0;
    cox_sampling sampling = cox_sampling_defaults();
    sampling.temperature = (float)(g.temperature < 1e-6 ? 1e-6 : g.temperature > 1e6 ? 1e6 : g.temperature);
    sampling.top_k = (int32_t)g.top_k;
    sampling.top_p = (float)g.top_p;
    sampling.min_p = (float)g.min_p;
    if (cox_sampling_check(&sampling) != COX_OK) abort();
    return 0;
}
