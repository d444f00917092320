/*
 * The wish to end soon. SIGUSR1, which Slurm sends before the wall time, sets a flag; whoever runs a loop
 * looks at it, finishes or leaves what is running, and ends with COX_REQUEUE. mpirun passes SIGUSR1 to all
 * ranks. SIGTERM and SIGINT mean the same where nobody would kill us a second later: in a process that no
 * launcher started, and in cox_launch's parent, which sends mpirun SIGUSR1 instead. Of these a second one,
 * half a second later or more, ends the process at once.
 */
#ifndef COX_CLUSTER_DRAIN_H
#define COX_CLUSTER_DRAIN_H

#include <stdbool.h>

/* From now on the signals set the flag, where they would have ended the process. To be called first in main
 * of a command that drains. */
void cox_drain_listen(void);

/* Has a signal come? Cheap. */
bool cox_drain_is_wanted(void);

#endif
