#include "study/work.h"

static const double IDLE_WAIT_S = 0.05;

cox_status cox_work_loop_run(cox_run *run, const cox_work_loop *work)
{
    cox_status status = COX_OK;
    while (status == COX_OK && work->has_more(work->context)) {
        status = work->submit(work->context);
        if (status != COX_OK) break;
        if (work->is_running(work->context)) {
            status = work->step(work->context);
        } else if (run->layout.size > 1) {
            status = cox_exchange_progress(run->exchange, IDLE_WAIT_S);
        }
        if (status == COX_OK) status = work->take(work->context);
    }
    return status;
}
