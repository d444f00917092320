/*
 * Envelopes of the control messages between coordinators (mail.proto): packing into bytes that a
 * mailbox carries, and back.
 */
#ifndef COX_PROTO_MAIL_H
#define COX_PROTO_MAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/mail.pb-c.h"
#include "proto/record.h"
#include "proto/request.h"

typedef Cox__Mail cox_mail;

/* [out] *data malloc'ed, owned by the caller, *n bytes. The contents are borrowed. Errors: NO_MEMORY. */
cox_status cox_mail_pack_request(const cox_request *request, void **data, size_t *n);
cox_status cox_mail_pack_record(const cox_record *record, void **data, size_t *n);
cox_status cox_mail_pack_text(uint64_t id, const char *text, size_t n_text, void **data, size_t *n);
cox_status cox_mail_pack_cancel(uint64_t id, void **data, size_t *n);
cox_status cox_mail_pack_finish(bool at_once, void **data, size_t *n); /* at_once: as `stop` */

/* [out] *mail owned by the caller (cox_mail_destroy). Errors: INTERNAL (bytes that are no mail). */
cox_status cox_mail_unpack(cox_mail **mail, const void *data, size_t n);
void cox_mail_destroy(cox_mail *mail); /* NULL is allowed */

#endif
