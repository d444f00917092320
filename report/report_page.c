/* The page: its style, its sections in order, and the parameters of the run. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/heatmap.h"
#include "report/report.h"

/* Colours stand for nothing that shape, sign or words do not say too; --a and --b keep a contrast of 4.5 to
 * the page. */
/* clang-format off */
static const char style[] =
    ":root{--page:#fff;--ink:#1c2127;--soft:#59636f;--line:#d3d9e0;--card:#f5f7f9;--a:#1d5fa8;--b:#a84c06;color-scheme:light dark}\n"
    "@media(prefers-color-scheme:dark){:root{--page:#14171b;--ink:#e6e9ed;--soft:#a0aab5;--line:#3a424c;--card:#1d2228;--a:#7fb3f5;--b:#f0a45d}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;max-width:1360px;padding:20px;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:24px;line-height:1.2;margin:4px 0 10px}\n"
    ".verdict{font-size:20px;line-height:1.45;max-width:none;margin:8px 0 12px;padding:12px 16px;background:var(--card);"
    "border-left:5px solid var(--a);border-radius:4px}\n"
    "[hidden]{display:none!important}\n"
    ".tools{display:flex;gap:10px;align-items:center;margin:6px 0;font-size:14px;color:var(--soft)}\n"
    ".tools input,.tools select,th button{font:inherit;color:inherit;background:var(--page);border:1px solid var(--line);border-radius:4px}\n"
    ".tools input,.tools select{padding:3px 8px;min-width:0}\n"
    ".tools select{display:none}\n"
    "th button{border:0;padding:0;background:none;cursor:pointer;text-align:inherit;font-weight:600}\n"
    "th button::after{content:' \\2195';opacity:.5}\n"
    "th[aria-sort=ascending] button::after{content:' \\2191';opacity:1}\n"
    "th[aria-sort=descending] button::after{content:' \\2193';opacity:1}\n"
    ".panel{margin:14px 0}\n"
    ".panel>summary{font-weight:650;color:var(--ink)}\n"
    ".panel>summary small{font-weight:400;color:var(--soft)}\n"
    "h2{font-size:22px;margin:44px 0 8px;padding-top:10px;border-top:1px solid var(--line)}\n"
    "h3{font-size:16px;margin:22px 0 8px}\n"
    "p{margin:6px 0;max-width:85ch}\n"
    "a{color:var(--a)}\n"
    "code,pre{font:13px/1.45 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}\n"
    "pre{background:var(--card);padding:10px;border-radius:6px;margin:6px 0}\n"
    "nav a{margin-right:14px;white-space:nowrap}\n"
    ".soft,.none,figcaption{color:var(--soft)}\n"
    ".none{font-style:italic}\n"
    ".cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:14px}\n"
    ".cards.single{margin-top:14px}\n"
    ".cards.findings{grid-template-columns:repeat(auto-fit,minmax(min(100%,290px),1fr))}\n"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px;margin:0;min-width:0}\n"
    ".card h3{margin:0}\n"
    ".card p{font-size:14px}\n"
    ".card .big{font-size:32px;line-height:1.2;font-weight:650;margin:4px 0}\n"
    "figure{margin:0}\n"
    "figcaption{font-size:14px;margin-bottom:4px}\n"
    ".maps{display:flex;flex-wrap:wrap;gap:18px}\n"
    ".maps figure{min-width:0;max-width:100%;flex:1 1 420px}\n"
    ".change{white-space:nowrap;margin-right:10px}\n"
    ".scroll{overflow-x:auto;max-width:100%;scrollbar-width:thin;scrollbar-color:var(--soft) var(--line);background:"
    "linear-gradient(to right,var(--page) 40%,transparent) left/40px 100% no-repeat local,"
    "linear-gradient(to left,var(--page) 40%,transparent) right/40px 100% no-repeat local,"
    "linear-gradient(to right,var(--soft),transparent) left/14px 100% no-repeat,"
    "linear-gradient(to left,var(--soft),transparent) right/14px 100% no-repeat,var(--page)}\n"
    ".scroll::-webkit-scrollbar{height:10px;background:var(--line)}\n"
    ".scroll::-webkit-scrollbar-thumb{background:var(--soft);border-radius:5px}\n"
    "svg text{font:11px system-ui,sans-serif;fill:var(--ink)}\n"
    ".mid{text-anchor:middle}\n"
    "svg .end{text-anchor:end}\n"
    ".chart{display:block;width:100%;height:auto}\n"
    ".grid{stroke:var(--line);stroke-width:1}\n"
    ".zero{stroke:var(--soft);stroke-width:1.2}\n"
    "svg .tag{font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:3px}\n"
    "g.a line,.whisker.a line:not(.zero){stroke:var(--a);stroke-width:1.6}\n"
    "g.b line,.whisker.b line:not(.zero){stroke:var(--b);stroke-width:1.6}\n"
    "circle{fill:var(--a)}\n"
    "g.b rect,.whisker.b rect{fill:var(--page);stroke:var(--b);stroke-width:1.8}\n"
    "polyline{fill:none;stroke-width:1.8}\n"
    "polyline.a{stroke:var(--a)}\n"
    "polyline.b{stroke:var(--b);stroke-dasharray:5 3}\n"
    ".faint{opacity:.35}\n"
    "g:hover>circle,g:hover>rect{stroke:var(--ink);stroke-width:2.4}\n"
    ".cell,.key{stroke:var(--line);stroke-width:.6}\n"
    ".down{fill:var(--a)}\n"
    ".up{fill:var(--b)}\n"
    ".frame{fill:none;stroke:var(--ink);stroke-width:2.4;pointer-events:none}\n"
    ".cell.none{fill:none;pointer-events:all}\n"
    "path.none{stroke:var(--line);stroke-width:1;pointer-events:none}\n"
    ".cell:hover{stroke:var(--ink);stroke-width:2}\n"
    ".map text{pointer-events:none}\n"
    ".map .strong,.map .middle,.map .weak{text-anchor:middle;font-weight:650}\n"
    ".map .strong{fill:var(--page)}\n"
    "@media(prefers-color-scheme:dark){.map .middle{fill:var(--page)}}\n"
    ".map .unsure{font-weight:400;font-style:italic}\n"
    ".bar.a{fill:var(--a)}\n"
    ".bar.b{fill:var(--page);stroke:var(--b);stroke-width:2}\n"
    ".whisker{vertical-align:middle}\n"
    ".legend svg{vertical-align:-2px}\n"
    "table{border-collapse:collapse;font-size:14px;width:100%}\n"
    "th,td{text-align:left;vertical-align:top;padding:6px 12px 6px 0;border-bottom:1px solid var(--line)}\n"
    "thead th{color:var(--soft);font-weight:600}\n"
    ".n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\n"
    ".rates{white-space:nowrap;font-size:13px}\n"
    ".rates span:first-child{font-weight:650}\n"
    ".how{min-width:280px}\n"
    ".controls td,.controls tbody th{border:0;padding-bottom:2px}\n"
    ".controls .head>*{border-top:1px solid var(--line);padding-top:8px}\n"
    "details{margin:8px 0}\n"
    "summary{cursor:pointer;color:var(--soft)}\n"
    ".answers{table-layout:fixed;margin:6px 0 14px}\n"
    ".answers td,.params td{overflow-wrap:anywhere}\n"
    ".params th{white-space:nowrap;padding-right:18px}\n"
    ".params{table-layout:auto}\n"
    "@media(max-width:640px){\n"
    "body{padding:14px;font-size:15px}\n"
    "h1{font-size:20px}\n"
    ".verdict{font-size:16px;line-height:1.4;padding:8px 12px}\n"
    ".tools select{display:block}\n"
    ".answers thead{display:none}\n"
    ".answers,.answers tbody,.answers tr,.answers td{display:block;width:100%}\n"
    ".answers tr{border-bottom:1px solid var(--line);padding:6px 0}\n"
    ".answers td{border:0;padding:2px 0}\n"
    ".answers td::before{content:attr(data-name) \": \";color:var(--soft);font-size:12px}\n"
    ".params th{white-space:normal;overflow-wrap:anywhere}\n"
    ".stack thead{display:none}\n"
    ".stack,.stack tbody,.stack tr,.stack th,.stack td{display:block;width:100%}\n"
    ".stack tr{border-top:1px solid var(--line);padding:8px 0}\n"
    ".stack.controls tr:not(.head){border-top:0;border-left:3px double var(--soft);padding:2px 0 2px 12px;margin-bottom:6px}\n"
    ".stack tbody tr>*{border:0;padding:1px 0;text-align:left;white-space:normal}\n"
    ".stack tbody tr>:empty{display:none}\n"
    ".stack td[data-name]::before{content:attr(data-name) \": \";color:var(--soft);font-size:12px}\n"
    ".stack .n br{display:none}\n"
    ".stack .rates br{display:none}\n"
    ".stack .rates span{display:inline-block;margin-right:10px;font-weight:400}\n"
    ".stack.controls .head>*{border:0;padding:1px 0}\n"
    "}\n"
    "@media print{.card,pre{background:none}}\n";
