/* The part of opening a model that needs config.json only; a header of its own for tests and fuzzing. */
#ifndef COX_MODEL_CONFIGURE_H
#define COX_MODEL_CONFIGURE_H

#include "model/config.h"
#include "model/model.h"

typedef struct cox__config_flags {
    bool is_tied;  /* tie_word_embeddings */
    bool is_mxfp4; /* quantization_config.quant_method */
} cox__config_flags;

/* Fills every field of *model that follows from config.json (all but folder, checkpoint, fingerprint, bound);
 * model->arena must be set. Errors: BAD_FILE, UNSUPPORTED, NO_MEMORY. */
cox_status cox__model_configure(const cox__config *config, cox_model *model, cox__config_flags *flags);

/* generation_config.json, where there is one, says alone which ids begin and end a text (one beyond the
 * vocabulary is an error); config.json's are then forgotten. Without it (generation->object NULL) nothing
 * changes. Errors: BAD_FILE, UNSUPPORTED. */
cox_status cox__model_configure_generation(const cox__config *generation, cox_model *model);

#endif
