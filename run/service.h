/*
 * Requests of a source served by all coordinators of a run: what generate and batch share. Rank 0 reads and
 * writes; the other coordinators follow; expert hosts serve.
 */
#ifndef COX_RUN_SERVICE_H
#define COX_RUN_SERVICE_H

#include "run/run.h"
#include "coordinator/front.h"

typedef struct cox_service {
    cox_session_events events; /* on rank 0 */
    cox_front_source source;   /* on rank 0 */
    bool needs_template; /* a checkpoint without a usable chat template is an error at once; else only for
                            chats */
    bool has_chats;      /* false: do not even look for a template */
    bool may_be_ids;     /* requests may give token ids, so a folder without tokenizer.json is no error */
} cox_service;

/* Collective; every rank of the run calls it, after cox_run_open. Returns what cox_run_finish returns. */
cox_status cox_serve(cox_run *run, const cox_service *service);

#endif
