/* From the record's tensors to a file that pinning reads. */
#include "run/traces.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "run/outputs.h"
#include "steering/plan.h"

cox_status cox_traces_open(const char *folder, bool is_forced)
{
    return cox_output_folder("--trace-routes", folder, is_forced);
}

cox_status cox_traces_name(cox_request *request, const char *folder, const char *what)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s-%" PRIu64 ".safetensors", folder, what, request->id) < 0)
        return cox_no_memory("a path");
    cox_status status = cox_request_set(&request->routes_file, path);
    free(path);
    return status;
}

static cox_status write_answer(const cox_record *record, const cox_model *model)
{
    const Cox__TracedRoutes *routes = record->routes;
    if (!routes) return COX_OK;
    cox_routes_layer *layers = calloc((size_t)model->n_layers, sizeof *layers);
    if (!layers) return cox_no_memory("routes");
    for (size_t i = 0; i < routes->n_layers; i++) {
        const Cox__TracedLayer *from = routes->layers[i];
        layers[from->layer] = (cox_routes_layer){.experts = (const int32_t *)(const void *)from->experts.data,
                                                 .logits = (const float *)(const void *)from->logits.data,
                                                 .weights = (const float *)(const void *)from->weights.data,
                                                 .margins = (const float *)(const void *)from->margins.data,
                                                 .ranks = (const int32_t *)(const void *)from->ranks.data};
    }
    cox_status status = cox_traced_routes_write(record->routes_file, layers, model->n_layers,
                                                routes->n_tokens, routes->top_k, model->fingerprint);
    free(layers);
    return status;
}

cox_status cox_traces_write(const cox_record *record, const cox_model *model)
{
    cox_status status = write_answer(record, model);
    for (size_t i = 0; i < record->n_others && status == COX_OK; i++)
        status = write_answer(record->others[i], model);
    return status;
}
