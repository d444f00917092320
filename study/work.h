/* The loop in which a coordinator computes its share of a study: hand out what there is room for, step, take
 * what is done. (Requests from outside have their own: coordinator/front.h.) */
#ifndef COX_STUDY_WORK_H
#define COX_STUDY_WORK_H

#include "run/run.h"

typedef struct cox_work_loop {
    void *context;                         /* of all below */
    bool (*has_more)(const void *context); /* false ends the loop */
    cox_status (*submit)(void *context);   /* as much as there is room for */
    bool (*is_running)(const void *context);
    cox_status (*step)(void *context); /* while something is running: one step of the engine */
    cox_status (*take)(
        void *context); /* what is done by now; called after each step, and while others work */
} cox_work_loop;

/* Until there is no more, or an error, which is returned. On a coordinator; not collective. */
cox_status cox_work_loop_run(cox_run *run, const cox_work_loop *work);

#endif
