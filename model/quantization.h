/* Weights that are stored in fewer bits than they were trained in: MXFP4 is read, all else is named. */
#ifndef COX_MODEL_QUANTIZATION_H
#define COX_MODEL_QUANTIZATION_H

#include "model/family.h"

/* What config.json says of it. [out] *is_mxfp4. Errors: BAD_FILE, UNSUPPORTED (names the method and what to
 * use instead), NO_MEMORY. */
cox_status cox__quantization_read(const cox__config *config, const cox_family *family, cox_arena *arena,
                                  bool *is_mxfp4);

/* Of tensors that are not what config.json promises (`status`, which comes back with its message): when their
 * names say that they are quantised, that is said instead, as UNSUPPORTED. */
cox_status cox__quantization_explain(const cox_checkpoint *checkpoint, const char *folder, cox_status status);

#endif