/* clang-format on */

/* --- Parameters --- */

static void print_value(FILE *file, const json_t *value)
{
    if (json_is_string(value)) {
        cox_xml_print(file, json_string_value(value));
        return;
    }
    char *text = json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    fputs("<code>", file);
    cox_xml_print(file, text ? text : "");
    fputs("</code>", file);
    free(text);
}

static void print_object(FILE *file, const json_t *object, const char *left_out)
{
    const char *key;
    json_t *value;
    fputs("<table class=\"params\"><tbody>\n", file);
    json_object_foreach((json_t *)object, key, value)
    {
        if (strcmp(key, left_out) == 0) continue;
        fputs("<tr><th>", file);
        cox_xml_print(file, key);
        fputs("</th><td>", file);
        print_value(file, value);
        fputs("</td></tr>\n", file);
    }
    fputs("</tbody></table>\n", file);
}

static void print_grid(FILE *file, const json_t *run)
{
    size_t i;
    const json_t *block, *blocks = json_object_get(json_object_get(run, "grid"), "blocks");
    fprintf(file, "<details><summary>%zu blocks</summary>\n", json_array_size(blocks));
    json_array_foreach(blocks, i, block)
    {
        const char *name = json_string_value(json_object_get(block, "name"));
        fputs("<details><summary>block ", file);
        cox_xml_print(file, name ? name : "");
        fputs("</summary>", file);
        print_object(file, block, "name");
        fputs("</details>\n", file);
    }
    fputs("</details>\n", file);
}

