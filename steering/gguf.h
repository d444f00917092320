/*
 * Control vectors of other programs: GGUF files as llama.cpp and repeng write them (and GLP's superset), and
 * raw f32. Only what control vectors need of GGUF is read. What N of a tensor "direction.N" means: the
 * 0-based block whose output is edited, so resid_post of block N; llama.cpp refuses N = 0, and so an export
 * has none.
 */
#ifndef COX_STEERING_GGUF_H
#define COX_STEERING_GGUF_H

#include "model/model.h"
#include "steering/vector.h"

/*
 * What cox_vector_file_read makes of such a file: vectors "direction.N", site resid_post, layer N, operation
 * add (GLP mode "project": ablate), provenance with the file's own metadata. Errors: BAD_FILE: not GGUF
 * version 2 or 3, general.architecture is not "controlvector", a tensor that is not F32 of one dimension or
 * of another width, anything outside the file, non-finite values; UNSUPPORTED: a GLP mode or hook_point that
 * is missing or not known.
 */

/* [out] note [COX_GGUF_NOTE_BYTES]: that the file's hint names another family of models than this one's, for
 * a warning; false: it does not. */
enum { COX_GGUF_NOTE_BYTES = 512 };
bool cox_gguf_is_foreign(const cox_vector_file *file, const cox_model *model, char note[COX_GGUF_NOTE_BYTES]);

/*
 * Writes version 3 in repeng's layout. model_hint: e.g. the family's name. Refused by name (UNSUPPORTED):
 * what GGUF cannot say, which is everything but add at resid_post of blocks from 1 on, at all positions, one
 * vector a block, all of one width. Errors: IO.
 */
cox_status cox_gguf_write(const char *path, const cox_vector *vectors, size_t n, const char *model_hint);

/* A file of little-endian f32 and nothing else: one vector named `name`, about which nothing is stated.
 * Errors as cox_vector_file_read. */
cox_status cox_raw_vector_read(cox_vector_file **file, const char *path, const char *name);

#endif
