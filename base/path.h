/* Names of files. */
#ifndef COX_BASE_PATH_H
#define COX_BASE_PATH_H

/* `path` as seen from the folder `home`, both absolute; malloc'ed. NULL: out of memory. */
char *cox_path_seen_from(const char *home, const char *path);

#endif
