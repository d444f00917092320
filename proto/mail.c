/* Mail envelopes. */
#include "proto/mail.h"

#include <stdlib.h>

static cox_status pack(const cox_mail *mail, void **data, size_t *n)
{
    size_t n_bytes = cox__mail__get_packed_size(mail);
    uint8_t *bytes = malloc(n_bytes ? n_bytes : 1);
    if (!bytes) return cox_no_memory("a message between coordinators");
    cox__mail__pack(mail, bytes);
    *data = bytes;
    *n = n_bytes;
    return COX_OK;
}

cox_status cox_mail_pack_request(const cox_request *request, void **data, size_t *n)
{
    cox_mail mail = COX__MAIL__INIT;
    mail.content_case = COX__MAIL__CONTENT_REQUEST;
    mail.request = (cox_request *)request; /* packing only reads */
    return pack(&mail, data, n);
}

cox_status cox_mail_pack_record(const cox_record *record, void **data, size_t *n)
{
    cox_mail mail = COX__MAIL__INIT;
    mail.content_case = COX__MAIL__CONTENT_RECORD;
    mail.record = (cox_record *)record;
    return pack(&mail, data, n);
}

cox_status cox_mail_pack_text(uint64_t id, const char *text, size_t n_text, void **data, size_t *n)
{
    Cox__Text content = COX__TEXT__INIT;
    content.id = id;
    content.text = (ProtobufCBinaryData){.len = n_text, .data = (uint8_t *)text};
    cox_mail mail = COX__MAIL__INIT;
    mail.content_case = COX__MAIL__CONTENT_TEXT;
    mail.text = &content;
    return pack(&mail, data, n);
}

cox_status cox_mail_pack_cancel(uint64_t id, void **data, size_t *n)
{
    cox_mail mail = COX__MAIL__INIT;
    mail.content_case = COX__MAIL__CONTENT_CANCEL;
    mail.cancel = id;
    return pack(&mail, data, n);
}

cox_status cox_mail_pack_finish(bool at_once, void **data, size_t *n)
{
    cox_mail mail = COX__MAIL__INIT;
    mail.content_case = at_once ? COX__MAIL__CONTENT_STOP : COX__MAIL__CONTENT_FINISH;
    *(at_once ? &mail.stop : &mail.finish) = 1;
    return pack(&mail, data, n);
}

cox_status cox_mail_unpack(cox_mail **mail, const void *data, size_t n)
{
    cox_mail *fresh = cox__mail__unpack(NULL, n, data);
    if (!fresh) return cox_fail(COX_INTERNAL, "a message of %zu bytes between coordinators is malformed", n);
    *mail = fresh;
    return COX_OK;
}

void cox_mail_destroy(cox_mail *mail)
{
    if (mail) cox__mail__free_unpacked(mail, NULL);
}