static void print_plans(FILE *file, const json_t *best)
{
    size_t i;
    const json_t *cell, *cells = json_object_get(best, "cells");
    if (json_array_size(cells) == 0) return;
    fputs("<h3>Plans of the cells that were answered</h3>\n<p>A request of <code>batch</code> takes such a "
          "plan as its "
          "<code>steering</code>; its paths are relative to the folder of this page. "
          "<code>sweep --show-cell N</code> prints that of any cell, with absolute paths.</p>\n",
          file);
    fprintf(file, "<details><summary>%zu plans</summary>\n", json_array_size(cells));
    json_array_foreach(cells, i, cell)
    {
        char *text = json_dumps(json_object_get(cell, "plan"), JSON_COMPACT | JSON_REAL_PRECISION(9));
        fprintf(file, "<details><summary>cell %lld</summary><pre>",
                (long long)json_integer_value(json_object_get(cell, "cell")));
        cox_xml_print(file, text ? text : "");
        fputs("</pre></details>\n", file);
        free(text);
    }
    fputs("</details>\n", file);
}

static void print_parameters(FILE *file, const cox_report *r)
{
    fputs("<p>From the sweep\xe2\x80\x99s journal. The same command with the same inputs gives the same "
          "numbers on any ranks and "
          "threads; files are named by their SHA-256.</p>\n",
          file);
    print_object(file, r->run, "grid");
    fputs("<h3>Grid</h3>\n", file);
    print_grid(file, r->run);
    if (r->controls_run) {
        fputs("<h3>Grid of the controls</h3>\n", file);
        print_grid(file, r->controls_run);
    }
    if (r->routes.about) {
        fputs("<h3>Routing differences</h3>\n", file);
        print_object(file, r->routes.about, "made");
    }
    if (r->parts.about) {
        fputs("<h3>Decomposition</h3>\n", file);
        print_object(file, r->parts.about, "made");
    }
    print_plans(file, r->best);
}

