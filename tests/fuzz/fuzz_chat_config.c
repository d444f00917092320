/* A tokenizer_config.json of any bytes: templates and special tokens are texts, or it is no JSON. */
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "model/chat_template_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *config = NULL, *templates = json_object(), *tokens = json_object(), *value;
    const char *key;
    if (cox_json_load_python_text(&config, (const char *)data, size, "fuzz") == COX_OK) {
        if (cox__chat_add_templates(templates, json_object_get(config, "chat_template")) != COX_OK) abort();
        if (cox__chat_add_tokens(tokens, config, false) != 0) abort();
        json_object_foreach(tokens, key, value)
        {
            if (!json_is_string(value)) abort();
        }
        json_object_foreach(templates, key, value)
        {
            if (!json_is_string(value)) abort();
            cox__chat_form_by_text(json_string_value(value));
            cox__chat_form_nearest(json_string_value(value));
        }
    }
    json_decref(tokens);
    json_decref(templates);
    json_decref(config);
    return 0;
}
