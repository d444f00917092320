/* A file of rules of any bytes, up to a NUL, and behind it a text: an error, or rules that judge the text or
 * say why not. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "study/rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *field_of(void *context, const char *name)
{
    (void)context;
    return strcmp(name, "kind") == 0 ? "k" : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, 0, size);
    size_t n = end ? (size_t)(end - data) : size;
    json_t *json = NULL;
    cox_rules *rules = NULL;
    if (cox_json_load_text(&json, (const char *)data, n, "fuzz") != COX_OK) return 0;
    cox_status status = cox_rules_from_json(&rules, json, "fuzz");
    json_decref(json);
    if (status != COX_OK) return 0;
    static const char standing[] = "I cannot, I cannot, I cannot.";
    size_t n_text = end ? size - n - 1 : sizeof standing - 1;
    char *text = calloc(n_text + 1, 1);
    if (!text) abort();
    memcpy(text, end ? (const char *)end + 1 : standing, n_text);
    cox_verdict verdicts[COX_MAX_LABELS];
    const cox_text_limits limits = cox_rules_limits(rules);
    cox_text_check check;
    if (cox_rules_judge(rules, text, field_of, NULL, verdicts) == COX_OK) {
        for (int32_t l = 0; l < cox_rules_n_labels(rules); l++) {
            if (verdicts[l] < COX_VERDICT_NOT_ASKED || verdicts[l] > COX_VERDICT_YES) abort();
        }
    }
    if (cox_text_check_run(&check, text, false, &limits) != COX_OK || !check.is_cut) abort();
    free(text);
    cox_rules_free(rules);
    return 0;
}
