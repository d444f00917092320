/* The loops of the front end and of its followers. Who owes something and gives no sign of life is named; the
 * signs are the cluster's (cox_cluster_keepalive and every wait send them). */
#include "coordinator/front.h"

#include <stdlib.h>

#include "proto/mail.h"

static const double IDLE_WAIT_S = 0.05;

typedef struct front {
    cox_session *session;
    const cox_session_events *events;
    cox_cluster *cluster;
    cox_exchange *exchange;
    const cox_front_options *options;
    int32_t n_coordinators;
    int32_t
        *n_outstanding; /* [n_coordinators] requests without a record; of this rank, 0, the session knows */
} front;

static cox_status send(cox_cluster *cluster, int32_t rank, cox_status packed, void *data, size_t n)
{
    if (packed != COX_OK) return packed;
    cox_status status = cox_mailbox_send(cluster, COX_MAIL_SESSION, rank, data, n);
    free(data);
    return status;
}

static cox_status check_alive(cox_cluster *cluster, int32_t rank, double hang_s, const char *owes)
{
    const char *doing = NULL;
    double silent_s = cox_cluster_silent_s(cluster, rank, &doing);
    if (silent_s < hang_s) return COX_OK;
    return cox_fail(COX_PEER,
                    "rank %d hangs: no sign of life for %.0f s while %s; it was last known to do: %s", rank,
                    silent_s, owes, doing);
}

/* --- Rank 0 --- */

static int32_t outstanding(const front *f, int32_t coordinator)
{
    return coordinator == 0 ? cox_session_n_requests(f->session) : f->n_outstanding[coordinator];
}

static bool is_idle(const front *f)
{
    for (int32_t c = 0; c < f->n_coordinators; c++) {
        if (outstanding(f, c) > 0) return false;
    }
    return true;
}

/* The coordinator with the fewest requests that has room; -1: none. Remote ones first among equals: they have
 * no input and output to do. */
static int32_t least_busy(const front *f)
{
    int32_t best = -1;
    for (int32_t c = f->n_coordinators - 1; c >= 0; c--) {
        if (outstanding(f, c) >= f->options->n_queued) continue;
        if (best < 0 || outstanding(f, c) < outstanding(f, best)) best = c;
    }
    return best;
}

/* Request and plan in one message: here plans are packed, and in take_plan unpacked. */
static cox_status pack_request(cox_request *request, const cox_plan *plan, void **data, size_t *n)
{
    if (plan) {
        void *packed = NULL;
        size_t n_packed = 0;
        int32_t n_kept = 0;
        cox_status status = cox_plan_pack(plan, NULL, NULL, &packed, &n_packed, &n_kept);
        if (status == COX_OK)
            status = cox_request_set_plan(request, packed, n_packed, plan->name, plan->was_forced);
        if (status != COX_OK) return status;
    }
    return cox_mail_pack_request(request, data, n);
}

/* Takes request and plan over. */
static cox_status hand_out(front *f, int32_t coordinator, cox_request *request, cox_plan *plan)
{
    if (coordinator == 0) return cox_session_submit(f->session, request, plan);
    void *data = NULL;
    size_t n = 0;
    cox_status packed = pack_request(request, plan, &data, &n);
    cox_plan_free(plan);
    cox_request_destroy(request);
    cox_status status = send(f->cluster, coordinator, packed, data, n);
    f->n_outstanding[coordinator]++;
    return status;
}

