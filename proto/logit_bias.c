/* "logit_bias" of an OpenAI body: a map of token ids, as JSON strings, to numbers. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/request.h"

/* "17", not "017" or "+17": two keys must not mean one id. */
static bool parse_id(const char *text, int32_t *id)
{
    char again[16];
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || value < 0 || value > INT32_MAX) return false;
    snprintf(again, sizeof again, "%ld", value);
    *id = (int32_t)value;
    return strcmp(again, text) == 0;
}

static cox_status add_bias(Cox__SamplingFields *sampling, const char *key, const json_t *value,
                           const char *where)
{
    int32_t id = 0;
    double bias = json_number_value(value);
    if (!parse_id(key, &id))
        return cox_fail(COX_INVALID, "%s: key \"logit_bias\": \"%.60s\" is not a token id", where, key);
    if (!json_is_number(value) || !(bias >= -100.0 && bias <= 100.0)) {
        return cox_fail(COX_INVALID, "%s: key \"logit_bias\": token %d needs a number from -100 to 100",
                        where, id);
    }
    Cox__LogitBias *entry = malloc(sizeof *entry);
    if (!entry) return cox_no_memory("a request");
    cox__logit_bias__init(entry);
    entry->id = id;
    entry->bias = (float)bias;
    sampling->logit_bias[sampling->n_logit_bias++] = entry;
    return COX_OK;
}

static void free_biases(Cox__SamplingFields *sampling)
{
    for (size_t i = 0; i < sampling->n_logit_bias; i++)
        cox__logit_bias__free_unpacked(sampling->logit_bias[i], NULL);
    free(sampling->logit_bias);
    sampling->logit_bias = NULL;
    sampling->n_logit_bias = 0;
}

cox_status cox_request_read_logit_bias(Cox__SamplingFields *sampling, const json_t *value, const char *where)
{
    if (!value || json_is_null(value)) return COX_OK;
    if (!json_is_object(value)) {
        return cox_fail(COX_BAD_FILE, "%s: key \"logit_bias\" must be an object: {\"TOKEN ID\": number}",
                        where);
    }
    free_biases(sampling);
    sampling->logit_bias = malloc((json_object_size(value) + 1) * sizeof(Cox__LogitBias *));
    if (!sampling->logit_bias) return cox_no_memory("a request");
    const char *key;
    json_t *bias;
    json_object_foreach((json_t *)value, key, bias)
    {
        cox_status status = add_bias(sampling, key, bias, where);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}
