/* The part of opening a model that needs config.json only; a header of its own for tests and fuzzing. */
#ifndef COX_MODEL_CONFIGURE_H
#define COX_MODEL_CONFIGURE_H

#include "model/config.h"
#include "model/model.h"

typedef struct cox__config_flags {
    bool is_tied;  /* tie_word_embeddings */
    bool is_mxfp4; /* quantization_config.quant_method */
} cox__config_flags;

/* The part of cox__model_configure that says what kind of model it is: family, family_name and
 * flags->is_mxfp4. Errors: BAD_FILE, UNSUPPORTED, NO_MEMORY. */
cox_status cox__model_identify(const cox__config *config, cox_model *model, cox__config_flags *flags);

/* Fills every field of *model that follows from config.json (all but folder, checkpoint, fingerprint, bound);
 * model->arena must be set. Errors: BAD_FILE, UNSUPPORTED, NO_MEMORY. */
cox_status cox__model_configure(const cox__config *config, cox_model *model, cox__config_flags *flags);

/* generation_config.json, where there is one, says alone which ids begin and end a text; config.json's are
 * then forgotten. Those beyond the vocabulary are dropped (model->eos_note tells). generation->object may be
 * NULL: nothing changes. Errors: BAD_FILE, UNSUPPORTED, NO_MEMORY. */
cox_status cox__model_configure_generation(const cox__config *generation, cox_model *model);

#endif