static cox_status fill_queues(front *f, const cox_front_source *source, bool *is_end)
{
    while (!*is_end) {
        int32_t coordinator = least_busy(f);
        if (coordinator < 0) return COX_OK;
        cox_request *request = NULL;
        cox_plan *plan = NULL;
        cox_status status = source->next(source->context, is_idle(f), &request, &plan, is_end);
        if (status != COX_OK || !request) return status;
        status = hand_out(f, coordinator, request, plan);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

/* Whose it is nobody keeps here: all are told. */
static cox_status cancel_requests(front *f, const cox_front_source *source)
{
    uint64_t id = 0;
    cox_status status = COX_OK;
    while (status == COX_OK && source->next_cancelled && source->next_cancelled(source->context, &id)) {
        cox_session_cancel(f->session, id);
        for (int32_t c = 1; c < f->n_coordinators && status == COX_OK; c++) {
            if (f->n_outstanding[c] == 0) continue;
            void *data = NULL;
            size_t n = 0;
            cox_status packed = cox_mail_pack_cancel(id, &data, &n);
            status = send(f->cluster, c, packed, data, n);
        }
    }
    return status;
}

static cox_status take_mail(front *f)
{
    for (;;) {
        int32_t from = 0;
        void *data = NULL;
        size_t n = 0;
        cox_status status = cox_mailbox_poll(f->cluster, COX_MAIL_SESSION, &from, &data, &n);
        if (status != COX_OK || !data) return status;
        cox_mail *mail = NULL;
        status = cox_mail_unpack(&mail, data, n);
        free(data);
        if (status != COX_OK) return status;
        if (mail->content_case == COX__MAIL__CONTENT_TEXT && f->events->on_text) {
            f->events->on_text(f->events->context, mail->text->id, (const char *)mail->text->text.data,
                               mail->text->text.len);
        } else if (mail->content_case == COX__MAIL__CONTENT_RECORD) {
            f->n_outstanding[from]--;
            f->events->on_record(f->events->context, mail->record);
        }
        cox_mail_destroy(mail);
    }
}

static cox_status watch(front *f)
{
    for (int32_t c = 1; c < f->n_coordinators; c++) {
        if (f->n_outstanding[c] == 0) continue;
        cox_status status = check_alive(f->cluster, c, f->options->hang_s, "its answers are awaited");
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

static cox_status turn(front *f, const cox_front_source *source, bool *is_end)
{
    cox_status status = fill_queues(f, source, is_end);
    if (status == COX_OK) status = cancel_requests(f, source);
    if (status == COX_OK && cox_session_n_requests(f->session) > 0) {
        status = cox_session_step(f->session);
    } else if (status == COX_OK && cox_cluster_size(f->cluster) > 1) {
        status = cox_exchange_progress(f->exchange, IDLE_WAIT_S);
    }
    if (f->n_coordinators == 1) return status;
    if (status == COX_OK) status = take_mail(f);
    return status != COX_OK ? status : watch(f);
}

static cox_status tell_finish(front *f, bool at_once)
{
    for (int32_t c = 1; c < f->n_coordinators; c++) {
        void *data = NULL;
        size_t n = 0;
        cox_status packed = cox_mail_pack_finish(at_once, &data, &n);
        cox_status status = send(f->cluster, c, packed, data, n);
        if (status != COX_OK) return status;
    }
    return COX_OK;
}

cox_status cox_front_run(cox_session *session, const cox_session_events *events, cox_cluster *cluster,
                         cox_exchange *exchange, const cox_front_source *source,
                         const cox_front_options *options)
{
    front f = {.session = session,
               .events = events,
               .cluster = cluster,
               .exchange = exchange,
               .options = options,
               .n_coordinators = cox_cluster_n_coordinators(cluster)};
    f.n_outstanding = calloc((size_t)f.n_coordinators, sizeof *f.n_outstanding);
    if (!f.n_outstanding) return cox_no_memory("the list of coordinators");
    cox_status status = COX_OK;
    bool is_end = false, is_over = false;
    while (status == COX_OK && !is_over && (!is_end || !is_idle(&f))) {
        status = turn(&f, source, &is_end);
        if (status == COX_OK && source->tick) status = source->tick(source->context, &is_over);
    }
    if (status == COX_OK) status = tell_finish(&f, is_over);
    free(f.n_outstanding);
    return status;
}

/* --- The other coordinators --- */

static void mail_text(void *context, uint64_t id, const char *text, size_t n_text)
{
    cox_front_mailer *mailer = context;
    void *data = NULL;
    size_t n = 0;
    cox_status packed = cox_mail_pack_text(id, text, n_text, &data, &n);
    cox_status status = send(mailer->cluster, 0, packed, data, n);
    if (mailer->failed == COX_OK) mailer->failed = status;
}

static void mail_record(void *context, const cox_record *record)
{
    cox_front_mailer *mailer = context;
    void *data = NULL;
    size_t n = 0;
    cox_status packed = cox_mail_pack_record(record, &data, &n);
    cox_status status = send(mailer->cluster, 0, packed, data, n);
    if (mailer->failed == COX_OK) mailer->failed = status;
}

cox_session_events cox_front_mailer_events(cox_front_mailer *mailer)
{
    return (cox_session_events){.context = mailer, .on_text = mail_text, .on_record = mail_record};
}

/* The plan that came with a request. [out] *plan: NULL: none. */
static cox_status take_plan(const cox_request *request, cox_plan **plan)
{
    const Cox__Steering *steering = request->steering;
    const int32_t *indices = NULL;
    if (!steering || steering->plan.len == 0) return COX_OK;
    cox_status status = cox_plan_unpack(plan, &indices, steering->plan.data, steering->plan.len);
    if (status != COX_OK) return status;
    (*plan)->was_forced = steering->was_forced;
    (*plan)->name = cox_arena_strdup((*plan)->arena, steering->name);
    if ((*plan)->name) return COX_OK;
    cox_plan_free(*plan);
    *plan = NULL;
    return COX_NO_MEMORY;
}

/* Takes the request over. */
static cox_status submit(cox_session *session, cox_request *request)
{
    cox_plan *plan = NULL;
    cox_status status = take_plan(request, &plan);
    if (status == COX_OK) return cox_session_submit(session, request, plan);
    cox_request_destroy(request);
    return status;
}

/* [out] *is_finished: rank 0 said so; *is_stopped: and does not wait for the records that are missing. */
static cox_status take_requests(cox_session *session, cox_cluster *cluster, bool *is_finished,
                                bool *is_stopped)
{
    for (;;) {
        int32_t from = 0;
        void *data = NULL;
        size_t n = 0;
        cox_status status = cox_mailbox_poll(cluster, COX_MAIL_SESSION, &from, &data, &n);
        if (status != COX_OK || !data) return status;
        cox_mail *mail = NULL;
        status = cox_mail_unpack(&mail, data, n);
        free(data);
        if (status != COX_OK) return status;
        if (mail->content_case == COX__MAIL__CONTENT_FINISH) *is_finished = true;
        if (mail->content_case == COX__MAIL__CONTENT_STOP) *is_finished = *is_stopped = true;
        if (mail->content_case == COX__MAIL__CONTENT_CANCEL) cox_session_cancel(session, mail->cancel);
        if (mail->content_case == COX__MAIL__CONTENT_REQUEST) {
            cox_request *request = mail->request;
            mail->content_case = COX__MAIL__CONTENT__NOT_SET; /* the session takes it over */
            mail->request = NULL;
            status = submit(session, request);
        }
        cox_mail_destroy(mail);
        if (status != COX_OK) return status;
    }
}

cox_status cox_front_follow(cox_session *session, cox_front_mailer *mailer, cox_exchange *exchange,
                            const cox_front_options *options)
{
    bool is_finished = false, is_stopped = false;
    while (!is_finished || (!is_stopped && cox_session_n_requests(session) > 0)) {
        cox_status status = take_requests(session, mailer->cluster, &is_finished, &is_stopped);
        if (status == COX_OK && !is_stopped && cox_session_n_requests(session) > 0) {
            status = cox_session_step(session);
        } else if (status == COX_OK && !is_finished) {
            status = cox_exchange_progress(exchange, IDLE_WAIT_S);
        }
        if (status == COX_OK) status = mailer->failed;
        if (status == COX_OK && !is_finished) {
            status = check_alive(mailer->cluster, 0, options->hang_s, "its requests are awaited");
        }
        if (status != COX_OK) return status;
    }
    return COX_OK;
}