/* --- The page --- */

static void print_sets(FILE *file, const cox_report *r)
{
    const json_t *clean = NULL, *line;
    size_t i;
    json_array_foreach(r->answers, i, line)
    {
        if (json_integer_value(json_object_get(line, "cell")) == -1) clean = line;
    }
    if (clean)
        fprintf(file, " over %zu prompts of A and %zu of B", json_array_size(json_object_get(clean, "a")),
                json_array_size(json_object_get(clean, "b")));
}

/* The script is known by its hash: no other runs, and nothing is fetched. */
static void print_policy(FILE *file)
{
    char hash[45];
    cox_report_script_hash(hash);
    fprintf(file,
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
            "style-src 'unsafe-inline'; script-src 'sha256-%s'\"/>\n",
            hash);
}

static void print_how_to_read(FILE *file, const cox_report *r)
{
    const char *model = json_string_value(json_object_get(r->run, "model")), *slash;
    while (model && (slash = strchr(model, '/')) && slash[1]) model = slash + 1;
    fputs("<p class=\"legend\"><svg width=\"30\" height=\"12\" viewBox=\"0 0 30 12\"><g class=\"a\"><line "
          "x1=\"0\" y1=\"6\" x2=\"30\" "
          "y2=\"6\"/><circle cx=\"15\" cy=\"6\" r=\"3.6\"/></g></svg> A: prompts that show the behaviour "
          "\xc2\xa0 "
          "<svg width=\"30\" height=\"12\" viewBox=\"0 0 30 12\">"
          "<g class=\"b\"><line x1=\"0\" y1=\"6\" x2=\"30\" y2=\"6\" stroke-dasharray=\"5 3\"/><rect "
          "x=\"11.8\" y=\"2.8\" "
          "width=\"6.4\" height=\"6.4\"/></g></svg> B: others \xc2\xa0 intervals are of 95%</p>\n"
          "<details><summary>How to read this page</summary><p>",
          file);
    fprintf(file, "%zu steering plans", r->cells.n);
    print_sets(file, r);
    fputs(" on <code>", file);
    cox_xml_print(file, model ? model : "an unnamed model");
    fputs("</code>. A plan <b>weakens</b> the behaviour (<b>", file);
    cox_xml_print(file, cox_report_label(r));
    fputs("</b>) if it lowers the log-odds of the rules\xe2\x80\x99 first tokens on A, and "
          "<b>strengthens</b> it if it "
          "raises them on B. Numbers are of these prompts, on which plans are chosen (validation prompts), "
          "unless "
          "they are said to be of held-out ones. Verdict and cards name the plan with the largest effect of "
          "those "
          "that were judged; maps frame its expert. A random direction <b>does the same</b> if its effect "
          "reaches "
          "the interval of the plan\xe2\x80\x99s. Paths are relative to the folder of this page. Point at a "
          "mark or "
          "a cell for its numbers.</p></details>\n",
          file);
}

static void print_head(FILE *file, const cox_report *r)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n",
          file);
    print_policy(file);
    fputs("<link rel=\"icon\" href=\"data:,\"/>\n<title>", file);
    cox_xml_print(file, r->title);
    fputs("</title>\n<style>\n", file);
    fputs(style, file);
    fputs("</style></head>\n<body>\n<header><h1>", file);
    cox_xml_print(file, r->title);
    fputs("</h1>\n", file);
    cox_report_print_verdict(file, r);
    print_how_to_read(file, r);
}

