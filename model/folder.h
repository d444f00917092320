/*
 * What a model's folder is, looked at from outside: a file in its place, a cache of downloads, weights or a
 * tokenizer in a form that is not read. Such a thing is named for what it is, with what to do about it,
 * before anything in the files is complained about.
 */
#ifndef COX_MODEL_FOLDER_H
#define COX_MODEL_FOLDER_H

#include "base/status.h"

/* Is it a folder that holds config.json, no pipes or devices, and no git-lfs pointers in place of the files
 * that open a model? Errors: NOT_FOUND, INVALID (a file, a cache), UNSUPPORTED (another format), BAD_FILE. */
cox_status cox__folder_check(const char *folder);

/* Are the weights there as safetensors? Errors: NOT_FOUND, UNSUPPORTED (in another form, how to convert it).
 */
cox_status cox__folder_check_weights(const char *folder);

/* The same for tokenizer.json. Errors: NOT_FOUND (what is there instead, and how to convert it), BAD_FILE (a
 * git-lfs pointer). */
cox_status cox__folder_check_tokenizer(const char *folder);

#endif
