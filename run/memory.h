/* How much memory this process has and may still take: /proc and the control group it runs in. */
#ifndef COX_RUN_MEMORY_H
#define COX_RUN_MEMORY_H

#include <stdint.h>

/* Resident bytes of this process now (VmRSS); 0 when unknown. Mapped pages of a checkpoint count. */
uint64_t cox_memory_resident_bytes(void);

/* Bytes that this machine can still give: MemAvailable, or what the control group (version 1 or 2) leaves,
 * page cache counted as free, whichever is less; UINT64_MAX when unknown. */
uint64_t cox_memory_available_bytes(void);

/* Parts of the above with the root of the file system as an argument, for tests ("" is the real one). */
uint64_t cox_memory_available_under(const char *root);

#endif
