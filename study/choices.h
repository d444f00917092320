/* Values of options that choose several things at once: "all", "3" or "0,3,7"; and tokens of a prompt,
 * counted from its end. */
#ifndef COX_STUDY_CHOICES_H
#define COX_STUDY_CHOICES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* [out] *list: malloc'ed [n], ascending, each once; n things from 0 on are there, and `what` names one of
 * them
 * ("layer"). Errors: INVALID, naming the option. */
cox_status cox_choose(const char *option, const char *what, const char *text, int32_t n_there, int32_t **list,
                      int32_t *n);

/* "last", or "-1,-2": [out] *from_end malloc'ed [n], as given; or one of `words` (such as "mean|all"), *n 0
 * and *from_end NULL. Errors: INVALID. */
cox_status cox_choose_positions(const char *option, const char *text, const char *words, int32_t **from_end,
                                int32_t *n);

#endif
