/* For the sanitizer build of the program: no search for leaks in ranks of an MPI job. MPI's modules leak at
 * exit and are unloaded by then, so that no suppression can name them. Commands on one rank, and the
 * launcher, are searched. */
#include "cluster/cluster.h"

int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return cox_launch_is_inside();
}
