/*
 * Signs of life from long work of this process alone: whoever watches it (cluster/pulse.c, so that other
 * ranks do not take a rank for dead that parses a large file) says once what is to be called; loops over
 * large things call cox_alive(). For the process' main thread.
 */
#ifndef COX_BASE_ALIVE_H
#define COX_BASE_ALIVE_H

typedef void cox_alive_function(void *context);

/* function NULL: nobody watches. context is borrowed until then. */
void cox_alive_watch(cox_alive_function *function, void *context);

/* Cheap; may be called thousands of times a second. */
void cox_alive(void);

#endif
