/*
 * The process that renders chat templates: python3 with jinja2 running model/render_chat.py. It is forked
 * before MPI starts and waits; it becomes Python when a template first needs it, so a run that needs none has
 * only an idle twin. What renders is a child of it that the kernel ends when a rendering takes too long or
 * too much memory; then the next one takes over, and no process is made here. All of them end when this
 * process does, however that ends.
 */
#ifndef COX_MODEL_CHAT_PROCESS_H
#define COX_MODEL_CHAT_PROCESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct cox_chat_process cox_chat_process;

/* What a rendering may take. */
enum {
    COX_CHAT_CPU_S = 2,    /* CPU time */
    COX_CHAT_CLOCK_S = 10, /* and by the clock */
    COX_CHAT_MEMORY_BYTES = 1 << 30,
    COX_CHAT_TEXT_CHARACTERS = 1 << 25,
};

/* Forks. Call it before MPI is up and before there are threads. python: a path or a name on PATH; NULL:
 * python3 on PATH, or where that has no jinja2, /usr/bin/python3. Strings are borrowed. [out] owned by the
 * caller. Errors: IO, NO_MEMORY. */
cox_status cox_chat_process_start(cox_chat_process **process, const char *python);
/* Ends it and what it started. NULL is allowed. */
void cox_chat_process_stop(cox_chat_process *process);

/* Whom to tell, several times a second, that this process is waiting for an answer. */
void cox_chat_process_on_wait(cox_chat_process *process, void (*waiting)(void *context), void *context);

/* Makes Python of it and gives it the setup (see render_chat.py). Once. Errors: UNSUPPORTED (no such Python,
 * no jinja2), IO, NO_MEMORY. */
cox_status cox_chat_process_set_up(cox_chat_process *process, const json_t *setup);

/* Renders one conversation; set up before. chat: a JSON object without line breaks. [out] *text: malloc'ed,
 * [n] and a NUL. Errors: INVALID (the template's own or jinja2's words, or a limit), IO (the process is gone;
 * so it will be for every later one), NO_MEMORY. */
cox_status cox_chat_process_render(cox_chat_process *process, const char *chat, char **text, size_t *n);

/* One line of n bytes from it as the answer to chat `id`. [out] *is_answer: whether it is one (what a
 * renderer that died left of a line is none); if so *text and *n are set, or the status says why there is no
 * text. Errors: as render's. */
cox_status cox_chat_answer_read(const char *line, size_t n_bytes, uint64_t id, bool *is_answer, char **text,
                                size_t *n);

#endif
