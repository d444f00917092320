/* Messages before others, and texts as chats. */
#include "run/prompting.h"

#include <string.h>

#include "base/json.h"

cox_status cox_prompting_check(const cox_prompting *prompting)
{
    if (prompting->is_raw && prompting->system)
        return cox_fail(COX_INVALID, "--system needs a chat template; it cannot be used with --raw");
    if (prompting->is_raw && (prompting->template_name || prompting->kwargs || prompting->date))
        return cox_fail(COX_INVALID, "--template, --template-kwargs and --date cannot be used with --raw");
    return COX_OK;
}

cox_status cox_prompting_load_template(cox_chat_template **chat_template, const cox_prompting *prompting,
                                       const char *model, cox_chat_process *process)
{
    const cox_chat_options chat = {
        .name = prompting->template_name, .kwargs = prompting->kwargs, .date = prompting->date};
    return cox_chat_template_load(chat_template, model, &chat, process);
}

cox_status cox_prompting_make_request(cox_request *request, const cox_prompting *prompting,
                                      const char *prompt)
{
    if (prompting->is_raw) return cox_request_set(&request->prompt, prompt);
    cox_status status = cox_request_set_user(request, prompt);
    return status != COX_OK ? status : cox_prompting_apply(request, prompting, "--system");
}

static cox_status put_system(json_t *chat, const char *text, const char *where)
{
    json_t *messages = json_object_get(chat, "messages");
    const char *role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
    if (role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0)) {
        return cox_fail(COX_INVALID,
                        "%s: brings its own system message; --system is for chats that have none", where);
    }
    json_t *content = json_string(text);
    if (!content) return cox_fail(COX_INVALID, "--system is not valid UTF-8");
    json_t *message = json_pack("{s:s, s:o}", "role", "system", "content", content);
    return json_array_insert_new(messages, 0, message) == 0 ? COX_OK : cox_no_memory("a prompt");
}

cox_status cox_prompting_apply(cox_request *request, const cox_prompting *prompting, const char *where)
{
    if (!request->is_chat || (!prompting->is_raw && !prompting->system)) return COX_OK;
    if (prompting->is_raw)
        return cox_fail(COX_INVALID, "%s: brings its own messages; --raw is for prompts of text alone",
                        where);
    json_t *chat = json_loads(request->chat, 0, NULL);
    cox_status status = put_system(chat, prompting->system, where);
    if (status == COX_OK) status = cox_request_set_chat(request, chat, where);
    json_decref(chat);
    return status;
}
