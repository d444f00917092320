/* A plan in words: per intervention what it does, where in the block, on which layers, experts, positions and
 * ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "steering/internal.h"

/* "3", "1, 4 to 6 and 9", "all 16". */
static void print_set(FILE *out, const char *what, const uint8_t *flags, int32_t n)
{
    int32_t n_set = 0, n_printed = 0;
    for (int32_t i = 0; i < n; i++) n_set += flags[i];
    if (n_set == n && n > 1) {
        fprintf(out, "all %d %ss", (int)n, what);
        return;
    }
    fprintf(out, "%s%s ", what, n_set == 1 ? "" : "s");
    for (int32_t i = 0; i < n; i++) {
        if (!flags[i]) continue;
        int32_t last = i;
        while (last + 1 < n && flags[last + 1]) last++;
        if (last - i < 2) last = i;
        fprintf(out, "%s%d", n_printed++ ? ", " : "", (int)i);
        if (last > i) fprintf(out, " to %d", (int)last);
        i = last;
    }
}

static void print_op(FILE *out, const cox_intervention *v)
{
    const double s = (double)v->strength;
    switch (v->op) {
    case COX_OP_ADD: fprintf(out, "add %g v, |v| = %.6g", s, (double)v->vector_norm); break;
    case COX_OP_ABLATE: fprintf(out, "ablate: take away %g of the part along v", s); break;
    case COX_OP_CLAMP:
        fprintf(out, "clamp: the part along v becomes %g (strength %g)", (double)v->value, s);
        break;
    case COX_OP_AFFINE:
        fprintf(out, "affine: the part along v becomes the reference's, %g, and %g v is added (strength %g)",
                (double)v->reference_dot, (double)v->alpha, s);
        break;
    case COX_OP_SCALE: fprintf(out, "scale by %g (strength %g)", (double)v->factor, s); break;
    case COX_OP_ROTATE:
        fprintf(out,
                "rotate: in the plane of v and vector2, to the angle with cosine %.6g and sine %.6g "
                "(strength %g)",
                (double)v->cosine, (double)v->sine, s);
        break;
    case COX_OP_BIAS: fprintf(out, "bias: %g is added to the logit", s * (double)v->value); break;
    case COX_OP_FORCE_OUT: fprintf(out, "force_out: cannot be chosen"); break;
    case COX_OP_FORCE_IN: fprintf(out, "force_in: takes the place of the lowest chosen expert"); break;
    case COX_OP_PIN: fprintf(out, "pin: the recorded routes of %d tokens", (int)v->pinned->n_tokens); break;
    case COX_N_OPS: break;
    }
    if (v->preserve_norm) fprintf(out, ", then rescaled to the norm before");
}

static void print_positions(FILE *out, const cox_positions *p)
{
    switch (p->span) {
    case COX_SPAN_ALL: fprintf(out, "all positions"); break;
    case COX_SPAN_PROMPT: fprintf(out, "the prompt"); break;
    case COX_SPAN_GENERATED: fprintf(out, "what is generated"); break;
    case COX_SPAN_LAST: fprintf(out, "the last %d tokens of the prompt", (int)p->from); break;
    case COX_SPAN_RANGE: fprintf(out, "positions %d to %d", (int)p->from, (int)p->to - 1); break;
    }
}

static const char *weighting_words(const cox_intervention *v)
{
    switch (v->weighting) {
    case COX_WEIGHTING_ROUTED: return "routed: rows that chose the expert, before the gate weight";
    case COX_WEIGHTING_POST_GATE: return "post_gate: rows that chose the expert, not weighted";
    case COX_WEIGHTING_SOFT: return "soft: every row, weighted by the full softmax of its logits";
    case COX_WEIGHTING_UNWEIGHTED: return "unweighted: every row";
    case COX_N_WEIGHTINGS: break;
    }
    return "";
}

/* Ranks that carry out a routed intervention, ascending, without repeats. */
static void print_hosts(FILE *out, const cox_plan *plan, const cox_intervention *v,
                        cox_ranks_function *ranks_of, void *context)
{
    enum { MOST = 4096 };
    uint8_t *is_host = calloc(MOST, 1);
    int32_t n_hosts = 0;
    for (int32_t l = 0; is_host && l < plan->n_layers; l++) {
        for (int32_t e = 0; v->layers[l] && e < plan->n_experts; e++) {
            const int32_t *ranks = NULL;
            int32_t n = v->experts[e] ? ranks_of(context, l, e, &ranks) : 0;
            for (int32_t i = 0; i < n; i++) {
                if (ranks[i] >= 0 && ranks[i] < MOST) is_host[ranks[i]] = 1;
            }
        }
    }
    for (int32_t r = 0; is_host && r < MOST; r++) {
        if (is_host[r]) fprintf(out, "%s%d", n_hosts++ ? ", " : "on rank ", (int)r);
    }
    free(is_host);
}

static void print_one(FILE *out, const cox_plan *plan, int32_t i, cox_ranks_function *ranks_of, void *context)
{
    const cox_intervention *v = &plan->interventions[i];
    bool is_routed = v->site == COX_SITE_EXPERT_OUT && v->weighting == COX_WEIGHTING_ROUTED;
    fprintf(out, "%d. %s (%s): ", (int)i, cox_site_name(v->site), cox_site_words(v->site));
    if (v->strength == 0) fprintf(out, "skipped, strength 0: ");
    print_op(out, v);
    fprintf(out, "\n   ");
    print_set(out, "layer", v->layers, plan->n_layers);
    if (v->experts) {
        fprintf(out, "; ");
        print_set(out, "expert", v->experts, plan->n_experts);
    }
    fprintf(out, "; ");
    print_positions(out, &v->positions);
    if (v->when) fprintf(out, "; where the row's cosine with `when` is above %g", (double)v->cosine_above);
    if (v->site == COX_SITE_EXPERT_OUT) fprintf(out, "\n   %s", weighting_words(v));
    fprintf(out, "\n   ");
    if (!is_routed)
        fprintf(out, "on the coordinators");
    else if (ranks_of)
        print_hosts(out, plan, v, ranks_of, context);
    else
        fprintf(out, "on the ranks that host the experts");
    fprintf(out, "\n");
}

cox_status cox_plan_explain(const cox_plan *plan, const cox_model *model, cox_ranks_function *ranks_of,
                            void *context, char **text)
{
    char *buffer = NULL;
    size_t n_bytes = 0;
    FILE *out = open_memstream(&buffer, &n_bytes);
    if (!out) return cox_fail(COX_NO_MEMORY, "out of memory for explaining plan \"%s\"", plan->name);
    fprintf(out, "plan \"%s\" for %s, %d layers: %d intervention%s%s\n", plan->name, model->family_name,
            (int)plan->n_layers, (int)plan->n, plan->n == 1 ? "" : "s",
            plan->was_forced ? "; FORCED: some vectors were made for another model or tokenizer" : "");
    for (int32_t i = 0; i < plan->n; i++) print_one(out, plan, i, ranks_of, context);
    if (fclose(out) != 0) {
        free(buffer);
        return cox_fail(COX_NO_MEMORY, "out of memory for explaining plan \"%s\"", plan->name);
    }
    *text = buffer;
    return COX_OK;
}
