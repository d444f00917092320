/* Any bytes as a line from the process that renders chat templates: no answer, an error, or a text that is
 * whole. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat_process.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool is_answer = false;
    char *text = NULL;
    size_t n = 0;
    cox_status status = cox_chat_answer_read((const char *)data, size, 7, &is_answer, &text, &n);
    if (text && (status != COX_OK || !is_answer || text[n] != '\0')) abort();
    if (!text && status == COX_OK && is_answer) abort();
    if (status != COX_OK && (!is_answer || *cox_status_message() == '\0')) abort();
    free(text);
    return 0;
}
