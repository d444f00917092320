/* One line of a batch file, any bytes: an error, or a request that survives the trip between coordinators and
 * becomes a line again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/mail.h"
#include "proto/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_trip(const cox_request *request)
{
    void *bytes = NULL;
    size_t n = 0;
    cox_mail *mail = NULL;
    if (cox_mail_pack_request(request, &bytes, &n) != COX_OK || cox_mail_unpack(&mail, bytes, n) != COX_OK)
        abort();
    if (strcmp(mail->request->chat, request->chat) != 0 || mail->request->n_stop != request->n_stop) abort();
    if (strcmp(mail->request->custom_id, request->custom_id) != 0) abort();
    cox_mail_destroy(mail);
    free(bytes);
}

static void check_line(const cox_request *request)
{
    cox_record *record = cox_record_create(request);
    json_t *line = record ? cox_record_to_batch_line(record, 0, "model") : NULL;
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    if (!text || strchr(text, '\n')) abort();
    free(text);
    json_decref(line);
    cox_record_destroy(record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cox_request *request = cox_request_create();
    if (!request) return 0;
    if (cox_request_read_line(request, (const char *)data, size, "fuzz") == COX_OK) check_trip(request);
    check_line(request);
    cox_request_destroy(request);
    return 0;
}
