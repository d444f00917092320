/* Answers to the same prompts without steering and with it, side by side. */
#include <string.h>

#include "report/heatmap.h"
#include "report/report.h"

enum { N_OPEN = 5, MAX_SHOWN = 4 }; /* prompts of a set that are seen at once; cells */

static const json_t *line_of(const cox_report *r, int64_t cell)
{
    size_t i;
    const json_t *line;
    json_array_foreach(r->answers, i, line)
    {
        if (json_integer_value(json_object_get(line, "cell")) == cell) return line;
    }
    return NULL;
}

static const char *text_of(const json_t *line, int set, size_t i)
{
    const char key[] = {"ab"[set], '\0'};
    const char *text =
        json_string_value(json_object_get(json_array_get(json_object_get(line, key), i), "text"));
    return text ? text : "";
}

static size_t count(const json_t *line, int set)
{
    const char key[] = {"ab"[set], '\0'};
    return json_array_size(json_object_get(line, key));
}

static void print_rows(FILE *file, const cox_report *r, const json_t *before, const json_t *after, int set,
                       size_t first, size_t end)
{
    fprintf(file,
            "<table class=\"answers\"><thead><tr><th>prompt of %c</th><th>not "
            "steered</th><th>steered</th></tr></thead>\n<tbody>\n",
            "AB"[set]);
    for (size_t i = first; i < end; i++) {
        const char *prompt = json_string_value(json_array_get(r->prompts[set], i));
        const char *old = text_of(before, set, i), *new = text_of(after, set, i);
        fputs("<tr><td data-name=\"prompt\">", file);
        if (prompt)
            cox_xml_print(file, prompt);
        else
            fprintf(file, "number %zu", i + 1);
        fputs("</td><td data-name=\"not steered\">", file);
        cox_xml_print(file, old);
        fputs("</td><td data-name=\"steered\">", file);
        if (strcmp(old, new) == 0)
            fputs("<i class=\"soft\">the same</i>", file);
        else
            cox_xml_print(file, *new ? new : "(nothing)");
        fputs("</td></tr>\n", file);
    }
    fputs("</tbody></table>\n", file);
}

static void print_set(FILE *file, const cox_report *r, const json_t *before, const json_t *after, int set)
{
    size_t n = count(after, set), n_open = n < N_OPEN ? n : N_OPEN;
    if (n == 0) return;
    print_rows(file, r, before, after, set, 0, n_open);
    if (n > n_open) {
        fprintf(file, "<details><summary>the other %zu prompts of %c</summary>\n", n - n_open, "AB"[set]);
        print_rows(file, r, before, after, set, n_open, n);
        fputs("</details>\n", file);
    }
}

static void print_cell(FILE *file, const cox_report *r, const cox_report_cell *c, int set, bool is_open)
{
    const json_t *before = line_of(r, -1), *after = line_of(r, c->number);
    fprintf(file, "<details class=\"panel\"%s><summary>%s: ", is_open ? " open=\"open\"" : "",
            set ? "Strengthened" : "Weakened");
    cox_report_print_place(file, c);
    fputs(", strength ", file);
    cox_report_print_strength(file, c->strength);
    fputs(" <small>(", file);
    cox_report_print_group(file, c);
    fprintf(file, "; cell %lld)</small></summary>\n", (long long)c->number);
    for (int k = 0; k < COX_REPORT_N_SETS; k++) print_set(file, r, before, after, k == 0 ? set : 1 - set);
    fputs("</details>\n", file);
}

void cox_report_print_answers(FILE *file, const cox_report *r)
{
    const cox_report_cell *shown[MAX_SHOWN];
    size_t n = 0;
    for (int k = 0; k < MAX_SHOWN && r->answers; k++) {
        int set = k % 2;
        const cox_report_cell *c = r->named[k < 2][set];
        bool is_shown = !c || !line_of(r, c->number);
        for (size_t i = 0; i < n; i++) is_shown = is_shown || shown[i] == c;
        if (is_shown) continue;
        if (n == 0)
            fputs("<p>Of the validation prompts the first of each set, not picked; the others are behind the "
                  "fold.</p>\n",
                  file);
        print_cell(file, r, c, set, n == 0);
        shown[n++] = c;
    }
    if (n == 0)
        fputs("<p class=\"none\">This sweep generated no answers (--best 0, or stage 2 is not done).</p>\n",
              file);
}
