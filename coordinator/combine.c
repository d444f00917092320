/* One order of sums, whatever they are made of; see combine.h. */
#include "coordinator/combine.h"

#include <string.h>

static void add_terms(const cox__combine_row *row, int32_t from, int32_t to, bool is_routed, float *sum)
{
    if (!row->plan) return;
    cox_stack_add_terms(row->plan, &row->place, from, to, is_routed, row->probabilities, row->kernels, sum,
                        row->watch);
}

void cox__combine(const cox__combine_row *row, float *sum)
{
    memset(sum, 0, (size_t)row->d_model * sizeof *sum);
    int32_t next = 0; /* the first expert whose place has not come */
    for (int32_t k = 0; k < row->top_k; k++) {
        int32_t expert = row->experts[k];
        add_terms(row, next, expert, false, sum);
        cox_axpy(row->kernels, sum, row->weights[k], row->outputs[k], row->d_model);
        next = expert + 1;
        add_terms(row, expert, next, true, sum);
    }
    add_terms(row, next, row->n_experts, false, sum);
}