static void print_limit(FILE *file, const cox_report *r)
{
    if (isinf(r->cells.max_kl[COX_REPORT_A])) return;
    fprintf(file,
            "<p class=\"soft\">Only cells with a mean KL divergence of at most %g nats on the neutral "
            "prompts count%s.</p>\n",
            r->cells.max_kl[COX_REPORT_A],
            isinf(r->cells.max_kl[COX_REPORT_B]) ? " for weakening; for strengthening all do, since without "
                                                   "neutral prompts it is measured on B itself"
                                                 : "");
}

static const struct {
    const char *id, *name, *about;
    void (*print)(FILE *file, const cox_report *report);
    bool is_repeated; /* beside held-out answers: the same plans again, on other prompts */
} sections[] = {
    {"findings", "Findings", "", cox_report_print_findings, false},
    {"heldout", "Held-out prompts", "", cox_report_print_heldouts, false},
    {"cells", "Best cell of each family",
     "Blocks of the grid whose names agree up to the first dot are one family. Shown is the cell that was "
     "judged on "
     "held-out prompts, here with its numbers on validation prompts; of families without, the best by "
     "answers to "
     "these: of A the fewest that show the behaviour or fell apart, of B the most that show it and did not; "
     "else by "
     "the log-odds.",
     cox_report_print_families, true},
    {"layers", "Every layer",
     "Directions of the residual stream, and all experts of a layer at once: the best effect over strengths "
     "and vectors.",
     cox_report_print_layers, false},
    {"maps", "Every expert",
     "The best effect of each expert over strengths and vectors. Bold: the interval does not hold 0. A line "
     "through a cell: "
     "nothing there that counts.",
     cox_report_print_maps, false},
    {"curves", "Effect by strength",
     "The places with the largest effects. Strengths are drawn nearly logarithmically on both sides of 0, "
     "where the run is clean; "
     "faint marks exceed the limit of the KL divergence.",
     cox_report_print_curves, false},
    {"routing", "Routing difference and effect",
     "How much more often the tokens of A than those of B have an expert as their first choice, and what "
     "steering it does.",
     cox_report_print_scatters, false},
    {"parts", "Parts of the direction", "", cox_report_print_parts, false},
    {"controls", "Controls", "", cox_report_print_controls, true},
    {"answers", "Answers before and after", "", cox_report_print_answers, false},
    {"parameters", "Parameters", "", print_parameters, false},
};
enum { N_SECTIONS = sizeof sections / sizeof *sections };

static void print_section(FILE *file, const cox_report *r, size_t i)
{
    bool is_folded = sections[i].is_repeated && r->heldouts.n > 0;
    fprintf(file, "<section id=\"%s\"><h2>%s</h2>\n", sections[i].id, sections[i].name);
    if (is_folded)
        fputs("<details><summary>on validation prompts, on which plans were chosen</summary>\n", file);
    if (*sections[i].about) fprintf(file, "<p class=\"soft\">%s</p>\n", sections[i].about);
    sections[i].print(file, r);
    if (i == 0) print_limit(file, r);
    fputs(is_folded ? "</details></section>\n" : "</section>\n", file);
}

void cox_report_print(FILE *file, const cox_report *report)
{
    cox_report named = *report;
    const cox_report *r = &named;
    for (int k = 0; k < 2 * COX_REPORT_N_SETS; k++)
        named.named[k % 2][k / 2] = cox_report_named(report, -1, k % 2 == 1, k / 2);
    print_head(file, r);
    fputs("<nav>", file);
    for (size_t i = 0; i < N_SECTIONS; i++)
        fprintf(file, "<a href=\"#%s\">%s</a> ", sections[i].id, sections[i].name);
    fputs("</nav></header>\n<main>\n", file);
    for (size_t i = 0; i < N_SECTIONS; i++) print_section(file, r, i);
    fprintf(file, "</main>\n<script>%s</script>\n</body></html>\n", cox_report_script);
}
